"""Replies in Matrix's two forms, plain text and HTML, made from the same parts so that both say the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

MAX_ROWS = 50  # of a table; an event holds 64 KiB (Matrix specification, size limits)
MAX_CELL = 80  # characters; room and call ids are their maker's choice


@dataclass(frozen=True, slots=True)
class Reply:
    """What the bot says: `body` and `formatted_body` (org.matrix.custom.html) of an `m.notice`."""

    body: str
    html: str

    def __add__(self, other: Reply) -> Reply:
        return Reply(f"{self.body}\n\n{other.body}", self.html + other.html)


def paragraph(text: str) -> Reply:
    """Plain words."""
    return Reply(text, f"<p>{escape(text)}</p>")


def code(text: str) -> Reply:
    """Something to type, or that was typed."""
    return Reply(text, f"<pre><code>{escape(text)}</code></pre>")


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Reply:
    """Rows under their columns' names; those beyond MAX_ROWS are only counted."""
    cells = [[_cell(value) for value in row] for row in rows[:MAX_ROWS]]
    widths = [max(len(line[at]) for line in [list(columns), *cells]) for at in range(len(columns))]

    def aligned(line: Sequence[str]) -> str:
        return "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()

    def row(line: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(text)}</{tag}>" for text in line) + "</tr>"

    body = "".join(row(line, "td") for line in cells)
    reply = Reply(
        "\n".join(aligned(line) for line in [columns, *cells]),
        f"<table><thead>{row(columns, 'th')}</thead><tbody>{body}</tbody></table>",
    )
    left_out = len(rows) - len(cells)
    return reply + paragraph(f"… and {left_out} more") if left_out else reply


def pairs(rows: Sequence[tuple[str, object]]) -> Reply:
    """Names and values."""
    return Reply(
        "\n".join(f"{name}: {_cell(value)}" for name, value in rows),
        "<ul>" + "".join(f"<li>{escape(name)}: <b>{escape(_cell(value))}</b></li>" for name, value in rows) + "</ul>",
    )


def _cell(value: object) -> str:
    """One line of printable text, whatever an id holds."""
    text = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in str(value))
    return text if len(text) <= MAX_CELL else text[: MAX_CELL - 1] + "…"


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
