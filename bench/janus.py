"""Janus's VideoRoom under the same load: Debian's package, driven over its HTTP API."""

from __future__ import annotations

import asyncio
import itertools
import re
import resource
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import aiohttp
from aioice import stun
from aiortc import rtcdtlstransport

from .forward_targets import AT_ONCE
from .load_peers import Generator, LoadPeer
from .network import PEER_PORT, SERVER, in_server, peer_address

ROOM, HTTP_PORT = 1234, 8088
INSTALLED = Path("/usr/lib/x86_64-linux-gnu/janus")
PROFILE = "SRTP_AEAD_AES_128_GCM"
AS_PACKAGED, WITH_OPENSSL = "Janus as packaged", "Janus, libsrtp on OpenSSL"
STARTING = 10.0  # seconds

MAIN = """
general: {{
    configs_folder = "{folder}"
    plugins_folder = "{folder}/plugins"
    transports_folder = "{folder}/transports"
    events_folder = "{folder}/none"
    loggers_folder = "{folder}/none"
    interface = "{server}"
    admin_secret = "bench"
    event_loops = 2
    session_timeout = 0
    debug_level = 2
}}
media: {{ rtp_port_range = "20000-59999" }}
nat: {{
    ice_lite = true
    ice_tcp = false
    full_trickle = false
    ice_enforce_list = "{server}"
    ignore_mdns = true
}}
events: {{ broadcast = false }}
"""
VIDEOROOM = """
room-{room}: {{
    description = "bench"
    publishers = 200
    bitrate = 0
    fir_freq = 0
    audiocodec = "opus"
    videocodec = "vp8"
    record = false
}}
"""
HTTP = """
general: {{ json = "compact", base_path = "/janus", http = true, port = {port}, ip = "{server}", https = false }}
admin: {{ admin_http = false }}
"""


class JanusError(Exception):
    """Janus refused, or did not answer."""


class JanusPeer(LoadPeer):
    """A peer as Janus wants it: no data channel, DTLS client, one SRTP profile on offer."""

    channel = False

    def __init__(self, *, audio: bool, video: bool) -> None:
        super().__init__(audio=audio, video=video)
        profiles = cast("Any", rtcdtlstransport).SRTP_PROFILES
        dtls = cast("Any", self.peer.dtls)
        dtls._srtp_profiles = [profile for profile in profiles if profile.openssl_profile == PROFILE.encode()]

    def _on_datagram(self, data: bytes) -> None:
        """Janus's library checks back, lite or not, and waits for the answer."""
        if data[:2] == b"\0\1":  # a binding request
            request = stun.parse_message(data)
            answer = stun.Message(stun.Method.BINDING, stun.Class.RESPONSE, request.transaction_id)
            if self.ice.remote is not None:
                answer.attributes["XOR-MAPPED-ADDRESS"] = self.ice.remote
            answer.add_message_integrity(self.ice.pwd.encode())
            answer.add_fingerprint()
            self.send_raw(bytes(answer))
        else:
            super()._on_datagram(data)

    def offer(self, *, restart_ice: bool = False) -> str:
        """Without an m-line for data, which a VideoRoom is not asked for."""
        session, *lines = re.split(r"(?=^m=)", super().offer(restart_ice=restart_ice), flags=re.MULTILINE)
        dropped = [line for line in lines if line.startswith("m=application")]
        for line in dropped:
            (mid,) = re.findall(r"^a=mid:(\S+)", line, flags=re.MULTILINE)
            session = re.sub(rf"(^a=group:BUNDLE.*) {mid}\b", r"\1", session, flags=re.MULTILINE)
        kept = [line for line in lines if line not in dropped]
        return self._with_candidate(session + "".join(kept)).replace("a=setup:actpass", "a=setup:active")

    def take_offer(self, sdp: str) -> str | None:
        """Answer as Janus wants it."""
        answer = super().take_offer(sdp)
        return self._with_candidate(answer) if answer is not None else None

    def _with_candidate(self, sdp: str) -> str:
        """Janus starts once it knows a candidate, though the checks come from here."""
        candidate = f"a=candidate:1 1 udp 2130706431 {self.host} {PEER_PORT} typ host\r\na=end-of-candidates\r\n"
        return re.sub(r"(^a=setup:\w+\r\n)", rf"\1{candidate}", sdp, flags=re.MULTILINE)


class Api:
    """One session of Janus's HTTP API."""

    def __init__(self, http: aiohttp.ClientSession) -> None:
        self._http = http
        self._base = f"http://{SERVER}:{HTTP_PORT}/janus"
        self._names = (f"t{number}" for number in itertools.count())
        self._waiting: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._poll: asyncio.Task[None] | None = None
        self._session = 0

    async def open(self) -> None:
        """Wait for Janus and open a session."""
        async with asyncio.timeout(STARTING):
            while True:
                try:
                    self._session = (await self._post("", janus="create"))["data"]["id"]
                    break
                except aiohttp.ClientError:
                    await asyncio.sleep(0.1)
        self._poll = asyncio.create_task(self._events())

    async def attach(self) -> int:
        """A handle of the VideoRoom."""
        answer = await self._post(f"/{self._session}", janus="attach", plugin="janus.plugin.videoroom")
        handle: int = answer["data"]["id"]
        return handle

    async def message(self, handle: int, body: dict[str, Any], sdp: tuple[str, str] | None = None) -> dict[str, Any]:
        """Send a message, with a description if need be. Gives the event that answers it."""
        name = next(self._names)
        waiting = self._waiting[name] = asyncio.get_running_loop().create_future()
        # All candidates are in the descriptions.
        more = {"jsep": {"type": sdp[0], "sdp": sdp[1], "trickle": False}} if sdp else {}
        await self._post(f"/{self._session}/{handle}", janus="message", transaction=name, body=body, **more)
        async with asyncio.timeout(STARTING):
            event: dict[str, Any] = await waiting
        data = event["plugindata"]["data"]
        if "error" in data:
            raise JanusError(data["error"])
        return event

    async def detach(self, handle: int) -> None:
        """End a handle with its connection."""
        await self._post(f"/{self._session}/{handle}", janus="detach")

    async def close(self) -> None:
        """End the polling."""
        if self._poll is not None:
            self._poll.cancel()
            await asyncio.wait([self._poll])

    async def _post(self, path: str, **content: Any) -> dict[str, Any]:
        content.setdefault("transaction", next(self._names))
        async with self._http.post(self._base + path, json=content) as response:
            answer: dict[str, Any] = await response.json(content_type=None)
        if answer["janus"] == "error":
            raise JanusError(str(answer["error"]))
        return answer

    async def _events(self) -> None:
        while True:
            async with self._http.get(f"{self._base}/{self._session}", params={"maxev": "20"}) as response:
                found = await response.json(content_type=None)
            for event in found if isinstance(found, list) else [found]:
                waiting = self._waiting.pop(event.get("transaction", ""), None)
                if waiting is not None and not waiting.done():
                    waiting.set_result(event)


class JanusServer:
    """Janus's process, and a session with it."""

    def __init__(self, libraries: Path | None = None) -> None:
        self._libraries = libraries

    async def start(self, wrap: Callable[..., Sequence[str]]) -> None:
        """Run it, with a command line that `wrap` makes of the usual one."""
        self._folder = tempfile.TemporaryDirectory()
        folder = Path(self._folder.name)
        for kind, name in (("plugins", "libjanus_videoroom.so"), ("transports", "libjanus_http.so"), ("none", "")):
            (folder / kind).mkdir()
            if name:
                (folder / kind / name).symlink_to(INSTALLED / kind / name)
        names = {"folder": folder, "server": SERVER, "room": ROOM, "port": HTTP_PORT}
        (folder / "janus.jcfg").write_text(MAIN.format(**names))
        (folder / "janus.plugin.videoroom.jcfg").write_text(VIDEOROOM.format(**names))
        (folder / "janus.transport.http.jcfg").write_text(HTTP.format(**names))
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        environment = ("env", f"LD_LIBRARY_PATH={self._libraries}") if self._libraries else ()
        command = (
            *environment,
            "janus",
            "-C",
            str(folder / "janus.jcfg"),
            "-F",
            str(folder),
        )
        self._log = (folder / "log").open("wb")
        self._process = await asyncio.create_subprocess_exec(*wrap(*command), stdout=self._log, stderr=self._log)
        self.pid = self._process.pid
        self._http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=64))
        self.api = Api(self._http)
        try:
            await self.api.open()
        except TimeoutError:
            raise JanusError((folder / "log").read_text(errors="replace")) from None

    async def stop(self) -> None:
        """End it."""
        await self.api.close()
        await self._http.close()
        self._process.kill()
        await self._process.wait()
        self._log.close()
        self._folder.cleanup()


class Janus:
    """A target of the benchmark. Whoever publishes has one connection for that, whoever watches one for it."""

    def __init__(self, libraries: Path | None = None) -> None:
        self.name = WITH_OPENSSL if libraries else AS_PACKAGED
        self.profile = PROFILE
        self._server = JanusServer(libraries)
        self._feeds: dict[int, int] = {}  # by person
        self._people = 0
        self._addresses = 0

    async def start(self) -> None:
        await self._server.start(in_server)
        self.pid = self._server.pid
        self._api = self._server.api
        self.generator = await Generator.start()

    async def join(self, count: int, *, audio: bool, video: bool, watch: bool = False) -> None:
        numbers = range(self._people, self._people + count)
        self._people += count
        if audio or video:
            for number in numbers:
                await self._publish(number, audio, video)

    async def _publish(self, number: int, audio: bool, video: bool) -> None:
        peer = await self._peer(audio, video)
        handle = await self._api.attach()
        joined = await self._api.message(handle, {"request": "join", "ptype": "publisher", "room": ROOM})
        self._feeds[number] = joined["plugindata"]["data"]["id"]
        body = {"request": "configure", "audio": audio, "video": video, "bitrate": 0}
        answer = await self._api.message(handle, body, ("offer", peer.offer()))
        peer.take_answer(answer["jsep"]["sdp"])
        await peer.shake_hands()
        place = await self.generator.take_over(peer)
        for track in peer.published:
            self.generator.play(place, track, 1000)

    async def _peer(self, audio: bool, video: bool) -> JanusPeer:
        peer = JanusPeer(audio=audio, video=video)
        self._addresses += 1
        await peer.open(peer_address(self._addresses))
        return peer

    async def show(self, watchers: Sequence[int], sources: Sequence[int]) -> None:
        for start in range(0, len(watchers), AT_ONCE):
            await asyncio.gather(*(self._subscribe(watcher, sources) for watcher in watchers[start : start + AT_ONCE]))

    async def _subscribe(self, watcher: int, sources: Sequence[int]) -> None:
        peer = await self._peer(audio=False, video=False)
        handle = await self._api.attach()
        streams = [{"feed": self._feeds[source]} for source in sources if source != watcher]
        body = {"request": "join", "ptype": "subscriber", "room": ROOM, "streams": streams}
        offer = await self._api.message(handle, body)
        answer = peer.take_offer(offer["jsep"]["sdp"])
        assert answer is not None
        await self._api.message(handle, {"request": "start", "room": ROOM}, ("answer", answer))
        await peer.shake_hands()
        await self.generator.take_over(peer)

    async def notes(self) -> dict[str, Any]:
        return {}

    async def stop(self) -> None:
        await self.generator.stop()
        await self._server.stop()
