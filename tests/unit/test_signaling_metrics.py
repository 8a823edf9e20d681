"""Workers' counters become families that never go back."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from sfu.messages import ConsumerReport, Counter, LayerReport, ProducerReport, Report
from sfu.params import Kind
from signaling.livekit.lines import WORDS, Judgement, LineFacts, judge
from signaling.metrics import LineCollector, WorkerCollector, WorkerLedger, families

IN = (("direction", "in"), ("kind", "audio"))


def report(*counters: Counter) -> Report:
    return Report((), (), (), counters)


def packets(value: float) -> Counter:
    return Counter("lianxin_packets_total", IN, value)


def total(ledger: WorkerLedger, name: str, labels: tuple[tuple[str, str], ...] = IN) -> float:
    return ledger.totals()[name][labels]


def test_summed_over_workers() -> None:
    ledger = WorkerLedger()
    ledger.observe("w0", report(packets(5)), 1.0)
    ledger.observe("w1", report(packets(7)), 1.0)
    assert total(ledger, "lianxin_packets_total") == 12


def test_a_restart_does_not_take_back_what_was_counted() -> None:
    ledger = WorkerLedger()
    ledger.observe("w0", report(packets(5)), 1.0)
    ledger.on_lost("w0")
    assert total(ledger, "lianxin_packets_total") == 5
    ledger.on_up("w0")
    ledger.observe("w0", report(packets(2)), 2.0)
    assert total(ledger, "lianxin_packets_total") == 7
    assert ledger.restarts == {"w0": 1}


def test_a_counter_that_shrinks_stands_still() -> None:
    """A packet counted as lost came after all: that is no restart."""
    ledger = WorkerLedger()
    for value in (5.0, 3.0, 6.0):
        ledger.observe("w0", report(Counter("lianxin_packets_lost_total", (), value)), value)
    assert total(ledger, "lianxin_packets_lost_total", ()) == 6


def test_measurements_of_a_lost_worker_are_gone() -> None:
    ledger = WorkerLedger()
    ledger.observe("w0", report(Counter("lianxin_worker_transports", (), 3)), 1.0)
    ledger.on_lost("w0")
    assert "lianxin_worker_transports" not in ledger.totals()
    assert ledger.value("w0", "lianxin_worker_transports") == 0


def test_cpu_of_the_last_second() -> None:
    ledger = WorkerLedger()
    for at, cpu in ((1.0, 10.0), (2.0, 10.25)):
        ledger.observe("w0", report(Counter("lianxin_worker_cpu_seconds_total", (), cpu)), at)
    assert ledger.cpu_percent("w0") == 25.0


def test_bit_rates_and_losses_of_streams() -> None:
    layers = tuple(LayerReport(n, n, 1000.0, 1, 1, 0, 0, 30, 640, 360) for n in range(3))
    ledger = WorkerLedger()
    ledger.observe(
        "w0",
        Report(
            (ProducerReport("p", Kind.VIDEO, 0.5, layers),),
            (
                ConsumerReport("a", Kind.VIDEO, 700.0, 1, 1, 0.1, 1, 0),
                ConsumerReport("b", Kind.VIDEO, 300.0, 1, 1, 0.3, 1, 0),
            ),
            (),
            (),
        ),
        1.0,
    )
    video = [(("direction", d), ("kind", "video")) for d in ("in", "out")]
    assert [total(ledger, "lianxin_rtp_bitrate_bps", v) for v in video] == [3000.0, 1000.0]
    assert [total(ledger, "lianxin_rtp_loss_ratio", v) for v in video] == [0.5, 0.2]


def test_families_have_prometheus_names_types_and_help() -> None:
    registry = CollectorRegistry()
    ledger = WorkerLedger()
    ledger.observe(
        "w0",
        report(packets(5), Counter("lianxin_worker_transports", (), 2), Counter("lianxin_odd_ms", (), 1500)),
        1.0,
    )
    registry.register(WorkerCollector(ledger, lambda: ["w0"]))
    text = generate_latest(registry).decode()
    found = {f.name: f for f in text_string_to_metric_families(text)}
    assert found["lianxin_rtp_packets"].type == "counter"
    assert found["lianxin_rtp_packets"].samples[0].labels == dict(IN)
    assert found["lianxin_worker_transports"].samples[0].labels == {"worker": "w0"}
    assert found["lianxin_odd_seconds"].samples[0].value == 1.5
    assert found["lianxin_worker_up"].samples[0].value == 1
    assert all(f.documentation for f in found.values())


def test_a_histogram_is_summed_over_workers_and_restarts() -> None:
    registry = CollectorRegistry()
    ledger = WorkerLedger()

    def relayed(fast: float, all_of_them: float, seconds: float) -> Report:
        return report(
            Counter("lianxin_relay_seconds_bucket", (("le", "0.001"),), fast),
            Counter("lianxin_relay_seconds_bucket", (("le", "+Inf"),), all_of_them),
            Counter("lianxin_relay_seconds_sum", (), seconds),
        )

    ledger.observe("w0", relayed(3, 4, 0.5), 1.0)
    ledger.on_lost("w0")
    ledger.observe("w0", relayed(1, 1, 0.25), 2.0)
    ledger.observe("w1", relayed(0, 2, 1.0), 2.0)
    registry.register(WorkerCollector(ledger, list))
    found = {f.name: f for f in text_string_to_metric_families(generate_latest(registry).decode())}
    family = found["lianxin_relay_seconds"]
    assert family.type == "histogram"
    values = {(sample.name, sample.labels.get("le")): sample.value for sample in family.samples}
    assert values == {
        ("lianxin_relay_seconds_bucket", "0.001"): 4,
        ("lianxin_relay_seconds_bucket", "+Inf"): 7,
        ("lianxin_relay_seconds_count", None): 7,
        ("lianxin_relay_seconds_sum", None): 1.75,
    }


def test_a_name_that_prometheus_can_not_have_is_left_out() -> None:
    assert list(families({"bad-name": {(): 1.0}})) == []


def test_lines_are_counted_by_fault_whoever_has_it() -> None:
    lossy, narrow = LineFacts(loss_up=0.2, over_tcp=True), LineFacts(held=2)
    lines = [judge(Judgement(), facts, frozenset(), 0.0) for facts in (lossy, lossy, narrow, LineFacts())]
    registry = CollectorRegistry()
    registry.register(LineCollector(lambda: lines))
    text = generate_latest(registry).decode()
    samples = {f.name: f.samples for f in text_string_to_metric_families(text)}
    faults = {s.labels["fault"]: s.value for s in samples["lianxin_line_faults"]}
    assert {code for code, count in faults.items() if count} == {"loss_up", "tcp", "held"}
    assert (faults["loss_up"], faults["held"]) == (2, 1)
    assert set(faults) == set(WORDS)
