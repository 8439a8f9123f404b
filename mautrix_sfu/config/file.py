"""The configuration file on disk: the operator's text stays as it is, line by line; only what is missing is put in."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from .. import logs
from .model import Config
from .options import FREE_FORM, ConfigError, example_text, load_yaml, parse, unknown_options


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """A configuration file as it was read."""

    path: Path
    text: str
    data: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> ConfigFile:
        """Read and parse it; raises ConfigError, each line naming the file."""
        try:
            text = path.read_bytes().decode("utf-8-sig")
        except FileNotFoundError as error:
            raise ConfigError(
                f"{path}: no such file; write the example there with `mautrix-sfu -e -c {path}`, edit it, then "
                f"generate the registration with `mautrix-sfu -g -c {path} -r registration.yaml`"
            ) from error
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path}: expected text in UTF-8") from error
        try:
            return cls(path, text, load_yaml(text))
        except ConfigError as error:
            raise ConfigError(*(f"{path}: {problem}" for problem in error.problems)) from error

    def parse(self, *, tokens: bool = True) -> Config:
        """The checked configuration; raises ConfigError, each line naming the file."""
        try:
            return parse(self.data, tokens=tokens)
        except ConfigError as error:
            raise ConfigError(*(f"{self.path}: {problem}" for problem in error.problems)) from error

    def unknown_options(self) -> list[str]:
        """One line for each option in the file that does not exist."""
        return [f"{self.path}: {line}" for line in unknown_options(self.data)]

    def with_new_options(self) -> ConfigFile:
        """The same file with the example's options that it lacks, where they could be put in safely."""
        text = _add_missing(self.text)
        return ConfigFile(self.path, text, load_yaml(text))

    def with_value(self, section: str, name: str, value: str) -> ConfigFile:
        """The same file with one existing option set to another string; raises ConfigError where that fails."""
        expected = {**self.data, section: {**(self.data.get(section) or {}), name: value}}
        text = _replace(self.text, section, name, json.dumps(value))
        if text is None or load_yaml(text) != expected:
            raise ConfigError(f"{self.path}: {section}.{name} could not be set; write the section as in the example")
        return ConfigFile(self.path, text, expected)

    def save(self) -> None:
        """Write it atomically, owner and mode kept; raises OSError."""
        write_atomically(self.path, self.text, new_mode=0o600)


def set_up_logging(path: Path, config: Config) -> None:
    """Log as the configuration says; raises ConfigError where that cannot be."""
    try:
        logs.configure(config.logging)
    except (ValueError, TypeError, AttributeError, ImportError, OSError) as error:
        cause = f": {error.__cause__}" if error.__cause__ else ""
        raise ConfigError(f"{path}: logging: {error}{cause}") from error


def write_atomically(path: Path, text: str, *, new_mode: int) -> None:
    """Put a file in place whole or not at all; one that exists keeps its owner and mode. Raises OSError."""
    target = path.resolve()
    try:
        old = target.stat()
    except FileNotFoundError:
        old = None
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as stream:
            if old is not None and (old.st_uid, old.st_gid) != (os.geteuid(), os.getegid()):
                os.fchown(stream.fileno(), old.st_uid, old.st_gid)
            os.fchmod(stream.fileno(), stat.S_IMODE(old.st_mode) if old is not None else new_mode)
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(name, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


# ---------------------------------------------------------------- text surgery


def _compose(text: str) -> MappingNode | None:
    node = YAML(typ="safe", pure=True).compose(text)
    return node if isinstance(node, MappingNode) else None


def _pairs(node: Node) -> dict[str, tuple[Node, Node]]:
    if not isinstance(node, MappingNode):
        return {}
    return {str(key.value): (key, value) for key, value in node.value}


def _last_line(key: Node, value: Node) -> int:
    """The index of the last line that an entry of a mapping takes up, comments and blank lines after it left out."""
    if isinstance(value, MappingNode) and not value.flow_style and value.value:
        return _last_line(*value.value[-1])
    if isinstance(value, SequenceNode) and not value.flow_style and value.value:
        return _last_line(value, value.value[-1])
    if isinstance(value, ScalarNode) and value.value == "" and value.style is None:
        return int(key.start_mark.line)
    end = value.end_mark
    return int(end.line) if end.column > 0 else int(end.line) - 1


@dataclass(frozen=True, slots=True)
class _Insertion:
    """Lines of the example to go in before a line of the file."""

    before: int
    lines: tuple[str, ...]
    path: tuple[str, ...]


def _insertions(
    have: Node, want: Node, after: int, start: int, indent: int, example: list[str], path: tuple[str, ...] = ()
) -> Iterator[_Insertion]:
    """What `want` (a mapping of the example) has and `have` lacks.

    `after` is the line of the file, `start` that of the example, behind and at which the first entry goes, with
    the comments above it; `indent` is for a mapping that has no entry to take it from.
    """
    present = _pairs(have)
    if present:
        indent = next(iter(present.values()))[0].start_mark.column
    for name, (key, value) in _pairs(want).items():
        end = _last_line(key, value)
        here = (*path, name)
        if name not in present:
            strip = key.start_mark.column
            lines = tuple(" " * indent + line[strip:] if line.strip() else line for line in example[start : end + 1])
            yield _Insertion(after + 1, lines, here)
        else:
            own_key, own_value = present[name]
            after = _last_line(own_key, own_value)
            if isinstance(value, MappingNode) and ".".join(here) not in FREE_FORM and _is_open(own_value):
                yield from _insertions(
                    own_value, value, own_key.start_mark.line, key.start_mark.line + 1, indent + 4, example, here
                )
        start = end + 1


def _is_open(node: Node) -> bool:
    """Whether lines can be put into this value: a block mapping, or a section with nothing in it."""
    if isinstance(node, MappingNode):
        return not node.flow_style
    return isinstance(node, ScalarNode) and node.value == "" and node.style is None


def _add_missing(text: str) -> str:
    """Put in what the example has and the text lacks. Text that would come to mean anything else is left alone."""
    have, want = _compose(text), _compose(example_text())
    if have is None or want is None:
        return text
    newline = "\r\n" if "\r\n" in text else "\n"
    lines = text.splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += newline
    expected = load_yaml(text)
    found = list(_insertions(have, want, len(lines) - 1, 0, 0, example_text().splitlines()))
    from_the_end = sorted(enumerate(found), key=lambda item: (item[1].before, item[0]), reverse=True)
    for _, insertion in from_the_end:
        lines[insertion.before : insertion.before] = [line + newline for line in insertion.lines]
    example = load_yaml(example_text())
    for insertion in found:
        _copy_default(expected, example, insertion.path)
    changed = "".join(lines)
    try:
        return changed if load_yaml(changed) == expected else text
    except ConfigError:
        return text


def _copy_default(data: dict[str, Any], example: Mapping[str, Any], path: tuple[str, ...]) -> None:
    for name in path[:-1]:
        data[name] = data.get(name) or {}
        data, example = data[name], example[name]
    data[path[-1]] = example[path[-1]]


def _replace(text: str, section: str, name: str, written: str) -> str | None:
    root = _compose(text)
    entry = _pairs(root).get(section) if root is not None else None
    option = _pairs(entry[1]).get(name) if entry is not None else None
    if option is None:
        return None
    value = option[1]
    if isinstance(value, ScalarNode) and value.value == "" and value.style is None:  # `name:` with nothing behind it
        at = option[0].end_mark.index + 1
        return f"{text[:at]} {written}{text[at:]}"
    return text[: value.start_mark.index] + written + text[value.end_mark.index :]
