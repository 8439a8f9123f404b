"""Replies in Matrix's two forms, plain text and HTML, made from the same parts so that both say the same."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

MAX_ROWS = 50  # of a table in one event
MAX_TABLES = 4  # events that a long table is spread over
MAX_CELL = 80  # characters; room and call ids are their maker's choice
MAX_TEXT = 4000  # characters of a paragraph
MAX_BYTES = 30_000  # of an event's content: an event holds 64 KiB, and encrypted it grows by a third and more
MAX_EVENTS = 6  # that one answer may be


@dataclass(frozen=True, slots=True)
class Block:
    """What stays together in one event."""

    body: str
    html: str

    @property
    def size(self) -> int:
        """Bytes that it takes in an event."""
        return len(json.dumps([self.body, self.html], ensure_ascii=False).encode())


@dataclass(frozen=True, slots=True)
class Reply:
    """What the bot says: one or more `m.notice`s, each with `body` and `formatted_body` (org.matrix.custom.html)."""

    blocks: tuple[Block, ...]

    def __add__(self, other: Reply) -> Reply:
        return Reply(self.blocks + other.blocks)

    @property
    def body(self) -> str:
        """All of it as plain text."""
        return "\n\n".join(block.body for block in self.blocks)

    @property
    def html(self) -> str:
        """All of it as HTML."""
        return "".join(block.html for block in self.blocks)

    def contents(self) -> list[dict[str, Any]]:
        """The contents of the events that say it, each within what an event holds."""
        groups: list[list[Block]] = []
        size = 0
        for block in self.blocks:
            if not groups or size + block.size > MAX_BYTES:
                groups.append([])
                size = 0
            groups[-1].append(block)
            size += block.size
        if len(groups) > MAX_EVENTS:
            groups = [*groups[: MAX_EVENTS - 1], list(paragraph("… and more than fits.").blocks)]
        return [_content(Reply(tuple(group))) for group in groups]


def _content(reply: Reply) -> dict[str, Any]:
    return {
        "msgtype": "m.notice",
        "body": reply.body,
        "format": "org.matrix.custom.html",
        "formatted_body": reply.html,
        "m.mentions": {},  # whom it names is not called by it
    }


def _one(body: str, html: str) -> Reply:
    return Reply((Block(body, html),))


def paragraph(text: str) -> Reply:
    """Plain words."""
    text = clean(text, MAX_TEXT)
    return _one(text, f"<p>{escape(text)}</p>")


def lines(texts: Sequence[str]) -> Reply:
    """A list, each on a line of its own."""
    texts = [clean(text, MAX_TEXT) for text in texts[:MAX_ROWS]]
    return _one("\n".join(texts), "<ul>" + "".join(f"<li>{escape(text)}</li>" for text in texts) + "</ul>")


def code(text: str) -> Reply:
    """Something to type, or that was typed."""
    text = clean(text, MAX_TEXT)
    return _one(text, f"<pre><code>{escape(text)}</code></pre>")


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Reply:
    """Rows under their columns' names, spread over several events if need be; what is beyond that is counted."""
    reply, done = Reply(()), 0
    while done < len(rows) and len(reply.blocks) < MAX_TABLES:
        number = min(MAX_ROWS, len(rows) - done)
        block = _table(columns, rows[done : done + number])
        while block.size > MAX_BYTES and number > 1:
            number = max(1, number * MAX_BYTES // (block.size + 1))
            block = _table(columns, rows[done : done + number])
        reply += Reply((block,))
        done += number
    left_out = len(rows) - done
    return reply + paragraph(f"… and {left_out} more") if left_out else reply


def _table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Block:
    cells = [[clean(str(value), MAX_CELL) for value in row] for row in rows]
    widths = [max(len(line[at]) for line in [list(columns), *cells]) for at in range(len(columns))]

    def aligned(line: Sequence[str]) -> str:
        return "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()

    def row(line: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(text)}</{tag}>" for text in line) + "</tr>"

    body = "".join(row(line, "td") for line in cells)
    return Block(
        "\n".join(aligned(line) for line in [columns, *cells]),
        f"<table><thead>{row(columns, 'th')}</thead><tbody>{body}</tbody></table>",
    )


def pairs(rows: Sequence[tuple[str, object]]) -> Reply:
    """Names and values."""
    shown = [(name, clean(str(value), MAX_TEXT)) for name, value in rows]
    return _one(
        "\n".join(f"{name}: {value}" for name, value in shown),
        "<ul>" + "".join(f"<li>{escape(name)}: <b>{escape(value)}</b></li>" for name, value in shown) + "</ul>",
    )


def clean(text: str, length: int) -> str:
    """One line of printable text, whatever an id holds."""
    shown = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text[: length + 1])
    return shown if len(shown) <= length else shown[: length - 1] + "…"


# ---------------------------------------------------------------- figures in words


def duration(seconds: float) -> str:
    """A span of time in its two largest units."""
    whole = int(seconds)
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    if minutes:
        return f"{minutes} min {whole % 60} s"
    return f"{whole} s"


def moment(ms: int) -> str:
    """A time of the wall clock, in UTC."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(ms / 1000))


def amount(number: float, unit: str) -> str:
    """A number with a decimal prefix: 1.2 MB, 850 kbit/s."""
    for prefix in ("", "k", "M", "G"):
        if number < 1000:
            return f"{number:.{1 if prefix and number < 10 else 0}f} {prefix}{unit}"
        number /= 1000
    return f"{number:.1f} T{unit}"


def milliseconds(seconds: float | None) -> str:
    """A short time; nothing where it is not known."""
    return "" if seconds is None else f"{seconds * 1000:.0f} ms"


def some(number: int, noun: str) -> str:
    """How many of something, in words: `1 call`, `2 calls`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
