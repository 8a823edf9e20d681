"""One client's leg: ICE finds its address, DTLS lets it in and yields SRTP keys, SCTP carries its data.

Media itself does not come through here: the relay forwards it once this transport has opened the leg.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from sfu.drops import DropReason, Drops
from sfu.dtls import DtlsIdentity, DtlsState, DtlsTransport
from sfu.ice import IceLite, IceState
from sfu.messages import DataChannelOpened, DataReceived, TransportState
from sfu.params import DtlsFingerprint, SrtpKeys
from sfu.sctp import DataChannels
from sfu.seams import Address, Emit, Legs

logger = logging.getLogger(__name__)


class ClientTransport:
    """Owns the client's DTLS and data channels; its ICE state lives in the port's IceLite."""

    def __init__(
        self,
        router_id: str,
        transport_id: str,
        *,
        ice: IceLite,
        relay: Legs,
        identity: DtlsIdentity,
        emit: Emit,
        clock_ms: Callable[[], float],
        drops: Drops,
        count_dtls_failure: Callable[[str], None],
    ) -> None:
        self.router_id = router_id
        self.transport_id = transport_id
        self._ice = ice
        self._relay = relay
        self._emit = emit
        self._drops = drops
        self._count_dtls_failure = count_dtls_failure
        self._selected: Address | None = None
        self._state = "new"
        self._closed = False
        self.dtls = DtlsTransport(identity, self._send_dtls, self, clock_ms, drops)
        self.data = DataChannels(self.dtls, self, drops)
        self.ice_parameters = ice.open(transport_id)

    # ------------------------------------------------------------ requests

    def connect(self, fingerprints: tuple[DtlsFingerprint, ...]) -> None:
        self._ice.expect(self.transport_id)
        self.dtls.expect(fingerprints)

    def restart_ice(self) -> None:
        self.ice_parameters = self._ice.restart(self.transport_id)

    def close(self) -> None:
        """Idempotent; tells the client by close_notify."""
        if self._closed:
            return
        self._closed = True
        self.data.close()
        self.dtls.close()
        self._ice.close(self.transport_id)
        self._relay.close_leg(self.transport_id)
        self._enter("closed")

    # ------------------------------------------------------------ from the port

    def on_dtls(self, data: bytes, address: Address) -> None:
        """A datagram from an address that this leg has validated."""
        if self._selected is None:
            self._selected = address
        self.dtls.on_datagram(data)

    def ice_selected(self, address: Address) -> None:
        self._selected = address
        self._relay.bind_leg(self.transport_id, address)

    def ice_state(self, state: IceState) -> None:
        if state is IceState.FAILED:
            self._enter("failed")
        elif self.dtls.dtls_state is DtlsState.CONNECTED:
            self._enter("connected" if state is IceState.CONNECTED else "disconnected")

    def tick(self, now_ms: float) -> None:
        self.dtls.tick(now_ms)

    # ------------------------------------------------------------ DtlsObserver

    def dtls_connected(self, keys: SrtpKeys) -> None:
        self._relay.open_leg(self.transport_id, keys)
        if self._selected is not None:
            self._relay.bind_leg(self.transport_id, self._selected)
        if self._ice.state(self.transport_id) is IceState.CONNECTED:
            self._enter("connected")
        self.data.on_dtls_connected()

    def dtls_ended(self, state: DtlsState, reason: str) -> None:
        if state is DtlsState.FAILED:
            self._count_dtls_failure(reason)
            logger.info("transport %s: DTLS failed (%s)", self.transport_id, reason)
            self._enter("failed")
        else:
            self._enter("closed")

    def dtls_received(self, data: bytes) -> None:
        self._ice.note_alive(self.transport_id)
        self.data.on_packet(data)

    # ------------------------------------------------------------ DataObserver

    def channel_opened(self, label: str) -> None:
        self._emit(DataChannelOpened(self.transport_id, label))

    def data_received(self, label: str, payload: bytes) -> None:
        self._emit(DataReceived(self.transport_id, label, payload))

    # ------------------------------------------------------------ inside

    def _send_dtls(self, datagram: bytes) -> None:
        if self._selected is None:
            self._drops.count(DropReason.DTLS_UNKNOWN_ADDRESS)
            return
        self._relay.send(datagram, self._selected)

    def _enter(self, state: str) -> None:
        if self._state == state or self._state == "closed":
            return
        # A DTLS failure is for good; a lost path may come back.
        if self._state == "failed" and self.dtls.dtls_state is DtlsState.FAILED and state != "closed":
            return
        self._state = state
        self._emit(TransportState(self.transport_id, state))
