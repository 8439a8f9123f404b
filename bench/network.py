"""Two network namespaces and a veth pair between them: the server in one, all of its peers in the other."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

SERVER, CLIENTS = "10.99.0.1", "10.99.0.2"
PEERS = "10.98"  # every address 10.98.x.y is a peer's
PEER_PORT = 5000  # the load generator's
SERVER_CORE, CLIENT_CORE = 0, 1
_INSIDE = "MAUTRIX_SFU_BENCH_NETWORK"


def ip(*arguments: str) -> None:
    """Run ip(8); CalledProcessError if it fails."""
    subprocess.run(("ip", *arguments), check=True)


@contextmanager
def _network() -> Iterator[str]:
    name = f"sfu-bench-{os.getpid()}"
    server, clients = f"{name}-s", f"{name}-c"
    try:
        ip("netns", "add", server)
        ip("netns", "add", clients)
        ip("-n", server, "link", "add", "veth0", "type", "veth", "peer", "name", "veth1", "netns", clients)
        for netns, device, address in ((server, "veth0", SERVER), (clients, "veth1", CLIENTS)):
            ip("-n", netns, "addr", "add", f"{address}/24", "dev", device)
            ip("-n", netns, "link", "set", device, "up")
            ip("-n", netns, "link", "set", "lo", "up")
        ip("-n", server, "route", "add", f"{PEERS}.0.0/16", "via", CLIENTS)
        ip("-n", clients, "route", "add", "local", f"{PEERS}.0.0/16", "dev", "lo")
        yield name
    finally:
        for netns in (server, clients):
            subprocess.run(("ip", "netns", "del", netns), check=False, stderr=subprocess.DEVNULL)


def enter(module: str, arguments: Sequence[str]) -> bool:
    """Whether this process is in the peers' namespace, on their core; if not, runs the module there."""
    if _INSIDE in os.environ:
        return True
    if os.geteuid() != 0 or (os.cpu_count() or 1) < 2:
        sys.exit("This benchmark makes network namespaces and pins to two cores: it needs root and two cores.")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the namespaces go, and what runs in them
    with _network() as name:
        command = (
            "ip",
            "netns",
            "exec",
            f"{name}-c",
            *_pinned(CLIENT_CORE),
            sys.executable,
            "-m",
            module,
            *arguments,
        )
        with subprocess.Popen(command, env=os.environ | {_INSIDE: name}) as process:
            try:
                code = process.wait()
            finally:
                process.send_signal(signal.SIGINT)  # nothing if it has ended
    if code:
        sys.exit(code)
    return False


def _pinned(core: int) -> tuple[str, ...]:
    return ("taskset", "-c", str(core))


def in_server(*command: str, cores: Sequence[int] = (SERVER_CORE,)) -> tuple[str, ...]:
    """The command line that runs a command in the server's namespace, on the server's core."""
    netns = f"{os.environ[_INSIDE]}-s"
    return ("ip", "netns", "exec", netns, "taskset", "-c", ",".join(map(str, cores)), *command)


def peer_address(number: int) -> str:
    """The address of a peer."""
    high, low = divmod(number + 1, 250)
    return f"{PEERS}.{high}.{low + 1}"


def load_tool(name: str) -> str:
    """The path of a program of bench/load, which the Makefile builds."""
    root = Path(__file__).parent / "load" / "target"
    target = Path(os.environ.get("CARGO_TARGET_DIR", root))
    found = target / "release" / name
    if not found.is_file():
        sys.exit(f"{found} is not built: run it as the Makefile does")
    return str(found)


def process_cpu(pid: int) -> float:
    """CPU seconds, user and system, of all threads of a process (proc(5), schedstat)."""
    return _schedstat(pid, 0)


def process_wait(pid: int) -> float:
    """Seconds that its threads were ready to run and had no core, as others were on it."""
    return _schedstat(pid, 1)


def _schedstat(pid: int, place: int) -> float:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[place]) for task in tasks) / 1e9
