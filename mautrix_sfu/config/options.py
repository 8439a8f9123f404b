"""From YAML to the checked configuration: all that is wrong is said at once, by path and with what is expected."""

from __future__ import annotations

import difflib
import functools
import importlib.resources
import ipaddress
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from yarl import URL

from .limits import LIMITS, Limit, Limits
from .model import (
    AppserviceConfig,
    BotConfig,
    CascadeConfig,
    ConferenceConfig,
    Config,
    DatabaseConfig,
    DrainConfig,
    EncryptionConfig,
    HomeserverConfig,
    HttpConfig,
    MediaConfig,
    MetricsConfig,
    NoticesConfig,
    OverloadConfig,
    Permission,
    TracingConfig,
)

T = TypeVar("T")

# Their keys are the operator's own: nothing is added to them and no key in them is unknown.
FREE_FORM = ("bot.permissions", "logging")

_SERVER_NAME = r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(?::[0-9]{1,5})?"  # Matrix specification, appendices
_WHO = rf"{_SERVER_NAME}|@[^:\s]+:{_SERVER_NAME}"


class ConfigError(Exception):
    """The configuration cannot be used. Each problem is one line for the operator."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def load_yaml(text: str) -> dict[str, Any]:
    """Parse YAML whose top level is a mapping; raises ConfigError with the line that is wrong."""
    try:
        data = YAML(typ="safe", pure=True).load(text)
    except MarkedYAMLError as error:
        where = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        what = re.split(r"\n| with value", error.problem or error.context or "")[0]  # a value may be a secret
        raise ConfigError(f"{where}not valid YAML: {what}") from error
    except (YAMLError, ValueError) as error:
        raise ConfigError(f"not valid YAML: {str(error).partition(chr(10))[0]}") from error
    if not isinstance(data, dict):
        raise ConfigError("expected sections such as `homeserver:`, as in the example configuration")
    return data


@functools.cache
def example_text() -> str:
    """The example configuration, which is also the source of every default."""
    return importlib.resources.files("mautrix_sfu").joinpath("example-config.yaml").read_text("utf-8")


@functools.cache
def _example() -> dict[str, Any]:
    return load_yaml(example_text())


# ---------------------------------------------------------------- kinds of values


@dataclass(frozen=True, slots=True)
class _Kind(Generic[T]):
    """What an option may be: `parse` raises ValueError for anything else."""

    expected: str
    parse: Callable[[Any], T]
    secret: bool = False  # what was given is not shown


def _require(condition: bool) -> None:
    if not condition:
        raise ValueError


def _boolean() -> _Kind[bool]:
    def parse(value: Any) -> bool:
        _require(isinstance(value, bool))
        return bool(value)

    return _Kind("true or false", parse)


def _integer(low: int, high: int, what: str = "a whole number") -> _Kind[int]:
    def parse(value: Any) -> int:
        _require(isinstance(value, int) and not isinstance(value, bool) and low <= value <= high)
        return int(value)

    return _Kind(f"{what} from {low} to {high}", parse)


def _limit(limit: Limit) -> _Kind[int]:
    def parse(value: Any) -> int:
        _require(isinstance(value, int) and not isinstance(value, bool))
        return limit.check(int(value))

    return _Kind(limit.expected, parse)


def _seconds(low: float, high: float) -> _Kind[float]:
    return _number(low, high, "a number of seconds")


def _number(low: float, high: float, what: str) -> _Kind[float]:
    def parse(value: Any) -> float:
        _require(isinstance(value, int | float) and not isinstance(value, bool))
        _require(math.isfinite(value) and low <= value <= high)
        return float(value)

    return _Kind(f"{what} from {low:g} to {high:g}", parse)


def _share() -> _Kind[float]:
    def parse(value: Any) -> float:
        _require(isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1)
        return float(value)

    return _Kind("a number from 0 to 1", parse)


def _text(expected: str, pattern: str) -> _Kind[str]:
    def parse(value: Any) -> str:
        _require(isinstance(value, str) and re.fullmatch(pattern, value, re.ASCII) is not None)
        return str(value)

    return _Kind(expected, parse)


def _url(example: str) -> _Kind[str]:
    def parse(value: Any) -> str:
        _require(isinstance(value, str) and not re.search(r"\s", value))
        url = URL(value)
        _require(url.scheme in ("http", "https") and bool(url.host) and bool(url.port))
        _require(url.user is None and url.password is None and not url.query_string and not url.fragment)
        return str(value).rstrip("/")

    return _Kind(f"an http or https address such as {example}", parse)


def _database_url() -> _Kind[str]:
    # Of what a user name, a password and a database's name may have, @ : / ? and # are to be written as %40 and so on.
    server = r"postgres(?:ql)?://(?:[^@/?#\s]*@)?[^@/?#\s]*/[^@/?#\s]+(?:\?[^@#\s]+)?"
    file = r"sqlite:(?:///)?/?[^/?:][^?\n]*"
    expected = "sqlite:file.db, sqlite:////absolute/file.db or postgresql://user:password@host/name"
    return replace(_text(expected, f"{file}|{server}"), secret=True)


def _optional(kind: _Kind[T]) -> _Kind[T | None]:
    def parse(value: Any) -> T | None:
        return None if value is None or value == "" else kind.parse(value)

    return _Kind(f"{kind.expected}, or null", parse)


def _list_of(kind: _Kind[T], what: str) -> _Kind[tuple[T, ...]]:
    def parse(value: Any) -> tuple[T, ...]:
        _require(isinstance(value, list))
        return tuple(kind.parse(item) for item in value)

    return _Kind(f"a list of {what}", parse)


def _ipv4() -> _Kind[str]:
    def parse(value: Any) -> str:
        _require(isinstance(value, str))
        address = ipaddress.IPv4Address(value)
        _require(not address.is_unspecified and not address.is_multicast)
        return str(address)

    return _Kind("an IPv4 address", parse)


def _permissions() -> _Kind[Mapping[str, Permission]]:
    levels = {level.name.lower(): level for level in Permission}

    def parse(value: Any) -> Mapping[str, Permission]:
        _require(isinstance(value, dict))
        for who, level in value.items():
            _require(isinstance(who, str) and (who == "*" or re.fullmatch(_WHO, who) is not None))
            _require(isinstance(level, str) and level in levels)
        return {who: levels[level] for who, level in value.items()}

    return _Kind('user ids (@name:server), homeservers or "*", each with none, use or admin', parse)


def _logging() -> _Kind[Mapping[str, Any]]:
    def parse(value: Any) -> Mapping[str, Any]:
        _require(isinstance(value, dict) and value.get("version") == 1)
        return dict(value)

    return _Kind("what Python's logging.config.dictConfig takes, with version: 1", parse)


_BOOL = _boolean()
_TOKEN = _text("a secret; generate the registration (-g)", r"[A-Za-z0-9._~+/=-]{8,}")
_SERVER = _text("a homeserver's name such as example.org", _SERVER_NAME)
_USER_OR_SERVER = _text("a user id or a homeserver's name", _WHO)
_HOST = _text("an address or host name to listen on", r"[A-Za-z0-9.:-]+")
_PORT = _integer(1, 65535, "a port number")
_COUNT = _integer(1, 100_000)


# ---------------------------------------------------------------- reading


class _Section:
    """One mapping of the file beside the same one of the example; notes what is wrong and goes on with the default."""

    def __init__(self, path: str, given: Any, example: Mapping[str, Any], problems: list[str]) -> None:
        self._path = path
        self._problems = problems
        self._example = example
        if given is None:
            given = {}
        if not isinstance(given, Mapping):
            problems.append(f"{path}: expected a section with the options {', '.join(example)}")
            given = {}
        self._given: Mapping[str, Any] = given

    def section(self, name: str) -> _Section:
        path = f"{self._path}.{name}" if self._path else name
        return _Section(path, self._given.get(name), self._example[name], self._problems)

    def take(self, name: str, kind: _Kind[T]) -> T:
        """An option that has a default."""
        if name in self._given:
            try:
                return kind.parse(self._given[name])
            except ValueError:
                given = "" if kind.secret else f", not {_shown(self._given[name])}"
                self._problems.append(f"{self._path}.{name}: expected {kind.expected}{given}")
        return kind.parse(self._example[name])

    def require(self, name: str, kind: _Kind[T], *, secret: bool = False) -> T | None:
        """An option that only the operator knows: the example's value will not do either."""
        path = f"{self._path}.{name}"
        value = self._given.get(name)
        if value is None:
            self._problems.append(f"{path}: missing; expected {kind.expected}")
        elif value == self._example[name]:
            self._problems.append(f"{path}: still as in the example; expected {kind.expected}")
        else:
            try:
                return kind.parse(value)
            except ValueError:
                given = "" if secret else f", not {_shown(value)}"
                self._problems.append(f"{path}: expected {kind.expected}{given}")
        return None


def _shown(value: Any) -> str:
    text = re.sub(r"//[^/@\s]*@", "//…@", repr(value)) if value is not None else "null"
    return text if len(text) <= 80 else f"{text[:77]}..."


def parse(data: Mapping[str, Any], *, tokens: bool = True) -> Config:
    """Check a whole configuration, with the example's defaults for what is missing.

    Raises ConfigError with every problem. With `tokens` false the two tokens may be missing: they are about to be made.
    """
    problems: list[str] = []
    root = _Section("", data, _example(), problems)
    config = Config(
        homeserver=_homeserver(root.section("homeserver")),
        appservice=_appservice(root.section("appservice"), tokens),
        database=_database(root.section("database")),
        encryption=_encryption(root.section("encryption")),
        media=_media(root.section("media")),
        conferences=_conferences(root.section("conferences")),
        overload=_overload(root.section("overload")),
        drain=_drain(root.section("drain")),
        cascade=_cascade(root.section("cascade")),
        http=_http(root.section("http")),
        metrics=_metrics(root.section("metrics")),
        tracing=_tracing(root.section("tracing")),
        bot=_bot(root.section("bot")),
        logging=_logging_of(data, problems),
    )
    problems += _contradictions(config)
    if problems:
        raise ConfigError(*problems)
    return config


def _homeserver(section: _Section) -> HomeserverConfig:
    return HomeserverConfig(
        address=section.require("address", _url("https://matrix.example.org")) or "",
        domain=section.require("domain", _SERVER) or "",
        verify_ssl=section.take("verify_ssl", _BOOL),
        start_timeout=section.take("start_timeout", _seconds(0, 86400)),
    )


def _appservice(section: _Section, tokens: bool) -> AppserviceConfig:
    localpart = _text("a localpart of a-z, 0-9 and ._=/+-", r"[a-z0-9._=/+-]+")
    name = _text("a name of letters, digits and ._-", r"[A-Za-z0-9._-]+")
    return AppserviceConfig(
        address=section.take("address", _url("http://localhost:29340")),
        hostname=section.take("hostname", _HOST),
        port=section.take("port", _PORT),
        id=section.take("id", name),
        bot_username=section.take("bot_username", localpart),
        bot_device=section.take("bot_device", name),
        all_rooms=section.take("all_rooms", _BOOL),
        as_token=(section.require("as_token", _TOKEN, secret=True) if tokens else None) or "",
        hs_token=(section.require("hs_token", _TOKEN, secret=True) if tokens else None) or "",
    )


def _database(section: _Section) -> DatabaseConfig:
    return DatabaseConfig(
        url=section.take("url", _database_url()),
        migrate=section.take("migrate", _BOOL),
        away_timeout=section.take("away_timeout", _seconds(0, 86400)),
    )


def _encryption(section: _Section) -> EncryptionConfig:
    key = replace(_optional(_text("a secret of at least 8 printable characters", r"[!-~]{8,}")), secret=True)
    return EncryptionConfig(
        enabled=section.take("enabled", _BOOL),
        require=section.take("require", _BOOL),
        pickle_key=section.take("pickle_key", key),
    )


def _media(section: _Section) -> MediaConfig:
    return MediaConfig(
        addresses=section.take("addresses", _list_of(_ipv4(), "IPv4 addresses")),
        port=section.take("port", _PORT),
        advertise=section.take("advertise", _list_of(_ipv4(), "IPv4 addresses")),
        threads=section.take("threads", _optional(_integer(1, 256))),
    )


_VIDEO_CODEC = _text("VP8, VP9, H264 or AV1", r"VP8|VP9|H264|AV1")


def _conferences(section: _Section) -> ConferenceConfig:
    limits = section.section("limits")
    return ConferenceConfig(
        homeservers=section.take("homeservers", _list_of(_SERVER, "homeservers' names")),
        guests=section.take("guests", _BOOL),
        banned=section.take("banned", _list_of(_USER_OR_SERVER, "user ids and homeservers' names")),
        invite_wait=section.take("invite_wait", _seconds(0, 60)),
        held_timeout=section.take("held_timeout", _seconds(1, 3600)),
        ping_interval=section.take("ping_interval", _seconds(1, 30)),
        ping_timeout=section.take("ping_timeout", _seconds(2, 600)),
        kick_time=section.take("kick_time", _seconds(0, 86400)),
        loudest_voices=section.take("loudest_voices", _integer(0, 1000)),
        video_codecs=section.take("video_codecs", _list_of(_VIDEO_CODEC, "VP8, VP9, H264 and AV1")),
        limits=Limits(**{limit.name: limits.take(limit.name, _limit(limit)) for limit in LIMITS if not limit.option}),
    )


def _overload(section: _Section) -> OverloadConfig:
    return OverloadConfig(
        media_cpu=section.take("media_cpu", _number(0.01, 1, "a share of a processor core")),
        loop_lag=section.take("loop_lag", _seconds(0.001, 60)),
    )


def _drain(section: _Section) -> DrainConfig:
    return DrainConfig(deadline=section.take("deadline", _seconds(0, 7 * 86400)))


def _cascade(section: _Section) -> CascadeConfig:
    return CascadeConfig(
        enabled=section.take("enabled", _BOOL),
        peers=section.take("peers", _list_of(_USER_OR_SERVER, "user ids and homeservers' names")),
        allow_private=section.take("allow_private", _BOOL),
        trunks=section.take("trunks", _COUNT),
    )


def _http(section: _Section) -> HttpConfig:
    return HttpConfig(
        hostname=section.take("hostname", _HOST),
        port=section.take("port", _PORT),
        public_url=section.take("public_url", _optional(_url("https://calls.example.org"))),
        page=section.take("page", _BOOL),
        page_homeserver=section.take("page_homeserver", _optional(_url("https://matrix.example.org"))),
    )


def _metrics(section: _Section) -> MetricsConfig:
    return MetricsConfig(
        enabled=section.take("enabled", _BOOL),
        hostname=section.take("hostname", _HOST),
        port=section.take("port", _integer(0, 65535, "a port number")),
    )


def _tracing(section: _Section) -> TracingConfig:
    return TracingConfig(
        enabled=section.take("enabled", _BOOL),
        endpoint=section.take("endpoint", _url("http://localhost:4318/v1/traces")),
        ratio=section.take("ratio", _share()),
    )


def _bot(section: _Section) -> BotConfig:
    notices = section.section("notices")
    return BotConfig(
        permissions=section.take("permissions", _permissions()),
        notices=NoticesConfig(
            interval=notices.take("interval", _seconds(0, 86400)),
            repeat=notices.take("repeat", _seconds(0, 7 * 86400)),
            outage=notices.take("outage", _seconds(1, 86400)),
        ),
    )


def _logging_of(data: Mapping[str, Any], problems: list[str]) -> Mapping[str, Any]:
    kind = _logging()
    try:
        return kind.parse(data["logging"] if data.get("logging") is not None else _example()["logging"])
    except ValueError:
        problems.append(f"logging: expected {kind.expected}")
        return {}


def _contradictions(config: Config) -> list[str]:
    """Options that are right alone and wrong together."""
    problems = []
    if config.conferences.ping_timeout <= config.conferences.ping_interval:
        problems.append(
            f"conferences.ping_timeout: expected more than conferences.ping_interval "
            f"({config.conferences.ping_interval:g})"
        )
    if config.encryption.require and not config.encryption.enabled:
        problems.append("encryption.require: expected encryption.enabled to be true as well")
    ports = {"appservice.port": (config.appservice.hostname, config.appservice.port)}
    listeners = {"http.port": (config.http.hostname, config.http.port)}
    if config.metrics.enabled and config.metrics.port:
        listeners["metrics.port"] = (config.metrics.hostname, config.metrics.port)
    for path, listener in listeners.items():
        for other, taken in ports.items():
            if listener == taken:
                problems.append(f"{path}: expected another port than {other} ({listener[1]})")
        ports[path] = listener
    return problems


def unknown_options(data: Mapping[str, Any]) -> list[str]:
    """One line for each option that no version of the example has at this place, with the nearest that exists."""
    return list(_unknown(data, _example(), ""))


def _unknown(given: Mapping[str, Any], example: Mapping[str, Any], prefix: str) -> list[str]:
    found: list[str] = []
    for key, value in given.items():
        path = f"{prefix}{key}"
        if key not in example:
            near = difflib.get_close_matches(str(key), [str(name) for name in example], n=1)
            hint = f"; did you mean {prefix}{near[0]}?" if near else ""
            found.append(f"{path}: unknown option, ignored{hint}")
        elif path not in FREE_FORM and isinstance(value, Mapping) and isinstance(example[key], Mapping):
            found += _unknown(value, example[key], f"{path}.")
    return found
