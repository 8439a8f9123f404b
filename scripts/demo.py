"""The main job in one command: a throw-away Synapse, the focus, a room with a call, and addresses to open."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from scripts.install_synapse import ensure_synapse  # noqa: E402
from tests.support.browser import Browser, PageSession  # noqa: E402
from tests.support.focus import FocusProcess  # noqa: E402
from tests.support.synapse import CALL_TYPES, PASSWORD, Client, Synapse, free_port  # noqa: E402

PEOPLE = ("alice", "bob", "carol")
PAGE_PORT = 29341  # the focus's default; another one where it is taken


class DemoError(Exception):
    """Something went wrong; the message says what, and how to go on."""


class Progress:
    """Says what is going on: a spinner on a terminal, a line each elsewhere."""

    def __init__(self) -> None:
        self._terminal = sys.stdout.isatty()

    @contextlib.asynccontextmanager
    async def step(self, words: str) -> AsyncIterator[None]:
        """Show these words while the block runs, and how long it took."""
        start = time.monotonic()
        spinner = asyncio.create_task(self._spin(words)) if self._terminal else None
        if spinner is None:
            print(f"{words} ...", flush=True)
        done = False
        try:
            yield
            done = True
        finally:
            if spinner is not None:
                spinner.cancel()
                mark = "\033[32m✓\033[0m" if done else "\033[31m✗\033[0m"
                print(f"\r\033[K{mark} {words} ({time.monotonic() - start:.1f} s)", flush=True)

    async def _spin(self, words: str) -> None:
        for frame in itertools.cycle("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"):
            print(f"\r\033[K{frame} {words}", end="", flush=True)
            await asyncio.sleep(0.08)


def _page_port() -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", PAGE_PORT))
        except OSError:
            return free_port()
        return PAGE_PORT


class Demo:
    """Everything that runs, in the order in which it was started."""

    def __init__(self, progress: Progress, directory: Path) -> None:
        self.progress = progress
        port = free_port()
        self.focus = FocusProcess(
            directory,
            f"http://127.0.0.1:{port}",
            overrides={
                "media": {"addresses": []},  # those of the network too, for a browser that leaves out the loopback
                "bot": {"permissions": {"*": "use", f"@{PEOPLE[0]}:localhost": "admin"}},
            },
            page_port=_page_port(),
        )
        self.synapse = Synapse(
            port=port,
            directory=directory / "synapse",
            config={"app_service_config_files": [str(self.focus.registration)]},
        )
        self.sessions: list[PageSession] = []

    async def start(self) -> None:
        """Start it all, so that a call can be joined."""
        try:
            async with self.progress.step("Generating the registration of the focus"):
                await asyncio.to_thread(self.focus.configure)
            async with self.progress.step("Starting a throw-away Synapse"):
                await self.synapse.start()
            async with self.progress.step("Starting the focus"):
                await self.focus.start()
        except RuntimeError as error:
            message = str(error)
            raise DemoError(message[:1].upper() + message[1:]) from error
        async with self.progress.step(f"Making the users {', '.join(PEOPLE)} and a room with a call"):
            await self._furnish()

    async def _furnish(self) -> None:
        people = [await self.synapse.register_user(name, device_id=f"{name.upper()}1") for name in PEOPLE]
        host, *guests = people
        room = await host.create_room("The demo's room", invite=[guest.user_id for guest in guests])
        for guest in guests:
            await guest.join(room)
        await host.send_state(room, CALL_TYPES[0], "demo-call", {"m.intent": "m.room", "m.type": "m.video"})
        self.sessions = [self._session(person, room) for person in people]

    def _session(self, person: Client, room: str) -> PageSession:
        return PageSession(self.synapse.base_url, person.user_id, person.device_id, person.token, room)

    def addresses(self) -> list[tuple[str, str]]:
        """Who, and the address to open."""
        return [(session.user_id, f"{self.focus.address}#{session.fragment()}") for session in self.sessions]

    async def watch(self) -> None:
        """Run until something ends that should not."""
        while True:
            await asyncio.sleep(0.5)
            if (code := self.focus.exit_code) is not None:
                raise DemoError(f"The focus ended with exit code {code}:\n{self.focus.log_tail()}")

    async def stop(self) -> None:
        """Stop it all and remove what it wrote."""
        await asyncio.to_thread(self.focus.stop)
        await self.synapse.close_http()
        await self.synapse.stop()


async def check(demo: Demo) -> None:
    """Join with two pages of a headless Chromium; raises DemoError unless each sees and hears the other."""
    alice, bob = demo.sessions[:2]
    async with Browser() as browser:
        try:
            async with demo.progress.step("Joining the call with two pages"):
                pages = [await browser.open(demo.focus.address, session) for session in (alice, bob)]
                for page in pages:
                    await page.join()
            async with demo.progress.step("Waiting until each sees and hears the other"):
                for page, other in zip(pages, (bob, alice), strict=True):
                    await page.wait_video(other.user_id)
                    await page.wait_audio(other.user_id)
        except Exception as error:
            await browser.screenshots(ROOT / "build" / "demo")
            raise DemoError(
                f"The pages did not come together ({error}).\n"
                f"Pictures of them are in build/demo. The focus's log:\n{demo.focus.log_tail()}"
            ) from error
    print("Two pages joined the call, and each sees and hears the other.")


def invite_people(demo: Demo) -> None:
    """Print what to open."""
    lines = "\n".join(f"  {user}\n    {address}\n" for user, address in demo.addresses())
    print(
        f"\nThe call is ready. Open these addresses, each in a window of its own (one browser will do),\n"
        f'and press "Join the call":\n\n{lines}\n'
        f"To log in by hand instead: {demo.focus.address}, with the password {PASSWORD}\n"
        f"Logs: {demo.focus.log}, {demo.synapse.log_path}\n"
        f"Ctrl-C stops it and removes everything.",
        flush=True,
    )


async def run(then: Callable[[Demo], Awaitable[None]], directory: Path) -> None:
    """Start the demo, do that with it, and stop it, whatever happens."""
    task = asyncio.current_task()
    assert task is not None
    for name in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(name, task.cancel)
    demo = Demo(Progress(), directory)
    try:
        await demo.start()
        await then(demo)
    finally:
        async with demo.progress.step("Stopping"):
            await demo.stop()


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="join with two pages of a headless Chromium instead, and quit"
    )
    parser.add_argument("--keep", action="store_true", help="leave the data and the logs where they are")
    return parser.parse_args()


def main() -> int:
    """Run the demo; gives the exit code."""
    options = arguments()

    async def then(demo: Demo) -> None:
        if options.check:
            await check(demo)
        else:
            invite_people(demo)
            await demo.watch()

    ensure_synapse()
    directory = Path(tempfile.mkdtemp(prefix="mautrix-sfu-demo-"))
    try:
        asyncio.run(run(then, directory))
    except asyncio.CancelledError:
        return 0 if not options.check else 130
    except DemoError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    finally:
        if options.keep:
            print(f"Left in place: {directory}")
        else:
            shutil.rmtree(directory, ignore_errors=True)
            print("Removed everything.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
