"""Write TensorBoard's event files, only what scalars need: TFRecord framing around a small protobuf.

Layout (TensorFlow's record_writer.h and event.proto), little-endian: length as u64, masked CRC32C of it as
u32, the event, masked CRC32C of that. An event: 1 wall time (double), 2 step (int64), 3 version of the file
(text), 5 summary {1 value {1 tag (text), 2 number (float)}}, 7 session {1 status}.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

#: of the event that begins a session: TensorBoard then forgets later steps of earlier files (a resumed run)
_SESSION_START = b"\x08\x01"


def _crc_table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)  # Castagnoli's polynomial, bits reversed
        table.append(byte)
    return table


_TABLE = _crc_table()


def version_record(wall_time: float) -> bytes:
    """Return what a file begins with."""
    return _record(wall_time, 0, _field(3, b"brain.Event:2"))


def session_record(wall_time: float, step: int) -> bytes:
    """Return the start of a session at this step: TensorBoard drops earlier events of this step and later."""
    return _record(wall_time, step, _field(7, _SESSION_START))


def scalars_record(wall_time: float, step: int, values: Mapping[str, float]) -> bytes:
    """Return an event with these scalars, tag -> value (written as float32), at this step."""
    # 0x15 is the tag of field 2 as a float of 32 bits
    summary = b"".join(_field(1, _field(1, tag.encode()) + b"\x15" + struct.pack("<f", value))
                       for tag, value in values.items())
    return _record(wall_time, step, _field(5, summary))


def masked_crc(data: bytes) -> int:
    """Return the CRC32C as TFRecord stores it: rotated, and with a constant added."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _record(wall_time: float, step: int, content: bytes) -> bytes:
    # 0x09 is the tag of field 1 as a double, 0x10 that of field 2 as a varint
    event = b"\x09" + struct.pack("<d", wall_time) + b"\x10" + _varint(step) + content
    length = struct.pack("<Q", len(event))
    return length + struct.pack("<I", masked_crc(length)) + event + struct.pack("<I", masked_crc(event))


def _field(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    # seven bits a byte, the lowest first; the highest bit says that another byte follows
    pieces = bytearray()
    while value > 0x7F:
        pieces.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*pieces, value])
