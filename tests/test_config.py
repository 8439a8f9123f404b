"""What is wrong with a configuration is said in full, and nothing of the operator's text is ever lost."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mautrix_sfu.config import (
    LIMITS,
    Changes,
    Config,
    ConfigError,
    ConfigFile,
    Permission,
    changes,
    example_text,
    generate,
    parse,
    with_live,
)
from mautrix_sfu.config.options import load_yaml

MINIMAL = """\
homeserver:
  address: https://matrix.example.org/
  domain: example.org
appservice:
  as_token: as-secret-1
  hs_token: hs-secret-1
"""


def read(text: str, tmp_path: Path) -> ConfigFile:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return ConfigFile.read(path)


def problems_of(text: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as raised:
        parse(load_yaml(text))
    return raised.value.problems


def test_what_only_the_operator_knows_is_enough_and_the_rest_is_the_examples() -> None:
    config = parse(load_yaml(MINIMAL))
    assert config.homeserver.address == "https://matrix.example.org"
    assert config.bot_user_id == "@sfu:example.org"
    assert (config.appservice.port, config.http.port, config.media.port) == (29340, 29341, 29342)
    assert config.conferences.limits.legs == 2000
    assert config.database.migrate


def test_the_example_itself_lacks_only_what_the_operator_must_say() -> None:
    assert [problem.split(":")[0] for problem in problems_of(example_text())] == [
        "homeserver.address",
        "homeserver.domain",
        "appservice.as_token",
        "appservice.hs_token",
    ]


def test_every_option_of_the_example_is_explained_by_a_comment() -> None:
    lines = example_text().splitlines()
    for number, line in enumerate(lines):
        if line.startswith("logging:"):
            break
        if line.startswith("    ") and not line.startswith("        ") and ":" in line and "#" not in line:
            above = lines[number - 1].strip()
            assert above.startswith("#") or not above.endswith(":"), f"{line.strip()} has no comment"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("homeserver: {address: 'matrix.example.org'}", "homeserver.address: expected an http or https address"),
        ("homeserver: {address: 'https://u:p@matrix.example.org'}", "homeserver.address: expected an http or https"),
        ("homeserver: {domain: 'https://example.org'}", "homeserver.domain: expected a homeserver's name"),
        ("homeserver: {verify_ssl: 'no'}", "homeserver.verify_ssl: expected true or false, not 'no'"),
        (
            "homeserver: {start_timeout: -1}",
            "homeserver.start_timeout: expected a number of seconds from 0 to 86400, not -1",
        ),
        ("appservice: 5", "appservice: expected a section with the options address,"),
        ("appservice: {bot_username: 'Sfu'}", "appservice.bot_username: expected a localpart"),
        ("database: {url: 'mysql://x/y'}", "database.url: expected sqlite:file.db"),
        ("database: {url: 'postgresql://host'}", "database.url: expected sqlite:file.db"),
        ("database: {url: 'postgresql://user:p@ss@host/name'}", "database.url: expected sqlite:file.db"),
        ("database: {away_timeout: -1}", "database.away_timeout: expected a number of seconds"),
        ("database: {url: 'sqlite:'}", "database.url: expected sqlite:file.db"),
        ("database: {url: 'sqlite::memory:'}", "database.url: expected sqlite:file.db"),
        ("database: {url: 'sqlite://host/file.db'}", "database.url: expected sqlite:file.db"),
        ("media: {port: 65536}", "media.port: expected a port number from 1 to 65535, not 65536"),
        ("media: {port: true}", "media.port: expected a port number from 1 to 65535, not True"),
        ("media: {port: null}", "media.port: expected a port number from 1 to 65535, not null"),
        ("media: {advertise: 192.0.2.1}", "media.advertise: expected a list of IPv4 addresses, not '192.0.2.1'"),
        ("media: {addresses: ['0.0.0.0']}", "media.addresses: expected a list of IPv4 addresses"),
        ("conferences: {invite_wait: .nan}", "conferences.invite_wait: expected a number of seconds from 0 to 60"),
        ("conferences: {ping_timeout: 5}", "conferences.ping_timeout: expected more than conferences.ping_interval"),
        ("conferences: {limits: {legs: 0}}", "conferences.limits.legs: expected a whole number from 1 to 100000"),
        ("http: {port: 29340}", "http.port: expected another port than appservice.port (29340)"),
        ("metrics: {port: 29341}", "metrics.port: expected another port than http.port (29341)"),
        ("bot: {permissions: {'*': boss}}", "bot.permissions: expected user ids"),
        ("logging: {version: 2}", "logging: expected what Python's logging.config.dictConfig takes"),
    ],
)
def test_a_wrong_option_is_named_by_its_path_with_what_is_expected(text: str, problem: str) -> None:
    data = load_yaml(MINIMAL)
    for section, options in load_yaml(text).items():
        data[section] = {**data.get(section, {}), **options} if isinstance(options, dict) else options
    with pytest.raises(ConfigError) as raised:
        parse(data)
    assert any(line.startswith(problem) for line in raised.value.problems), raised.value.problems
    assert all("\n" not in line for line in raised.value.problems)


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:a.db",
        "sqlite:///a.db",
        "sqlite:////var/lib/a.db",
        "sqlite:/var/lib/a.db",
        "postgresql://sfu:p%40ss@db.example.org/sfu",
        "postgres://sfu@db.example.org:5433/sfu?sslmode=require",
        "postgresql:///sfu?host=/run/postgresql",
    ],
)
def test_a_database_is_named_as_mautrix_and_sqlalchemy_write_it(url: str) -> None:
    assert parse(load_yaml(MINIMAL + f"database: {{url: '{url}'}}")).database.url == url


def test_all_problems_are_said_at_once() -> None:
    assert len(problems_of("homeserver: {address: x, domain: '!'}\nmedia: {port: 0, threads: 0}")) == 6


def test_a_token_is_never_shown(tmp_path: Path) -> None:
    assert "secret" not in repr(parse(load_yaml(MINIMAL)))
    wrong = MINIMAL.replace("as-secret-1", "'pass word!'")
    assert all("pass word" not in problem for problem in problems_of(wrong))
    assert "hunter" not in "".join(problems_of(MINIMAL.replace("https://", "https://admin:hunter2@")))
    assert "hunter" not in repr(parse(load_yaml(MINIMAL + "database: {url: 'postgresql://sfu:hunter2@host/sfu'}")))
    for url in ("postgresql://sfu:hunter2", "postgresql://sfu:hunt/er2@host/sfu", "postgress://sfu:hunter2@host/sfu"):
        assert "hunt" not in "".join(problems_of(f"database: {{url: '{url}'}}"))
    with pytest.raises(ConfigError, match="line 7: not valid YAML: found duplicate key") as raised:
        load_yaml(MINIMAL + "  hs_token: hs-secret-2\n")
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("text", ["", "- a", "homeserver: [", "a: 1\na: 2", "\x00", "a: !!python/name:os.system x"])
def test_what_is_not_a_configuration_is_one_line(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        read(text, tmp_path)
    assert len(raised.value.problems) == 1
    assert raised.value.problems[0].startswith(f"{tmp_path / 'config.yaml'}: ")
    assert "\n" not in raised.value.problems[0]


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no such file; write the example there with `mautrix-sfu -e -c "):
        ConfigFile.read(tmp_path / "config.yaml")


def test_an_unknown_option_is_named_with_the_nearest_that_exists(tmp_path: Path) -> None:
    file = read(MINIMAL + "  bot_usernam: x\nconferense: {}\nbot: {permissions: {'*': none}}\n", tmp_path)
    lines = [line.removeprefix(f"{tmp_path}/config.yaml: ") for line in file.unknown_options()]
    assert lines == [
        "appservice.bot_usernam: unknown option, ignored; did you mean appservice.bot_username?",
        "conferense: unknown option, ignored; did you mean conferences?",
    ]


def test_permissions_go_by_the_most_exact_entry() -> None:
    text = MINIMAL + "bot: {permissions: {'*': use, example.org: admin, '@eve:example.org': none}}"
    bot = parse(load_yaml(text)).bot
    assert bot.permission("@alice:example.org") is Permission.ADMIN
    assert bot.permission("@eve:example.org") is Permission.NONE
    assert bot.permission("@bob:elsewhere.org") is Permission.USE
    assert parse(load_yaml(MINIMAL + "bot: {permissions: {}}")).bot.permission("@a:example.org") is Permission.NONE


# ---------------------------------------------------------------- the file


def test_new_options_come_with_their_comments_and_every_line_of_the_operator_stays(tmp_path: Path) -> None:
    text = MINIMAL.replace("domain: example.org", "domain: example.org  # ours\n  # the old one was example.net") + (
        "  mine: 1  # not an option\nmedia:\n      port: 4000\n"
    )
    file = read(text, tmp_path)
    updated = file.with_new_options()
    kept = iter(updated.text.splitlines())
    assert all(line in kept for line in text.splitlines()), "a line is gone or out of order"
    assert (
        "      # How many threads move packets. Default: null (one for each processor core)\n      threads: null\n"
        in updated.text
    )
    assert updated.parse() == file.parse()
    assert updated.with_new_options().text == updated.text
    assert load_yaml(updated.text).keys() >= load_yaml(example_text()).keys()


def test_a_whole_configuration_is_not_touched(tmp_path: Path) -> None:
    assert read(example_text(), tmp_path).with_new_options().text == example_text()


def test_permissions_and_logging_are_the_operators_own(tmp_path: Path) -> None:
    text = MINIMAL + "bot:\n  permissions:\n    '@a:example.org': admin\nlogging:\n  version: 1\n"
    data = read(text, tmp_path).with_new_options().data
    assert data["bot"]["permissions"] == {"@a:example.org": "admin"}
    assert data["logging"] == {"version": 1}


def test_windows_line_ends_and_a_missing_last_one_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(MINIMAL.replace("\n", "\r\n").encode().rstrip())
    file = ConfigFile.read(path)
    updated = file.with_new_options()
    kept = iter(updated.text.split("\r\n"))
    assert all(line in kept for line in file.text.split("\r\n"))
    assert "\n" not in updated.text.replace("\r\n", "")
    updated.save()
    assert ConfigFile.read(path).text == updated.text


@pytest.mark.parametrize(
    "section",
    [
        "media: {port: 4000}",
        "media: &m {port: 4000}\nx: *m",
        "media:\n",
        "media: null",
        "media: # none",
        "media:\n  port:\n   4000",
        "logging:\n  version: 1\n  x: |\n    text\n\n\nmedia:\n  port: 4000",
    ],
)
def test_a_section_written_otherwise_keeps_its_meaning(section: str, tmp_path: Path) -> None:
    file = read(f"{MINIMAL}{section}\n", tmp_path)
    updated = file.with_new_options()
    for line in file.text.splitlines():
        assert line in updated.text
    for name, value in file.data.items():
        if isinstance(value, dict):
            assert updated.data[name].items() >= value.items()


def holds(new: Any, old: Any) -> bool:
    """Whether everything said in `old` is said in `new`; a section with nothing in it says nothing."""
    if isinstance(old, dict) and isinstance(new, dict):
        return all(name in new and (value is None or holds(new[name], value)) for name, value in old.items())
    return bool(new == old)


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_whatever_is_left_out_of_the_example_is_put_back_and_nothing_else_changes(data: st.DataObject) -> None:
    lines = example_text().splitlines(keepends=True)
    first = data.draw(st.integers(0, len(lines) - 1))
    count = data.draw(st.integers(1, 40))
    text = "".join(lines[:first] + lines[first + count :])
    try:
        have = load_yaml(text)
    except ConfigError:
        return
    updated = ConfigFile(Path("x"), text, have).with_new_options()
    kept = iter(updated.text.splitlines())
    assert all(line in kept for line in text.splitlines())
    assert holds(updated.data, have)


def test_saving_is_atomic_and_keeps_the_mode(tmp_path: Path) -> None:
    file = read(MINIMAL, tmp_path)
    file.path.chmod(0o640)
    link = tmp_path / "link.yaml"
    link.symlink_to(file.path)
    ConfigFile.read(link).with_new_options().save()
    assert link.is_symlink()
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o640
    assert "threads: null" in file.path.read_text()
    assert sorted(os.listdir(tmp_path)) == ["config.yaml", "link.yaml"]


# ---------------------------------------------------------------- registration


def config_with(extra: str = "") -> Config:
    return parse(load_yaml(MINIMAL + extra))


def test_the_registration_is_what_a_homeserver_needs_and_no_more() -> None:
    registration = load_yaml(generate(config_with()))
    sender = registration.pop("sender_localpart")
    assert len(sender) == 32
    assert sender != "sfu"
    assert registration == {
        "id": "sfu",
        "url": "http://localhost:29340",
        "as_token": "as-secret-1",
        "hs_token": "hs-secret-1",
        "rate_limited": False,
        "namespaces": {
            "users": [{"regex": r"@sfu:example\.org", "exclusive": True}],
            "rooms": [{"regex": "!.*", "exclusive": False}],
        },
    }


def test_without_all_rooms_the_registration_names_none() -> None:
    assert load_yaml(generate(config_with("  all_rooms: false")))["namespaces"]["rooms"] == []


def test_the_example_registration_has_the_keys_of_a_generated_one() -> None:
    example = load_yaml((Path(__file__).parent.parent / "registration.yaml.example").read_text())
    generated = load_yaml(generate(config_with()))
    assert list(example) == list(generated)
    assert example["namespaces"] == generated["namespaces"]


# ---------------------------------------------------------------- another configuration while the focus runs


def test_what_changed_is_named_and_parted_into_what_holds_at_once_and_what_needs_a_restart() -> None:
    old = parse(load_yaml(MINIMAL))
    text = MINIMAL + "conferences: {guests: false, limits: {legs: 7}}\nmedia: {port: 4000}\ncascade: {trunks: 3}\n"
    new = parse(load_yaml(text))
    found = changes(old, new)
    assert found.live == ("cascade.trunks", "conferences.guests", "conferences.limits.legs")
    assert found.restart == ("media.port",)
    kept = with_live(old, new)
    assert kept.conferences.limits.legs == 7
    assert kept.media.port == old.media.port
    assert changes(kept, new) == Changes((), ("media.port",))  # it is still named the next time
    assert changes(old, old) == Changes((), ())


def test_every_limit_is_an_option_with_its_range() -> None:
    limits = load_yaml(example_text())["conferences"]["limits"]
    assert {limit.name for limit in LIMITS if not limit.option} == set(limits)
    for limit in LIMITS:
        where = limit.option or f"conferences.limits.{limit.name}"
        section, _, name = where.rpartition(".")
        nested: dict[str, Any] = {name: limit.highest + 1}
        for part in reversed(section.split(".")):
            nested = {part: nested}
        with pytest.raises(ConfigError, match=f"{where}: expected a whole number from {limit.lowest} to"):
            parse(load_yaml(MINIMAL) | nested)
