"""A call in a room that several homeservers share: whoever is in it uses the focus of his own homeserver."""

from __future__ import annotations

import asyncio
import secrets
from types import TracebackType
from typing import Any
from urllib.parse import quote

from mautrix_sfu.core.ids import Device

from .browser import Browser, CallPage, PageSession
from .calls import Call
from .federation import Federation
from .focus import Deployment
from .participant import FOCI_ACTIVE, Mischief, Participant, Party
from .participant_sdp import Published
from .synapse import Client


class Roamer(Participant):
    """A participant who can call a second focus before it leaves the first."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.foci = [self.focus]  # that its device lists as active
        self._twins: list[Roamer] = []
        self._shown_as: list[Published] | None = None

    def use(self, focus: Device) -> None:
        """Call this focus instead, from the next `join` on."""
        self.focus, self.foci = focus, [focus]

    def twin(self, focus: Device) -> Roamer:
        """The same device and session as the caller of another focus, which the device's list is given too.

        Both show the same tracks. It needs no `async with`; `leave` or `vanish` it.
        """
        made = Roamer("", self.device.user_id, self.device.device_id, focus, mischief=self.mischief)
        made.matrix, made.session_id = self.matrix, self.session_id
        self.foci.append(focus)
        made.foci = self.foci
        made._shown_as = self.connection.published
        self._twins.append(made)
        return made

    def unsubscribe(self, *others: Party) -> None:
        """Want nothing of the others any more."""
        found = [self.track_of(other, kind) for other in others for kind in ("audio", "video")]
        tracks = [{"stream_id": track[0], "track_id": track[1]} for track in found if track is not None]
        self.tell("m.call.track_subscription", subscribe=[], unsubscribe=tracks)

    async def invite(self) -> None:
        """As every participant does; a twin shows its tracks under the ids that they have already."""
        if self._shown_as is not None:
            for track, shown in zip(self.connection.published, self._shown_as, strict=True):
                track.stream_id, track.track_id = shown.stream_id, shown.track_id
            self.connection.stream_id = self._shown_as[0].stream_id
        await super().invite()

    def membership(self, conf_id: str, *, active: bool = True) -> dict[str, Any]:
        """The content of a call member event, with all foci that are in use."""
        content = super().membership(conf_id, active=active)
        if active:
            listed = [{"user_id": focus.user_id, "device_id": focus.device_id} for focus in self.foci]
            content["m.calls"][0]["m.devices"][0][FOCI_ACTIVE] = listed
        return content

    def _on_to_device(self, event: dict[str, Any]) -> None:
        super()._on_to_device(event)
        for twin in self._twins:
            twin._on_to_device(event)


class FederatedCall(Call):
    """A room with a call, made at the first site; its people are at the site that is named, else at the first."""

    def __init__(self, federation: Federation) -> None:
        super().__init__(federation.sites[0])
        self.federation = federation

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await super().__aexit__(kind, error, trace)
        await self.federation.close_http()

    async def user(self, name: str, at: Deployment | None = None) -> Client:
        """A user who has nothing to do with the room."""
        return await (at or self.deployment).synapse.register_user(f"{name}-{secrets.token_hex(3)}")

    async def member(self, name: str, at: Deployment | None = None) -> Client:
        """A user who is joined to the room."""
        client = await self.user(name, at)
        await self.host.invite(self.room_id, client.user_id)
        await client.join(self.room_id)
        return client

    async def participant(
        self, name: str, *, member: bool = True, mischief: Mischief | None = None, at: Deployment | None = None
    ) -> Roamer:
        """A device of a new user; it has not joined the call."""
        return await self.device(await (self.member if member else self.user)(name, at), mischief=mischief)

    async def device(self, client: Client, *, mischief: Mischief | None = None) -> Roamer:
        """A user's device; it has not joined the call."""
        made = Roamer(
            client.server.base_url,
            client.user_id,
            client.device_id,
            self.site(client).focus.device,
            token=client.token,
            mischief=mischief,
        )
        made.stopped_layers = self.stopped_layers
        return await self._stack.enter_async_context(made)

    def site(self, client: Client) -> Deployment:
        """Where a user is at home."""
        return next(site for site in self.federation.sites if site.synapse is client.server)

    async def people(self, **names_and_sites: Deployment) -> list[Roamer]:
        """New participants who are in the call: their names, each with the site."""
        # One after the other: an event that is sent while a homeserver is just joining the room may pass it by.
        made = [await self.participant(name, at=site) for name, site in names_and_sites.items()]
        await self.know_each_other(*made)
        await asyncio.gather(*(self.join(person) for person in made))
        return made

    async def know_each_other(self, *people: Roamer) -> None:
        """Wait until the homeserver of each knows that all others are in the room."""
        await asyncio.gather(*(self._knows_all(person, people) for person in people))

    async def _knows_all(self, person: Roamer, people: tuple[Roamer, ...]) -> None:
        """Wait until the homeserver of one knows that the others are in the room: it would send them nothing before."""
        path = f"/_matrix/client/v3/rooms/{quote(self.room_id)}/joined_members"
        async with asyncio.timeout(45):
            while not {other.device.user_id for other in people} <= set(
                (await person.matrix.request("GET", path))["joined"]
            ):
                await asyncio.sleep(0.05)

    async def page(self, browser: Browser, name: str, at: Deployment) -> CallPage:
        """A new user's call page, served by the focus of the site; it has not joined the call."""
        client = await self.member(name, at)
        session = PageSession(client.server.base_url, client.user_id, client.device_id, client.token, self.room_id)
        return await browser.open(at.focus.address, session, name)


SMALL, LARGE = (160, 90), (640, 360)


async def meet(*people: Participant, size: tuple[int, int] = SMALL) -> None:
    """Everybody subscribes to everybody else; returns when all see and hear each other.

    Small by default: all of them live in this one process, which on two cores loses packets of large pictures.
    """
    for one in people:
        await one.subscribe_to(*(other for other in people if other is not one), size=size)
    await asyncio.gather(*(see_and_hear(one, other) for one in people for other in people if one is not other))


async def see_and_hear(one: Participant, other: Party, more: int = 20) -> None:
    """Wait until `more` packets of audio and video of the other, and a key frame, have come to the one."""
    await see(one, other, more=more)
    await hear(one, other, more)


async def see(one: Participant, other: Party, size: tuple[int, int] | None = None, more: int = 20) -> None:
    """Wait until `more` packets of video, with a key frame of this size, have come to the one."""
    start = one.video_of(other).packets

    def seen() -> bool:
        video = one.video_of(other)
        return video.packets >= start + more and video.key_frames > 0 and size in (None, video.size)

    await one.until(seen, what=f"{one.device.user_id} sees {other.device.user_id} {size or ''}")


async def hear(one: Participant, other: Party, more: int = 20) -> None:
    """Wait until `more` packets of audio of the other have come to the one."""
    start = one.audio_of(other).packets
    what = f"{one.device.user_id} hears {other.device.user_id}"
    await one.until(lambda: one.audio_of(other).packets >= start + more, what=what)


async def shown(one: Participant, other: Party) -> None:
    """Wait until the one is shown that the other publishes."""
    what = f"{one.device.user_id} is shown {other.device.user_id}"
    await one.until(lambda: one.track_of(other, "video"), what=what)
