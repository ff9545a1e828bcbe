"""The members of PREFIX-meta.json and PREFIX-latest.json: of our own types, or the file is a DataError.

`files.py` checks them once, when it reads a file, so that the code that uses them need not. Members that are
not listed here are not checked; null and what is missing count as not noted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from imgcls.config.sections import MAX_SIDE
from imgcls.formats import json_text


def check_meta(content: Mapping[str, Any], path: object) -> None:
    """Raise DataError for meta data of a checkpoint that have a member of another type."""
    _check(content, _META, "", path)
    _check(content.get("preprocessing") or {}, _PREPROCESSING, "preprocessing: ", path)
    _check(content.get("held_out") or {}, _HELD_OUT, "held_out: ", path)


def check_latest(content: Mapping[str, Any], path: object) -> None:
    """Raise DataError for a PREFIX-latest.json that has a member of another type."""
    _check(content, _LATEST, "", path)


def _check(content: Any, members: Mapping[str, _Member], where: str, path: object) -> None:
    for name, (is_right, what) in members.items():
        value = content.get(name)
        if value is not None and not is_right(value):
            json_text.refuse(value, where + name, what, path)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _are_names(value: Any) -> bool:
    # of a folder whose name is no UTF-8, half a surrogate pair stands for each byte
    return json_text.is_list(value, lambda name: isinstance(name, str))


def _are_numbers(value: Any) -> bool:
    return json_text.is_list(value, lambda number: json_text.is_number(number) and abs(number) <= _MAX_NUMBER)


#: whether a member is right, and what an error says that it must be
_Member = tuple[Callable[[Any], bool], str]
#: a mean or a deviation of more is no pixel's, in any range
_MAX_NUMBER = 1e30
_TEXT: _Member = (json_text.is_text, "text")
_COUNTS: _Member = (lambda value: json_text.is_list(value, json_text.is_count), "a list of epochs")
_META: Mapping[str, _Member] = {
    "run": _TEXT, "job": _TEXT, "network": _TEXT, "earlier_epochs": _COUNTS,
    "class_names": (_are_names, "a list of names"), "config": (_is_object, "an object"),
    "preprocessing": (_is_object, "an object"), "held_out": (_is_object, "an object"),
    "chosen": (_is_object, "an object")}
_HELD_OUT: Mapping[str, _Member] = {
    "ratio": (lambda value: json_text.is_number(value) and 0 <= value <= 0.9, "a part of the images"),
    "trained_on": (_are_numbers, "a list of numbers")}
_PREPROCESSING: Mapping[str, _Member] = {
    "image_shape": (lambda value: json_text.is_list(value, json_text.is_count) and len(value) in (1, 3)
                    and 0 < min(value) <= max(value) <= MAX_SIDE, "channels, height and width"),
    "mean": (_are_numbers, "a list of numbers"),
    "std": (lambda value: _are_numbers(value) and all(value), "a list of numbers that are not 0"),
    "val_resize": (lambda value: json_text.is_count(value) and value <= MAX_SIDE, "a number of pixels"),
    "mean_image": (_is_object, "an object"), "interpolation": _TEXT}
_LATEST: Mapping[str, _Member] = {
    "run": _TEXT, "writer": _TEXT, "position": _TEXT, "params": _TEXT,
    "epoch": (json_text.is_count, "a number of epochs")}
