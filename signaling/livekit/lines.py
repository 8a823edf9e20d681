"""What is wrong with a participant's line, as one plain sentence for the person at the desk.  Pure.

``causes`` reads one second's facts, worst first; ``central`` tells a fault of the centre from a local one;
``judge`` keeps a sentence still long enough to be read and a quality from flapping.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

LOSS = 0.03  # of packets, from here on it is heard or seen
RTT_MS = 300.0
JITTER_MS = 60.0
SHORT = 0.85  # of what its pictures would take: below it some are smaller, or wait
RELEASE = 0.7  # a cause that was said goes when its value is below this share of its threshold
CENTRAL_SHARE = 3  # one of so many venues with the same fault at once, two at least: the centre's
NARROW_AFTER_S = 8.0  # how long the estimate of a new line may take to grow
STANDS_S = 5.0  # how long a sentence and a better quality wait for their turn
SMOOTHING = 0.5  # weight of the newest second
WORDS = {
    "line_lost": ("线路中断，正在等待恢复", "The line is down; waiting for it to return."),
    "held": (
        "下行带宽不足（约 {kbps} kbit/s），{n} 路画面已暂停",
        "The line down carries only about {kbps} kbit/s; {n} picture(s) are paused.",
    ),
    "narrow": (
        "下行带宽不足（约 {kbps} kbit/s），画面已降低",
        "The line down carries only about {kbps} kbit/s; pictures are reduced.",
    ),
    "loss_up": (
        "上行丢包 {percent}%，疑似本地网络",
        "{percent}% of packets sent are lost; probably the local network.",
    ),
    "loss_down": (
        "下行丢包 {percent}%，疑似本地网络",
        "{percent}% of packets received are lost; probably the local network.",
    ),
    "loss_up_central": (
        "上行丢包 {percent}%，多个会场同时丢包，疑似中心线路",
        "{percent}% of packets sent are lost, at several venues at once; probably the centre's line.",
    ),
    "loss_down_central": (
        "下行丢包 {percent}%，多个会场同时丢包，疑似中心线路",
        "{percent}% of packets received are lost, at several venues at once; probably the centre's line.",
    ),
    "delay": ("延迟 {ms} ms，疑似线路拥塞", "A round trip takes {ms} ms; the line is probably congested."),
    "delay_central": (
        "延迟 {ms} ms，多个会场同时延迟，疑似中心线路",
        "A round trip takes {ms} ms, at several venues at once; probably the centre's line.",
    ),
    "jitter": ("抖动 {ms} ms，声音可能断续", "Packets arrive up to {ms} ms late; sound may break up."),
    "tcp": ("走 TCP 备用通道，UDP 可能被防火墙拦截", "Media go over TCP; a firewall probably blocks UDP."),
}  # fmt: skip
CENTRAL = frozenset({"loss_up", "loss_down", "delay"})  # causes that may be the centre's


@dataclass(frozen=True, slots=True)
class LineFacts:
    """One participant's line over the last second.  Losses 0..1; ``estimate_bps`` 0 = unknown."""

    loss_up: float = 0.0
    loss_down: float = 0.0
    rtt_ms: float = 0.0
    jitter_up_ms: float = 0.0
    jitter_down_ms: float = 0.0
    estimate_bps: float = 0.0
    wanted_bps: float = 0.0
    held: int = 0
    over_tcp: bool = False
    lost: bool = False  # no sign of life


@dataclass(frozen=True, slots=True)
class Cause:
    """``code`` is stable for programs, the numbers are for the sentence."""

    code: str
    params: tuple[tuple[str, int], ...] = ()

    def sentence(self) -> tuple[str, str]:
        """Chinese and English."""
        zh, en = WORDS[self.code]
        values = dict(self.params)
        return zh.format(**values), en.format(**values)


@dataclass(frozen=True, slots=True)
class Judgement:
    """``facts`` smoothed; ``cause`` is what is said since ``said_at`` (times in seconds, monotonic).

    ``quality``: 0 lost to 3 excellent; it was last taken down or confirmed low at ``lowered_at``.
    """

    facts: LineFacts = LineFacts()
    reasons: tuple[Cause, ...] = ()
    cause: Cause | None = None
    said_at: float = float("-inf")
    quality: int = 3
    lowered_at: float = float("-inf")
    narrow_since: float | None = None


def smooth(before: LineFacts, now: LineFacts) -> LineFacts:
    """A single bad second is half a fault; what comes in numbers is taken as it is."""

    def mean(old: float, new: float) -> float:
        return old + (new - old) * SMOOTHING

    return replace(
        now,
        loss_up=mean(before.loss_up, now.loss_up),
        loss_down=mean(before.loss_down, now.loss_down),
        rtt_ms=mean(before.rtt_ms, now.rtt_ms),
        jitter_up_ms=mean(before.jitter_up_ms, now.jitter_up_ms),
        jitter_down_ms=mean(before.jitter_down_ms, now.jitter_down_ms),
    )


def central(lines: Collection[LineFacts]) -> frozenset[str]:
    """The faults that so many have at once that they are not local."""
    found = set()
    alive = [line for line in lines if not line.lost]
    for code in CENTRAL:
        hit = sum(_strength(line, code) >= 1 for line in alive)
        if hit >= 2 and hit * CENTRAL_SHARE >= len(alive):
            found.add(code)
    return frozenset(found)


def _strength(line: LineFacts, code: str) -> float:
    """1 at the threshold of a cause."""
    match code:
        case "loss_up":
            return line.loss_up / LOSS
        case "loss_down":
            return line.loss_down / LOSS
        case "delay":
            return line.rtt_ms / RTT_MS
        case "jitter":
            return max(line.jitter_up_ms, line.jitter_down_ms) / JITTER_MS
        case "narrow":
            if line.estimate_bps <= 0 or line.wanted_bps <= 0:
                return 0.0
            return SHORT * line.wanted_bps / line.estimate_bps
    return 0.0


def causes(
    line: LineFacts, centre: frozenset[str] = frozenset(), before: Collection[str] = ()
) -> tuple[Cause, ...]:
    """What can be felt, worst first.  ``before``: codes of the last second, which go only well below."""
    if line.lost:
        return (Cause("line_lost"),)
    weighed: list[tuple[float, Cause]] = []

    def weigh(code: str, weight: float, name: str, value: float) -> None:
        strength = _strength(line, code)
        said = f"{code}_central" if code in centre else code
        if strength >= (RELEASE if code in before or f"{code}_central" in before else 1):
            weighed.append((strength * weight, Cause(said, ((name, round(value)),))))

    kbps = round(line.estimate_bps / 10_000) * 10
    if line.held:
        weighed.append((50, Cause("held", (("kbps", kbps), ("n", line.held)))))
    else:
        weigh("narrow", 1, "kbps", kbps)
    weigh("loss_up", 2, "percent", line.loss_up * 100)
    weigh("loss_down", 2, "percent", line.loss_down * 100)
    weigh("delay", 1.5, "ms", round(line.rtt_ms, -1))
    weigh("jitter", 1, "ms", round(max(line.jitter_up_ms, line.jitter_down_ms)))
    if line.over_tcp:
        weighed.append((0, Cause("tcp")))
    return tuple(cause for _, cause in sorted(weighed, key=lambda pair: -pair[0]))


def quality(line: LineFacts) -> int:
    """0 lost, 1 poor, 2 good, 3 excellent."""
    if line.lost:
        return 0
    loss = max(line.loss_up, line.loss_down)
    if loss > 0.10 or line.rtt_ms > 800 or line.held:
        return 1
    late = max(line.jitter_up_ms, line.jitter_down_ms) > JITTER_MS
    if loss > LOSS or line.rtt_ms > 400 or late or _strength(line, "narrow") >= 1:
        return 2
    return 3


def judge(before: Judgement, line: LineFacts, centre: frozenset[str], now: float) -> Judgement:
    """``line``: smoothed facts.

    Worse is said at once when nothing was; a sentence that stands stays its time, only a lost line and its
    return break in.
    """
    narrow_since = None
    if _strength(line, "narrow") >= RELEASE:
        narrow_since = now if before.narrow_since is None else before.narrow_since
        if now - narrow_since < NARROW_AFTER_S:  # the estimate is still on its way up
            line = replace(line, wanted_bps=0.0)
    reasons = causes(line, centre, [reason.code for reason in before.reasons])
    cause, said_at = before.cause, before.said_at
    wish = reasons[0] if reasons else None
    broken = line.lost != before.facts.lost
    if wish != cause and (cause is None or broken or now - said_at >= STANDS_S):
        cause, said_at = wish, now
    level, lowered_at = quality(line), before.lowered_at
    if level <= before.quality:
        if level < 3:
            lowered_at = now
    elif now - lowered_at < STANDS_S and before.quality > 0:
        level = before.quality
    return Judgement(line, reasons, cause, said_at, level, lowered_at, narrow_since)
