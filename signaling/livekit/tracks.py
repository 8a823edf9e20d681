"""A published track, who watches it at which layer, and which layers its sender should bother to send."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from livekit.protocol import models, rtc

from sfu.params import Kind, RtpParameters
from signaling.livekit import messages, offers

if TYPE_CHECKING:
    from signaling.livekit.participant import Participant

MAX_SPATIAL = 3  # of SVC in WebRTC


@dataclass(frozen=True, slots=True)
class TrackSetting:
    """What a viewer said with ``track_setting``.  Sizes in pixels, 0 = not said."""

    disabled: bool = False
    quality: int = models.VideoQuality.HIGH
    width: int = 0
    height: int = 0


@dataclass(slots=True)
class LayerDemand:
    """Which layers the sender was told to send: more at once, fewer only after a delay.

    ``-1`` = none.  Times in seconds, monotonic.
    """

    told: int | None = None
    _lower_since: float | None = None

    def update(self, wanted: int, now: float, delay_s: float) -> int | None:
        """The highest layer to announce now, or None when there is nothing to say."""
        if self.told is None or wanted > self.told:
            self._lower_since = None
            self.told = wanted
            return wanted
        if wanted == self.told:
            self._lower_since = None
            return None
        if self._lower_since is None:
            self._lower_since = now
        if now - self._lower_since < delay_s:
            return None
        self._lower_since = None
        self.told = wanted
        return wanted


@dataclass(slots=True, eq=False)
class Tap:
    tap_id: str
    path: str


@dataclass(slots=True, eq=False)
class Subscription:
    """One viewer's receiving of one track; ``mid`` is set while a media section carries it."""

    viewer: Participant
    track: Track
    consumer_id: str
    ssrc: int
    rtx_ssrc: int | None
    mid: str | None = None
    open: bool = False  # Consume was accepted
    paused: bool = False
    layer: int = 2
    priority: int = 0
    held: bool = False  # the viewer's line can't carry it now, the relay sends nothing
    told: int = 0  # how often the viewer was told so

    @property
    def still(self) -> bool:
        """No packets can come: held, or the publisher's own line is down."""
        publisher = self.track.publisher
        return self.held or (publisher.media_lost and not publisher.publisher.connected)


@dataclass(slots=True, eq=False)
class Track:
    """A track from AddTrack on; it is published once ``producer_id`` is set."""

    sid: str
    publisher: Participant
    kind: Kind
    source: str
    info: models.TrackInfo
    cids: tuple[str, ...]
    prefer_codec: str = ""
    producer_id: str | None = None
    rtp: RtpParameters | None = None
    mid: str | None = None
    local_muted: bool = False  # the client's own wish
    admin_muted: bool = False  # Twirp MutePublishedTrack
    silenced: bool = False  # the room's policy
    subscriptions: dict[str, Subscription] = field(default_factory=dict)  # by the viewer's sid
    demand: LayerDemand = field(default_factory=LayerDemand)
    tap: Tap | None = None
    subscribed_once: bool = False

    @property
    def published(self) -> bool:
        return self.producer_id is not None

    @property
    def muted(self) -> bool:
        return self.local_muted or self.admin_muted or self.silenced

    @property
    def layers(self) -> int:
        """How many sizes are sent: encodings, or spatial layers of the only one."""
        if self.rtp is None:
            return 1
        if len(self.rtp.encodings) <= 1 and self.info.mime_type.lower() in offers.SVC:
            return min(MAX_SPATIAL, max(1, len(layers_of(self.info))))
        return max(1, len(self.rtp.encodings))

    @property
    def tapped_mime(self) -> str:
        """What a dump holds: the relay takes RED off (RFC 2198)."""
        return "audio/opus" if self.info.mime_type == "audio/red" else self.info.mime_type

    @property
    def codec(self) -> str:
        return self.info.mime_type.partition("/")[2].lower()

    def layer_for(self, setting: TrackSetting) -> int:
        """The encoding (0 = lowest) that fits what the viewer asked for."""
        top = self.layers - 1
        if top == 0:
            return 0
        sizes = layer_sizes(self.info)
        if setting.width and setting.height:
            if len(sizes) != self.layers:
                return top
            wanted = min(setting.width, setting.height)
            for index, (width, height) in enumerate(sizes):
                # A picture may be enlarged a little before the next layer is worth its bits.
                if min(width, height) * 1.1 >= wanted:
                    return index
            return top
        if setting.quality >= models.VideoQuality.HIGH:
            return top
        return min(top, int(setting.quality))

    def wanted_layer(self) -> int:
        """The highest layer that anybody needs now, -1 when nobody does."""
        if self.tap is not None:
            return self.layers - 1
        needs = [s.layer for s in self.subscriptions.values() if not s.paused and s.mid is not None]
        return max(needs, default=-1)

    def quality_update(self, highest: int) -> rtc.SignalResponse:
        """``subscribed_quality_update`` that enables the layers up to ``highest``."""
        single = self.layers == 1
        qualities = [
            rtc.SubscribedQuality(
                quality=quality,
                enabled=highest >= 0 if single else index <= highest,
            )
            for index, quality in enumerate(messages.QUALITIES)
        ]
        if not single and highest >= self.layers - 1:
            for quality in qualities:
                quality.enabled = True
        return rtc.SignalResponse(
            subscribed_quality_update=rtc.SubscribedQualityUpdate(
                track_sid=self.sid,
                subscribed_qualities=qualities,
                subscribed_codecs=[rtc.SubscribedCodec(codec=self.codec, qualities=qualities)],
            )
        )


def layers_of(info: models.TrackInfo) -> list[models.VideoLayer]:
    """The announced layers, the lowest first."""
    announced = list(info.codecs[0].layers) if info.codecs and info.codecs[0].layers else list(info.layers)
    return sorted(announced, key=lambda layer: (layer.quality, layer.width))


def layer_sizes(info: models.TrackInfo) -> list[tuple[int, int]]:
    return [(layer.width, layer.height) for layer in layers_of(info)]


def rid_qualities(info: models.TrackInfo) -> dict[str, int]:
    """RID → rank, as far as the announced layers name RIDs."""
    return {layer.rid: index for index, layer in enumerate(layers_of(info)) if layer.rid}


def track_info(sid: str, request: rtc.AddTrackRequest, source: str, stream: str) -> models.TrackInfo:
    """What everybody will read about the track."""
    info = models.TrackInfo(
        sid=sid,
        type=request.type,
        name=request.name,
        muted=request.muted,
        width=request.width,
        height=request.height,
        simulcast=len(request.layers) > 1,
        disable_dtx=request.disable_dtx,
        source=messages.SOURCE_TO_WIRE[source],
        layers=request.layers,
        stereo=request.stereo,
        disable_red=request.disable_red,
        encryption=request.encryption,
        stream=stream,
        audio_features=request.audio_features,
        backup_codec_policy=request.backup_codec_policy,
    )
    if request.disable_dtx and models.AudioTrackFeature.TF_NO_DTX not in info.audio_features:
        info.audio_features.append(models.AudioTrackFeature.TF_NO_DTX)
    if request.stereo and models.AudioTrackFeature.TF_STEREO not in info.audio_features:
        info.audio_features.append(models.AudioTrackFeature.TF_STEREO)
    for codec in request.simulcast_codecs[:1]:
        # Only the first codec is carried; a backup codec is never asked for, so it is not announced.
        mode = codec.video_layer_mode
        if mode == models.VideoLayer.Mode.MODE_UNUSED and request.type == models.TrackType.VIDEO:
            svc = f"video/{codec.codec.rpartition('/')[2].lower()}" in offers.SVC
            mode = (
                models.VideoLayer.Mode.MULTIPLE_SPATIAL_LAYERS_PER_STREAM
                if svc
                else models.VideoLayer.Mode.ONE_SPATIAL_LAYER_PER_STREAM
            )
        info.codecs.append(
            models.SimulcastCodecInfo(
                cid=codec.cid, layers=codec.layers or request.layers, video_layer_mode=mode
            )
        )
    return info
