"""The machine's addresses as ICE host candidates, found without any package or outside server."""

from __future__ import annotations

import ctypes
import fcntl
import ipaddress
import socket
import struct
from collections.abc import Sequence

from sfu.params import IceCandidate

SIOCGIFCONF = 0x8912
SIOCGIFFLAGS = 0x8913
IFF_UP = 0x1
IFREQ = struct.Struct("16s16s8x" if struct.calcsize("P") == 8 else "16s16s")
MAX_INTERFACES = 256
HOST_TYPE_PREFERENCE = 126  # RFC 8445 §5.1.2.1
TCP_TYPE_PREFERENCE = 90  # RFC 6544 §4.2: below every UDP candidate
PASSIVE_PREFERENCE = 4  # of 7, for a host candidate that waits for connections


def interface_addresses() -> tuple[str, ...]:
    """IPv4 addresses of the interfaces that are up, loopback last (netdevice(7), Linux only)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        buffer = bytearray(IFREQ.size * MAX_INTERFACES)
        # The kernel fills the buffer that the struct ifconf points to and writes back the filled length.
        conf = fcntl.ioctl(sock, SIOCGIFCONF, struct.pack("iP", len(buffer), _address_of(buffer)))
        (filled, _) = struct.unpack("iP", conf)
        found: list[str] = []
        for offset in range(0, filled, IFREQ.size):
            name, sockaddr = IFREQ.unpack_from(buffer, offset)
            if struct.unpack_from("H", sockaddr)[0] != socket.AF_INET:
                continue
            flags = fcntl.ioctl(sock, SIOCGIFFLAGS, IFREQ.pack(name, b""))
            if struct.unpack_from("H", flags, 16)[0] & IFF_UP:
                found.append(socket.inet_ntoa(sockaddr[4:8]))
    return tuple(sorted(dict.fromkeys(found), key=_is_loopback))


def candidate_addresses(configured: Sequence[str], loopback: bool) -> tuple[str, ...]:
    """``configured`` when given, otherwise the interfaces' addresses; loopback only when asked for.

    A machine without any network still serves itself: then loopback is what is left.
    """
    if configured:
        return tuple(dict.fromkeys(configured))
    addresses = interface_addresses()
    reachable = tuple(a for a in addresses if loopback or not _is_loopback(a))
    return reachable or ("127.0.0.1",)


def host_candidates(addresses: Sequence[str], port: int) -> tuple[IceCandidate, ...]:
    """Host candidates in order of preference (RFC 8445 §5.1.2.1, §5.3): one foundation per address."""
    candidates = []
    for index, address in enumerate(addresses):
        local_preference = 65535 - index
        priority = (HOST_TYPE_PREFERENCE << 24) | (local_preference << 8) | 255
        candidates.append(IceCandidate(foundation=str(index + 1), ip=address, port=port, priority=priority))
    return tuple(candidates)


def tcp_candidates(addresses: Sequence[str], port: int) -> tuple[IceCandidate, ...]:
    """Passive host candidates over TCP (RFC 6544 §4.2): chosen only where no UDP comes through."""
    candidates = []
    for index, address in enumerate(addresses):
        local_preference = (PASSIVE_PREFERENCE << 13) | (8191 - index)
        priority = (TCP_TYPE_PREFERENCE << 24) | (local_preference << 8) | 255
        candidates.append(
            IceCandidate(f"tcp{index + 1}", address, port, priority, protocol="tcp", tcp_type="passive")
        )
    return tuple(candidates)


def bind_address(addresses: Sequence[str]) -> str:
    """Where the media socket listens: on loopback alone if every candidate is, otherwise everywhere.

    Not on a single candidate's address: it may be one that a router in front translates to us.
    """
    return "127.0.0.1" if addresses and all(_is_loopback(a) for a in addresses) else "0.0.0.0"


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False  # a host name as candidate: mDNS and DNS are the client's business


def _address_of(buffer: bytearray) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))
