"""How many bytes the LZW codes of a TIFF stand for, and whether the codes are valid; no image is made.

Codes have no checksum, but most changes of a byte make a code that is not defined yet, or another length.
"""

from __future__ import annotations

import functools

import numpy as np

#: codes that are no string: the table starts again; the end (TIFF 6.0, section 13)
_CLEAR, _END = 256, 257
#: code of the first string that is defined by what was read
_FIRST_STRING = 258
#: so many codes from a clear code on are 9, 10 and 11 bits wide; all others have 12
_FIRST_OF_WIDTH = (254, 766, 1790)
#: from one clear code to the next: a table has 4,096 strings
_MAX_CODES = 4400
#: bytes for each clear code at the least, beyond the first ones: each costs the time of a whole table here
_MIN_BYTES, _FIRST_CLEARS = 256, 16


def decoded_length(data: bytes) -> int | None:
    """Return how many bytes the codes stand for up to the end code; None where one of them is not valid.

    All bits are used, from the highest of each byte on, as TIFF 6.0 has it. Data of little else than clear
    codes, which no program writes, are not valid.
    """
    # three bytes more: a code may reach into the third byte
    stored = np.frombuffer(data + bytes(3), np.uint8).astype(np.uint32)
    widths, offsets = _widths()
    total = at = 0
    for _ in range(_FIRST_CLEARS + len(data) // _MIN_BYTES):
        is_there = at + offsets + widths <= 8 * len(data)
        places, sizes = at + offsets[is_there], widths[is_there]
        byte = places >> 3
        window = stored[byte] << 16 | stored[byte + 1] << 8 | stored[byte + 2]
        codes = (window >> (24 - (places & 7) - sizes)).astype(np.int64) & (1 << sizes) - 1
        ends = np.flatnonzero((codes == _CLEAR) | (codes == _END))
        count = int(ends[0]) if len(ends) else len(codes)
        length = _length_of(codes[:count])
        if length is None:
            return None
        total += length
        # some writers leave the end code out
        if count == len(codes) or codes[count] == _END:
            return total
        at = int(places[count] + sizes[count])
    return None


@functools.cache
def _widths() -> tuple[np.ndarray, np.ndarray]:
    """Return widths in bits of the codes behind a clear code, and where each begins, int64."""
    widths = 9 + np.searchsorted(_FIRST_OF_WIDTH, np.arange(_MAX_CODES), side="right")
    return widths, np.cumsum(widths) - widths


def _length_of(codes: np.ndarray) -> int | None:
    """Return how many bytes the codes between two clear codes stand for; None where one is not valid."""
    number = np.arange(len(codes))
    # each code but the first defines one more string, which it may be itself
    if (codes >= _FIRST_STRING + number).any():
        return None
    # A string is that of the code at which it was defined and one byte more: chains, which end in a byte.
    # Each round goes twice as far along all of them.
    before = np.append(np.where(codes < _FIRST_STRING, len(codes), codes - _FIRST_STRING), len(codes))
    lengths = np.append(np.ones(len(codes), np.int64), 0)
    while (before < len(codes)).any():
        lengths += lengths[before]
        before = before[before]
    return int(lengths.sum())
