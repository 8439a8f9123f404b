"""A line says what it is about, as text or JSON, and stays one line whatever a peer calls itself."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from mautrix_sfu import logs
from mautrix_sfu.config import example_text
from mautrix_sfu.config.options import load_yaml
from mautrix_sfu.logs import Concern, concerning

log = logging.getLogger("mautrix_sfu.test_logs")


def settings(formatter: str) -> dict[str, Any]:
    """The example's own, with this formatter, into a buffer."""
    found: dict[str, Any] = load_yaml(example_text())["logging"]
    found["handlers"]["console"] |= {"formatter": formatter, "stream": io.StringIO()}
    return found


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("mautrix_sfu")
    before = root.handlers[:], root.level, ours.level, logging.getLogRecordFactory()
    yield
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    ours.setLevel(before[2])
    logging.setLogRecordFactory(before[3])


def configured(formatter: str) -> io.StringIO:
    chosen = settings(formatter)
    stream: io.StringIO = chosen["handlers"]["console"]["stream"]
    handler = logging.StreamHandler(stream)
    chosen["handlers"]["console"].pop("stream")
    logs.configure(chosen)
    (made,) = logging.getLogger().handlers
    handler.setFormatter(made.formatter)
    logging.getLogger().handlers[:] = [handler]
    return stream


async def test_a_line_is_about_what_its_task_works_on_also_where_that_becomes_known_later() -> None:
    stream = configured("normal")

    async def work() -> None:
        log.info("before")
        await asyncio.sleep(0.01)
        log.info("after")

    concern = Concern(7, "@a:x/D")
    with concerning(concern):
        task = asyncio.create_task(work())
    await asyncio.sleep(0)
    concern.room, concern.call = "!r:x", "c"
    await task
    log.info("about nothing")
    lines = stream.getvalue().splitlines()
    assert lines[0].endswith("before leg=7 peer=@a:x/D room=? call=?")
    assert lines[1].endswith("after leg=7 peer=@a:x/D room=!r:x call=c")
    assert lines[2].endswith("about nothing")


def test_json_lines_hold_what_a_peer_calls_itself_even_if_that_is_no_text() -> None:
    stream = configured("json")
    with concerning(Concern(peer="@a:hs/\ud800\n")):
        log.info("half: %s", "\udfff")
    stream.getvalue().encode()
    line = json.loads(stream.getvalue())
    assert (line["peer"], line["message"]) == ("@a:hs/\ud800\n", "half: \udfff")


def test_json_lines_are_objects_with_the_same_names() -> None:
    stream = configured("json")
    with concerning(Concern(7, room="!r:x")):
        log.info("it is %s", "so")
    try:
        raise ValueError("a fault\nin two lines")
    except ValueError:
        log.exception("internal error")
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert {name: first[name] for name in ("level", "logger", "message", "leg", "room")} == {
        "level": "INFO",
        "logger": log.name,
        "message": "it is so",
        "leg": 7,
        "room": "!r:x",
    }
    assert first["time"].endswith("+00:00")
    assert "Traceback" in second["exception"]
    assert "leg" not in second


def test_a_configuration_from_before_says_it_too() -> None:
    chosen = settings("normal")
    chosen["formatters"] = {"normal": {"format": "%(levelname)s %(message)s"}}
    chosen["handlers"]["console"].pop("stream")
    logs.configure(chosen)
    (handler,) = logging.getLogger().handlers
    with concerning(Concern(3)):
        record = logging.getLogRecordFactory()("x", logging.INFO, "x.py", 1, "hello", (), None)
    assert handler.format(record) == "INFO hello leg=3 room=? call=?"


def test_a_name_with_line_breaks_forges_no_line() -> None:
    stream = configured("normal")
    with concerning(Concern(1, "@a:x/D\n[2026] [INFO] all is well\x1b[2J")):
        log.info("leg ended: %s", "what\r\nthey say")
    text = stream.getvalue()
    assert text.count("\n") == 1
    assert "\x1b" not in text
    assert "\\x1b[2J" in text


def test_what_a_formatter_names_itself_is_left_alone() -> None:
    chosen = settings("own")
    chosen["formatters"]["own"] = {"()": "logging.Formatter", "fmt": "%(message)s"}
    chosen["handlers"]["console"].pop("stream")
    logs.configure(chosen)
    (handler,) = logging.getLogger().handlers
    assert type(handler.formatter) is logging.Formatter
