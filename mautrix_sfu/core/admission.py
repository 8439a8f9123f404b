"""Which room an invite is for, and whether limits leave room for one more leg (docs/protocol.md, section 3)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .events import Invite
from .ids import ConferenceKey, ConfId, Device
from .leg import Leg
from .membership import Grade, Room, Standing
from .policy import Policy
from .rooms import Rooms


@dataclass(frozen=True, slots=True)
class Place:
    """Where an invite belongs: `key` is None while more than one room qualifies and none lists the device."""

    key: ConferenceKey | None
    standing: Standing


def find_place(invite: Invite, rooms: Rooms, policy: Policy, now: float) -> Place | str:
    """The conference for an invite, or the cause why there is none (yet)."""
    envelope = invite.envelope
    if envelope.room_id is not None:
        named = rooms.get(envelope.room_id)
        candidates = [] if named is None else [named]
    else:
        candidates = rooms.of_call(envelope.conf_id)
    if not candidates:
        return "unknown_call"
    standings = [
        (room, room.standing(envelope.conf_id, envelope.sender, envelope.session_id, policy, now))
        for room in candidates
    ]
    allowed = [(room, standing) for room, standing in standings if not standing.out]
    if not allowed:
        return standings[0][1].cause if len(standings) == 1 else "no_room_qualifies"
    chosen = newest(((room, envelope.sender, standing) for room, standing in allowed), envelope.conf_id)
    if chosen is None:
        return Place(None, Standing(Grade.HELD, "ambiguous"))
    room, standing = chosen
    return Place(ConferenceKey(room.room_id, envelope.conf_id), standing)


def newest(allowed: Iterable[tuple[Room, Device, Standing]], conf_id: ConfId) -> tuple[Room, Standing] | None:
    """The only room, or the one whose event listing this device came last; None if that does not decide."""
    found = list(allowed)
    if len(found) == 1:
        return found[0][0], found[0][2]
    best: tuple[int, Room, Standing] | None = None
    for room, device, standing in found:
        listed = room.listed_at(conf_id, device)
        if listed is not None and (best is None or listed > best[0]):
            best = (listed, room, standing)
    return None if best is None else (best[1], best[2])


def limit_hit(peer: Device, place: Place, legs: Iterable[Leg], replaced: list[Leg], policy: Policy) -> str | None:
    """The first limit that one more leg would break, by name."""
    limits = policy.limits
    total = held = of_user = of_homeserver = held_of_user = in_conference = 0
    running: set[ConferenceKey] = set()
    for leg in legs:
        if leg in replaced:
            continue
        total += 1
        is_held = leg.grade is Grade.HELD
        of_homeserver += leg.peer.homeserver == peer.homeserver
        if leg.conference is not None:
            running.add(leg.conference)
        held += is_held
        if leg.peer.user_id == peer.user_id:
            of_user += 1
            held_of_user += is_held
        if place.key is not None and leg.conference == place.key:
            in_conference += 1
    if total >= limits.legs:
        return "legs"
    if of_user >= limits.legs_per_user:
        return "legs_per_user"
    if of_homeserver >= limits.legs_per_homeserver:
        return "legs_per_homeserver"
    if place.key not in running and len(running) >= limits.conferences:
        return "conferences"
    if in_conference >= limits.legs_per_conference:
        return "legs_per_conference"
    if place.standing.grade is Grade.HELD:
        if held >= limits.held_legs:
            return "held_legs"
        if held_of_user >= limits.held_legs_per_user:
            return "held_legs_per_user"
    return None
