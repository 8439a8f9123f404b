"""Whom a focus that dials another may send packets to."""

from __future__ import annotations

from ipaddress import IPv4Address, ip_network

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mautrix_sfu.wire.dialling import MAX_DIALLED, usable_candidates
from mautrix_sfu.wire.plan import RemoteTransport

PUBLIC = "93.184.215.14"
NEVER = [ip_network(item) for item in ("0.0.0.0/8", "224.0.0.0/4", "240.0.0.0/4")]
PRIVATE = [
    ip_network(item)
    for item in ("10.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10")
]


def remote(*candidates: str) -> RemoteTransport:
    return RemoteTransport("ufrag", "p" * 24, "passive", (), 5000, 262144, candidates)


def candidate(address: str, port: object = 7881, kind: str = "host", priority: object = 2130706431) -> str:
    return f"1 1 udp {priority} {address} {port} typ {kind}"


@pytest.mark.parametrize("kind", ["host", "srflx"])
def test_a_public_address_may_be_dialled(kind: str) -> None:
    extended = candidate(PUBLIC, kind=kind) + " raddr 10.0.0.1 rport 9 generation 0 network-cost 999"
    assert usable_candidates(remote(extended), False) == ((PUBLIC, 7881),)


@pytest.mark.parametrize(
    "address",
    ["10.1.2.3", "127.0.0.1", "169.254.169.254", "172.16.0.1", "192.168.1.1", "100.64.0.1", "198.18.0.1", "192.0.2.1"],
)
def test_a_private_address_may_be_dialled_only_where_that_is_allowed(address: str) -> None:
    assert usable_candidates(remote(candidate(address)), False) == ()
    assert usable_candidates(remote(candidate(address)), True) == ((address, 7881),)


@pytest.mark.parametrize(
    "address", ["224.0.0.1", "239.255.255.250", "0.0.0.0", "0.1.2.3", "255.255.255.255", "240.0.0.1"]
)
def test_what_is_no_single_hosts_address_is_never_dialled(address: str) -> None:
    assert usable_candidates(remote(candidate(address)), True) == ()


@pytest.mark.parametrize(
    "unusable",
    [
        candidate("2606:2800:21f:cb07:6820:80da:af6b:8b2c"),
        candidate("::ffff:93.184.215.14"),
        candidate("example.org"),
        candidate("1f7ce3c4-0a9e-4f0e-93a3-9f6ba1e1d1e0.local"),
        candidate("0x5db8d70e"),
        candidate("1572395790"),
        candidate("93.184.215.014"),
        candidate("93.184.215"),
        candidate(PUBLIC, kind="relay"),
        candidate(PUBLIC, kind="prflx"),
        candidate(PUBLIC, port=0),
        candidate(PUBLIC, port=65536),
        candidate(PUBLIC, port=-1),
        candidate(PUBLIC, port="\u0667"),
        candidate(PUBLIC, priority="high"),
        candidate(PUBLIC).replace("1 1 udp", "1 2 udp"),
        candidate(PUBLIC).replace("udp", "tcp"),
        f"1 1 udp 1 {PUBLIC} 7881",
        "",
    ],
)
def test_other_kinds_are_passed_over(unusable: str) -> None:
    assert usable_candidates(remote(unusable, candidate(PUBLIC)), True) == ((PUBLIC, 7881),)


def test_the_most_preferred_come_first_each_once_and_at_most_eight() -> None:
    many = [candidate(f"93.184.215.{number}", priority=number) for number in range(1, 21)]
    found = usable_candidates(remote(*many, *many), False)
    assert found == tuple((f"93.184.215.{number}", 7881) for number in range(20, 20 - MAX_DIALLED, -1))


def test_candidates_that_may_not_be_dialled_take_no_place() -> None:
    hostile = [candidate(f"10.0.0.{number}") for number in range(1, 30)]
    assert usable_candidates(remote(*hostile, candidate(PUBLIC, priority=1)), False) == ((PUBLIC, 7881),)


addresses = st.ip_addresses().map(str) | st.sampled_from(NEVER + PRIVATE).flatmap(
    lambda network: st.ip_addresses(v=4, network=str(network)).map(str)
)
candidates = st.builds(
    candidate,
    addresses | st.text(max_size=12),
    st.integers(-2, 70_000) | st.text(max_size=4),
    st.sampled_from(["host", "srflx", "relay", "prflx"]),
    st.integers(0, 2**32) | st.text(max_size=4),
)


@given(st.lists(candidates | st.text(max_size=60), max_size=30), st.booleans())
@example([candidate("10.0.0.1")], False)
def test_whatever_an_answer_says_only_permitted_hosts_are_dialled(said: list[str], allow_private: bool) -> None:
    found = usable_candidates(remote(*said), allow_private)
    assert len(found) <= MAX_DIALLED
    assert len(set(found)) == len(found)
    for text, port in found:
        address = IPv4Address(text)
        assert 0 < port < 65536
        assert not any(address in network for network in NEVER)
        assert allow_private or not any(address in network for network in PRIVATE)
        assert any(text in item and str(port) in item for item in said)


@given(st.lists(candidates, max_size=30))
def test_allowing_private_addresses_loses_no_public_one(said: list[str]) -> None:
    public = usable_candidates(remote(*said), False)
    both = usable_candidates(remote(*said), True)
    assert len(both) == MAX_DIALLED or set(public) <= set(both)
