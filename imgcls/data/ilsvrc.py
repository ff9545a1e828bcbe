"""The classes and the validation labels of ImageNet's competitions: synset files, and the devkit of 2012.

The devkit (ILSVRC2012_devkit_t12.tar.gz) says in `data/ILSVRC2012_validation_ground_truth.txt` which number
each validation image has, from 1 to 1000, and in `data/meta.mat` which synset a number is. Labels follow the
sorted synsets, as folders do, or a synset file.
"""

from __future__ import annotations

import os
import tarfile
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from imgcls.errors import DataError, UsageError, reason, verbatim
from imgcls.formats import matlab
from imgcls.storage.paths import to_path
from imgcls.storage.reading import open_read, read_bounded

_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
_META = "meta.mat"
#: most bytes of a file of a devkit, and of a synset file; the real ones have some hundred kilobytes
_MAX_BYTES = 64 << 20
#: members of a devkit's tar that are looked at
_MAX_MEMBERS = 10_000
_IMAGE_NAME = "ILSVRC2012_val_{:08d}.JPEG"


class GroundTruth(NamedTuple):
    """Label of each validation image by its name, and the classes."""

    labels: dict[str, int]
    class_names: tuple[str, ...]


def read_synsets(path: str) -> tuple[str, ...]:
    """Return the first word of each line of a text file, without empty lines.

    DataError where there is none, where one is repeated or holds a slash, or where the file is too large.
    """
    try:
        with open_read(to_path(path, "`synsets`")) as stream:
            # one byte more than is allowed tells a file that is too large from one that just fits
            text = stream.read(_MAX_BYTES + 1)
    except OSError as error:
        raise DataError(path, reason(error)) from error
    # Windows' editors begin a file with a byte order mark
    lines = text.decode("utf-8", "surrogateescape").removeprefix("\ufeff").split("\n")
    # MXNet's and Caffe's synset.txt have the words of a class behind its number: they are ignored
    names = [words[0] for line in lines if (words := line.split())]
    if not names or len(text) > _MAX_BYTES:
        raise DataError(path, "is empty" if not names else f"more than {_MAX_BYTES >> 20} MiB: no synsets")
    for number, name in enumerate(names, 1):
        # a synset is the name of a class folder, not a path
        if "/" in name or "\0" in name:
            raise DataError(path, f"line {number}: {verbatim(name[:80])} is no folder's name")
    # the second one would move all classes behind it by one
    if len(set(names)) < len(names):
        twice = next(name for name, count in Counter(names).items() if count > 1)
        raise DataError(path, f"{verbatim(twice)} occurs twice")
    return tuple(names)


def read_devkit(path: str, synsets: Sequence[str] = ()) -> GroundTruth:
    """Return the labels of the validation images by a devkit, a .tar.gz or the folder of one.

    `synsets` is the order of classes; without it they are sorted. A DataError where the devkit is damaged.
    """
    files = _devkit_files(path)
    for name in (_TRUTH, _META):
        if name not in files:
            raise DataError(path, f"holds no {name}: the devkit is ILSVRC2012_devkit_t12.tar.gz or its "
                                  "folder")
    synset_of = _synsets_by_number(matlab.loads(files[_META], f"{path}/{_META}"), f"{path}/{_META}")
    numbers = _numbers(files[_TRUTH], f"{path}/{_TRUTH}")
    # a truth that names other classes belongs to another devkit
    unknown = sorted(set(numbers) - set(synset_of))
    if unknown:
        raise DataError(path, f"{_META} has no class {unknown[0]}, which {_TRUTH} names")
    used = {synset_of[number] for number in numbers}
    # sorted by WordNet's number, which is the order of every ImageNet network of MXNet's and
    # torchvision's
    names = tuple(synsets) or tuple(sorted(used))
    if missing := sorted(used - set(names)):
        raise UsageError(f"`synsets` does not name {missing[0]}, a class of the devkit")
    label_of = {name: label for label, name in enumerate(names)}
    labels = {_IMAGE_NAME.format(i): label_of[synset_of[number]] for i, number in enumerate(numbers, 1)}
    return GroundTruth(labels, names)


def _numbers(data: bytes, path: str) -> list[int]:
    words = data.split()
    if not all(word.isdigit() and len(word) < 9 for word in words):
        raise DataError(path, "a class number a line is needed")
    return [int(word) for word in words]


def _synsets_by_number(variables: dict[str, object], path: str) -> dict[int, str]:
    """Return ILSVRC2012_ID -> WNID of the structure `synsets`."""
    synsets = variables.get("synsets")
    found = {}
    for synset in synsets if isinstance(synsets, list) else []:
        # MATLAB has no integers by default: numbers are doubles
        number, name = synset.get("ILSVRC2012_ID"), synset.get("WNID")
        if isinstance(number, float) and isinstance(name, str) and number.is_integer():
            found[int(number)] = name
    if not found:
        raise DataError(path, "holds no structure synsets with ILSVRC2012_ID and WNID")
    return found


def _devkit_files(path: str) -> dict[str, bytes]:
    """Return name -> content of the two files of a devkit."""
    try:
        if os.path.isdir(path):
            # the devkit's tar has them in data/; people copy them out
            places = [os.path.join(path, folder, name) for folder in ("", "data") for name in (_TRUTH, _META)]
            return {os.path.basename(place): read_bounded(place, _MAX_BYTES) for place in places
                    if os.path.isfile(place)}
        files = {}
        # as a stream: the tar is compressed, and what is not needed is skipped
        with open_read(to_path(path, "`devkit`")) as stream, tarfile.open(fileobj=stream, mode="r|*") as tar:
            for count, member in enumerate(tar):
                name = os.path.basename(member.name)
                if member.isreg() and name in (_TRUTH, _META) and member.size <= _MAX_BYTES:
                    content = tar.extractfile(member)
                    files[name] = content.read() if content else b""
                if count > _MAX_MEMBERS or len(files) == 2:
                    break
        return files
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise DataError(path, f"is no devkit: {verbatim(error)}") from error
    except OSError as error:
        raise DataError(path, reason(error)) from error
