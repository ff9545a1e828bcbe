"""Spoil an input: blindly as bytes, and knowing what it is (JSON, lines, gzip, zip, safetensors).

All of it follows from the generator that is passed in: the same seed gives the same input.
"""

from __future__ import annotations

import copy
import gzip
import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from random import Random
from typing import Any

NUMBERS = [0, 1, 2, 3, 4, 7, 8, 15, 16, 127, 128, 255, 256, 32767, 65535, 65536, 10**6, 1 << 24, (1 << 31) - 1, 1 << 31,
           (1 << 32) - 1, 1 << 32, (1 << 53) + 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, -1, -2, -(1 << 31), -(1 << 63)]
TEXTS = ["", "0", "-1", "-0", "1e999", "inf", "-inf", "nan", "NaN", "Infinity", "1e-999", "9" * 500, "9" * 5000, "²",
         "٣", "1_000", "0x10", " 1", "1 ", "true", "null", "None", "[]", "{}", "(1,", "\0", "\x1b[2J", "\u2028",
         "\u202e", "\ud800", "../../x", "/dev/zero", "%s%n", "a" * 3000, "[" * 2000, "{" * 2000, "(" * 2000, "é",
         "`lr`", "\t", "\n"]
VALUES: list[Any] = [None, True, False, 0, -1, 1.5, 10**30, -(10**30), float("inf"), float("-inf"), float("nan"), "",
                     "x", "9" * 400, "\ud800", "\x1b[31m", [], {}, [[]], [None], {"": None}, [1] * 100, "a" * 3000]
MAX_BYTES = 1 << 20


def mutate(random: Random, seeds: list[bytes], structure: str) -> bytes:
    """Return one of the seeds, changed in one to eight ways."""
    data = random.choice(seeds)
    if structure in STRUCTURES and random.random() < 0.6:
        changed = STRUCTURES[structure](random, data)
        if changed is not None:
            # what was changed knowingly is then sometimes damaged as well
            data = changed if random.random() < 0.8 else _some_bytes(random, changed, seeds)
            return data[:MAX_BYTES]
    return _some_bytes(random, data, seeds)[:MAX_BYTES]


def _some_bytes(random: Random, data: bytes, seeds: list[bytes]) -> bytes:
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 3, 8))):
        random.choice(BYTES)(random, changed, seeds)
    return bytes(changed)


def _flip(random: Random, data: bytearray, _seeds: list[bytes]) -> None:
    if data:
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)


def _set(random: Random, data: bytearray, _seeds: list[bytes]) -> None:
    if data:
        data[random.randrange(len(data))] = random.choice((0, 1, 0x7F, 0x80, 0xFF, random.randrange(256)))


def _number(random: Random, data: bytearray, _seeds: list[bytes]) -> None:
    """Put an extreme number, or one a little off, where a field may be: most fields are near the beginning."""
    size = random.choice((1, 2, 4, 4, 8, 8))
    if len(data) < size:
        return
    reach = len(data) - size
    at = random.randint(0, min(reach, 64) if random.random() < 0.5 else reach)
    at -= at % random.choice((1, 2, 4))
    order = random.choice(("little", "big"))
    number = random.choice(NUMBERS)
    if random.random() < 0.4:
        number = int.from_bytes(data[at:at + size], order) + random.choice((-8, -4, -1, 1, 4, 8, 256))
    data[at:at + size] = (number % (1 << 8 * size)).to_bytes(size, order)


def _remove(random: Random, data: bytearray, _seeds: list[bytes]) -> None:
    begin = random.randint(0, len(data))
    del data[begin:begin + random.choice((1, 2, 4, 8, 16, 100, 1000))]


def _cut(random: Random, data: bytearray, _seeds: list[bytes]) -> None:
    del data[random.randint(0, len(data)):]


def _repeat(random: Random, data: bytearray, _seeds: list[bytes]) -> None:
    begin = random.randint(0, len(data))
    piece = bytes(data[begin:begin + random.choice((1, 4, 8, 32, 200))])
    data[begin:begin] = piece * random.choice((1, 2, 10, 300))


def _insert(random: Random, data: bytearray, _seeds: list[bytes]) -> None:
    begin = random.randint(0, len(data))
    data[begin:begin] = random.choice((random.randbytes(random.randint(1, 16)),
                                       random.choice(TEXTS).encode("utf-8", "surrogatepass")))


def _splice(random: Random, data: bytearray, seeds: list[bytes]) -> None:
    other = random.choice(seeds)
    begin = random.randint(0, len(other))
    at = random.randint(0, len(data))
    piece = other[begin:begin + random.choice((4, 16, 64, 1000))]
    data[at:at + random.choice((0, len(piece)))] = piece


def _move(random: Random, data: bytearray, _seeds: list[bytes]) -> None:
    begin = random.randint(0, len(data))
    piece = data[begin:begin + random.choice((4, 8, 64))]
    del data[begin:begin + len(piece)]
    at = random.randint(0, len(data))
    data[at:at] = piece


BYTES: list[Callable[[Random, bytearray, list[bytes]], None]] = [
    _flip, _flip, _set, _set, _number, _number, _number, _remove, _cut, _repeat, _insert, _splice, _move]


# ---- what it is


def _json(random: Random, data: bytes) -> bytes | None:
    """Change members of a JSON document, or put far too much into one."""
    try:
        document = [json.loads(data)]
    except (ValueError, RecursionError):
        return None
    for _ in range(random.choice((1, 1, 2, 4))):
        places = _places(document)
        container, key = random.choice(places)
        choice = random.random()
        if choice < 0.6:
            container[key] = copy.deepcopy(random.choice(VALUES))
        elif choice < 0.75:
            other, other_key = random.choice(places)
            container[key] = json.loads(json.dumps(other[other_key]))
        elif choice < 0.85 and isinstance(container, dict):
            del container[key]
        elif isinstance(container, list) and container is not document:
            container.extend([container[key]] * random.choice((1, 5, 1000)))
        elif isinstance(container, dict):
            container[random.choice(TEXTS)] = container[key]
        if not document:
            return b""
    text = json.dumps(document[0])
    if random.random() < 0.1:  # what a document cannot hold, in place of a number
        text = text.replace("1", random.choice(("9" * 6000, "[" * 100_000, "1e999", "-")), 1)
    return text.encode()


def _places(document: list[Any]) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    pending: list[Any] = [document]
    while pending and len(found) < 2000:
        container = pending.pop()
        for key in list(container) if isinstance(container, dict) else range(len(container)):
            found.append((container, key))
            if isinstance(container[key], (dict, list)):
                pending.append(container[key])
    return found


def _lines(random: Random, data: bytes) -> bytes:
    """Change words and lines of a text."""
    lines = data.split(b"\n")
    for _ in range(random.choice((1, 1, 2, 5))):
        at = random.randrange(len(lines))
        words = lines[at].split(b"\t") if b"\t" in lines[at] else lines[at].split(b" ")
        word = random.choice([*TEXTS, *map(str, NUMBERS)]).encode("utf-8", "surrogatepass")
        choice = random.random()
        if choice < 0.6:
            words[random.randrange(len(words))] = word
            lines[at] = (b"\t" if b"\t" in lines[at] else b" ").join(words)
        elif choice < 0.7:
            lines[at] += word
        elif choice < 0.8:
            lines.insert(at, random.choice(lines) * random.choice((1, 2, 500)))
        elif choice < 0.9 and len(lines) > 1:
            del lines[at]
        else:
            lines[at] = lines[at][:random.randint(0, len(lines[at]))]
    return b"\n".join(lines)


def _gzip(random: Random, data: bytes) -> bytes | None:
    try:
        content = gzip.decompress(data)
    except (OSError, EOFError, zlib.error):
        return None
    changed = _some_bytes(random, content, [content])
    if random.random() < 0.05:  # a bomb
        changed += bytes(50_000_000)
    return gzip.compress(changed, 1, mtime=0)


def _zip(random: Random, data: bytes) -> bytes | None:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [(name, archive.read(name)) for name in archive.namelist()]
    except Exception:  # Python's reader has many words for what is no zip
        return None
    at = random.randrange(len(members))
    name, content = members[at]
    choice = random.random()
    if choice < 0.6:
        members[at] = name, _some_bytes(random, content, [content])
    elif choice < 0.7:
        members.append((name.swapcase() if random.random() < 0.5 else f"{name}x", content))
    elif choice < 0.8:
        del members[at]
    elif choice < 0.9:
        members[at] = name, bytes(random.choice((0, 100, 1_000_000)))
    else:
        random.shuffle(members)
    target = io.BytesIO()
    compression = random.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(target, "w", compression) as archive:
        for number, (name, content) in enumerate(members):
            # a time of its own would make two runs differ
            info = zipfile.ZipInfo(name or str(number))
            info.compress_type = compression
            archive.writestr(info, content)
    return target.getvalue()


def _safetensors(random: Random, data: bytes) -> bytes | None:
    """Change the JSON header of safetensors, or the JSON of ours inside it, and put the right length before it."""
    if len(data) < 8:
        return None
    length = int.from_bytes(data[:8], "little")
    header = data[8:8 + length]
    try:
        document = json.loads(header)
        inner = document["__metadata__"]["imgcls"].encode()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    if random.random() < 0.6:
        document["__metadata__"]["imgcls"] = (_json(random, inner) or b"").decode("utf-8", "replace")
        header = json.dumps(document).encode()
    else:
        header = _json(random, header) or b""
    return struct.pack("<Q", len(header)) + header + data[8 + length:]


STRUCTURES: dict[str, Callable[[Random, bytes], bytes | None]] = {
    "json": _json, "lines": _lines, "gzip": _gzip, "zip": _zip, "safetensors": _safetensors}
