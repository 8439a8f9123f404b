"""Prints what pyproject.toml asks for, with its `dev` extra, one requirement a line: input for `pip install -r`."""

import tomllib
from pathlib import Path


def main() -> None:
    """Read the project's metadata beside this folder and print its requirements."""
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
    print(*project["dependencies"], *project["optional-dependencies"]["dev"], sep="\n")


if __name__ == "__main__":
    main()
