"""What the installation test says: one line for each thing that was looked at, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    `ok`: as it should be. `warn`: calls work, with a limit that the operator should know. `fail`: calls do not work.
    """

    level: Level
    what: str  # one line, in plain words
    remedy: str = ""  # one line: what to do; empty where nothing is to be done

    def __str__(self) -> str:
        mark = {"ok": "ok  ", "warn": "warn", "fail": "FAIL"}[self.level]
        return f"{mark}  {self.what}" + (f" -> {self.remedy}" if self.remedy else "")


def ok(what: str) -> Finding:
    """As it should be."""
    return Finding("ok", what)


def warn(what: str, remedy: str) -> Finding:
    """Something to know, and what could be done about it."""
    return Finding("warn", what, remedy)


def fail(what: str, remedy: str) -> Finding:
    """Something to mend, and how."""
    return Finding("fail", what, remedy)


def sentence(text: str) -> str:
    """An error's line as a finding begins: with a capital."""
    return text[:1].upper() + text[1:]
