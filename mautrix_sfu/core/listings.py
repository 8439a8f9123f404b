"""Which foci the devices in a call name as active, by their `m.call.member` events."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .ids import ConfId, Device, DeviceId, SessionId, UserId


@dataclass(frozen=True, slots=True)
class Entry:
    """A device in an `m.call.member` event, with its expiry on the core's clock."""

    session_id: SessionId | None
    deadline: float
    active: tuple[Device, ...]
    preferred: tuple[Device, ...]


Entries = dict[tuple[ConfId, DeviceId], Entry]  # of one user

_Listing = dict[Device, dict[Device, float]]  # focus → the devices that list it as active, each with its deadline


class Listings:
    """The foci of each call of a room, the longest listed first, whether those who list them count or not."""

    def __init__(self) -> None:
        self._by_call: dict[ConfId, _Listing] = {}

    def of(self, conf_id: ConfId) -> Mapping[Device, Mapping[Device, float]]:
        """The foci of a call, each with the devices that list it and until when (the core's clock)."""
        return self._by_call.get(conf_id, {})

    def change(self, user: UserId, before: Entries, after: Entries) -> None:
        """Take a user's new entries in place of those before."""
        for (conf_id, device_id), entry in after.items():
            listing = self._by_call.setdefault(conf_id, {})
            for focus in entry.active:
                listing.setdefault(focus, {})[Device(user, device_id)] = entry.deadline
        for (conf_id, device_id), entry in before.items():
            now = after.get((conf_id, device_id))
            for focus in entry.active:
                if now is None or focus not in now.active:
                    self._unlist(conf_id, focus, Device(user, device_id))

    def keep_order(self, earlier: Listings) -> None:
        """Let who was listed in an earlier reading keep its place before newcomers."""
        for conf_id, listing in self._by_call.items():
            order = {focus: place for place, focus in enumerate(earlier.of(conf_id))}
            self._by_call[conf_id] = dict(sorted(listing.items(), key=lambda item: order.get(item[0], len(order))))

    def _unlist(self, conf_id: ConfId, focus: Device, device: Device) -> None:
        listing = self._by_call.get(conf_id, {})
        devices = listing.get(focus, {})
        devices.pop(device, None)
        if not devices:
            listing.pop(focus, None)
        if not listing:
            self._by_call.pop(conf_id, None)
