"""Whether the ports are to be had, the addresses make sense, and others find the homeserver and the page."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

import aiohttp
from yarl import URL

from ..config import Config
from ..errors import FatalError
from ..findings import Finding, fail, ok, sentence, warn
from ..media import Media, advertised, open_media
from .installation import FETCH_ERRORS, Installation, fetch, fetch_object

BUFFERS = ("rmem_max", "wmem_max")
ENOUGH = 8 * 1024 * 1024  # bytes; what the media core asks for
SYSCTL = Path("/proc/sys/net/core")

_SHARED = ipaddress.ip_network("100.64.0.0/10")  # RFC 6598: carriers' NAT
_EXAMPLES = tuple(map(ipaddress.ip_network, ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24")))  # RFC 5737


# ---------------------------------------------------------------- ports


def listeners(config: Config) -> Iterator[tuple[str, str, int]]:
    """The section of each TCP listener, its hostname and port."""
    yield "appservice", config.appservice.hostname, config.appservice.port
    yield "http", config.http.hostname, config.http.port
    if config.metrics.enabled and config.metrics.port:
        yield "metrics", config.metrics.hostname, config.metrics.port


def ports(config: Config) -> list[Finding]:
    """Whether each address and port can be listened on; for a focus that does not run."""
    found = [finding for listener in listeners(config) if (finding := _tcp(*listener)) is not None]
    if not found:
        names = ", ".join(f"{port} ({section})" for section, _, port in listeners(config))
        found.append(ok(f"The TCP ports are free: {names}"))
    return found


def _tcp(section: str, hostname: str, port: int) -> Finding | None:
    where = f"{hostname}, TCP port {port}"
    try:
        for family, kind, protocol, _, address in socket.getaddrinfo(
            hostname, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                probe.bind(address)
                probe.listen(1)
    except OSError as error:
        return fail(
            f"{section}.port: cannot listen on {where}: {error.strerror or error}",
            f"end what listens there (ss -ltnp sport = :{port}), or change {section}.hostname and {section}.port",
        )
    return None


def media(config: Config, running: bool) -> list[Finding]:
    """Whether the media port is to be had, and what participants are told."""
    try:
        opened = open_media(config.media)
    except FatalError as error:
        if not running:
            return [fail(sentence(str(error)), "end what uses the port, or change media.addresses and media.port")]
        return addresses(config, _interfaces(config))
    try:
        bound = opened.local_addresses
    finally:
        opened.shutdown()
    if running:
        unused = warn(
            f"The running focus does not use UDP port {config.media.port}",
            "the configuration changed since it started: restart it",
        )
        return [unused, *addresses(config, bound)]
    return [ok(f"UDP port {config.media.port} is free"), *addresses(config, bound)]


def _interfaces(config: Config) -> Sequence[tuple[str, int]]:
    """What would be bound, with the port that is."""
    try:
        opened = Media([(address, 0) for address in config.media.addresses or ("0.0.0.0",)])  # noqa: S104
    except OSError:
        return [(address, config.media.port) for address in config.media.addresses]
    try:
        return [(address, config.media.port) for address, _ in opened.local_addresses]
    finally:
        opened.shutdown()


# ---------------------------------------------------------------- addresses


def addresses(config: Config, bound: Sequence[tuple[str, int]]) -> list[Finding]:
    """Whether participants can make use of the addresses that they are told, and whether the socket has room."""
    told = [ipaddress.ip_address(address) for address, _ in advertised(config.media, bound)]
    return [_reachable(told, bool(config.media.advertise)), *_buffers()]


def _reachable(told: Sequence[ipaddress.IPv4Address | ipaddress.IPv6Address], configured: bool) -> Finding:
    names = ", ".join(map(str, told))
    public = "set media.advertise to the public address that forwards the UDP port to this machine"
    if configured and any(address in network for address in told for network in _EXAMPLES):
        return fail(f"Participants are told an address of an example: {names}", public)
    if any(address.is_unspecified or address.is_multicast or address.is_reserved for address in told):
        return fail(f"Participants are told an address that is nobody's: {names}", public)
    if all(address.is_loopback for address in told):
        return fail(f"Participants are told only addresses of this machine itself: {names or 'none'}", public)
    if all(address.is_private or address.is_link_local or address in _SHARED for address in told):
        return warn(
            f"Participants are told private addresses only: {names}; from outside of this network nobody gets through",
            f"if there shall be others: {public}",
        )
    return ok(f"Participants are told {names}")


def _buffers() -> list[Finding]:
    small = {}
    for name in BUFFERS:
        try:
            size = int((SYSCTL / name).read_text())
        except (OSError, ValueError):
            continue
        if size < ENOUGH:
            small[name] = size
    if not small:
        return []
    sizes = ", ".join(f"net.core.{name} is {size}" for name, size in small.items())
    wanted = " ".join(f"net.core.{name}={ENOUGH}" for name in BUFFERS)
    return [warn(f"The kernel gives UDP sockets little room ({sizes}): bursts are lost", f"sysctl -w {wanted}")]


# ---------------------------------------------------------------- from outside


async def federation(it: Installation) -> Finding:
    """Whether other homeservers find this one; looked at from here, so a "no" may be the network's."""
    domain = it.config.homeserver.domain
    remedy = (
        "if people of other homeservers shall take part: https://federationtester.matrix.org tells more; "
        "if not, all is well"
    )
    where = await _delegated(it, domain)
    where = where if _has_port(where) else f"{where}:8448"
    try:
        found = (await fetch(it.http, URL(f"https://{where}/_matrix/key/v2/server"))).object
    except aiohttp.ClientConnectorCertificateError as error:
        cause = str(error.certificate_error)
        return warn(f"Other homeservers will not trust {where}: {cause}", f"mend its certificate; {remedy}")
    except FETCH_ERRORS as error:
        return warn(f"Other homeservers' way to {domain} is not open: {error or 'no answer in time'}", remedy)
    name = found.get("server_name")
    if name != domain:
        return warn(f"Who answers other homeservers for {domain} calls itself {name}", remedy)
    return ok(f"Other homeservers reach {domain} at {where}")


async def _delegated(it: Installation, domain: str) -> str:
    """Where `.well-known/matrix/server` says that the homeserver is (server-server API, section 3)."""
    if _has_port(domain):
        return domain
    found = await fetch_object(it.http, f"https://{domain}/.well-known/matrix/server")
    where = found.get("m.server")
    return where if isinstance(where, str) and where else domain


async def page(it: Installation) -> list[Finding]:
    """Whether the public reaches the page, and the page the homeserver."""
    http, domain = it.config.http, it.config.homeserver.domain
    found = []
    if http.page and http.page_homeserver is None:
        client = await fetch_object(it.http, f"https://{domain}/.well-known/matrix/client")
        base = client.get("m.homeserver")
        if not isinstance(base, dict) or not isinstance(base.get("base_url"), str):
            found.append(
                warn(
                    f"The call page finds no homeserver: https://{domain}/.well-known/matrix/client names none",
                    "serve it, or set http.page_homeserver to the homeserver's public address",
                )
            )
    if http.public_url is None:
        if http.page:
            found.append(
                warn(
                    "http.public_url is not set: browsers give camera and microphone to https pages only",
                    "put a reverse proxy before http.port and say its address (docs/reverse-proxy.md)",
                )
            )
    elif it.running is not None:
        found.append(await _proxied(it, http.public_url))
    return found


async def _proxied(it: Installation, url: str) -> Finding:
    remedy = f"the reverse proxy must pass this address on to http.port, {it.config.http.port} (docs/reverse-proxy.md)"
    try:
        found = (await fetch(it.http, f"{url}/_matrix/focus/v1/info")).object
    except FETCH_ERRORS as error:
        return warn(f"{url} (http.public_url) does not lead to the focus: {error or 'no answer in time'}", remedy)
    if found.get("user_id") != it.config.bot_user_id:
        return warn(f"{url} (http.public_url) leads to something else than this focus", remedy)
    return ok(f"{url} leads to the focus")


def _has_port(name: str) -> bool:
    return name.rpartition("]")[2].count(":") == 1
