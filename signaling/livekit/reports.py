"""What the worker measured, as LiveKit's levels and connection quality: pure functions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from livekit.protocol import models

from sfu.messages import ConsumerReport, ProducerReport
from sfu.params import Kind

QUALITY = models.ConnectionQuality
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
    """One participant's connection over the last second; losses 0..1."""

    loss_up: float
    loss_down: float
    rtt_ms: float
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
    producers: Iterable[ProducerReport], consumers: Iterable[ConsumerReport], transport_rtt_ms: float
) -> LinkReport:
    """Video and audio of one participant taken together, weighted by packets."""
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
    loss_down = packets_down = bps_down = 0.0
    rtt_ms = transport_rtt_ms
    for consumer in consumers:
        packets = float(consumer.packets) or 1.0
        loss_down += consumer.loss * packets
        packets_down += packets
        bps_down += consumer.bitrate_bps
        rtt_ms = max(rtt_ms, consumer.rtt_ms)
    return LinkReport(
        loss_up=loss_up / packets_up if packets_up else 0.0,
        loss_down=loss_down / packets_down if packets_down else 0.0,
        rtt_ms=rtt_ms,
        width=width,
        height=height,
        kbps_up=bps_up / 1_000,
        kbps_down=bps_down / 1_000,
    )


def quality_of(report: LinkReport, lost: bool) -> models.ConnectionQuality:
    """``lost``: the media transport has had no sign of life."""
    if lost:
        return QUALITY.LOST
    loss = max(report.loss_up, report.loss_down)
    if loss > 0.10 or report.rtt_ms > 800:
        return QUALITY.POOR
    if loss > 0.03 or report.rtt_ms > 400:
        return QUALITY.GOOD
    return QUALITY.EXCELLENT
