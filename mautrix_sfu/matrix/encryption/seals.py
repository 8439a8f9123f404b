"""Which calls of which devices are signalled encrypted: from then on nothing in plain text is believed about them."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from ...core.ids import Device, DeviceId, UserId
from .database import KeyStore

MAX_PER_USER = 256  # of all devices of the user; the one that was spoken of longest ago gives way
MAX_SEALS = 20_000
REWRITE_AFTER = 3600.0  # seconds after which the store learns that a call is still in use

Seal = tuple[Device, str]  # a device and a group call's id


class Seals:
    """Remembered over restarts, the newest ones."""

    def __init__(self, store: KeyStore, wall: Callable[[], float] = time.time) -> None:
        self._store = store
        self._wall = wall
        self._used: OrderedDict[Seal, float] = OrderedDict()  # when the store learnt of it; the newest last
        self._of_user: dict[UserId, OrderedDict[Seal, None]] = {}

    async def load(self) -> None:
        """Read what was kept, and forget what is too much."""
        rows = await self._store.db.fetch(
            "SELECT user_id, device_id, conf_id, used_ms FROM crypto_sealed_call ORDER BY used_ms"
        )
        for row in rows:
            seal = (Device(UserId(row["user_id"]), DeviceId(row["device_id"])), row["conf_id"])
            for dropped in self._remember(seal, row["used_ms"] / 1000):
                await self._delete(dropped)

    def holds(self, device: Device, conf_id: object) -> bool:
        """Whether this device's part in this call is signalled encrypted."""
        return (device, conf_id) in self._used

    async def put(self, device: Device, conf_id: str) -> None:
        """Note that it is, from now on. Raises database errors; in memory it holds at once."""
        seal = (device, conf_id)
        now = self._wall()
        written = self._used.get(seal)
        if written is not None and now - written < REWRITE_AFTER:
            self._used.move_to_end(seal)
            self._of_user[device.user_id].move_to_end(seal)
            return
        dropped = self._remember(seal, now)
        await self._store.execute(
            "INSERT INTO crypto_sealed_call (user_id, device_id, conf_id, used_ms) VALUES ($1, $2, $3, $4)"
            " ON CONFLICT (user_id, device_id, conf_id) DO UPDATE SET used_ms=excluded.used_ms",
            device.user_id,
            device.device_id,
            conf_id,
            int(now * 1000),
        )
        for old in dropped:
            await self._delete(old)

    def _remember(self, seal: Seal, now: float) -> list[Seal]:
        """Note it in memory; returns what has to give way."""
        self._used[seal] = now
        self._used.move_to_end(seal)
        of_user = self._of_user.setdefault(seal[0].user_id, OrderedDict())
        of_user[seal] = None
        of_user.move_to_end(seal)
        dropped = []
        if len(of_user) > MAX_PER_USER:
            dropped.append(next(iter(of_user)))
        elif len(self._used) > MAX_SEALS:
            dropped.append(next(iter(self._used)))
        for old in dropped:
            del self._used[old]
            theirs = self._of_user[old[0].user_id]
            del theirs[old]
            if not theirs:
                del self._of_user[old[0].user_id]
        return dropped

    async def _delete(self, seal: Seal) -> None:
        await self._store.execute(
            "DELETE FROM crypto_sealed_call WHERE user_id=$1 AND device_id=$2 AND conf_id=$3",
            seal[0].user_id,
            seal[0].device_id,
            seal[1],
        )
