"""One Chromium in a client's network namespace, with a camera that gives the encoder something to do."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import av
from av.filter import Graph
from playwright.async_api import Page, Playwright

from tests.support.browser import _FLAGS, _GRANT, chromium_path
from tests.support.namespaces import Namespace

ADDRESS = "https://quality.example/"  # answered within the browser: devices are for secure pages only
SCRIPT = Path(__file__).with_suffix(".js")
CAMERA_SECONDS = 3


def film(path: Path, width: int, height: int, rate: int) -> None:
    """What the camera sees, uncompressed: figures that move over grain, so that each layer takes all it may."""
    graph = Graph()
    source = graph.add("testsrc2", f"size={width}x{height}:rate={rate}")
    grain = graph.add("noise", "alls=12:allf=t")
    form = graph.add("format", "yuv420p")
    sink = graph.add("buffersink")
    for before, after in ((source, grain), (grain, form), (form, sink)):
        before.link_to(after)
    graph.configure()
    with path.open("wb") as file:
        file.write(f"YUV4MPEG2 W{width} H{height} F{rate}:1 Ip A1:1 C420jpeg\n".encode())
        for _ in range(CAMERA_SECONDS * rate):
            frame = graph.pull()
            assert isinstance(frame, av.VideoFrame)
            file.write(b"FRAME\n")
            for plane in frame.planes:
                rows, line = bytes(plane), plane.line_size
                file.writelines(rows[y * line : y * line + plane.width] for y in range(plane.height))


class Chromium:
    """A browser that lives in a namespace, and its pages one after the other."""

    def __init__(self, namespace: Namespace, folder: Path, film: Path) -> None:
        self._namespace = namespace
        self._program = folder / f"chromium-{namespace.name}"
        self._film = film

    async def start(self, playwright: Playwright) -> None:
        """Run it."""
        inside = " ".join(self._namespace.command)
        self._program.write_text(f'#!/bin/sh\nexec {inside} {chromium_path()} "$@"\n')
        self._program.chmod(0o755)
        flags = [*_FLAGS, _GRANT, f"--use-file-for-fake-video-capture={self._film}"]
        flags += ["--no-sandbox"] if os.geteuid() == 0 else []
        self._browser = await playwright.chromium.launch(executable_path=str(self._program), args=flags)

    async def page(self) -> QualityPage:
        """A new page."""
        context = await self._browser.new_context(viewport={"width": 480, "height": 320})
        page = await context.new_page()
        style = "<style>video { width: 240px; height: 135px }</style>"
        html = f"<!doctype html><title>quality</title>{style}<script>{SCRIPT.read_text()}</script>"
        await page.route(ADDRESS + "**", lambda route: route.fulfill(body=html, content_type="text/html"))
        await page.goto(ADDRESS)
        return QualityPage(page)

    async def stop(self) -> None:
        """End it."""
        await self._browser.close()


class QualityPage:
    """A page that has loaded quality_page.js."""

    def __init__(self, page: Page) -> None:
        self._page = page

    async def ask(self, question: str, *arguments: Any) -> Any:
        """Call one of its functions."""
        return await self._page.evaluate("([name, args]) => window.quality[name](...args)", [question, list(arguments)])

    async def close(self) -> None:
        """Close it with all that it has."""
        await self._page.context.close()
