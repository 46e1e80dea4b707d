"""Frames: a 4-byte big-endian length, then that many bytes of payload.

Sans-IO: bytes in, whole payloads out. Spec: ``spec/30-transport.md``.
"""

from __future__ import annotations

import struct

from spore_borg.errors import LocalProtocolError, RemoteProtocolError
from spore_borg.limits import FRAME_SIZE_BYTES_MAX

HEADER_BYTES = 4
_LENGTH = struct.Struct("!I")


def encode_frame(payload: bytes) -> bytes:
    """One frame that holds ``payload``.

    Raises:
        LocalProtocolError: the payload is empty or over ``FRAME_SIZE_BYTES_MAX``.
    """
    if not 0 < len(payload) <= FRAME_SIZE_BYTES_MAX:
        raise LocalProtocolError(detail=f"a frame of {len(payload)} bytes")
    return _LENGTH.pack(len(payload)) + payload


class FrameDecoder:
    """Cuts a stream of bytes into payloads; holds at most one unfinished frame."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    @property
    def buffered_bytes(self) -> int:
        """Bytes that wait for the rest of their frame."""
        return len(self._buffer)

    def receive(self, data: bytes) -> list[bytes]:
        """Take bytes from the peer and return the payloads that they complete, in order.

        Raises:
            RemoteProtocolError: a length of 0 or over ``FRAME_SIZE_BYTES_MAX``; refused at its header,
                before any of the payload is kept.
        """
        buffer = self._buffer
        buffer += data
        done: list[bytes] = []
        start = 0
        while len(buffer) - start >= HEADER_BYTES:
            (size,) = _LENGTH.unpack_from(buffer, start)
            if not 0 < size <= FRAME_SIZE_BYTES_MAX:
                buffer.clear()
                raise RemoteProtocolError(detail=f"a frame of {size} bytes")
            end = start + HEADER_BYTES + size
            if len(buffer) < end:
                break
            done.append(bytes(buffer[start + HEADER_BYTES : end]))
            start = end
        if start:
            del buffer[:start]
        return done
