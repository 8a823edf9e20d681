"""The HTTP edge of LiveKit: /rtc and /rtc/v1 (WebSocket), and their validate twins with CORS."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import structlog
from aiohttp import web
from livekit.protocol import models, rtc

from core import counters
from sfu.errors import SfuError
from signaling.livekit import evaluation, messages, requests, sdp
from signaling.livekit.participant import STATE, Participant
from signaling.livekit.room import Room
from signaling.livekit.rooms import ACTION, REASON, MediaRooms
from signaling.livekit.session import Session
from signaling.livekit.token import Claims, TokenError

log = structlog.get_logger(__name__)
CORS = {"Access-Control-Allow-Origin": "*", "Access-Control-Max-Age": "86400"}


class Refusal(Exception):
    """A request that is answered with ``status`` and one English sentence."""

    def __init__(self, status: int, reason: str, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.reason = reason
        self.text = text


@dataclass(frozen=True, slots=True)
class Join:
    """What a client wants when it connects, from either form of the URL."""

    claims: Claims
    client: models.ClientInfo
    auto_subscribe: bool
    reconnect: bool
    sid: str
    single: bool
    offer: rtc.SessionDescription | None = None
    tracks: tuple[rtc.AddTrackRequest, ...] = ()
    sync_state: rtc.SyncState | None = None


def routes(media: MediaRooms) -> list[web.RouteDef]:
    edge = Edge(media)
    return [
        web.get("/rtc", edge.serve_dual),
        web.get("/rtc/v1", edge.serve_single),
        web.get("/rtc/validate", edge.validate_dual),
        web.get("/rtc/v1/validate", edge.validate_single),
        web.options("/rtc/validate", edge.preflight),
        web.options("/rtc/v1/validate", edge.preflight),
    ]


class Edge:
    def __init__(self, media: MediaRooms) -> None:
        self.media = media
        self._joining: Counter[str] = Counter()  # WebSockets that have not joined yet, by address

    # ------------------------------------------------------------ validate

    async def preflight(self, request: web.Request) -> web.Response:
        headers = {**CORS, "Access-Control-Allow-Headers": "*", "Access-Control-Allow-Methods": "GET"}
        return web.Response(status=204, headers=headers)

    async def validate_dual(self, request: web.Request) -> web.Response:
        return self._validate(request, single=False)

    async def validate_single(self, request: web.Request) -> web.Response:
        return self._validate(request, single=True)

    def _validate(self, request: web.Request, single: bool) -> web.Response:
        try:
            join = self._read(request, single)
            self._check_capacity(join)
        except Refusal as refusal:
            return self._refuse(refusal)
        return web.Response(text="success", headers=CORS)

    def _refuse(self, refusal: Refusal) -> web.Response:
        counters.refused(f"join_{refusal.reason}")
        log.info("a join is refused", reason=refusal.reason, status=refusal.status)
        return web.Response(status=refusal.status, text=refusal.text, headers=CORS)

    # ------------------------------------------------------------ reading the request

    def _read(self, request: web.Request, single: bool) -> Join:
        """Raises Refusal."""
        claims = self._claims(request)
        query = request.query
        text = query.get("join_request", "")
        if text:
            try:
                wire = messages.parse_join_request(text, self.media.limits.join_request_bytes)
            except messages.MessageError as error:
                raise Refusal(400, "malformed", str(error)) from error
            return self._from_join_request(claims, wire, single=single)
        if single:
            raise Refusal(400, "malformed", "join_request is missing")
        client = models.ClientInfo(
            version=query.get("version", "")[:64],
            protocol=_small_number(query.get("protocol")),
            client_protocol=_small_number(query.get("client_protocol")),
            os=query.get("os", "")[:64],
            browser=query.get("browser", "")[:64],
        )
        sdk = query.get("sdk", "").upper()
        if sdk in models.ClientInfo.SDK.keys():  # noqa: SIM118 (an enum wrapper, not a dict)
            client.sdk = models.ClientInfo.SDK.Value(sdk)  # type: ignore[assignment]
        for item in query.get("capabilities", "").split(",")[:16]:
            _add_capability(client, item.strip())
        return Join(
            claims=claims,
            client=client,
            auto_subscribe=_truth(query.get("auto_subscribe", "1")),
            reconnect=_truth(query.get("reconnect", "0")),
            sid=query.get("sid", ""),
            single=False,
        )

    def _from_join_request(self, claims: Claims, wire: rtc.JoinRequest, single: bool) -> Join:
        limits = self.media.limits
        attributes = {**claims.attributes, **{k: v for k, v in wire.participant_attributes.items() if v}}
        metadata = wire.metadata or claims.metadata
        if claims.grants.can_update_own_metadata:
            claims = replace(claims, attributes=attributes, metadata=metadata)
        if not messages.within(dict(claims.attributes), limits.attributes_bytes) or (
            len(claims.metadata.encode()) > limits.metadata_bytes
        ):
            raise Refusal(400, "too_large", "metadata or attributes are too large")
        return Join(
            claims=claims,
            client=wire.client_info,
            auto_subscribe=wire.connection_settings.auto_subscribe,
            reconnect=wire.reconnect,
            sid=wire.participant_sid,
            single=single,
            offer=wire.publisher_offer if wire.HasField("publisher_offer") else None,
            tracks=tuple(wire.add_track_requests[: limits.tracks_per_participant]),
            sync_state=wire.sync_state if wire.HasField("sync_state") else None,
        )

    def _claims(self, request: web.Request) -> Claims:
        """Who asks, and whether it may join at all.  Raises Refusal."""
        limits = self.media.limits
        token = request.query.get("access_token", "")
        header = request.headers.get("Authorization", "")
        if header.startswith("Bearer "):
            token = header[7:].strip()
        try:
            claims = self.media.keys.verify(token, self.media.clock.now())
        except TokenError as error:
            raise Refusal(401, f"token_{error.reason}", error.text) from error
        grants = claims.grants
        if not grants.room_join or not grants.room:
            raise Refusal(403, "grant", "the token does not allow to join a room")
        wanted = request.query.get("room", "")
        if wanted and wanted != grants.room:
            raise Refusal(403, "wrong_room", "the token is for another room")
        if not claims.identity or len(claims.identity.encode()) > limits.identity_bytes:
            raise Refusal(400, "identity", "the token has no identity, or too long a one")
        if max(len(grants.room.encode()), len(claims.name.encode())) > limits.name_bytes:
            raise Refusal(400, "too_large", "the name of the room or of the participant is too long")
        policy = self.media.policy
        if policy is not None and policy.governs(grants.room):
            why = policy.admits(grants.room, claims.identity)
            if why is not None:
                raise Refusal(403, "not_admitted", why)
        return claims

    def _check_capacity(self, join: Join) -> None:
        """Raises Refusal."""
        if not self.media.node.worker_ids:
            raise Refusal(503, "no_worker", "no media worker is running at the moment")
        room = self.media.rooms.get(join.claims.grants.room)
        if room is None:
            if len(self.media.rooms) >= self.media.limits.rooms:
                raise Refusal(503, "too_many_rooms", "there are too many rooms")
            return
        limit = room.max_participants or self.media.limits.participants_per_room
        if len(room.participants) >= limit and join.claims.identity not in room.participants:
            raise Refusal(503, "room_full", "the room is full")

    # ------------------------------------------------------------ the WebSocket

    async def serve_dual(self, request: web.Request) -> web.StreamResponse:
        return await self._serve(request, single=False)

    async def serve_single(self, request: web.Request) -> web.StreamResponse:
        return await self._serve(request, single=True)

    async def _serve(self, request: web.Request, single: bool) -> web.StreamResponse:
        limits = self.media.limits
        if request.headers.get("Upgrade", "").lower() != "websocket":
            return self._refuse(Refusal(426, "no_websocket", "this address speaks WebSocket"))
        address = request.remote or ""
        try:
            join = self._read(request, single)
            self._check_capacity(join)
            if self._joining.total() >= limits.unanswered_joins or (
                self._joining[address] >= limits.unanswered_joins_per_address
            ):
                raise Refusal(429, "too_many_joins", "too many joins are waiting; try again")
        except Refusal as refusal:
            return self._refuse(refusal)
        ws = web.WebSocketResponse(
            max_msg_size=limits.message_bytes, heartbeat=limits.ping_interval_s * 2, compress=False
        )
        self._joining[address] += 1
        participant: Participant | None = None
        counted = False
        session = Session(ws, limits, self.media.clock)
        try:
            try:
                await ws.prepare(request)
                counters.ws_opened("livekit")
                counted = True
                if join.reconnect:
                    participant = await self._resume(join, session)
                else:
                    participant = await self._join(join, session)
            finally:
                self._joining[address] -= 1
                if self._joining[address] <= 0:
                    del self._joining[address]
            if participant is not None:
                member = participant

                async def handle(message: rtc.SignalRequest) -> None:
                    await requests.handle(member, session, message)

                await session.run(handle)
            else:
                await session.run(_ignore)
        finally:
            if counted:
                counters.ws_closed("livekit")
            if participant is not None and participant.session is session and not participant.left:
                self.media.detach(participant, self.media.clock.monotonic())
        return ws

    # ------------------------------------------------------------ join

    async def _join(self, join: Join, session: Session) -> Participant | None:
        media = self.media
        claims = join.claims
        try:
            room = media.open_room(claims.grants.room)
            await room.open()
            if room.closed:
                raise messages.MessageError("the room has ended meanwhile")
        except (messages.MessageError, SfuError) as error:
            counters.refused("join_no_room")
            log.warning("a room can't be opened", reason=str(error))
            session.send(messages.leave(REASON.JOIN_FAILURE, ACTION.RECONNECT))
            session.close(1013, "no media worker")
            return None
        older = room.participants.get(claims.identity)
        if older is not None:
            media.expel(older, REASON.DUPLICATE_IDENTITY, ACTION.DISCONNECT, "duplicate_identity")
        participant = Participant(
            room,
            claims,
            join.client,
            single=join.single,
            auto_subscribe=join.auto_subscribe,
            now=media.clock.now(),
            monotonic=media.clock.monotonic(),
        )
        participant.session = session
        room.admit(participant)
        media.index(participant)
        self._welcome(room, participant)
        room.announce(participant)
        for ask in join.tracks:
            participant.add_track(ask)
        media.refresh_token(participant)
        try:
            if participant.subscriber is not None:
                evaluation.evaluate(room, participant)
                await participant.subscriber.start()
            else:
                evaluation.evaluate(room, participant)
                if join.offer is not None:
                    participant.state = STATE.JOINED
                    await participant.publisher.answer(join.offer.sdp, join.offer.id)
        except sdp.SdpError as error:
            counters.refused("sdp")
            log.info("the offer of a join is refused", identity=claims.identity, reason=str(error))
            media.expel(participant, REASON.JOIN_FAILURE, ACTION.DISCONNECT, "join_failed")
            return None
        except SfuError as error:
            log.warning("a join failed in the media worker", code=error.code, reason=error.reason)
            counters.refused("media_worker")
            media.expel(participant, REASON.MEDIA_FAILURE, ACTION.RECONNECT, "join_failed")
            return None
        return participant

    def _welcome(self, room: Room, participant: Participant) -> None:
        limits = self.media.limits
        info = messages.server_info(room.worker_id or "")
        participant.send(
            rtc.SignalResponse(
                join=rtc.JoinResponse(
                    room=room.message(),
                    participant=participant.info(),
                    other_participants=room.others(participant),
                    server_version=info.version,
                    subscriber_primary=not participant.single,
                    ping_interval=limits.ping_interval_s,
                    ping_timeout=limits.ping_timeout_s,
                    server_info=info,
                    enabled_publish_codecs=messages.enabled_codecs(room.governed),
                )
            )
        )

    # ------------------------------------------------------------ resume

    async def _resume(self, join: Join, session: Session) -> Participant | None:
        media = self.media
        room = media.rooms.get(join.claims.grants.room)
        participant = room.by_sid(join.sid) if room is not None else None
        if room is None or participant is None or participant.identity != join.claims.identity:
            counters.refused("resume_unknown")
            session.send(messages.leave(REASON.STATE_MISMATCH, ACTION.RECONNECT))
            session.close()
            return None
        older = participant.session
        participant.session = session
        participant.session_lost_at = None
        if older is not None:
            older.close(1001, "replaced by a resume")
        session.send(
            rtc.SignalResponse(
                reconnect=rtc.ReconnectResponse(
                    server_info=messages.server_info(room.worker_id or ""),
                    last_message_seq=participant.last_sequence,
                )
            )
        )
        # All of them: the Rust core takes whoever is missing here for gone (trap 4).
        everybody = [participant.info(), *room.others(participant)]
        session.send(rtc.SignalResponse(update=rtc.ParticipantUpdate(participants=everybody)))
        media.refresh_token(participant)
        try:
            if participant.subscriber is not None:
                await participant.subscriber.restart()
            else:
                participant.publisher.resumed()
        except SfuError as error:
            log.warning("a resume failed in the media worker", code=error.code, reason=error.reason)
            media.expel(participant, REASON.MEDIA_FAILURE, ACTION.RECONNECT, "resume_failed")
            return None
        for track in participant.tracks.values():
            if track.muted and not track.local_muted:
                participant.tell_mute(track)
            if track.demand.told is not None:
                participant.send(track.quality_update(track.demand.told))
        participant.reception.resume_stream_states()
        room.refresh()
        return participant


async def _ignore(message: rtc.SignalRequest) -> None:
    """From a client that was just told to leave."""


def _truth(text: str) -> bool:
    return text.strip().lower() in ("1", "true", "t", "yes")


def _small_number(text: str | None) -> int:
    """0 for anything that is not a number below 2³¹."""
    text = text or ""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0


def _add_capability(client: models.ClientInfo, text: str) -> None:
    """By name (Rust core) or number; what is not known here is left out."""
    known = models.ClientInfo.Capability
    if text in known.keys():  # noqa: SIM118 (an enum wrapper, not a dict)
        client.capabilities.append(known.Value(text))  # type: ignore[arg-type]
    elif _small_number(text) and _small_number(text) in known.values():
        client.capabilities.append(_small_number(text))  # type: ignore[arg-type]
