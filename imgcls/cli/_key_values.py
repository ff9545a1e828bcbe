"""The command line of MXNet's C++ im2rec: LIST ROOT OUT.rec [key=value ...]. Read by `cli/im2rec.py`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from imgcls.config.flags import convert, flag, flags_of
from imgcls.data.packing.config import PackConfig
from imgcls.errors import UsageError, unknown


@dataclass(frozen=True)
class KeyValues:
    """The keys of MXNet's tools/im2rec.cc with its defaults."""

    # whole numbers, 0 and 1 for the switches, as the C++ tool has them
    resize: int = flag(-1, "length of the short edge; -1: unchanged", minimum=-1, maximum=65500)
    label_width: int = flag(1, "number of labels per line", minimum=1, maximum=100_000)
    pack_label: int = flag(0, "store all labels of a line", minimum=0, maximum=1)
    nsplit: int = flag(1, "number of parts to divide the list into", minimum=1, maximum=1_000_000)
    part: int = flag(0, "which of them to pack", minimum=0, maximum=999_999)
    center_crop: int = flag(0, "crop the centre square before resizing", minimum=0, maximum=1)
    quality: int = flag(95, "JPEG quality, or PNG compression", minimum=0, maximum=100)
    color: int = flag(1, "1: colour, 0: grey, -1: as stored", minimum=-1, maximum=1, choices=(-1, 0, 1))
    encoding: str = flag(".jpg", "image format", choices=(".jpg", ".png"))
    inter_method: int = flag(1, "OpenCV's number, 9: by direction, 10: at random", minimum=0, maximum=10,
                             choices=(0, 1, 2, 3, 4, 9, 10))
    unchanged: int = flag(0, "store the files unchanged", minimum=0, maximum=1)
    num_thread: int = flag(0, "0: one per core", minimum=0, maximum=1024)
    outside_root: int = flag(0, "allow the list to name files outside ROOT", minimum=0, maximum=1)

    def pack_config(self, num_cores: int) -> PackConfig:
        """Return what is done to an image, as the C++ tool would."""
        resize = max(0, self.resize)
        # above 9 a quality is meant for JPEG: PNG then gets OpenCV's default
        quality = 3 if self.encoding == ".png" and self.quality > 9 else self.quality
        return PackConfig(
            pass_through=bool(self.unchanged), resize=resize, quality=quality, color=self.color,
            # it cuts the square only on the way to a new size
            center_crop=bool(self.center_crop and resize), encoding=self.encoding,
            inter_method=self.inter_method, pack_label=bool(self.pack_label), repeat_first_label=True,
            num_threads=self.num_thread or num_cores)


def read_key_values(args: Sequence[str]) -> KeyValues:
    """Return the settings that `key=value` arguments make; UsageError names the key that is wrong."""
    # Not the parser of flags: the C++ tool has neither dashes, nor abbreviations, nor switches.
    fields = flags_of(KeyValues)
    values: dict[str, Any] = {}
    for arg in args:
        key, equals, text = arg.partition("=")
        if not equals:
            raise UsageError(f"{arg!r} is no key=value")
        if key not in fields:
            raise unknown("key", key, fields)
        try:
            values[key] = convert(fields[key], text)
        except UsageError as error:
            raise UsageError(str(error)) from None  # a key is no flag, and must not be spelled as one
    settings = KeyValues(**values)
    if settings.pack_label and settings.label_width < 2:
        raise UsageError("pack_label=1 needs label_width=2 or more: one is in the header anyway")
    # the C++ tool counts parts from 0
    if settings.part >= settings.nsplit:
        raise UsageError(f"part {settings.part}: must be between 0 and {settings.nsplit - 1}")
    return settings
