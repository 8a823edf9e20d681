"""Legs, feeds and routes of the native relay: the C types of ``sfu._relay`` as policy knows them."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from sfu import _relay
from sfu.params import CodecParameters, HeaderExtension, Kind, SrtpKeys
from sfu.route import Binding
from sfu.rtp import ExtensionIds, ExtensionPlan
from sfu.seams import Cluster, Digest, Group, TapSink
from sfu.srtp import SrtpLeg, ffi

if TYPE_CHECKING:
    from sfu.native_relay import NativeRelay

CODECS = {
    "video/vp8": 1, "video/h264": 2, "video/vp9": 3, "video/av1": 4, "audio/opus": 5, "audio/red": 6,
}  # fmt: skip  # Codec of native/relay.h
MAX_CODECS = 24
MAX_FIXED = 64  # bytes of header extensions that are the same in all packets of a route
ALIVE_MS = 1500.0


def pointer(value: Any) -> int:
    return int(ffi.cast("uintptr_t", value))


class NativeFeed(_relay.Feed):
    """See ``sfu.seams.FeedHandle``."""

    def __init__(
        self,
        engine: _relay.Relay,
        number: int,
        source: str,
        index: int,
        kind: Kind,
        codecs: tuple[CodecParameters, ...],
    ) -> None:
        kept = codecs[:MAX_CODECS]
        super().__init__(
            engine, number, kind is Kind.VIDEO,
            tuple(
                (c.payload_type, -1 if c.rtx_payload_type is None else c.rtx_payload_type,
                 CODECS.get(c.mime.lower(), 0), c.clock_rate)
                for c in kept
            ),
            any("nack" in c.rtcp_feedback for c in kept),
        )  # fmt: skip
        self.number = number
        self.source = source
        self.index = index
        self.kind = kind
        self.rid: str | None = None
        self.codecs: Mapping[int, CodecParameters] = {c.payload_type: c for c in kept}
        self.rtx_types = {c.rtx_payload_type: c.payload_type for c in kept if c.rtx_payload_type is not None}

    def alive(self, now_ms: float) -> bool:
        return now_ms - self.last_ms < ALIVE_MS


class NativeLeg(_relay.Leg):
    """See ``sfu.seams.LegHandle``."""

    def __init__(self, relay: NativeRelay, number: int, name: str) -> None:
        super().__init__(relay.engine, number)
        self._relay = relay
        self.number = number
        self.name = name
        self.ids = ExtensionIds()
        self.feeds: dict[int, NativeFeed] = {}
        self.last_numbers: dict[int, tuple[int, int]] = {}
        self.ntp_shift_ms: float | None = None
        self._routes: WeakValueDictionary[int, NativeRoute] = WeakValueDictionary()

    def learn(self, extensions: Iterable[HeaderExtension]) -> None:
        ids = self.ids
        ids.learn(extensions)
        self.set_ids(
            ids.mid, ids.rid, ids.repaired_rid, ids.audio_level, ids.transport_cc, ids.abs_send_time,
            ids.dependency, bytes(ids.passed),
        )  # fmt: skip

    def bind(self, ssrc: int, feed: NativeFeed) -> None:
        known = feed.ssrc
        if known == ssrc:
            return
        if known and self.feeds.get(known) is feed:
            del self.feeds[known]
        self.feeds[ssrc] = feed
        self.bind_ssrc(ssrc, feed)
        self._relay.look_soon()  # a feed that had another SSRC begins anew

    def bind_rtx(self, ssrc: int, feed: NativeFeed) -> None:
        self.bind_rtx_ssrc(ssrc, feed)

    def drop(self, feed: NativeFeed) -> None:
        if self.feeds.get(feed.ssrc) is feed:
            del self.feeds[feed.ssrc]
        self.drop_feed(feed)
        feed.close()
        self._relay.forget_feed(feed)

    def open_keys(self, keys: SrtpKeys) -> None:
        srtp = SrtpLeg(keys)
        receive, receive_rtcp, send, send_rtcp = map(
            pointer, (srtp.receive, srtp.receive_rtcp, srtp.send, srtp.send_rtcp)
        )
        self.set_srtp(receive, receive_rtcp, send, send_rtcp, srtp)

    def keep_route(self, number: int, route: NativeRoute) -> None:
        self._routes[number] = route

    def close(self) -> None:
        for route in [*self._routes.values()]:
            route.close()
        super().close()

    def acknowledge(self, body: bytes, now_ms: float) -> Digest:
        groups, received, lost, acked_bytes, newest_send_ms, clusters = self.digest(body, now_ms)
        return Digest(
            tuple(map(Group._make, groups)), received, lost, acked_bytes, newest_send_ms,
            tuple(map(Cluster._make, clusters)),
        )  # fmt: skip

    def set_pacing(self, rate_bps: float) -> None:
        super().set_pacing(rate_bps)
        self._relay.release_soon()

    def probe(self, cluster: int, rate_bps: float, size: int) -> bool:
        begun = self.begin_probe(cluster, rate_bps, size, self._relay.now_ms())
        if begun:
            self._relay.release_soon()
        return begun

    def take_feedback(self, now_ms: float) -> list[bytes]:
        """The engine sends it by itself."""
        self._relay.tend(self, now_ms)
        return []


class NativeRoute(_relay.Route):
    """See ``sfu.seams.LegRouteHandle``."""

    def __init__(
        self,
        relay: NativeRelay,
        number: int,
        leg: NativeLeg | None,
        *,
        is_video: bool,
        ssrc: int,
        rtx_ssrc: int,
        resends: bool,
    ) -> None:
        # 15 bits: a start near the roll-over and a first packet lost would make SRTP receivers guess wrong
        first, rtx = random.getrandbits(15) + 1, random.getrandbits(15) if leg is not None else 0
        # SRTP state of an SSRC outlives its consumer: go on with its numbers, or nonces would repeat
        last = leg.last_numbers.get(ssrc) if leg is not None else None
        if last is not None:
            first, rtx = last[0] + 1, last[1]
        super().__init__(relay.engine, number, leg, is_video, ssrc, rtx_ssrc, resends, first, rtx)
        self.number = number
        self._relay = relay
        self._leg = leg
        if leg is not None:
            leg.keep_route(number, self)

    @property
    def feed(self) -> NativeFeed | None:
        return self._relay.feed(self.feed_id)

    @property
    def target(self) -> NativeFeed | None:
        return self._relay.feed(self.target_id)

    def aim(self, feed: NativeFeed, binding: Binding) -> None:
        self.aim_at(feed, *plain_binding(binding))

    def close(self) -> None:
        super().close()
        if self._leg is not None:
            self._leg.last_numbers[self.ssrc] = self.last_numbers()


class NativeTapRoute(NativeRoute):
    """See ``sfu.seams.TapRouteHandle``."""

    def __init__(self, relay: NativeRelay, number: int, sink: TapSink, *, is_video: bool) -> None:
        super().__init__(relay, number, None, is_video=is_video, ssrc=1, rtx_ssrc=0, resends=False)
        self.sink = sink
        self.broken = ""

    def stop(self) -> None:
        """What came before belongs into the file."""
        super().stop()
        self._relay.write_tap(self)

    def write(self, packet: bytes, arrival_ms: float) -> None:
        if self.broken:
            return
        try:
            self.sink.send_rtp(packet, arrival_ms)
        except Exception as error:  # a full disk must not stop the relay
            self.broken = f"{type(error).__name__}: {error}"


def plain_binding(
    binding: Binding,
) -> tuple[
    tuple[tuple[int, int, bool, int, int, int], ...],
    tuple[bytes, int, int, bytes],
    tuple[bytes, int, int, bytes],
]:
    """What ``_relay.Route.aim_at`` takes."""
    codecs = tuple(
        (number, codec.payload_type, codec.strip_red, codec.red_inner, codec.rtx_type, codec.make_red)
        for number, codec in itertools.islice(binding.codecs.items(), MAX_CODECS)
    )
    return codecs, _plain_plan(binding.plan), _plain_plan(binding.rtx_plan)


def _plain_plan(plan: ExtensionPlan) -> tuple[bytes, int, int, bytes]:
    fixed = b""
    for number, value in plan.fixed:
        element = bytes((number, len(value))) + value
        if len(fixed) + len(element) <= MAX_FIXED:
            fixed += element
    first = plan.fixed[0][0] if plan.fixed else 0
    passed = bytearray(256)
    for number, outgoing in plan.passed.items():
        passed[number] = outgoing
    return fixed, first if plan.transport_at else 0, first if plan.send_time_at else 0, bytes(passed)
