"""The commands that show how the focus is and who is in calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..core.ids import ConferenceKey, Device, Kind
from ..core.view import FocusView, LegView, TrackView
from .command import Request, UsageError, find_call, no_arguments, number
from .operations import Limit, Operations
from .reply import (
    Reply,
    amount,
    duration,
    lines,
    milliseconds,
    moment,
    pairs,
    paragraph,
    some,
    table,
)

CAMERA_AND_MICROPHONE = "m.usermedia"
DEFAULT_NUMBER = 20  # of entries in a list


async def status(request: Request, operations: Operations) -> Reply:
    """How the focus is."""
    no_arguments(request)
    is_, view = operations.status(), operations.view()
    grades = [leg.grade for leg in view.legs]
    people = [leg for leg in view.legs if leg.kind == "participant" and leg.grade == "full"]
    trunks = [leg for leg in view.legs if leg.kind == "trunk"]
    facts: list[tuple[str, object]] = [
        ("version", is_.version),
        ("running for", duration(is_.uptime)),
        ("ready", f"no: {', '.join(is_.not_ready)}" if is_.not_ready else "yes"),
        *_closed(view),
        ("calls", len(view.conferences)),
        ("people", f"{len({leg.peer.user_id for leg in people})} on {some(len(people), 'device')}"),
        ("connections", f"{grades.count('full')} in calls, {grades.count('held')} waiting"),
        ("trunks", len(trunks)),
        ("tracks", f"{sum(leg.published for leg in view.legs)} in, {sum(leg.sent for leg in view.legs)} out"),
        ("bandwidth", _bandwidth(is_.bits_in, is_.bits_out)),
        ("processor", "not measured yet" if is_.processor is None else f"{is_.processor * 100:.0f} % of a core"),
        ("event loop", "not measured yet" if is_.loop_lag is None else f"{milliseconds(is_.loop_lag)} late at worst"),
        ("invites waiting for room state", view.parked_invites),
        ("rooms known", view.tracked_rooms),
    ]
    loads = operations.limits()
    return pairs(facts) + table(("load", "now", "limit", "", ""), [_load_row(limit) for limit in loads])


def _closed(view: FocusView) -> list[tuple[str, object]]:
    """Why no new connections are taken, if that is so."""
    found: list[tuple[str, object]] = []
    if view.draining:
        left = "" if view.drain_left is None else f"; who is left is told to move in {duration(view.drain_left)}"
        found.append(("draining", f"no new calls{left}"))
    if view.overload is not None:
        found.append(("overload", f"{view.overload}: no new connections"))
    return found


def _bandwidth(bits_in: float | None, bits_out: float | None) -> str:
    if bits_in is None or bits_out is None:
        return "not measured yet"
    return f"{amount(bits_in, 'bit/s')} in, {amount(bits_out, 'bit/s')} out"


def _load_row(limit: Limit) -> tuple[object, ...]:
    return limit.name, f"{limit.now:.4g}", limit.value, limit.unit, f"{100 * limit.now / limit.value:.0f} %"


# ---------------------------------------------------------------- calls


async def calls(request: Request, operations: Operations) -> Reply:
    """All calls, or with an argument the same as `call`."""
    if request.arguments:
        return await call(request, operations)
    conferences = operations.view().conferences
    if not conferences:
        return paragraph("There are no calls.")
    return table(
        ("room", "call", "in the call", "waiting", "trunks", "tracks in", "tracks out", "since"),
        [_call_row(key, legs) for key, legs in sorted(conferences.items())],
    )


def _call_row(key: ConferenceKey, legs: Sequence[LegView]) -> tuple[object, ...]:
    return (
        key.room_id,
        key.conf_id,
        sum(leg.grade == "full" and leg.kind == "participant" for leg in legs),
        sum(leg.grade == "held" for leg in legs),
        sum(leg.kind == "trunk" for leg in legs),
        sum(leg.published for leg in legs),
        sum(leg.sent for leg in legs),
        duration(max(leg.age for leg in legs)),
    )


async def call(request: Request, operations: Operations) -> Reply:
    """Who is in one call, and how it goes for them."""
    if not request.arguments:
        raise UsageError
    view = operations.view()
    key = find_call(view, " ".join(request.arguments))
    legs = view.conferences[key]
    people = [leg for leg in legs if leg.kind == "participant"]
    trunks = [leg for leg in legs if leg.kind == "trunk"]
    beyond = sum(len(leg.carries) for leg in trunks)
    since = duration(max(leg.age for leg in legs))
    devices = some(len(people), "device")
    reply = paragraph(f"Call {key.conf_id} in {key.room_id}: {devices} here, {beyond} over trunks; for {since}.")
    reply += table(_PEOPLE, [row for leg in legs for row in _people_rows(leg, operations, view)])
    if trunks:
        reply += table(_TRUNKS, [_trunk_row(leg, operations) for leg in trunks])
    return reply


_PEOPLE = ("user", "device", "by", "from", "since", "state", "sends", "gets", "loss", "round trip", "in", "out")
_TRUNKS = ("trunk to", "state", "since", "from", "brings", "sends", "gets", "loss", "round trip", "in", "out")


def _people_rows(leg: LegView, operations: Operations, view: FocusView) -> list[tuple[object, ...]]:
    """A participant, or the people whom a trunk brings."""
    tracks = operations.tracks(leg.leg)
    if leg.kind != "trunk":
        address, loss, trip, came, went = _figures(leg, operations)
        state = ", ".join((leg.state, leg.grade, *_muted(leg.peer, view)))
        who = (leg.peer.user_id, leg.peer.device_id, "this focus", address, duration(leg.age), state)
        return [(*who, _sends(tracks), some(leg.sent, "track"), loss, trip, came, went)]
    by = f"trunk to {leg.peer.user_id}"
    return [
        (
            *(one.user_id, one.device_id, by, one.homeserver, "", ", ".join(_muted(one, view))),
            *(_sends([track for track in tracks if track.owner == one]), "", "", "", "", ""),
        )
        for one in leg.carries
    ]


def _trunk_row(leg: LegView, operations: Operations) -> tuple[object, ...]:
    address, loss, trip, came, went = _figures(leg, operations)
    state = f"{leg.state}, {leg.grade}"
    tracks = f"{some(leg.published, 'track')}", f"{some(leg.sent, 'track')}"
    return str(leg.peer), state, duration(leg.age), address, len(leg.carries), *tracks, loss, trip, came, went


def _muted(who: Device, view: FocusView) -> tuple[str, ...]:
    kinds = sorted(kind.value for kind in view.muted.get(who.user_id, ()))
    return (f"{' and '.join(kinds)} muted by an admin",) if kinds else ()


def _figures(leg: LegView, operations: Operations) -> tuple[str, str, str, str, str]:
    """From where, loss, round trip, bytes in and out. Where reports tell no round trip, the data channel does."""
    figures = operations.figures(leg.leg)
    if figures is None:
        return leg.peer.homeserver, "", milliseconds(leg.round_trip), "", ""
    trip = leg.round_trip if figures.round_trip is None else figures.round_trip
    loss = f"{figures.losing * 100:.1f} % now, {figures.lost} in all" if figures.packets_out else ""
    address = figures.address or leg.peer.homeserver
    return address, loss, milliseconds(trip), amount(figures.bytes_in, "B"), amount(figures.bytes_out, "B")


def _sends(tracks: Sequence[TrackView]) -> str:
    """Tracks in few words: what, how large, in which layers, to how many."""
    return "; ".join(_track(track) for track in tracks)


def _track(track: TrackView) -> str:
    words = {
        (True, Kind.AUDIO): "microphone",
        (True, Kind.VIDEO): "camera",
        (False, Kind.AUDIO): "screen's sound",
        (False, Kind.VIDEO): "screen",
    }[track.purpose == CAMERA_AND_MICROPHONE, track.kind]
    size = f" {track.width}×{track.height}" if track.width and track.height else ""  # noqa: RUF001
    layers = f" {'/'.join(track.layers)}" if len(track.layers) > 1 else ""
    return f"{words}{size}{layers} to {track.viewers}{', muted' if track.muted else ''}"


async def who(request: Request, operations: Operations) -> Reply:
    """Where a user is."""
    match request.arguments:
        case [text]:
            pass
        case _:
            raise UsageError
    view = operations.view()
    everybody = [leg.peer for leg in view.legs] + [device for leg in view.legs for device in leg.carries]
    asked = _matcher(text, everybody)
    rows: list[tuple[object, ...]] = []
    for leg in view.legs:
        place = (leg.conference.conf_id, leg.conference.room_id) if leg.conference is not None else ("", "")
        if asked(leg.peer):
            address, loss, trip, _, _ = _figures(leg, operations)
            state = ", ".join((leg.state, leg.grade, *_muted(leg.peer, view)))
            sends = _sends(operations.tracks(leg.leg)) if leg.kind != "trunk" else "a trunk"
            rows.append((str(leg.peer), *place, address, state, sends, loss, trip, duration(leg.age)))
        for one in leg.carries:
            if asked(one):
                tracks = [track for track in operations.tracks(leg.leg) if track.owner == one]
                by = f"trunk to {leg.peer.user_id}"
                rows.append((str(one), *place, by, ", ".join(_muted(one, view)), _sends(tracks), "", "", ""))
    if not rows:
        return paragraph(f"{text[:255]} is in no call here.")
    return table(("who", "call", "room", "from", "state", "sends", "loss", "round trip", "since"), rows)


def _matcher(text: str, everybody: Sequence[Device]) -> Callable[[Device], bool]:
    """Whom a text means: the user of this id, or all whose ids hold it."""
    if any(device.user_id == text for device in everybody):
        return lambda device: device.user_id == text
    return lambda device: text.lower() in device.user_id.lower()


# ---------------------------------------------------------------- other foci


async def foci(request: Request, operations: Operations) -> Reply:
    """Trunks and peers."""
    no_arguments(request)
    peers = operations.peers()
    if peers is None:
        return paragraph("Cascading is off: there are no trunks to other foci.")
    allowed = f"Trunks are allowed with {', '.join(peers) if peers else 'every focus that a member of a call names'}."
    legs = {leg.leg: leg for leg in operations.view().legs}
    rows: list[tuple[object, ...]] = []
    for link in sorted(operations.links(), key=lambda link: (link.peer, link.conference)):
        leg = legs.get(link.up) if link.up is not None else None
        if leg is not None:
            address, loss, trip, came, went = _figures(leg, operations)
            state = f"up for {duration(leg.age)}"
            figures: tuple[object, ...] = (address, len(leg.carries), loss, trip, came, went)
        else:
            state = f"down for {duration(link.down_for or 0)}"
            state += " (connecting)" if link.dials_in is None else f" (dials in {duration(link.dials_in)})"
            figures = ("", "", "", "", "", "")
        rows.append((str(link.peer), link.conference.conf_id, link.conference.room_id, state, link.failures, *figures))
    if not rows:
        return paragraph(f"{allowed} No call has any now.")
    columns = ("focus", "call", "room", "trunk", "failures", "from", "brings", "loss", "round trip", "in", "out")
    return paragraph(allowed) + table(columns, rows)


# ---------------------------------------------------------------- what was


async def history(request: Request, operations: Operations) -> Reply:
    """Ended calls."""
    past = await operations.history(number(request, DEFAULT_NUMBER))
    if not past:
        return paragraph("No call has ended yet.")
    return table(
        ("ended", "room", "call", "length", "people", "at most", "in", "out"),
        [
            (
                *(moment(one.ended_ms), one.room_id, one.conf_id, duration((one.ended_ms - one.started_ms) / 1000)),
                *(one.people, one.peak, amount(one.bytes_in, "B"), amount(one.bytes_out, "B")),
            )
            for one in past
        ],
    )


async def audit(request: Request, operations: Operations) -> Reply:
    """What admins did."""
    found = await operations.audit(number(request, DEFAULT_NUMBER))
    if not found:
        return paragraph("No admin has done anything yet.")
    rows = [(moment(one.at_ms), one.by, one.room_id, one.command, one.outcome) for one in found]
    return table(("when", "who", "in", "command", "outcome"), rows)


async def check(request: Request, operations: Operations) -> Reply:
    """The installation test."""
    match request.arguments:
        case []:
            room = None
        case [room] if room.startswith("!"):
            pass
        case _:
            raise UsageError
    findings = await operations.check(room)
    failures = sum(finding.level == "fail" for finding in findings)
    warnings = sum(finding.level == "warn" for finding in findings)
    said = f"{failures} to mend" if failures else "Nothing to mend"
    return lines([str(finding) for finding in findings]) + paragraph(f"{said}; {warnings} to know about.")


async def ping(request: Request, operations: Operations) -> Reply:
    """Whether it is there, and how quick."""
    no_arguments(request)
    took = milliseconds(await operations.ping())
    came = f"your message took {milliseconds(request.age)} to be heard" if request.age else "heard"
    return paragraph(f"Pong: {came}; the homeserver answers in {took}.")
