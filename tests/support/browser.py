"""Call pages in a headless Chromium: opened with a session, joined, and asked what they send and see."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from playwright.async_api import Browser as PlaywrightBrowser
from playwright.async_api import BrowserContext, ConsoleMessage, Page, Playwright, async_playwright

from mautrix_sfu.core.ids import Device, DeviceId, UserId

PATIENCE = 45.0  # seconds for what takes far less on a machine with nothing else to do
CAMERA = "640x360"  # two simulcast layers; the highest of three is never sent at this size

_FLAGS = (
    "--autoplay-policy=no-user-gesture-required",
    "--disable-background-networking",
    "--disable-background-timer-throttling",
    "--disable-backgrounding-occluded-windows",
    "--disable-component-update",
    "--disable-features=WebRtcHideLocalIpsWithMdns,Translate",
    "--disable-gpu",
    "--disable-renderer-backgrounding",
    "--disable-sync",
    "--no-first-run",
    "--use-fake-device-for-media-stream",
)
_GRANT = "--use-fake-ui-for-media-stream"  # answers the question for camera and microphone with yes


def chromium_path() -> str:
    """Return the system's Chromium (RuntimeError with the command that installs it if there is none)."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    raise RuntimeError("Chromium is missing: install it with `apt-get install chromium`")


@dataclass(frozen=True)
class PageSession:
    """Who uses a page, and which room it opens."""

    homeserver: str  # address
    user_id: str
    device_id: str
    token: str
    room: str | None = None  # id or alias

    def fragment(self) -> str:
        """Return what the page takes from its address."""
        values = {"homeserver": self.homeserver, "user": self.user_id, "device": self.device_id, "token": self.token}
        return urlencode(values | ({"room": self.room} if self.room else {}))


class CallPage:
    """One call page in a browser context of its own; `window.sfuCall` answers for it."""

    def __init__(self, page: Page, context: BrowserContext, name: str, session: PageSession | None) -> None:
        self.page = page
        self.session = session
        self.context = context
        self.name = name
        self.console: list[str] = []
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self.console.append(f"uncaught: {error}"))

    @property
    def device(self) -> Device:
        """Who opened it."""
        assert self.session is not None
        return Device(UserId(self.session.user_id), DeviceId(self.session.device_id))

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.console.append(f"{message.type}: {message.text} ({message.location.get('url', '')})")

    # ------------------------------------------------------------ what a person does

    async def join(self, within: float = PATIENCE) -> None:
        """Press the lobby's button and wait until media can flow."""
        await self.page.locator("button.join").click(timeout=within * 1000)
        await self.wait_state("connected", within)

    async def leave(self) -> None:
        """Press the button that leaves the call."""
        await self.page.get_by_role("button", name="Leave").click()
        await self.page.locator("button.join").wait_for()

    async def crash(self) -> None:
        """Let the page end as in a power cut: it says nothing to anybody."""
        devtools = await self.context.new_cdp_session(self.page)
        async with self.page.expect_event("crash"):
            command = asyncio.create_task(devtools.send("Page.crash"))  # which nobody is left to answer
        command.cancel()

    async def press(self, control: str) -> None:
        """Press the switch of `audio`, `video` or `screen`."""
        await self.page.locator(f"button.control.{control}").click()

    async def enlarge(self, user_id: str) -> None:
        """Make somebody's tile the large one, or small again."""
        tile = self.page.locator(f'.tile[data-user="{user_id}"]').first
        await tile.hover()
        await tile.locator("button.enlarge").click()

    # ------------------------------------------------------------ what it sees

    async def ask(self, question: str, *arguments: Any) -> Any:
        """Call a function of `window.sfuCall` and return its answer."""
        return await self.page.evaluate("([name, args]) => window.sfuCall[name](...args)", [question, list(arguments)])

    async def state(self) -> str:
        """Return the call's state: idle, connecting, connected, reconnecting or ended."""
        return str(await self.ask("state"))

    async def feeds(self) -> list[dict[str, Any]]:
        """Return what the others publish."""
        return list(await self.ask("feeds"))

    async def stats(self) -> dict[str, Any]:
        """Return the leg's statistics by feed (RuntimeError while there is no leg)."""
        stats = await self.ask("stats")
        if stats is None:
            raise RuntimeError(f"{self.name} has no leg")
        return dict(stats)

    async def inbound(self, user_id: str, kind: str) -> list[dict[str, Any]]:
        """Return the statistics of what arrives from this user; nothing while there is no leg."""
        stats = await self.ask("stats")
        return [s for s in (stats or {}).get("inbound", []) if s["user"] == user_id and s["kind"] == kind]

    async def outbound(self, kind: str) -> list[dict[str, Any]]:
        """Return the statistics of each layer that is sent; nothing while there is no leg."""
        stats = await self.ask("stats")
        return [s for s in (stats or {}).get("outbound", []) if s["kind"] == kind]

    async def slowed_by_cpu(self) -> list[str]:
        """Return the video layers that Chromium holds back because this machine is too slow."""
        layers = await self.outbound("video")
        return [str(layer.get("rid")) for layer in layers if layer.get("qualityLimitationReason") == "cpu"]

    async def words(self) -> str:
        """Return all that the page says now."""
        return await self.page.locator("body").inner_text()

    # ------------------------------------------------------------ waiting

    async def wait(self, what: str, condition: Callable[[], Awaitable[bool]], within: float = PATIENCE) -> None:
        """Ask until it is true; AssertionError with what the page shows if it is not in time."""
        deadline = asyncio.get_running_loop().time() + within
        while not await condition():
            if asyncio.get_running_loop().time() > deadline:
                raise AssertionError(f"{self.name}: not within {within:g} s: {what}\n{await self.describe()}")
            await asyncio.sleep(0.1)

    async def wait_state(self, state: str, within: float = PATIENCE) -> None:
        """Wait until the call is in this state."""

        async def reached() -> bool:
            return await self.state() == state

        await self.wait(f"state {state}", reached, within)

    async def wait_words(self, words: str, within: float = PATIENCE) -> None:
        """Wait until the page says this."""

        async def said() -> bool:
            return words in await self.words()

        await self.wait(f"the words {words!r}", said, within)

    async def wait_video(self, user_id: str, frames: int = 10, within: float = PATIENCE) -> dict[str, Any]:
        """Wait until `frames` more frames of this user are decoded, and return the statistics."""
        return await self._wait_growth(user_id, "video", "framesDecoded", frames, within)

    async def wait_audio(self, user_id: str, packets: int = 20, within: float = PATIENCE) -> dict[str, Any]:
        """Wait until `packets` more packets of sound of this user have come and some of it was heard."""
        return await self._wait_growth(user_id, "audio", "packetsReceived", packets, within)

    async def _wait_growth(self, user_id: str, kind: str, counter: str, more: int, within: float) -> dict[str, Any]:
        first: dict[str, int] = {}  # by m-line: a new leg counts from nought
        latest: dict[str, Any] = {}

        async def grown() -> bool:
            for stats in await self.inbound(user_id, kind):
                latest.update(stats)
                count = int(stats.get(counter, 0))
                start = first.setdefault(str(stats["mid"]), count)
                if count < start:
                    first[str(stats["mid"])] = count
                heard = kind == "video" or float(stats.get("totalAudioEnergy", 0)) > 0
                if count - start >= more and heard:
                    return True
            return False

        await self.wait(f"{more} more {counter} from {user_id}", grown, within)
        return latest

    # ------------------------------------------------------------ when something is wrong

    async def screenshot(self, path: Path) -> None:
        """Write a picture of the page."""
        path.parent.mkdir(parents=True, exist_ok=True)
        await self.page.screenshot(path=path)

    async def describe(self) -> str:
        """Return what the page says, its statistics and its console, for a failure's message."""
        try:
            words = (await self.words()).replace("\n", " | ")
            lines = [f"says: {words}", f"stats: {await self.ask('stats')}", f"feeds: {await self.feeds()}"]
            if slow := await self.slowed_by_cpu():
                lines.insert(0, f"THIS MACHINE IS TOO SLOW FOR THE TEST: less of {slow} is sent for lack of CPU")
            return "\n".join([*lines, f"console: {self.console}"])
        except Exception as error:  # the page itself may be gone
            return f"cannot be asked: {error}\nconsole: {self.console}"

    async def close(self) -> None:
        """Close the page as a person closes a tab."""
        await self.page.close(run_before_unload=False)
        await self.context.close()


class Browser:
    """One Chromium; use it as an async context manager."""

    def __init__(self, camera: str = CAMERA, grant_devices: bool = True, headless: bool = True) -> None:
        self.camera = camera
        self.pages: list[CallPage] = []
        self._grant = grant_devices
        self._headless = headless
        self._playwright: Playwright | None = None
        self._browser: PlaywrightBrowser | None = None

    async def __aenter__(self) -> Browser:
        """Start Chromium."""
        self._playwright = await async_playwright().start()
        flags = [*_FLAGS, *([_GRANT] if self._grant else []), *(["--no-sandbox"] if os.geteuid() == 0 else [])]
        self._browser = await self._playwright.chromium.launch(
            executable_path=chromium_path(), headless=self._headless, args=flags
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop Chromium."""
        if self._browser is not None:
            await self._browser.close()
        if self._playwright is not None:
            await self._playwright.stop()

    async def open(
        self,
        address: str,
        session: PageSession | None = None,
        name: str | None = None,
        size: tuple[int, int] = (960, 600),
        query: Mapping[str, str] | None = None,
        prelude: str = "",
    ) -> CallPage:
        """Open the call page at `address` (a folder's address), with a session if there is one.

        `prelude` is JavaScript that runs before the page's own.
        """
        assert self._browser is not None
        context = await self._browser.new_context(viewport={"width": size[0], "height": size[1]})
        await context.add_init_script(prelude)
        page = CallPage(await context.new_page(), context, name or (session.user_id if session else "nobody"), session)
        self.pages.append(page)
        parameters = urlencode({"camera": self.camera, **(query or {})})
        await page.page.goto(f"{address}?{parameters}" + (f"#{session.fragment()}" if session else ""))
        return page

    async def screenshots(self, folder: Path, prefix: str = "") -> None:
        """Write a picture of every open page."""
        for page in self.pages:
            if not page.page.is_closed():
                await page.screenshot(folder / f"{prefix}{page.name.strip('@').replace(':', '-')}.png")
