"""A server's network namespace behind a router's, one for each client, and links from these to the router."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tests.support.namespaces import Namespace

from .load_peers import Lines
from .network import CLIENTS as ROUTER
from .network import SERVER, ip
from .quality_link import Condition

CLIENTS = 3
_INSIDE = "MAUTRIX_SFU_QUALITY_NETWORK"


def client_name(network: str, number: int) -> str:
    """The name of a client's namespace."""
    return f"{network}-{number}"


@contextmanager
def _namespaces() -> Iterator[str]:
    name = f"sfu-quality-{os.getpid()}"
    server, router = f"{name}-s", f"{name}-r"
    everybody = [server, router, *(client_name(name, number) for number in range(CLIENTS))]
    try:
        for namespace in everybody:
            ip("netns", "add", namespace)
            ip("-n", namespace, "link", "set", "lo", "up")
        ip("-n", server, "link", "add", "out", "type", "veth", "peer", "name", "in", "netns", router)
        for namespace, device, address in ((server, "out", SERVER), (router, "in", ROUTER)):
            ip("-n", namespace, "addr", "add", f"{address}/24", "dev", device)
            ip("-n", namespace, "link", "set", device, "up")
        ip("-n", server, "route", "add", "default", "via", ROUTER)
        ip("netns", "exec", router, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
        yield name
    finally:
        for namespace in everybody:
            subprocess.run(("ip", "netns", "del", namespace), check=False, stderr=subprocess.DEVNULL)


def enter(module: str, arguments: Sequence[str]) -> bool:
    """Whether this process is in the server's namespace; if not, runs the module there."""
    if _INSIDE in os.environ:
        return True
    if os.geteuid() != 0:
        sys.exit("This measurement makes network namespaces and devices: it needs root.")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the namespaces go, and what runs in them
    with _namespaces() as name:
        command = ("ip", "netns", "exec", f"{name}-s", sys.executable, "-m", module, *arguments)
        with subprocess.Popen(command, env=os.environ | {_INSIDE: name}) as process:
            try:
                code = process.wait()
            finally:
                process.send_signal(signal.SIGINT)  # nothing if it has ended
    if code:
        sys.exit(code)
    return False


class Network:
    """The links of all clients. To be used in the server's namespace."""

    def __init__(self, links: Lines) -> None:
        self._links = links
        name = os.environ[_INSIDE]
        self.clients = [Namespace(client_name(name, n), f"10.97.0.{n + 1}") for n in range(CLIENTS)]

    @classmethod
    async def start(cls, seed: int) -> Network:
        """Lay the links."""
        name = os.environ[_INSIDE]
        clients = [client_name(name, number) for number in range(CLIENTS)]
        command = (sys.executable, "-m", "bench.quality_link", str(seed), f"{name}-r", *clients)
        network = cls(await Lines.start(*command))
        await network.count()
        for number, client in enumerate(network.clients):
            pid = network._links.process.pid
            ip("-n", client.name, "link", "set", f"q{pid}-{number}", "name", "link", "up")
            ip("-n", client.name, "addr", "add", f"{client.address}/32", "dev", "link")
            ip("-n", client.name, "route", "add", "default", "dev", "link")
            ip("-n", f"{name}-r", "link", "set", f"up{number}", "up")
            ip("-n", f"{name}-r", "route", "add", f"{client.address}/32", "dev", f"up{number}")
        return network

    async def set(self, link: int, up: Condition, down: Condition) -> None:
        """What the links do from now on. Packets that are under way arrive as they would have."""
        await self._links.ask(op="set", link=link, up=dataclasses.asdict(up), down=dataclasses.asdict(down))

    async def count(self) -> dict[str, float]:
        """What was carried, lost and refused by all links so far, and how late packets were against plan lately."""
        return await self._links.ask(op="count")

    async def stop(self) -> None:
        """Take the links away."""
        await self._links.stop()
