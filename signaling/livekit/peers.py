"""Our end of a client's peer connections: one negotiation at a time each.

``AnsweringPeer`` answers the client's offers: the publisher of /rtc, or the only connection of /rtc/v1,
where viewers' sections are the client's too.  ``OfferingPeer`` is the subscriber of /rtc, where we offer.
Both pull what they should carry from ``participant.reception.wanted`` and close the difference.
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import structlog
from livekit.protocol import models, rtc

from core import counters
from sfu.errors import SfuError
from sfu.messages import ConnectTransport, OpenDataChannel, OpenTransport, RestartIce, TransportOpened
from sfu.params import EncodingParameters, IceParameters, Kind
from signaling.livekit import offers, sdp
from signaling.livekit.tracks import Subscription, Track, rid_qualities

if TYPE_CHECKING:
    from signaling.livekit.participant import Participant

log = structlog.get_logger(__name__)
MAX_FRUITLESS = 5
MAX_SLOTS = 100  # of a subscriber connection: beyond it, sections are used again whatever the client is
LABELS = ("_reliable", "_lossy")


@dataclass(slots=True, eq=False)
class Slot:
    """A media section that can carry one subscription after another."""

    mid: str
    kind: Kind
    subscription: Subscription | None = None
    direction: str = "inactive"  # as last negotiated; a slot is filled only after it was inactive
    rejected: bool = False
    usable: bool = True  # of /rtc/v1: the client's last offer would receive in it
    carried: set[str] = field(default_factory=set)  # sids of the tracks that it has carried so far

    @property
    def free(self) -> bool:
        return (
            self.subscription is None and self.direction == "inactive" and self.usable and not self.rejected
        )


class Peer:
    """The transport behind a peer connection and the ICE of both sides."""

    def __init__(self, participant: Participant, name: str) -> None:
        self.participant = participant
        self.transport_id = f"{participant.sid}:{name}"
        self.opened: TransportOpened | None = None
        self.connected = False
        self.slots: list[Slot] = []
        self._remote_ice: IceParameters | None = None
        self._lock = asyncio.Lock()
        self._session_id = secrets.randbits(62)
        self._version = 0

    async def open(self) -> TransportOpened:
        """Raises SfuError."""
        if self.opened is None:
            room = self.participant.room
            reply = await room.request(OpenTransport(room.router_id, self.transport_id))
            if not isinstance(reply, TransportOpened):
                raise SfuError("no_transport", "the worker gave no transport")
            self.opened = self._reachable(reply)
        return self.opened

    async def _restart_ice(self) -> None:
        reply = await self.participant.room.request(RestartIce(self.transport_id))
        if isinstance(reply, TransportOpened):
            self.opened = self._reachable(reply)

    def _reachable(self, opened: TransportOpened) -> TransportOpened:
        """Without UDP for who asked for TCP only (an SDK's scenario "force-tcp"), if there is TCP."""
        over_tcp = tuple(c for c in opened.candidates if c.protocol == "tcp")
        if self.participant.identity not in self.participant.room.tcp_only or not over_tcp:
            return opened
        return replace(opened, candidates=over_tcp)

    async def _connect(self, description: sdp.Description) -> None:
        """Tells the worker who is coming.  Raises SdpError when the description lacks what is needed."""
        first = next((s for s in description.sections if not s.rejected), description.sections[0])
        ice = first.ice or description.ice
        fingerprints = first.fingerprints or description.fingerprints
        if ice is None or not fingerprints:
            raise sdp.SdpError("no ICE credentials or no fingerprint in the description")
        if (first.setup or description.setup) == "passive":
            raise sdp.SdpError("the client wants to be the DTLS server, which we are")
        if ice != self._remote_ice:
            self._remote_ice = ice
            await self.participant.room.request(ConnectTransport(self.transport_id, ice, fingerprints))

    def _next_version(self) -> int:
        self._version += 1
        return self._version

    def release(self, track: Track) -> None:
        """The track is gone or not wanted any more: its slot is closed by the next negotiation."""
        for slot in self.slots:
            if slot.subscription is not None and slot.subscription.track is track:
                slot.subscription = None

    def _drop_unwanted(self) -> None:
        wanted = self.participant.reception.wanted
        for slot in self.slots:
            if slot.subscription is not None and slot.subscription.track.sid not in wanted:
                slot.subscription = None

    def _pending(self, kind: Kind | None = None) -> list[Track]:
        carried = {slot.subscription.track.sid for slot in self.slots if slot.subscription is not None}
        return [
            track
            for sid, track in self.participant.reception.wanted.items()
            if sid not in carried and (kind is None or track.kind is kind)
        ]

    def _stale(self) -> bool:
        """A section still says that it sends, but carries nothing."""
        return any(
            s.subscription is None and s.direction != "inactive" and not s.rejected for s in self.slots
        )

    def poke(self) -> None:
        """What is wanted may have changed."""
        raise NotImplementedError


def stream_of(track: Track) -> str:
    """Names participant and track; clients split it at the bar."""
    return f"{track.publisher.sid}|{track.sid}"


class AnsweringPeer(Peer):
    """Answers the client's offers, section by section."""

    def __init__(self, participant: Participant, name: str, single: bool) -> None:
        super().__init__(participant, name)
        self.single = single
        self._asked = False  # a MediaSectionsRequirement is on its way and no offer has come since
        self._unmet: frozenset[str] = frozenset()  # what was pending when we asked last
        self._fruitless = 0  # how often asking for these brought nothing
        self._unoffered: frozenset[str] = frozenset()  # announced tracks that no offer has carried, last tick
        self._nudges = 0  # how often the client was asked to offer these

    async def answer(self, text: str, offer_id: int) -> None:
        """Raises SdpError when nothing of the offer can be used; what fails inside a section fails alone."""
        async with self._lock:
            self._asked = False
            offer = sdp.parse(text)
            await self.open()
            ice = next((s.ice for s in offer.sections if s.ice is not None), offer.ice)
            if self._remote_ice is not None and ice is not None and ice != self._remote_ice:
                await self._restart_ice()
            await self._connect(offer)
            assert self.opened is not None
            local = offers.Local(self.opened, "passive")
            fresh: list[tuple[Subscription, sdp.Section]] = []
            self._drop_unwanted()
            for slot in self.slots:
                slot.usable = False
            await self._unpublish_stopped(offer)
            answers = [await self._answer_section(section, local, fresh) for section in offer.sections]
            answer = offers.describe(
                answers, self._session_id, self._next_version(), offer.extmap_allow_mixed
            )
            mids = {
                slot.mid: slot.subscription.track.sid
                for slot in self.slots
                if slot.subscription is not None and slot.direction == "sendonly"
            }
            self.participant.send(
                rtc.SignalResponse(
                    answer=rtc.SessionDescription(
                        type="answer", sdp=sdp.write(answer), id=offer_id, mid_to_track_id=mids
                    )
                )
            )
            # Media may flow only once the client can know whose it is.
            for subscription, section in fresh:
                await self.participant.reception.consume(subscription, self.transport_id, section)
        self.poke()

    async def _answer_section(
        self, section: sdp.Section, local: offers.Local, fresh: list[tuple[Subscription, sdp.Section]]
    ) -> sdp.Section:
        if not offers.servable(section):
            if not section.rejected:
                counters.refused("sdp_section")
            for slot in self.slots:
                if slot.mid == section.mid:
                    slot.rejected, slot.subscription = True, None
            return offers.refuse(section)
        if section.kind == "application":
            return local.dress(offers.answer_application(section))
        if section.sends:
            answered = await self._receive(section)
            if answered is not None:
                return local.dress(answered)
        if self.single and section.receives:
            return local.dress(self._send(section, fresh))
        for slot in self.slots:
            if slot.mid == section.mid:
                slot.direction, slot.subscription = "inactive", None
        return local.dress(offers.answer_media(section, offers.common_codecs(section), "inactive"))

    async def _receive(self, section: sdp.Section) -> sdp.Section | None:
        """The section carries a track of the client's; None when no AddTrack belongs to it."""
        track = self.participant.track_for_section(section)
        if track is None:
            return None
        red = not track.info.disable_red and track.info.encryption == models.Encryption.Type.NONE
        codecs = offers.common_codecs(section, track.prefer_codec, red, self.participant.room.governed)
        if not codecs:
            counters.refused("codec_not_recordable")
            log.info("a track's codec is not served in meetings", track=track.sid, codec=track.prefer_codec)
            return None
        features = track.info.audio_features
        answer = offers.answer_media(
            section,
            codecs,
            "recvonly",
            dtx=models.AudioTrackFeature.TF_NO_DTX not in features,
            stereo=models.AudioTrackFeature.TF_STEREO in features,
        )
        encodings = offers.order_encodings(section.send_encodings, rid_qualities(track.info))
        rtp = offers.producer_parameters(section, answer, encodings)
        try:
            await self.participant.produce(track, self.transport_id, rtp)
        except SfuError as error:
            log.warning("a track can't be received", track=track.sid, code=error.code, reason=error.reason)
            counters.refused("produce")
            return None
        return answer

    async def _unpublish_stopped(self, offer: sdp.Description) -> None:
        sending = {section.mid for section in offer.sections if section.sends and not section.rejected}
        for track in list(self.participant.tracks.values()):
            if track.published and track.mid not in sending:
                await self.participant.unpublish(track)

    def _slot(self, section: sdp.Section) -> Slot:
        for slot in self.slots:
            if slot.mid == section.mid:
                return slot
        slot = Slot(section.mid, Kind(section.kind))
        self.slots.append(slot)
        return slot

    def _send(self, section: sdp.Section, fresh: list[tuple[Subscription, sdp.Section]]) -> sdp.Section:
        """A receiving section of the client's in /rtc/v1: keep, close or fill it."""
        slot = self._slot(section)
        slot.rejected, slot.usable = False, True
        codecs = offers.common_codecs(section)
        if slot.free:
            for track in self._pending(slot.kind):
                if not self.participant.reception.can_decode(track, codecs):
                    self.participant.reception.cannot_subscribe(track)
                    continue
                slot.subscription = self.participant.reception.subscription(track)
                slot.subscription.mid = slot.mid
                break
        answer = offers.answer_media(section, codecs, "inactive")
        subscription = slot.subscription
        if subscription is None:
            slot.direction = "inactive"
            return answer
        track = subscription.track
        encoding = EncodingParameters(ssrc=subscription.ssrc, rtx_ssrc=subscription.rtx_ssrc)
        answer = offers.sending(answer, stream_of(track), track.sid, encoding)
        slot.direction = "sendonly"
        if not subscription.open:
            fresh.append((subscription, answer))
        return answer

    def poke(self) -> None:
        if not self.single or self.opened is None or self._lock.locked() or self._asked:
            return
        self._drop_unwanted()
        lacking = {}
        for kind in Kind:
            room = sum(slot.free and slot.kind is kind for slot in self.slots)
            pending = len(self._pending(kind))
            lacking[kind] = (pending, max(0, pending - room))
        if not self._stale() and not any(pending for pending, _ in lacking.values()):
            return
        unmet = frozenset(track.sid for track in self._pending())
        self._fruitless = self._fruitless + 1 if unmet and unmet == self._unmet else 0
        self._unmet = unmet
        if self._fruitless > MAX_FRUITLESS:  # a client that never adds sections must not be asked for ever
            counters.refused("sections_not_added")
            return
        # Also with (0, 0): the client offers again, and the answer closes or fills sections that it has.
        self._asked = True
        self.participant.send(
            rtc.SignalResponse(
                media_sections_requirement=rtc.MediaSectionsRequirement(
                    num_audios=lacking[Kind.AUDIO][1], num_videos=lacking[Kind.VIDEO][1]
                )
            )
        )

    def nudge(self) -> None:
        """Once a second.  A client that announced a track and does not offer it has missed its turn: the
        Rust core may, when it adds one while its offer of another is under way.  It is asked to offer again.
        """
        waiting = frozenset(t.sid for t in self.participant.tracks.values() if not t.published)
        if waiting != self._unoffered:
            self._unoffered, self._nudges = waiting, 0
            return
        if not waiting or not self.single or self.opened is None or self._lock.locked():
            return
        if self._nudges < MAX_FRUITLESS:
            self._nudges += 1
            counters.refused("track_not_offered")
            self.participant.send(
                rtc.SignalResponse(media_sections_requirement=rtc.MediaSectionsRequirement())
            )

    def resumed(self) -> None:
        """A new WebSocket: a requirement sent on the old one may be lost; the client will offer anyway."""
        self._asked = False


class OfferingPeer(Peer):
    """The subscriber connection of /rtc."""

    def __init__(self, participant: Participant, name: str) -> None:
        super().__init__(participant, name)
        self._offer_id = 0
        self._waiting = False  # an offer is unanswered
        self._dirty = False
        self._next_mid = 1
        self._filled: list[Slot] = []
        self._mixed = True

    async def start(self) -> None:
        """The first offer: only the data channels.  Raises SfuError."""
        async with self._lock:
            await self.open()
            for label in LABELS:
                lossy = label == "_lossy"
                self.participant.room.post(
                    OpenDataChannel(
                        self.transport_id, label, ordered=not lossy, max_retransmits=0 if lossy else None
                    )
                )
            self._fill()
            self._offer()

    def poke(self) -> None:
        if self.opened is None:
            return
        if self._waiting or self._lock.locked():
            self._dirty = True
            return
        self._drop_unwanted()
        if self._pending() or self._stale():
            self._fill()
            self._offer()

    async def restart(self) -> None:
        """ICE restart by us, after the client came back with a new WebSocket.  Raises SfuError."""
        async with self._lock:
            await self._restart_ice()
            self._remote_ice = None
            self._drop_unwanted()
            self._fill()
            self._offer()

    def _fill(self) -> None:
        for track in self._pending():
            codecs = offers.offer_media(track.kind, "").codecs
            if not self.participant.reception.can_decode(track, codecs):
                self.participant.reception.cannot_subscribe(track)
                continue
            slot = self._free_slot(track)
            if slot is None:
                slot = Slot(str(self._next_mid), track.kind)
                self._next_mid += 1
                self.slots.append(slot)
            slot.carried.add(track.sid)
            slot.subscription = self.participant.reception.subscription(track)
            slot.subscription.mid = slot.mid

    def _free_slot(self, track: Track) -> Slot | None:
        """The Rust core announces each (mid, stream id) once: there a track never returns to its old mid."""
        free = [slot for slot in self.slots if slot.free and slot.kind is track.kind]
        if self.participant.client.sdk == models.ClientInfo.SDK.JS or len(self.slots) >= MAX_SLOTS:
            return free[0] if free else None
        return next((slot for slot in free if track.sid not in slot.carried), None)

    def _offer(self) -> None:
        assert self.opened is not None
        local = offers.Local(self.opened, "actpass")
        sections = [local.dress(offers.offer_application("0"))]
        for slot in self.slots:
            section = offers.offer_media(slot.kind, slot.mid)
            if slot.rejected:
                sections.append(offers.refuse(section))
                continue
            if slot.subscription is not None:
                track = slot.subscription.track
                encoding = EncodingParameters(
                    ssrc=slot.subscription.ssrc, rtx_ssrc=slot.subscription.rtx_ssrc
                )
                section = offers.sending(section, stream_of(track), track.sid, encoding)
            slot.direction = section.direction
            sections.append(local.dress(section))
        self._offer_id += 1
        self._waiting, self._dirty = True, False
        offer = offers.describe(sections, self._session_id, self._next_version(), mixed=True)
        mids = {slot.mid: slot.subscription.track.sid for slot in self.slots if slot.subscription is not None}
        self.participant.send(
            rtc.SignalResponse(
                offer=rtc.SessionDescription(
                    type="offer", sdp=sdp.write(offer), id=self._offer_id, mid_to_track_id=mids
                )
            )
        )

    async def accept(self, text: str, answer_id: int) -> None:
        """The client's answer.  The Rust core always says id 0.  Raises SdpError."""
        async with self._lock:
            if not self._waiting or (answer_id and answer_id != self._offer_id):
                counters.refused("stale_answer")
                return
            answer = sdp.parse(text)
            await self._connect(answer)
            by_mid = {section.mid: section for section in answer.sections}
            for slot in self.slots:
                section = by_mid.get(slot.mid)
                if section is None or section.rejected or section.problem or not section.codecs:
                    if slot.subscription is not None or slot.direction != "inactive":
                        self._refused(slot)
                    continue
                subscription = slot.subscription
                if subscription is not None and not subscription.open and slot.direction == "sendonly":
                    codecs = offers.common_codecs(section)
                    agreed = replace(section, codecs=codecs, extensions=offers.common_extensions(section))
                    await self.participant.reception.consume(subscription, self.transport_id, agreed)
            self._waiting = False
        if self._dirty:
            self._dirty = False
            self.poke()

    def _refused(self, slot: Slot) -> None:
        """The client rejected a section: it stays in its place, dead, so that the others stay aligned."""
        counters.refused("section_by_client")
        slot.rejected, slot.direction = True, "inactive"
        if slot.subscription is not None:
            self.participant.reception.cannot_subscribe(slot.subscription.track)
            slot.subscription = None
