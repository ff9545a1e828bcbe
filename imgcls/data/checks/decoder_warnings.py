"""What libjpeg says of a JPEG while it decodes it: OpenCV gives the pixels, but not the warnings.

libjpeg writes them to stderr, which a process has only once. So JPEGs are decoded by separate processes
whose stderr is a file; where a damaged file makes the decoder crash, only such a process ends.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import IO

from imgcls.data.image_header import Bytes
from imgcls.errors import RunError

#: the directory that the package is imported from
_PACKAGE_FOLDER = str(Path(__file__).resolve().parents[3])
#: the number of bytes of the image or answer that follows
_LENGTH = struct.Struct("<Q")
#: most bytes of a warning that are read
_MAX_BYTES = 300
#: how libjpeg's texts about damage begin (jerror.h); others are of odd but harmless headers
_ABOUT_DAMAGE = ("Corrupt JPEG data", "Premature end", "Inconsistent progression")
#: in the header some cameras write bytes between segments; behind a scan they are a part of it
_EXTRANEOUS = "extraneous bytes before marker"
#: what ends the scan of an image that has a single one: the end of the image or a restart
_SCAN_ENDS = ("0xd9", *(f"0xd{number}" for number in range(8)))

#: signals that an error in a decoder ends a process with
_CRASHES = ("SIGSEGV", "SIGBUS", "SIGABRT", "SIGFPE", "SIGILL")


class DecoderWarnings:
    """Gets libjpeg's warnings about JPEGs from separate processes; a context manager that ends them.

    Threads may share it.
    """

    def __init__(self) -> None:
        self._idle: queue.LifoQueue[_Decoder] = queue.LifoQueue()

    def __enter__(self) -> DecoderWarnings:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        while not self._idle.empty():
            self._idle.get().close()

    def of(self, data: Bytes, *, is_sequential: bool) -> str:
        """Return what is wrong with a JPEG that passed `image_header.inspect`, or "".

        `is_sequential`: it is coded in one pass, and not progressive. RunError where the process that decodes
        it ends for another reason than the image.
        """
        try:
            decoder = self._idle.get_nowait()
        except queue.Empty:
            decoder = _Decoder()
        try:
            text = decoder.warning(data)
        except (OSError, EOFError):
            status = decoder.close()
            name = signal.Signals(-status).name if status < 0 else f"status {status}"
            if name in _CRASHES:
                return f"JPEG: decoding it ended with {name}"
            # no fault of the image: Python could not be started, or was told to stop
            raise RunError(f"the process that decodes JPEGs ended with {name}; try a smaller `num_thread`"
                           ) from None
        except BaseException:
            decoder.close()
            raise
        self._idle.put(decoder)
        return f"JPEG: {text}" if _is_damage(text, is_sequential) else ""


def _is_damage(text: str, is_sequential: bool) -> bool:
    if is_sequential and _EXTRANEOUS in text:
        return text.rsplit(maxsplit=1)[-1] in _SCAN_ENDS
    return text.startswith(_ABOUT_DAMAGE)


class _Decoder:
    """A process that decodes one JPEG after the other."""

    def __init__(self) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(
            filter(None, (_PACKAGE_FOLDER, os.environ.get("PYTHONPATH"))))}
        with tempfile.TemporaryFile() as stderr:
            self._process = subprocess.Popen([sys.executable, "-m", "imgcls.data.checks.decoder_warnings"],
                                             stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr,
                                             env=environment)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout

    def warning(self, data: Bytes) -> str:
        """Return the first line that libjpeg writes; EOFError or OSError where the process ends."""
        self._stdin.write(_LENGTH.pack(len(data)))
        self._stdin.write(data)
        self._stdin.flush()
        return _receive(self._stdout).decode("utf-8", "replace")

    def close(self) -> int:
        """End the process; return its status, below 0 where a signal ended it."""
        for pipe in (self._stdin, self._stdout):
            try:
                pipe.close()
            except OSError:  # it ended by itself, with bytes that it did not read
                continue
        return self._process.wait()


def _receive(stream: IO[bytes]) -> bytes:
    """Return the next message of a stream; EOFError where it ends."""
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        raise EOFError
    (length,) = _LENGTH.unpack(head)
    message = stream.read(length)
    if len(message) < length:
        raise EOFError
    return message


def _serve() -> None:
    """Decode what comes on stdin until it ends, and answer each image with the first line on stderr."""
    import numpy as np

    from imgcls.data import opencv
    from imgcls.data.opencv import cv2

    opencv.prepare()
    # the coefficients of all pixels, and of the pixels an eighth: the warnings come from the coefficients
    flags = cv2.IMREAD_REDUCED_GRAYSCALE_8
    while True:
        try:
            data = _receive(sys.stdin.buffer)
        except EOFError:
            return
        os.ftruncate(2, 0)
        os.lseek(2, 0, os.SEEK_SET)
        with contextlib.suppress(cv2.error, MemoryError):  # the caller decodes it as well, and reports these
            cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        os.lseek(2, 0, os.SEEK_SET)
        line = os.read(2, _MAX_BYTES).split(b"\n")[0].strip()
        sys.stdout.buffer.write(_LENGTH.pack(len(line)) + line)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    # Ctrl-C reaches the parent as well, which closes the pipe
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _serve()
