"""What packing does to each image, as `imgcls-im2rec` fills it in from its flags."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PackConfig:
    """What is done to an image before it is stored. The defaults are im2rec.py's."""

    pass_through: bool = False          # store the file's bytes, whatever they are
    resize: int = 0                     # pixels of the short edge; 0: as it is
    center_crop: bool = False           # to a square, before the resize
    color: int = 1                      # 1: BGR, 0: grey, -1: as stored (alpha, 16 bits)
    quality: int = 95                   # JPEG 1-100; PNG: compression 0-9
    encoding: str = ".jpg"              # or .png, or .npy: decoded
    inter_method: int = 1               # 0-4 as in OpenCV, 9: by direction, 10: one of 0-4 by chance
    pack_label: bool = False            # several labels of a line: all of them
    repeat_first_label: bool = False    # with all of them, the first in the header too (as the C++ tool)
    seekable: bool = False              # restart markers in JPEGs: a part can be decoded without the rest
    num_threads: int = 1
