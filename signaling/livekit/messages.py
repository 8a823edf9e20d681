"""Small translations between LiveKit's protobuf messages and our words."""

from __future__ import annotations

import gzip
import io
import zlib
from dataclasses import replace

from google.protobuf.message import DecodeError
from livekit.protocol import models, rtc

from signaling.livekit.token import Grants, decode_base64

SERVER_VERSION = "1.9.0"  # of the protocol's reference server: SDKs derive features from it
SERVER_PROTOCOL = 16

SOURCE_OF: dict[int, str] = {
    models.TrackSource.CAMERA: "camera",
    models.TrackSource.MICROPHONE: "microphone",
    models.TrackSource.SCREEN_SHARE: "screen_share",
    models.TrackSource.SCREEN_SHARE_AUDIO: "screen_share_audio",
}
SOURCE_TO_WIRE = {
    "camera": models.TrackSource.CAMERA,
    "microphone": models.TrackSource.MICROPHONE,
    "screen_share": models.TrackSource.SCREEN_SHARE,
    "screen_share_audio": models.TrackSource.SCREEN_SHARE_AUDIO,
}
QUALITIES = (models.VideoQuality.LOW, models.VideoQuality.MEDIUM, models.VideoQuality.HIGH)
ENABLED_CODECS = (
    "video/VP8", "video/H264", "video/VP9", "video/AV1", "audio/opus", "audio/red", "video/rtx"
)  # fmt: skip


class MessageError(ValueError):
    """A stranger's message that can't be used; the text is one English sentence."""


def source_name(source: int, kind: int) -> str:
    """Unknown sources (SDK clients may leave it out) count by their kind."""
    fallback = "microphone" if kind == models.TrackType.AUDIO else "camera"
    return SOURCE_OF.get(source, fallback)


def permission_of(grants: Grants) -> models.ParticipantPermission:
    return models.ParticipantPermission(
        can_subscribe=grants.can_subscribe,
        can_publish=grants.can_publish,
        can_publish_data=grants.can_publish_data,
        can_publish_sources=[
            SOURCE_TO_WIRE[source] for source in grants.can_publish_sources if source in SOURCE_TO_WIRE
        ],
        hidden=grants.hidden,
        recorder=grants.recorder,
        can_update_metadata=grants.can_update_own_metadata,
        agent=grants.agent,
    )


def grants_with(grants: Grants, permission: models.ParticipantPermission) -> Grants:
    """UpdateParticipant replaces the permissions of a participant as a whole."""
    return replace(
        grants,
        can_subscribe=permission.can_subscribe,
        can_publish=permission.can_publish,
        can_publish_data=permission.can_publish_data,
        can_publish_sources=tuple(
            SOURCE_OF[source] for source in permission.can_publish_sources if source in SOURCE_OF
        ),
        hidden=permission.hidden,
        recorder=permission.recorder,
        can_update_own_metadata=permission.can_update_metadata,
    )


def server_info(node_id: str) -> models.ServerInfo:
    return models.ServerInfo(
        edition=models.ServerInfo.Edition.Standard,
        version=SERVER_VERSION,
        protocol=SERVER_PROTOCOL,
        node_id=node_id,
    )


def enabled_codecs(recorded: bool) -> list[models.Codec]:
    """``recorded``: only what recordings can be made of."""
    return [
        models.Codec(mime=mime)
        for mime in ENABLED_CODECS
        if not recorded or mime not in ("video/VP9", "video/AV1")
    ]


def leave(reason: models.DisconnectReason, action: rtc.LeaveRequest.Action) -> rtc.SignalResponse:
    return rtc.SignalResponse(
        leave=rtc.LeaveRequest(
            can_reconnect=action != rtc.LeaveRequest.Action.DISCONNECT, reason=reason, action=action
        )
    )


def parse_request(data: bytes) -> rtc.SignalRequest:
    """Raises MessageError."""
    try:
        return rtc.SignalRequest.FromString(data)
    except (DecodeError, ValueError, RecursionError) as error:
        raise MessageError("the signal request can't be read") from error


def parse_join_request(text: str, limit: int) -> rtc.JoinRequest:
    """``join_request`` of /rtc/v1: base64 of WrappedJoinRequest, gzip or not.  Raises MessageError.

    ``limit`` bounds the text and what it unpacks to, in bytes.
    """
    if len(text) > limit:
        raise MessageError("the join request is too large")
    try:
        wrapped = rtc.WrappedJoinRequest.FromString(decode_base64(text))
        body = wrapped.join_request
        if wrapped.compression == rtc.WrappedJoinRequest.Compression.GZIP:
            with gzip.GzipFile(fileobj=io.BytesIO(body)) as file:
                body = file.read(limit + 1)
        if len(body) > limit:
            raise MessageError("the join request is too large")
        return rtc.JoinRequest.FromString(body)
    except MessageError:
        raise
    except (DecodeError, ValueError, OSError, EOFError, zlib.error, RecursionError) as error:
        raise MessageError("the join request can't be read") from error


def within(texts: dict[str, str], limit: int) -> bool:
    """Whether all keys and values together stay within ``limit`` bytes."""
    return sum(len(key.encode()) + len(value.encode()) for key, value in texts.items()) <= limit
