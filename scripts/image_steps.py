"""Carries out the Dockerfile without an engine: each stage on a copy of this machine whose changes go nowhere.

    python -m scripts.image_steps

This machine's Debian, Python, Node and Rust stand in for the base images. Everything else is done as it stands in the
file: COPY with .dockerignore, RUN, WORKDIR, USER, HEALTHCHECK, ENTRYPOINT and CMD. Needs root.
"""

from __future__ import annotations

import fnmatch
import json
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.machine import Machine, why_not

ROOT = Path(__file__).resolve().parent.parent


def instructions(text: str) -> list[tuple[str, str]]:
    """The instructions in order, comments left out and lines that go on joined."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    split = (line.partition(" ") for line in joined.splitlines())
    return [(name.upper(), rest.strip()) for name, _, rest in split]


class Context:
    """What of a folder is sent to the engine."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._patterns = [line.strip() for line in (root / ".dockerignore").read_text().splitlines() if line.strip()]

    def takes(self, path: Path) -> bool:
        """Whether .dockerignore lets a path through: of the patterns that fit it or a folder around it, the last."""
        parts = path.relative_to(self.root).parts
        taken = True
        for pattern in self._patterns:
            bare = pattern.removeprefix("!")
            if bare.startswith("**/"):
                fits = any(fnmatch.fnmatch(part, bare[3:]) for part in parts)
            else:
                fits = fnmatch.fnmatch("/".join(parts[: bare.count("/") + 1]), bare)
            taken = pattern.startswith("!") if fits else taken
        return taken

    def files(self, source: str) -> Iterator[tuple[Path, str]]:
        """What COPY takes of a source: files, and where they go below the target."""
        for found in sorted(self.root.glob(source)):
            if found.is_dir():
                yield from ((path, str(path.relative_to(found))) for path in self._walk(found))
            elif self.takes(found):
                yield found, found.name

    def _walk(self, folder: Path) -> Iterator[Path]:
        for path in sorted(folder.iterdir()):
            if self.takes(path) and not path.is_symlink():
                yield from self._walk(path) if path.is_dir() else (path,)


@dataclass
class Stage:
    """One stage, as far as it is built."""

    machine: Machine
    cwd: str = "/"
    user: str = "root"
    settings: dict[str, list[str]] = field(default_factory=dict)  # ENTRYPOINT, CMD, HEALTHCHECK, EXPOSE, VOLUME

    def command(self, *arguments: str) -> list[str]:
        """What runs this as the stage's user, with a container's rights or fewer."""
        if self.user == "root":
            return list(arguments)
        user = ["--reuid", self.user, "--regid", self.user, "--init-groups", "--no-new-privs"]
        return ["setpriv", *user, "--bounding-set=-all", "--inh-caps=-all", *arguments]

    def files(self, source: str) -> Iterator[tuple[Path, str]]:
        """What a later stage's COPY takes of this one."""
        built = self.machine.path("/")
        for found in sorted(built.glob(source.lstrip("/"))):
            paths = [path for path in found.rglob("*") if path.is_file()] if found.is_dir() else [found]
            yield from ((path, str(path.relative_to(found)) if found.is_dir() else path.name) for path in paths)


class Build:
    """All stages of a Dockerfile, built one after the other in a folder."""

    def __init__(self, context: Path, directory: Path, env: Mapping[str, str]) -> None:
        """`env` is for RUN, beside this machine's."""
        self.context = Context(context)
        self.directory = directory
        self.env = dict(env)
        self.stages: dict[str, Stage] = {}

    def run(self) -> Stage:
        """Carry all out; gives the last stage. AssertionError with what a step that fails printed."""
        stage: Stage | None = None
        for name, rest in instructions((self.context.root / "Dockerfile").read_text()):
            print(f"{name} {rest}", flush=True)
            if name == "FROM":
                stage = self._begin(rest)
            else:
                assert stage is not None
                self._step(stage, name, rest)
        assert stage is not None
        return stage

    def close(self) -> None:
        """Remove all that was built."""
        for stage in self.stages.values():
            stage.machine.close()

    def _begin(self, rest: str) -> Stage:
        name = rest.split()[2] if " AS " in rest.upper() else "image"
        self.stages[name] = Stage(Machine(self.directory / name))
        return self.stages[name]

    def _step(self, stage: Stage, name: str, rest: str) -> None:
        match name:
            case "WORKDIR":
                stage.cwd = str(Path(stage.cwd) / rest)
                stage.machine.run(["mkdir", "-p", stage.cwd])
            case "COPY":
                self._copy(stage, *shlex.split(rest))
            case "RUN":
                stage.machine.run(stage.command("/bin/sh", "-c", rest), stage.cwd, self.env)
            case "USER":
                stage.user = rest
            case "HEALTHCHECK" | "ENTRYPOINT" | "CMD":
                stage.settings[name] = json.loads(rest[rest.index("[") :])
            case "EXPOSE" | "VOLUME":
                stage.settings[name] = rest.split()
            case _:
                raise AssertionError(f"{name} is not carried out here")

    def _copy(self, stage: Stage, *words: str) -> None:
        origin: Context | Stage = self.context
        if words[0].startswith("--from="):
            origin, words = self.stages[words[0].removeprefix("--from=")], words[1:]
        *sources, target = words
        found = [pair for source in sources for pair in origin.files(source)]
        assert found, f"nothing to copy: {' '.join(words)}"
        staged = self.directory / "copied"
        for path, below in found:
            at = staged / below
            at.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, at)
        where = str(Path(stage.cwd) / target)
        put = 'mkdir -p "$1" && cp -r --no-preserve=ownership "$0/." "$1"'
        stage.machine.run(["bash", "-c", put, str(staged), where])
        shutil.rmtree(staged)


def main() -> int:
    """Carry out the Dockerfile of this checkout."""
    if (reason := why_not()) is not None:
        print(f"Not here: {reason}", file=sys.stderr)
        return 1
    directory = Path(tempfile.mkdtemp(prefix="image-"))
    directory.chmod(0o755)
    build = Build(ROOT, directory, {})
    try:
        image = build.run()
        print(f"Built; it would run as {image.user}: {image.settings['ENTRYPOINT'] + image.settings['CMD']}")
    finally:
        build.close()
        shutil.rmtree(directory, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
