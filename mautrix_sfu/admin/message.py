"""From an event in one of the bot's rooms to what was typed there, if it was typed to the bot."""

from __future__ import annotations

import re
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import Any
from urllib.parse import unquote

MAX_LENGTH = 2000  # characters of a command; what is longer was not typed
MAX_AGE = 10**12  # milliseconds; JSON's numbers may be too large for a float
PREFIX = "!sfu"  # may be left out
PILL = re.compile(r"https://matrix\.to/#/([^/?\s]+)(?:[/?]\S*)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Message:
    """A text that somebody wrote, and how an answer refers to it."""

    sender: str
    room_id: str
    event_id: str
    text: str  # without the quotation of what it replies to; names of users and rooms as ids
    thread: str | None = None  # the event that its thread hangs on
    age: float = 0.0  # seconds, as the homeserver reckons

    def relation(self) -> dict[str, Any]:
        """The `m.relates_to` of an answer: it replies, and stays in the thread."""
        reply = {"m.in_reply_to": {"event_id": self.event_id}}
        if self.thread is None:
            return reply
        return {"rel_type": "m.thread", "event_id": self.thread, "is_falling_back": True, **reply}


def read(event: dict[str, Any]) -> Message | None:
    """The text of an `m.room.message`; None for what is no command: a notice, a picture, an edit of what was said."""
    content = event["content"]
    body = content.get("body")
    if event.get("type") != "m.room.message" or content.get("msgtype") != "m.text" or not isinstance(body, str):
        return None
    relation = content.get("m.relates_to")
    relation = relation if isinstance(relation, dict) else {}
    if relation.get("rel_type") == "m.replace":
        return None
    text = _formatted(content) or (_without_quotation(body) if "m.in_reply_to" in relation else body)
    root = relation.get("event_id")
    in_thread = relation.get("rel_type") == "m.thread" and isinstance(root, str)
    unsigned = event.get("unsigned")
    age = unsigned.get("age") if isinstance(unsigned, dict) else None
    return Message(
        event["sender"],
        event["room_id"],
        event["event_id"],
        PILL.sub(lambda found: unquote(found[1]), text[:MAX_LENGTH]).strip(),
        root if in_thread else None,
        age / 1000 if isinstance(age, int) and abs(age) < MAX_AGE else 0.0,
    )


def addressed(text: str, bot: str) -> tuple[str, bool]:
    """A text without the name by which it calls the bot, and whether it does."""
    first, _, rest = text.partition(" ")
    names = (PREFIX, bot, bot.partition(":")[0], bot.partition(":")[0].removeprefix("@"))
    called = first.lower().rstrip(":,") in names
    return (rest.strip() if called else text), called


def _without_quotation(body: str) -> str:
    """A reply's own text, where its client still puts what it replies to before it."""
    quoted, found, own = body.partition("\n\n")
    return own if found and all(line.startswith(">") for line in quoted.splitlines()) else body


def _formatted(content: dict[str, Any]) -> str | None:
    """The text of a message that names somebody by a pill, whose plain text has but a display name."""
    html = content.get("formatted_body")
    if content.get("format") != "org.matrix.custom.html" or not isinstance(html, str) or not PILL.search(html):
        return None
    return _Pills(html[: 10 * MAX_LENGTH]).text.strip()


class _Pills(HTMLParser):
    """The text of a formatted message, with ids in place of pills and without what it quotes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text = ""
        self._quoted = 0
        self._in_pill = False
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Begin a quotation or a pill."""
        if tag == "mx-reply":
            self._quoted += 1
        elif tag == "br":
            self.handle_data(" ")
        elif tag == "a" and (found := PILL.match(dict(attrs).get("href") or "")):
            self.handle_data(unquote(found[1]))
            self._in_pill = True

    def handle_endtag(self, tag: str) -> None:
        """End it."""
        if tag == "mx-reply":
            self._quoted = max(0, self._quoted - 1)
        elif tag == "a":
            self._in_pill = False

    def handle_data(self, data: str) -> None:
        """Take text that is neither quoted nor a pill's name."""
        if not self._quoted and not self._in_pill:
            self.text += data
