"""What a worker and its control process say to each other before the first request."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """What a worker needs to know.

    ``addresses``: what clients are told (empty = the machine's interfaces); ``loopback``: 127.0.0.1 too;
    ``udp_port`` 0: any free one.  ``tcp_port``: for networks that drop UDP (RFC 6544), 0: any free one,
    None: no TCP.  ``native``: let the C relay forward where it can be had.
    """

    worker_id: str
    udp_port: int
    addresses: tuple[str, ...] = ()
    loopback: bool = False
    tcp_port: int | None = None
    native: bool = True


@dataclass(frozen=True, slots=True)
class WorkerReady:
    """The worker's first frame: its port is bound."""

    udp_port: int
    tcp_port: int | None = None


@dataclass(frozen=True, slots=True)
class WorkerRefused:
    """The worker's only frame: it can't begin."""

    reason: str
