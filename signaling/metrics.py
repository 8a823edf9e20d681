"""Metrics of the media workers and of the control process, for prometheus-client.

A worker reports its counters once a second and begins at zero when it is started again; here they become
totals that never go back.  Names and their meaning: ``FAMILIES``; a name that is not listed is shown too.
"""

from __future__ import annotations

import asyncio
import re
import resource
import time
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import Histogram, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from core import counters
from sfu.messages import Event, Report
from signaling.livekit.lines import WORDS, Judgement

Labels = tuple[tuple[str, str], ...]
disable_created_metrics()  # type: ignore[no-untyped-call]  # a time series each, that nobody asks for
BITRATE = "lianxin_rtp_bitrate_bps"
LOSS = "lianxin_rtp_loss_ratio"
_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")

# A worker's name → what Prometheus sees, and its meaning.
FAMILIES = {
    "lianxin_packets_total": (
        "lianxin_rtp_packets_total",
        "RTP packets by direction (in: from clients, out: to clients) and kind, counted as WebRTC does.",
    ),
    "lianxin_bytes_total": (
        "lianxin_rtp_bytes_total",
        "Bytes of RTP packets with their headers, by direction and kind.",
    ),
    "lianxin_packets_lost_total": ("lianxin_rtp_packets_lost_total", "RTP packets lost, by direction."),
    BITRATE: (BITRATE, "RTP bit rate of the last second in bits per second, by direction and kind."),
    LOSS: (LOSS, "Share of RTP packets lost lately (0 to 1), mean over streams, by direction and kind."),
    "lianxin_nack_total": ("lianxin_nack_total", "NACK messages, by direction."),
    "lianxin_pli_total": ("lianxin_pli_total", "Key frames asked for (PLI or FIR), by direction."),
    "lianxin_dropped_total": (
        "lianxin_dropped_total",
        "Datagrams and packets that media dropped, by reason.",
    ),
    "lianxin_producers": ("lianxin_producers", "Streams that clients send."),
    "lianxin_consumers": ("lianxin_consumers", "Streams that are sent to clients."),
    "lianxin_routers": ("lianxin_routers", "Rooms on media workers."),
    "lianxin_lines": ("lianxin_lines", "Clients that receive media and report about it."),
    "lianxin_lines_constrained": ("lianxin_lines_constrained", "Lines with evidence of a bottleneck."),
    "lianxin_consumers_held": ("lianxin_consumers_held", "Pictures that wait for a better line."),
    "lianxin_probes_total": ("lianxin_probes_total", "Times that a line was asked for more by padding."),
    "lianxin_worker_estimate_bps": (
        "lianxin_worker_estimate_bps",
        "What constrained lines of a media worker carry in bits per second: the least and the median.",
    ),
    "lianxin_worker_cpu_seconds_total": (
        "lianxin_worker_cpu_seconds_total",
        "CPU time of a media worker, all threads.",
    ),
    "lianxin_worker_event_loop_delay_seconds": (
        "lianxin_worker_event_loop_delay_seconds",
        "Longest delay of a worker's event loop in the last second.",
    ),
    "lianxin_worker_transports": ("lianxin_worker_transports", "Open client transports of a media worker."),
    "lianxin_worker_routers": ("lianxin_worker_routers", "Rooms on a media worker."),
    "lianxin_worker_ice_checks_total": (
        "lianxin_worker_ice_checks_total",
        "STUN binding requests that a media worker answered.",
    ),
    "lianxin_worker_ice_failures_total": (
        "lianxin_worker_ice_failures_total",
        "Transports whose ICE failed.",
    ),
    "lianxin_worker_relay_native": (
        "lianxin_worker_relay_native",
        "Whether a media worker forwards in C (1) or in Python (0).",
    ),
    "lianxin_ice_tcp_connections": ("lianxin_ice_tcp_connections", "Clients' media connections over TCP."),
    "lianxin_ice_tcp_accepted_total": (
        "lianxin_ice_tcp_accepted_total",
        "Media connections over TCP that ICE has accepted.",
    ),
    "lianxin_ice_tcp_refused_total": (
        "lianxin_ice_tcp_refused_total",
        "Media connections over TCP that were closed by us, by reason.",
    ),
    "lianxin_relay_sent_datagrams_total": (
        "lianxin_relay_sent_datagrams_total",
        "Datagrams that native relays have handed to the kernel.",
    ),
    "lianxin_relay_sent_messages_total": (
        "lianxin_relay_sent_messages_total",
        "Messages that carried them: several datagrams of one size are one message (UDP GSO).",
    ),
    "lianxin_relay_sent_calls_total": (
        "lianxin_relay_sent_calls_total",
        "System calls that carried the messages (sendmmsg).",
    ),
    "lianxin_relay_events_lost_total": (
        "lianxin_relay_events_lost_total",
        "What native relays had to tell and nobody fetched in time.",
    ),
    "lianxin_worker_dtls_failures_total": (
        "lianxin_worker_dtls_failures_total",
        "DTLS handshakes that failed, by reason.",
    ),
}

HISTOGRAMS = {
    "lianxin_relay_seconds": "Time of a packet inside a native relay, from the kernel's arrival to our send.",
}

LOOP_DELAY = Histogram(
    "lianxin_event_loop_delay_seconds",
    "Delay of the control process's event loop, measured twice a second.",
    buckets=(0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0),
    registry=counters.REGISTRY,
)


class WorkerLedger:
    """Adds up what workers report, across their restarts."""

    def __init__(self) -> None:
        self._now: dict[str, dict[tuple[str, Labels], float]] = {}
        self._before: dict[str, dict[tuple[str, Labels], float]] = {}
        self._cpu_rate: dict[str, tuple[float, float, float]] = {}  # when, CPU seconds, share
        self.restarts: dict[str, int] = {}

    def on_event(self, worker_id: str, event: Event) -> None:
        """For ``MediaNode.on_event``."""
        if isinstance(event, Report):
            self.observe(worker_id, event, time.monotonic())

    def observe(self, worker_id: str, report: Report, now_s: float) -> None:
        latest = {(c.name, tuple(sorted(c.labels))): c.value for c in report.counters}
        for key, value in self._now.get(worker_id, {}).items():
            # Losses shrink when a late packet comes after all; a counter must not.
            if is_counter(key[0]):
                latest[key] = max(value, latest.get(key, 0.0))
        latest.update(_rates(report))
        self._now[worker_id] = latest
        cpu = latest.get(("lianxin_worker_cpu_seconds_total", ()))
        if cpu is not None:
            at, before, share = self._cpu_rate.get(worker_id, (now_s, cpu, 0.0))
            if now_s > at:
                share = (cpu - before) / (now_s - at)
            self._cpu_rate[worker_id] = (now_s, cpu, share)

    def on_lost(self, worker_id: str) -> None:
        """For ``MediaNode.on_worker_lost``: what it had counted is kept, what it measured is gone."""
        for key, value in self._now.pop(worker_id, {}).items():
            if is_counter(key[0]):
                kept = self._before.setdefault(worker_id, {})
                kept[key] = kept.get(key, 0.0) + value
        self._cpu_rate.pop(worker_id, None)

    def on_up(self, worker_id: str) -> None:
        """For ``MediaNode.on_worker_up``: started again."""
        self.restarts[worker_id] = self.restarts.get(worker_id, 0) + 1

    def known(self) -> set[str]:
        """Every worker that has ever reported."""
        return set(self._now) | set(self._before)

    def cpu_percent(self, worker_id: str) -> float:
        """Of one core, in the last second."""
        return round(100 * self._cpu_rate.get(worker_id, (0.0, 0.0, 0.0))[2], 1)

    def value(self, worker_id: str, name: str) -> float:
        """Sum of a worker's values of one name, now."""
        return sum(v for (n, _), v in self._now.get(worker_id, {}).items() if n == name)

    def totals(self) -> dict[str, dict[Labels, float]]:
        """By name and labels: a worker's own measurements carry its name, the rest is summed over workers."""
        sums: dict[str, dict[Labels, float]] = {}
        for source in (self._before, self._now):
            for worker_id, values in source.items():
                for (name, labels), value in values.items():
                    shown = (("worker", worker_id), *labels) if name.startswith("lianxin_worker_") else labels
                    by_labels = sums.setdefault(name, {})
                    if name == LOSS:  # a share can't be summed: the worst worker is what matters
                        by_labels[shown] = max(value, by_labels.get(shown, 0.0))
                        continue
                    by_labels[shown] = by_labels.get(shown, 0.0) + value
        return sums


def _rates(report: Report) -> dict[tuple[str, Labels], float]:
    """Bit rates and losses of the report's streams."""
    rates: dict[tuple[str, Labels], float] = {}
    losses: dict[Labels, list[float]] = {}
    labels: Labels
    for direction in ("in", "out"):
        for kind in ("audio", "video"):
            labels = (("direction", direction), ("kind", kind))
            rates[BITRATE, labels] = 0.0
            losses[labels] = []
    for producer in report.producers:
        labels = (("direction", "in"), ("kind", producer.kind.value))
        rates[BITRATE, labels] += sum(layer.bitrate_bps for layer in producer.layers)
        losses[labels].append(producer.loss)
    for consumer in report.consumers:
        labels = (("direction", "out"), ("kind", consumer.kind.value))
        rates[BITRATE, labels] += consumer.bitrate_bps
        losses[labels].append(consumer.loss)
    for labels, values in losses.items():
        rates[LOSS, labels] = sum(values) / len(values) if values else 0.0
    return rates


def is_counter(name: str) -> bool:
    """The parts of a histogram only grow, too."""
    return name.endswith(("_total", "_bucket", "_sum"))


def histograms(totals: dict[str, dict[Labels, float]]) -> Iterator[Metric]:
    """``…_bucket`` with a label ``le`` (cumulative) and ``…_sum`` are one family."""
    for name, text in HISTOGRAMS.items():
        buckets = [(dict(labels)["le"], value) for labels, value in totals.get(f"{name}_bucket", {}).items()]
        if buckets:
            buckets.sort(key=lambda bucket: float(bucket[0]))
            yield HistogramMetricFamily(name, text, buckets, sum(totals.get(f"{name}_sum", {}).values()))


def families(totals: dict[str, dict[Labels, float]]) -> Iterator[Metric]:
    """Metric families in Prometheus's base units: ``…_ms`` becomes ``…_seconds``."""
    yield from histograms(totals)
    for name, values in sorted(totals.items()):
        if not _NAME.fullmatch(name) or name.removesuffix("_bucket").removesuffix("_sum") in HISTOGRAMS:
            continue
        shown, text = FAMILIES.get(name, (name, f"Reported by the media workers as {name}."))
        scale = 1.0
        if shown.endswith("_ms"):
            scale, shown = 0.001, shown.removesuffix("_ms") + "_seconds"
        label_names = tuple(dict.fromkeys(key for labels in values for key, _ in labels))
        family: CounterMetricFamily | GaugeMetricFamily
        if is_counter(shown):
            family = CounterMetricFamily(shown.removesuffix("_total"), text, labels=label_names)
        else:
            family = GaugeMetricFamily(shown, text, labels=label_names)
        for labels, value in sorted(values.items()):
            known = dict(labels)
            family.add_metric([known.get(label, "") for label in label_names], value * scale)
        yield family


class WorkerCollector(Collector):
    def __init__(self, ledger: WorkerLedger, alive: Callable[[], Iterable[str]]) -> None:
        self._ledger = ledger
        self._alive = alive

    def collect(self) -> Iterable[Metric]:
        yield from families(self._ledger.totals())
        alive = set(self._alive())
        up = GaugeMetricFamily(
            "lianxin_worker_up",
            "Whether a media worker is alive (1) or being started again (0).",
            labels=["worker"],
        )
        restarts = CounterMetricFamily(
            "lianxin_worker_restarts", "How often a media worker had to be started again.", labels=["worker"]
        )
        for worker_id in sorted(alive | set(self._ledger.restarts)):
            up.add_metric([worker_id], float(worker_id in alive))
            restarts.add_metric([worker_id], self._ledger.restarts.get(worker_id, 0))
        yield up
        yield restarts


class LineCollector(Collector):
    """What is wrong with participants' lines now.  By fault, not by venue: that bounds the labels."""

    def __init__(self, lines: Callable[[], Iterable[Judgement]]) -> None:
        self._lines = lines

    def collect(self) -> Iterable[Metric]:
        found = dict.fromkeys(WORDS, 0)
        for line in self._lines():
            for cause in line.reasons:
                found[cause.code] += 1
        faults = GaugeMetricFamily(
            "lianxin_line_faults", "Participants whose line has this fault now.", labels=["fault"]
        )
        for code, count in found.items():
            faults.add_metric([code], count)
        yield faults


class Gauges(Collector):
    """Values that are asked for when Prometheus asks: name → (meaning, how to know)."""

    def __init__(self) -> None:
        self._sources: dict[str, tuple[str, Callable[[], float]]] = {}

    def add(self, name: str, meaning: str, value: Callable[[], float]) -> None:
        self._sources[name] = (meaning, value)

    def collect(self) -> Iterable[Metric]:
        for name, (meaning, value) in self._sources.items():
            if is_counter(name):
                yield CounterMetricFamily(name.removesuffix("_total"), meaning, value=value())
            else:
                yield GaugeMetricFamily(name, meaning, value=value())


def control_cpu_seconds() -> float:
    """User and system time of the control process (of a worker inside it too), s."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def resident_bytes() -> float:
    """Memory of this process (Linux), bytes."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return float(file.read().split()[1]) * resource.getpagesize()
    except (OSError, IndexError, ValueError):
        return 0.0


async def watch_loop(every_s: float = 0.5) -> None:
    """Measures for ever how late the loop is."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + every_s
        await asyncio.sleep(every_s)
        LOOP_DELAY.observe(max(0.0, loop.time() - due))
