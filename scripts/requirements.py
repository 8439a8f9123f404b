"""Prints what pyproject.toml asks for with its extras, one requirement a line: input for `pip install -r`."""

import sys
import tomllib
from pathlib import Path


def main() -> None:
    """Read the project's metadata beside this folder and print its requirements."""
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    # Where python-olm would have to be compiled, development does without: the tests of encryption skip themselves.
    encryption = extras["encryption"] if sys.version_info < (3, 13) else []
    print(*project["dependencies"], *extras["dev"], *encryption, sep="\n")


if __name__ == "__main__":
    main()
