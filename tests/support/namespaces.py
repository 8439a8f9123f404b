"""Two network namespaces with a third between them that carries their packets, or does not: a path that can be cut.

Nothing but that path leads from one to the other. `Relay` lets TCP alone into a namespace or out of it, so that who
lives there can still talk to a homeserver and be looked at.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import secrets
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

_CLONE_NEWNET = 0x40000000  # linux/sched.h; os.setns comes with Python 3.12
_LIBC = ctypes.CDLL(None, use_errno=True)

MakeSocket = Callable[[], socket.socket]


def permitted() -> bool:
    """Whether this process may make network namespaces."""
    return os.geteuid() == 0


class Namespace:
    """One network namespace. Sockets that are made in it stay there, whoever uses them."""

    def __init__(self, name: str, address: str) -> None:
        self.name = name
        self.address = address  # where the other one reaches it
        self.path = Path("/run/netns") / name

    @property
    def command(self) -> tuple[str, ...]:
        """What makes a process live in it, put before its command."""
        return ("nsenter", f"--net={self.path}")

    def run(self, *command: str) -> str:
        """Run a command in it; what it printed."""
        return _run(*self.command, *command)

    def tcp(self) -> socket.socket:
        """A TCP socket in it."""
        return self._socket(socket.SOCK_STREAM)

    def udp(self) -> socket.socket:
        """A UDP socket in it, bound to its address."""
        made = self._socket(socket.SOCK_DGRAM)
        made.bind((self.address, 0))
        return made

    def _socket(self, kind: socket.SocketKind) -> socket.socket:
        with Path("/proc/self/ns/net").open() as home, self.path.open() as there:
            _enter(there.fileno())
            try:
                made = socket.socket(socket.AF_INET, kind)
            finally:
                _enter(home.fileno())
        made.setblocking(False)
        return made


class Route:
    """`ends` reach each other through a router. Async context manager; what it made is gone in the end."""

    def __init__(self) -> None:
        token = secrets.token_hex(3)
        self.ends = tuple(Namespace(f"sfu-{token}-{number}", f"10.203.{number}.1") for number in (1, 2))
        self._router = Namespace(f"sfu-{token}-0", "")

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self._make)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self._remove)

    def _make(self) -> None:
        try:
            for namespace in (self._router, *self.ends):
                _run("ip", "netns", "add", namespace.name)
                namespace.run("ip", "link", "set", "lo", "up")
            for number, end in enumerate(self.ends, 1):
                gateway, here = f"10.203.{number}.254", f"to-{number}"
                peer = ("type", "veth", "peer", "name", "out", "netns", end.name)
                _run("ip", "-n", self._router.name, "link", "add", here, *peer)
                self._router.run("ip", "address", "add", f"{gateway}/24", "dev", here)
                self._router.run("ip", "link", "set", here, "up")
                end.run("ip", "address", "add", f"{end.address}/24", "dev", "out")
                end.run("ip", "link", "set", "out", "up")
                end.run("ip", "route", "add", "default", "via", gateway)
            self.mend()
        except BaseException:
            self._remove()
            raise

    def _remove(self) -> None:
        for namespace in (*self.ends, self._router):
            if namespace.path.exists():
                _run("ip", "netns", "del", namespace.name)  # its interfaces go with it

    def cut(self) -> None:
        """Let the router drop every packet, without a word to anybody."""
        self._forward(False)

    def mend(self) -> None:
        """Let it carry packets."""
        self._forward(True)

    def _forward(self, on: bool) -> None:
        self._router.run("sh", "-c", f"echo {int(on)} > /proc/sys/net/ipv4/ip_forward")

    @property
    def dropped(self) -> int:
        """Packets that the router did not carry (RFC 4293, ipSystemStatsInAddrErrors)."""
        lines = self._router.run("cat", "/proc/net/snmp").splitlines()
        names, values = (line.split() for line in lines if line.startswith("Ip: "))
        return int(values[names.index("InAddrErrors")])


class Relay:
    """Carries TCP connections to 127.0.0.1, on the same port, from one namespace (or this one) to another."""

    def __init__(self, port: int, listen: MakeSocket, connect: MakeSocket) -> None:
        self._port = port
        self._listen, self._connect = listen, connect
        self._server: asyncio.Server | None = None
        self._carrying: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        listening = self._listen()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", self._port))
        self._server = await asyncio.start_server(self._accept, sock=listening)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._carrying:
            task.cancel()
        if self._carrying:
            await asyncio.wait(self._carrying)
        await self._server.wait_closed()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._carry(reader, writer))
        self._carrying.add(task)
        task.add_done_callback(self._carrying.discard)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far = self._connect()
        try:
            await asyncio.get_running_loop().sock_connect(far, ("127.0.0.1", self._port))
            far_reader, far_writer = await asyncio.open_connection(sock=far)
        except OSError:
            far.close()
            writer.close()
            return
        try:
            await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))
        finally:
            for end in (writer, far_writer):
                end.close()
                with contextlib.suppress(OSError):
                    await end.wait_closed()


def here() -> socket.socket:
    """A TCP socket in the namespace of this process."""
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    made.setblocking(False)
    return made


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()


def _enter(namespace: int) -> None:
    if _LIBC.setns(namespace, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def _run(*command: str) -> str:
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    if result.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {result.stderr}")
    return result.stdout
