"""SRTP and SRTCP (RFC 3711, RFC 7714) by libsrtp, called directly on buffers that are used again.

pylibsrtp's ``Session.protect`` copies twice and allocates for each call; its private ``_binding`` module
lets us call libsrtp in place.  The name is private, so the version is pinned by the lock and
``self_test`` runs at start.
"""

from __future__ import annotations

import importlib
from typing import Any

from pylibsrtp import Error as SrtpLibraryError
from pylibsrtp import Policy, Session

from sfu.params import SrtpKeys

_binding: Any = importlib.import_module("pylibsrtp._binding")
ffi: Any = _binding.ffi
lib: Any = _binding.lib

PROFILES: dict[str, int] = {
    "aead_aes_128_gcm": Policy.SRTP_PROFILE_AEAD_AES_128_GCM,
    "aead_aes_256_gcm": Policy.SRTP_PROFILE_AEAD_AES_256_GCM,
    "aes128_cm_sha1_80": Policy.SRTP_PROFILE_AES128_CM_SHA1_80,
}

BUFFER_SIZE = 2048
TRAILER_ROOM = 160  # SRTP_MAX_TRAILER_LEN and the SRTCP index
# Late originals and retransmissions come after up to a second of newer packets (3 Mbit/s is 300 packets/s)
REPLAY_WINDOW = 1024

OK = 0
AUTH_FAIL = 7  # srtp_err_status_auth_fail
REPLAY_FAIL = 9
REPLAY_OLD = 10


class SrtpError(Exception):
    """Keys or profile that libsrtp refuses, or a packet that it can't protect."""


def open_session(profile: str, key: bytes, *, outbound: bool) -> Session:
    """A session for any SSRC of one direction.  ``key`` is master key and salt concatenated."""
    number = PROFILES.get(profile)
    if number is None:
        raise SrtpError(f"unknown SRTP profile {profile!r}")
    try:
        policy = Policy(
            key=bytes(key),
            ssrc_type=Policy.SSRC_ANY_OUTBOUND if outbound else Policy.SSRC_ANY_INBOUND,
            srtp_profile=number,
        )
        # Only a receiver without RTX makes us send a number twice, and then byte for byte the same packet
        policy.allow_repeat_tx = outbound
        policy.window_size = REPLAY_WINDOW
        return Session(policy)
    except (SrtpLibraryError, ValueError, TypeError) as error:
        raise SrtpError(str(error)) from error


class SrtpLeg:
    """The four sessions of one leg.  RTP and RTCP are apart so that a native relay can own RTP alone."""

    __slots__ = ("_sessions", "receive", "receive_rtcp", "send", "send_rtcp")

    def __init__(self, keys: SrtpKeys) -> None:
        self._sessions = (
            open_session(keys.profile, keys.receive, outbound=False),
            open_session(keys.profile, keys.receive, outbound=False),
            open_session(keys.profile, keys.send, outbound=True),
            open_session(keys.profile, keys.send, outbound=True),
        )
        # srtp_t handles; valid as long as _sessions live
        self.receive, self.receive_rtcp, self.send, self.send_rtcp = (
            session._srtp[0] for session in self._sessions
        )


class SrtpBuffer:
    """One packet in memory that libsrtp and Python share.  ``view`` is writable, ``size`` an ``int *``."""

    __slots__ = ("memory", "size", "view")

    def __init__(self) -> None:
        self.memory = ffi.new("char[]", BUFFER_SIZE)
        self.view = memoryview(ffi.buffer(self.memory)).cast("B")
        self.size = ffi.new("int *")


def self_test() -> None:
    """Raises SrtpError when the pinned library does not behave as this module expects."""
    keys = SrtpKeys("aead_aes_128_gcm", bytes(28), bytes(28))
    leg, buffer = SrtpLeg(keys), SrtpBuffer()
    plain = bytes.fromhex("80600001000000010000000a") + b"lianxin"
    buffer.view[: len(plain)] = plain
    buffer.size[0] = len(plain)
    if lib.srtp_protect(leg.send, buffer.memory, buffer.size) != OK or buffer.size[0] != len(plain) + 16:
        raise SrtpError("srtp_protect does not work as expected")
    if lib.srtp_unprotect(leg.receive, buffer.memory, buffer.size) != OK:
        raise SrtpError("srtp_unprotect does not work as expected")
    if bytes(buffer.view[: buffer.size[0]]) != plain:
        raise SrtpError("SRTP round trip changed the packet")
