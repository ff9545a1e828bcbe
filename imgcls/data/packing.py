"""Packing: the images of a list, read, shrunk and encoded by threads, written to a `.rec` in that order.

`pack_list` is what `im2rec` does for each list; `check_image` is how it, and `verify`, tell a damaged image.
The bytes are those that MXNet's im2rec.py writes, with the same OpenCV. No command line and no printing here.

Files are read first and decoded from memory, so any file name works. As OpenCV does it: EXIF orientation is
applied (not with color -1), 16-bit becomes 8-bit, CMYK becomes BGR, alpha is dropped, of an animation the
first picture is taken. Whatever cannot be packed is left out and told; it never ends the run.
"""

from __future__ import annotations

import os
import random
import struct
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from imgcls import errors
from imgcls.errors import first_line
from imgcls.formats.lists import ListEntry
from imgcls.formats.recordio import MAX_PAYLOAD_BYTES, Block, ImageHeader, RecordReader, RecordWriter, pack, unpack

Item = TypeVar("Item")
Result = TypeVar("Result")

#: finished work that waits for the writer; beyond it the threads wait too
_HOLD_BYTES = 256 << 20
#: the same, counted: one slow image in front must not let the others run ahead without end
_HOLD_ITEMS_PER_THREAD = 64
#: files that are stored as they are: so many go into a block, and a thread is so many blocks ahead
_BLOCK_FILES, _BLOCKS_AHEAD = 16, 2
#: so much is written before the disk is made to begin with it
_SYNC_BYTES = 48 << 20

_JPEG = b"\xff\xd8\xff"
_SCAN, _END = 0xDA, 0xD9
_PNG = b"\x89PNG\r\n\x1a\n"
_KINDS = {_JPEG: "JPEG", _PNG: "PNG", b"GIF8": "GIF", b"BM": "BMP", b"RIFF": "WebP", b"II*\0": "TIFF",
          b"MM\0*": "TIFF"}


@dataclass(frozen=True)
class PackConfig:
    """What is done to an image before it is stored. The defaults are im2rec.py's."""

    pass_through: bool = False          # store the file's bytes, whatever they are
    resize: int = 0                     # pixels of the short edge; 0: as it is
    center_crop: bool = False           # to a square, before the resize
    color: int = 1                      # 1: BGR, 0: grey, -1: as stored (alpha, 16 bits)
    quality: int = 95                   # JPEG 1-100; PNG: compression 0-9
    encoding: str = ".jpg"              # or .png
    inter_method: int = 1               # 0-4 as in OpenCV, 9: by direction, 10: one of 0-4 by chance
    pack_label: bool = False            # several labels of a line: all of them
    repeat_first_label: bool = False    # with all of them, the first in the header too (as the C++ tool)
    seekable: bool = False              # restart markers in JPEGs: a part can be decoded without the rest
    num_threads: int = 1


class Skipped(NamedTuple):
    """An entry that was not packed, and why."""

    entry: ListEntry
    reason: str


@dataclass
class Packed:
    """What became of a list."""

    records: int = 0
    size_bytes: int = 0
    skipped: list[Skipped] = field(default_factory=list)


def pack_list(entries: Sequence[ListEntry], root: str, path: str | os.PathLike[str], config: PackConfig, *,
              watch: Callable[[int], object] = lambda count: None, join: bool = True) -> Packed:
    """Write `path` (a `.rec`) and its `.idx` from the images under `root`, in the order of `entries`.

    Both appear when all is done, or not at all. `watch` is told after each entry how many there were. Without
    `join`, root and path are put together as they are, with no separator.
    """
    packed = Packed()
    base = os.path.join(root, "") if join else root

    def file_of(entry: ListEntry) -> str:
        return os.path.join(base, entry.path) if join else base + entry.path

    def encode(entry: ListEntry) -> bytes | str:
        return _encode(entry, file_of(entry), config)

    # Files that are stored as they are need no decoder, nor the time to load one.
    with (nullcontext() if config.pass_through else quiet_opencv(), RecordWriter(path) as writer,
          _Syncer(writer) as syncer):
        if config.pass_through and not config.seekable:
            _store_files(entries, file_of, config, writer, syncer, packed, watch)
            return packed
        results = in_order(encode, entries, config.num_threads, len)
        for count, (entry, result) in enumerate(zip(entries, results, strict=True), 1):
            if isinstance(result, str):
                packed.skipped.append(Skipped(entry, result))
            else:
                writer.write(result, entry.id)
                syncer.notify()
            watch(count)
        packed.records, packed.size_bytes = writer.count, writer.size_bytes
    return packed


def convert(source: str | os.PathLike[str], path: str | os.PathLike[str], num_threads: int, *,
            watch: Callable[[int], object] = lambda count: None) -> Packed:
    """Write `path` with the records of another file, their JPEGs made seekable without loss of a coefficient.

    Labels, ids, keys and whatever is no JPEG stay as they are. A damaged file is a DataError. Needs `jpegtran`.
    """
    reader = RecordReader(source)
    if reader.problems:
        raise reader.problems[0]

    def change(i: int) -> bytes:
        payload = bytes(reader.payload(i))
        try:
            image = unpack(payload)[2]
        except ValueError:
            return payload
        return payload[:len(payload) - len(image)] + with_restarts(bytes(image))

    with RecordWriter(path) as writer:
        keys = reader.keys.tolist()
        for count, payload in enumerate(in_order(change, range(len(reader)), num_threads, len), 1):
            writer.write(payload, keys[count - 1])
            watch(count)
        return Packed(writer.count, writer.size_bytes)


def check_image(data: bytes | memoryview) -> str:
    """What is wrong with an encoded image as far as its framing tells: empty or cut; an empty string if
    nothing.

    OpenCV's versions differ in what they make of a JPEG that ends too early: a half grey picture, or none. So
    it is looked for here: the end marker must stand behind the beginning of the picture. Costs microseconds.
    """
    if not len(data):
        return "it is empty"
    head = bytes(data[:8])
    if head.startswith(_JPEG):
        begin = _jpeg_scan(data)
        if begin < 0:
            return "a JPEG that ends or breaks off in its header"
        # Inside the picture's data an 0xFF is always followed by something else. Mostly it ends with the marker: then
        # there is no need to copy all of it.
        ends = b"\xff\xd9" in bytes(data[max(begin, len(data) - 16):]) or bytes(data).rfind(b"\xff\xd9") >= begin
        return "" if ends else "a JPEG that is cut: its end marker is missing"
    if head == _PNG and b"IEND" not in bytes(data[-4096:]) and b"IEND" not in bytes(data):
        return "a PNG that is cut: its end chunk is missing"
    return ""


def decode(data: bytes | memoryview, color: int) -> np.ndarray | str:
    """The pixels of an encoded image, (H, W) or (H, W, C) in OpenCV's order, or why there are none."""
    import cv2

    reason = check_image(data)
    if reason:
        return reason
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), color)
    except cv2.error as error:
        return f"{kind_of(data)}: {first_line(error)[:200]}"
    if image is None:
        kind = kind_of(data) or "no image, or one"
        return f"{kind} that is damaged or that OpenCV {cv2.__version__} cannot read"
    return image


def restart_interval(units_per_row: int) -> int:
    """How many coding units (MCUs) to put between restart markers: a divisor of a row's, so that the pieces form
    columns, the nearest to 4. Trials on photographs: fewer cost bytes, more gain less when a crop is cut out."""
    divisors = [d for d in range(1, units_per_row + 1) if units_per_row % d == 0]
    return min(divisors, key=lambda d: max(d / 4, 4 / d))


def with_restarts(data: bytes) -> bytes:
    """A JPEG with restart markers put in by `jpegtran`, its coefficients untouched; anything else unchanged."""
    frame = _jpeg_frame(data) if data.startswith(_JPEG) else None
    if frame is None:
        return data
    width, unit_width = frame
    interval = restart_interval(-(-width // unit_width))
    command = ["jpegtran", "-copy", "all", "-restart", f"{interval}B"]
    done = subprocess.run(command, input=data, capture_output=True, check=False)
    # What it cannot convert (12 bits, arithmetic coding, damage) stays what it was: the records are still whole.
    return done.stdout if done.returncode == 0 and done.stdout.startswith(_JPEG) else data


def kind_of(data: bytes | memoryview) -> str:
    """The name of an encoded image's format with its article; empty where it is none of the usual."""
    head = bytes(data[:8])
    return next((f"a {name}" for signature, name in _KINDS.items() if head.startswith(signature)), "")


def in_order(work: Callable[[Item], Result], items: Sequence[Item], num_threads: int,
             size_of: Callable[[Result], int] = lambda result: 0, ahead: int = _HOLD_ITEMS_PER_THREAD,
             ) -> Iterator[Result]:
    """`work(item)` of each item, in the items' order, done by threads that run ahead, each by `ahead` items at most.

    They wait when the results that nobody took yet weigh more than a bound (`size_of`, bytes). With one
    thread the work is done here. An error in `work` is raised here, in its turn. """
    if num_threads <= 1:
        yield from map(work, items)
        return
    pool = _Pool(work, items, num_threads, size_of, ahead)
    try:
        for _ in items:
            yield pool.take()
    finally:
        pool.stop()


@contextmanager
def quiet_opencv() -> Iterator[None]:
    """One OpenCV thread per call, since we have our own, and none of its log: what it says names no file."""
    import cv2

    threads = cv2.getNumThreads()
    logging = getattr(getattr(cv2, "utils", None), "logging", None)
    level = logging.getLogLevel() if logging else 0
    cv2.setNumThreads(1)
    if logging:
        logging.setLogLevel(logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)
        if logging:
            logging.setLogLevel(level)


class _Pool(Generic[Item, Result]):
    """Threads that each take the next item; the results wait by number until they are asked for in order."""

    def __init__(self, work: Callable[[Item], Result], items: Sequence[Item], num_threads: int,
                 size_of: Callable[[Result], int], ahead: int) -> None:
        self.work, self.items, self.size_of = work, items, size_of
        self.lock = threading.Lock()
        self.ready = threading.Condition(self.lock)     # for the taker: the next result is there
        self.room = threading.Condition(self.lock)      # for the threads: results were taken
        self.results: dict[int, Result] = {}
        self.errors: dict[int, BaseException] = {}
        self.started = self.taken = self.held_bytes = 0
        self.stopped = False
        self.max_ahead = num_threads * ahead
        self.threads = [threading.Thread(target=self._run, daemon=True) for _ in range(num_threads)]
        for thread in self.threads:
            thread.start()

    def take(self) -> Result:
        with self.lock:
            while self.taken not in self.results:
                if self.taken in self.errors:
                    raise self.errors[self.taken]
                self.ready.wait()
            result = self.results.pop(self.taken)
            self.taken += 1
            self.held_bytes -= self.size_of(result)
            self.room.notify()
            return result

    def stop(self) -> None:
        with self.lock:
            self.stopped = True
            self.room.notify_all()
        for thread in self.threads:
            thread.join()

    def _run(self) -> None:
        while True:
            with self.lock:
                # The item that the taker waits for was always started before, so waiting here never blocks
                # it.
                while not self.stopped and (self.held_bytes > _HOLD_BYTES
                                            or self.started - self.taken >= self.max_ahead):
                    self.room.wait()
                number = self.started
                if self.stopped or number >= len(self.items):
                    return
                self.started += 1
            try:
                result = self.work(self.items[number])
            except BaseException as error:
                with self.lock:
                    self.errors[number] = error
                    self.ready.notify()
                return
            with self.lock:
                self.results[number] = result
                self.held_bytes += self.size_of(result)
                if number == self.taken:
                    self.ready.notify()


def _store_files(entries: Sequence[ListEntry], file_of: Callable[[ListEntry], str], config: PackConfig,
                 writer: RecordWriter, syncer: _Syncer, packed: Packed, watch: Callable[[int], object]) -> None:
    """Write the files as they are. Threads read some at a time into a block, laid out as it will be in the `.rec`: no
    byte is copied again, and the blocks are used again and again, as fresh memory costs more than reading."""
    idle: deque[Block] = deque()

    def read(some: Sequence[ListEntry]) -> tuple[Block, list[str]]:
        try:
            block = idle.pop()
            block.clear()
        except IndexError:
            block = Block()
        return block, [_store(entry, file_of(entry), config, block) for entry in some]

    groups = [entries[i:i + _BLOCK_FILES] for i in range(0, len(entries), _BLOCK_FILES)]
    count = 0
    blocks = in_order(read, groups, config.num_threads, lambda pair: pair[0].size, _BLOCKS_AHEAD)
    for some, (block, reasons) in zip(groups, blocks, strict=True):
        writer.write_block(block)
        idle.append(block)
        syncer.notify()
        for entry, reason in zip(some, reasons, strict=True):
            if reason:
                packed.skipped.append(Skipped(entry, reason))
            count += 1
            watch(count)
    packed.records, packed.size_bytes = writer.count, writer.size_bytes


def _store(entry: ListEntry, file: str, config: PackConfig, block: Block) -> str:
    """Add one file to the block, or say why not."""
    head = _head(entry, config)
    try:
        with open(file, "rb", buffering=0) as stream:
            size = os.fstat(stream.fileno()).st_size
            if size > MAX_PAYLOAD_BYTES - len(head) - 64:
                return f"{size} bytes are more than a record holds"
            # One more than there should be, to see whether there is: a file may grow, or not know its size.
            image = block.reserve(len(head), size + 1)
            got = stream.readinto(image)
            more = b"" if got == size else bytes(image[:got]) + stream.readall()
    except (OSError, ValueError) as error:
        return errors.reason(error)
    if got != size:
        size = len(more)
        if size > MAX_PAYLOAD_BYTES - len(head) - 64:
            return f"{size} bytes are more than a record holds"
        image = block.reserve(len(head), size + 1)
        image[:size] = more
    reason = check_image(image[:size])
    if not reason:
        block.append(head, size, entry.id)
    return reason


class _Syncer:
    """A thread that has the disk begin while there is more to come: at the end less is left to wait for."""

    def __init__(self, writer: RecordWriter) -> None:
        self.writer = writer
        self.begun = 0
        self.due = threading.Event()
        self.stopped = False
        self.error: OSError | None = None
        self.thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> _Syncer:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stopped = True
        self.due.set()
        if self.thread.is_alive():
            self.thread.join()
        if self.error and exc_info[0] is None:
            raise self.error

    def notify(self) -> None:
        """To be called after each record or block. Raises what the disk said."""
        if self.error:
            raise self.error
        if self.writer.size_bytes - self.begun >= _SYNC_BYTES:
            self.begun = self.writer.size_bytes
            if not self.thread.ident:
                self.thread.start()
            self.due.set()

    def _run(self) -> None:
        while True:
            self.due.wait()
            self.due.clear()
            if self.stopped:
                return
            try:
                self.writer.sync()
            except OSError as error:
                self.error = error
                return


def _head(entry: ListEntry, config: PackConfig) -> bytes:
    """What stands in front of the image in the payload of a record."""
    first, *others = entry.labels
    if not (config.pack_label and others):
        return pack(ImageHeader(0, first, entry.id), b"")
    head = pack(ImageHeader(0, entry.labels, entry.id), b"")
    return head[:4] + struct.pack("<f", first) + head[8:] if config.repeat_first_label else head


def _encode(entry: ListEntry, file: str, config: PackConfig) -> bytes | str:
    """The payload of one record, or why there is none."""
    try:
        with open(file, "rb", buffering=0) as stream:
            data = stream.readall()
    except (OSError, ValueError) as error:
        return errors.reason(error)
    if config.pass_through:
        reason = check_image(data)
        image = with_restarts(data) if not reason else data
    else:
        image = _reencoded(data, entry, config)
        reason = image if isinstance(image, str) else ""
    if reason or isinstance(image, str):
        return reason
    head = _head(entry, config)
    if len(image) > MAX_PAYLOAD_BYTES - len(head) - 64:
        return f"{len(image)} bytes are more than a record holds"
    return head + image


def _reencoded(data: bytes, entry: ListEntry, config: PackConfig) -> bytes | str:
    """The image decoded, cropped, resized and encoded as the configuration says, or why it could not be."""
    import cv2

    image = decode(data, config.color)
    if isinstance(image, str):
        return image
    if image.dtype == np.uint16 and config.encoding == ".jpg":
        # OpenCV would cut everything above 255 off; this is what it does itself when it reads to 8 bits.
        image = (image >> 8).astype(np.uint8)
    elif image.dtype not in (np.uint8, np.uint16):
        return f"pixels of type {image.dtype}, which {config.encoding} does not hold"
    if config.center_crop:
        image = _center_square(image)
    try:
        if config.resize:
            size = short_edge_size(image.shape[1], image.shape[0], config.resize)
            method = _interpolation(image, size, entry, config.inter_method)
            image = cv2.resize(image, size, interpolation=method)
        if config.encoding == ".jpg":
            options = [cv2.IMWRITE_JPEG_QUALITY, config.quality]
            if config.seekable:
                # OpenCV halves the colour of colour images: 16 pixels a unit, 8 in grey ones.
                units = -(-image.shape[1] // (16 if image.ndim == 3 else 8))
                options += [cv2.IMWRITE_JPEG_RST_INTERVAL, restart_interval(units)]
        else:
            options = [cv2.IMWRITE_PNG_COMPRESSION, min(9, config.quality)]
        done, encoded = cv2.imencode(config.encoding, image, options)
    except (cv2.error, MemoryError) as error:
        return f"{image.shape[1]}x{image.shape[0]} pixels: {first_line(error)[:200]}"
    return encoded.tobytes() if done else "OpenCV could not encode it"


def short_edge_size(width: int, height: int, short_edge: int) -> tuple[int, int]:
    """(width, height) with the short edge made `short_edge`, the long one in proportion, rounded down."""
    if height > width:
        return short_edge, height * short_edge // width
    return width * short_edge // height, short_edge


def _center_square(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return image[top:top + side, left:left + side]


def _interpolation(image: np.ndarray, size: tuple[int, int], entry: ListEntry, method: int) -> int:
    """OpenCV's number for MXNet's method; 10, a random one, depends on the id alone and so comes out
    again."""
    import cv2

    if method == 9:
        height, width = image.shape[:2]
        if size[0] > width and size[1] > height:
            return cv2.INTER_CUBIC
        return cv2.INTER_AREA if size[0] < width and size[1] < height else cv2.INTER_LINEAR
    return random.Random(entry.id).randrange(5) if method == 10 else method


def _jpeg_segments(data: bytes | memoryview) -> Iterator[tuple[int, int]]:
    """(marker, where its content begins) of a JPEG's segments up to the first scan, or as far as they lead."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:      # a fill byte
            at += 1
            continue
        # Markers without a length do not stand here but in damaged files.
        length = int.from_bytes(data[at + 2:at + 4], "big")
        if length < 2 or marker == _END:
            return
        yield marker, at + 4
        if marker == _SCAN:
            return
        at += 2 + length


def _jpeg_scan(data: bytes | memoryview) -> int:
    """Where the first scan of a JPEG begins; -1 if the segments before it do not lead there."""
    return next((at for marker, at in _jpeg_segments(data) if marker == _SCAN), -1)


def _jpeg_frame(data: bytes) -> tuple[int, int] | None:
    """(width in pixels, width of a coding unit) of a JPEG; None where its header does not say them."""
    for marker, at in _jpeg_segments(data):
        # Frames are C0 to CF but for the tables C4, C8 and CC; byte 5 counts the components, of 3 bytes each.
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and at + 6 <= len(data):
            width, components = int.from_bytes(data[at + 3:at + 5], "big"), data[at + 5]
            factors = [data[at + 7 + 3 * i] >> 4 for i in range(components) if at + 7 + 3 * i < len(data)]
            # A single component is coded block by block, whatever its factor says.
            unit = 8 * (max(factors, default=1) if components > 1 else 1)
            return (width, unit) if width and unit else None
    return None

