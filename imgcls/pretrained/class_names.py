"""The names of a trained network's classes: its checkpoint's, a file's, or ImageNet's from torchvision.

A file of names with another number of lines than the network has classes is refused; where a checkpoint's
meta data have more names than the network has classes, none of them are shown.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass

from imgcls.errors import DataError, UsageError, reason, verbatim
from imgcls.pretrained.reference import PretrainedRef
from imgcls.storage.paths import to_path
from imgcls.storage.reading import open_read

#: the value of `synset` that means torchvision's names
IMAGENET = "imagenet"
#: of ILSVRC 2012, which most published networks were trained on
_NUM_IMAGENET = 1000
#: the names of ImageNet's 21841 classes have 1 MB
_MAX_BYTES = 16 << 20
#: n02119789 in front of a name: WordNet's number, after which ImageNet's folders are called
_WORDNET = re.compile(r"(n\d{8})(?:[\s,:]+(.*))?")


@dataclass(frozen=True)
class ClassNames:
    """Names in the order of the classes, () where they are not known; `ids` are WordNet's ids, or ().

    `note` is a line for the user about them, with settings between backquotes, or "".
    """

    names: Sequence[str] = ()
    ids: Sequence[str] = ()
    note: str = ""


def find_class_names(ref: PretrainedRef, synset: str, num_classes: int) -> ClassNames:
    """Return the names of a network of `num_classes` classes: those in `synset`, or else its own.

    UsageError for a `synset` that cannot be read or has another number of names.
    """
    # the user's own names come before any that were found
    if synset:
        given = _from_synset(synset, num_classes, ref)
        is_same = not ref.class_names or list(ref.class_names) == list(given.names)
        return given if is_same else dataclasses.replace(
            given, note=f"note: `synset` {verbatim(synset)} names the classes in place of "
                        f"{verbatim(ref.origin)}")
    advice = "`synset` FILE gives names, one a line"
    if ref.class_names:
        count = len(ref.class_names)
        if count > num_classes:
            return ClassNames(note=f"note: {verbatim(ref.origin)} names {count} classes and the network has "
                                   f"{num_classes}: they are not its names, and classes are shown as "
                                   f"numbers; {advice}")
        note = "" if count == num_classes else (
            f"note: {verbatim(ref.origin)} names {count} of {num_classes} classes; the others are shown as "
            "numbers")
        return ClassNames(tuple(ref.class_names), note=note)
    if ref.is_imagenet and num_classes == _NUM_IMAGENET:
        names = _imagenet_names()
        if names:
            return ClassNames(names)
        advice += " (with torchvision installed, ImageNet's would be known)"
    if num_classes == _NUM_IMAGENET and not ref.is_imagenet:
        advice += ", and `synset` imagenet those of ImageNet"
    return ClassNames(note=f"note: the class names of {verbatim(ref.name)} are not known, classes are shown "
                           f"as numbers; {advice}")


def _from_synset(synset: str, num_classes: int, ref: PretrainedRef) -> ClassNames:
    path = to_path(synset, "`synset`")
    if synset.lower() == IMAGENET and not path.exists():
        names = _imagenet_names()
        if not names:
            raise UsageError(f"`synset` {verbatim(synset)}: torchvision has these names and is not installed "
                             "(pip install 'imgcls[zoo]')")
        lines = list(names)
    else:
        try:
            with open_read(path) as stream:
                content = stream.read(_MAX_BYTES + 1)
            # a byte order mark, as Windows' editors write it, would be a part of the first name
            lines = [line.strip() for line in content.decode("utf-8-sig").strip().splitlines()]
        except OSError as error:
            raise UsageError(f"`synset` {verbatim(synset)}: {reason(error)}") from error
        except UnicodeDecodeError as error:
            raise DataError(synset, "is no text (UTF-8) with a class name on each line") from error
        if len(content) > _MAX_BYTES:
            raise DataError(synset, f"has more than {_MAX_BYTES >> 20} MB: those are no class names")
    if len(lines) != num_classes:
        count = f"{len(lines)} class{'es' * (len(lines) != 1)}"
        raise UsageError(f"`synset` {verbatim(synset)}: names {count}, and {verbatim(ref.name)} has "
                         f"{num_classes}: one line for each, in their order")
    matches = [_WORDNET.fullmatch(line) for line in lines]
    # all or none: a single name that looks like a WordNet number is a name
    if not all(matches):
        return ClassNames(tuple(lines))
    return ClassNames(tuple(match[2] or match[1] for match in matches if match),
                      tuple(match[1] for match in matches if match))


def _imagenet_names() -> Sequence[str]:
    """Return the names that torchvision carries with its weights, () where it is not installed."""
    try:
        from torchvision.models import ResNet18_Weights
    except (ImportError, RuntimeError):  # RuntimeError: built for another torch
        return ()
    return tuple(ResNet18_Weights.DEFAULT.meta["categories"])
