"""What the worker measured, as LiveKit's levels and connection quality: pure functions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import isfinite

from livekit.protocol import models

from sfu.messages import ConsumerReport, ProducerReport, TransportReport
from sfu.params import Kind
from signaling.livekit.lines import Judgement, LineFacts

QUALITY = models.ConnectionQuality
BY_LEVEL = (QUALITY.LOST, QUALITY.POOR, QUALITY.GOOD, QUALITY.EXCELLENT)  # of lines.quality
QUALITY_NAME = {
    QUALITY.EXCELLENT: "excellent",
    QUALITY.GOOD: "good",
    QUALITY.POOR: "poor",
    QUALITY.LOST: "lost",
}
SCORE = {QUALITY.EXCELLENT: 5.0, QUALITY.GOOD: 4.0, QUALITY.POOR: 2.0, QUALITY.LOST: 1.0}
LEVEL_STEPS = 8  # speakers' levels are told in eighths: finer changes are not worth a message


@dataclass(frozen=True, slots=True)
class LinkReport:
    """One participant's connection over the last second; sizes in pixels."""

    line: LineFacts
    width: int
    height: int
    kbps_up: float
    kbps_down: float


def linear_level(dbov: float) -> float:
    """dBov (0 loudest, -127 silence) as LiveKit's 0..1, in steps."""
    level: float = 10.0 ** (min(0.0, dbov) / 20)
    # Speech sits around -30 dBov; the square root spreads it over the scale.
    return float(round(level**0.5 * LEVEL_STEPS)) / LEVEL_STEPS


def link_report(
    producers: Iterable[ProducerReport],
    consumers: Iterable[ConsumerReport],
    transports: Iterable[TransportReport],
    lost: bool,
) -> LinkReport:
    """Video and audio of one participant taken together, losses weighted by packets.

    ``transports``: one or two, of which at most one goes down.  ``lost``: no sign of life.
    """
    loss_up = packets_up = bps_up = 0.0
    width = height = 0
    for producer in producers:
        packets = float(sum(layer.packets for layer in producer.layers)) or 1.0
        loss_up += producer.loss * packets
        packets_up += packets
        bps_up += sum(layer.bitrate_bps for layer in producer.layers)
        if producer.kind is Kind.VIDEO:
            for layer in producer.layers:
                if layer.bitrate_bps > 0 and layer.width * layer.height > width * height:
                    width, height = layer.width, layer.height
    legs = tuple(transports)
    loss_down = packets_down = bps_down = 0.0
    rtt_ms = max((leg.rtt_ms for leg in legs), default=0.0)
    for consumer in consumers:
        packets = float(consumer.packets) or 1.0
        loss_down += consumer.loss * packets
        packets_down += packets
        bps_down += consumer.bitrate_bps
        rtt_ms = max(rtt_ms, consumer.rtt_ms)
    line = LineFacts(
        loss_up=loss_up / packets_up if packets_up else 0.0,
        loss_down=loss_down / packets_down if packets_down else 0.0,
        rtt_ms=rtt_ms,
        jitter_up_ms=max((leg.jitter_up_ms for leg in legs), default=0.0),
        jitter_down_ms=max((leg.jitter_down_ms for leg in legs), default=0.0),
        estimate_bps=max(
            (leg.estimate_bps for leg in legs if leg.wanted_bps and isfinite(leg.estimate_bps)), default=0.0
        ),
        wanted_bps=max((leg.wanted_bps for leg in legs), default=0.0),
        held=sum(leg.held for leg in legs),
        over_tcp=any(leg.over_tcp for leg in legs),
        lost=lost,
    )
    return LinkReport(line, width, height, bps_up / 1_000, bps_down / 1_000)


def facts(link: LinkReport, judgement: Judgement) -> dict[str, object]:
    """For the observer (``RoomObserver.quality``): what was measured, smoothed, and what it means.

    loss_up, loss_down (0..1), rtt_ms, jitter_up_ms, jitter_down_ms, width, height, kbps_up, kbps_down and
    quality; where they say something: estimate_kbps and wanted_kbps (the line down, what its pictures would
    take), held (pictures that wait), over_tcp, reasons (codes of ``lines.WORDS``, worst first) and cause
    {code, zh, en, params}.  A province's console hears 122 of these a second: they are rounded.
    """
    line = judgement.facts
    told: dict[str, object] = {
        "loss_up": round(line.loss_up, 4),
        "loss_down": round(line.loss_down, 4),
        "rtt_ms": round(line.rtt_ms),
        "jitter_up_ms": round(line.jitter_up_ms),
        "jitter_down_ms": round(line.jitter_down_ms),
        "width": link.width,
        "height": link.height,
        "kbps_up": round(link.kbps_up),
        "kbps_down": round(link.kbps_down),
        "quality": QUALITY_NAME[BY_LEVEL[judgement.quality]],
    }
    if line.estimate_bps > 0:
        told["estimate_kbps"] = round(line.estimate_bps / 1_000)
        told["wanted_kbps"] = round(link.line.wanted_bps / 1_000)
    if line.held:
        told["held"] = line.held
    if line.over_tcp:
        told["over_tcp"] = True
    if judgement.reasons:
        told["reasons"] = [cause.code for cause in judgement.reasons]
    if judgement.cause is not None:
        zh, en = judgement.cause.sentence()
        params = dict(judgement.cause.params)
        told["cause"] = {"code": judgement.cause.code, "zh": zh, "en": en, "params": params}
    return told
