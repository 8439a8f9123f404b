"""The command line, as operators of mautrix bridges know it."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from . import __version__
from .config import Config, ConfigError, ConfigFile, example_text, generate, new_token, set_up_logging, write_atomically
from .errors import ExitCode, FatalError

log = logging.getLogger("mautrix_sfu.config")


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="mautrix-sfu",
        description="A Matrix application service that is a selective forwarding unit for group calls.",
    )
    parser.add_argument(
        "-c", "--config", type=Path, default=Path("config.yaml"), metavar="<path>",
        help="the configuration file (default: config.yaml)",
    )  # fmt: skip
    parser.add_argument(
        "-n", "--no-update", action="store_true", help="don't write new options and tokens into the configuration file"
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "-g", "--generate-registration", action="store_true",
        help="make new tokens, write the registration for the homeserver, and quit "
        "(with -n: with the tokens that the configuration has)",
    )  # fmt: skip
    what.add_argument(
        "-e", "--generate-example-config", action="store_true",
        help="write the example configuration where -c says, and quit",
    )  # fmt: skip
    what.add_argument(
        "--check", action="store_true",
        help="test the installation, whether the focus runs or not, say what to mend, and quit: with 1 if there is "
        "something",
    )  # fmt: skip
    what.add_argument("--migrate", action="store_true", help="bring the database's schema up to date, and quit")
    parser.add_argument(
        "-r", "--registration", type=Path, default=Path("registration.yaml"), metavar="<path>",
        help="where -g writes the registration, and --check reads it (default: registration.yaml)",
    )  # fmt: skip
    parser.add_argument("--room", metavar="<room id>", help="with --check: may the members of this room have calls?")
    parser.add_argument("--version", action="version", version=f"mautrix-sfu {__version__}")
    return parser.parse_args(argv)


def _write_example(path: Path) -> None:
    if path.exists():
        raise ConfigError(f"{path}: exists already and is left alone")
    try:
        write_atomically(path, example_text(), new_mode=0o600)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from error
    print(f"Wrote {path}: edit it, then generate the registration with `mautrix-sfu -g -c {path}`")


def _generate_registration(file: ConfigFile, path: Path, update: bool) -> None:
    """Write the registration; with `update`, new tokens go into it and into the configuration (as mautrix does)."""
    config = file.parse(tokens=not update)
    if update:
        file = file.with_new_options()
        for name in ("as_token", "hs_token"):
            file = file.with_value("appservice", name, new_token())
        config = file.parse()
    target = path
    try:
        write_atomically(path, generate(config), new_mode=0o640)
        if update:
            target = file.path
            file.save()
    except OSError as error:
        raise ConfigError(f"{target}: cannot be written: {error.strerror}") from error
    tokens = f" and put its tokens into {file.path}" if update else ""
    print(f"Wrote {path}{tokens}: add it to the homeserver's app_service_config_files and restart the homeserver")


def _migrate(config: Config) -> None:
    from . import store  # late: the other errands do without a database

    name = asyncio.run(store.migrate(config.database.url))
    print(f"The schema of database {name} is up to date")


def _check(arguments: argparse.Namespace) -> int:
    try:
        from . import check  # late: needs the media core
    except ImportError as error:
        raise FatalError(f"cannot test: {error}", ExitCode.MEDIA_FAILED) from error
    logging.basicConfig(level=logging.CRITICAL)  # what matters is among the findings
    return check.check_file(arguments.config, arguments.registration, arguments.room, print)


def _load(file: ConfigFile, update: bool) -> Config:
    """Check the configuration, set up the log, and put new options into the file."""
    config = file.parse()
    set_up_logging(file.path, config)
    for line in file.unknown_options():
        log.warning("%s", line)
    if update:
        updated = file.with_new_options()
        if updated.text != file.text:
            try:
                updated.save()
                log.info("put new options into %s", file.path)
            except OSError as error:
                log.warning("%s: new options could not be written: %s", file.path, error.strerror)
    return config


def _run(argv: Sequence[str] | None) -> int:
    arguments = _arguments(argv)
    if arguments.generate_example_config:
        _write_example(arguments.config)
        return 0
    if arguments.check:
        return _check(arguments)
    file = ConfigFile.read(arguments.config)
    if arguments.generate_registration:
        _generate_registration(file, arguments.registration, not arguments.no_update)
        return 0
    if arguments.migrate:
        _migrate(file.parse(tokens=False))
        return 0
    config = _load(file, not arguments.no_update)
    try:
        from . import app  # late: needs the media core, which -g, -e and --help do not
    except ImportError as error:
        raise FatalError(f"cannot start: {error}", ExitCode.MEDIA_FAILED) from error
    return app.run(config, file.path)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; gives the exit code (see `errors`)."""
    try:
        return _run(argv)
    except ConfigError as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        return ExitCode.CONFIG
    except FatalError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 128 + 2  # SIGINT, as shells count
    except Exception:
        log.critical("a fault of this program, please report it", exc_info=True)
        return ExitCode.INTERNAL


if __name__ == "__main__":
    sys.exit(main())
