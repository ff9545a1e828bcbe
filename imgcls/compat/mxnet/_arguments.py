"""The arguments of `mx.io.ImageRecordIter`: MXNet's names and defaults, values converted to their types.

`_image_record_iter.py` calls `read_arguments`. Names, defaults and the text forms of values are those of
MXNet's parameter structures (src/io/image_iter_common.h, image_aug_default.cc). Nothing here opens a file.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from imgcls.compat.mxnet.base import MXNetError
from imgcls.config.sections import AugmentConfig
from imgcls.data.crops import METHODS
from imgcls.errors import nearest

#: MXNet's arguments that are fields of our AugmentConfig, under the same or another name
_AUGMENT = {
    "resize": "resize", "pad": "pad_size", "fill_value": "fill_value",
    "rand_crop": "random_crop", "random_resized_crop": "random_resized_crop", "rand_mirror": "random_mirror",
    # The scripts' flags say `random` where the iterator's arguments do not: image_aug_default.cc has
    # these.
    "max_rotate_angle": "max_random_rotate_angle", "max_shear_ratio": "max_random_shear_ratio",
    "max_random_scale": "max_random_scale", "min_random_scale": "min_random_scale",
    "max_random_area": "max_random_area", "min_random_area": "min_random_area",
    "max_aspect_ratio": "max_random_aspect_ratio", "min_aspect_ratio": "min_random_aspect_ratio",
    "max_crop_size": "max_crop_size", "min_crop_size": "min_crop_size",
    "brightness": "brightness", "contrast": "contrast", "saturation": "saturation", "pca_noise": "pca_noise",
    "random_h": "max_random_h", "random_s": "max_random_s", "random_l": "max_random_l",
}
#: their defaults: ours, except for two where MXNet's iterator and its scripts have different ones
_AUGMENT_DEFAULTS = {
    **{name: getattr(AugmentConfig(), field) for name, field in _AUGMENT.items()},
    "resize": -1, "fill_value": 255,  # the scripts pad with 127, the iterator with white
}
#: arguments other than augmentation: which records, how they are batched, how pixels become numbers
_OTHER_DEFAULTS: dict[str, Any] = {
    "path_imgrec": "", "path_imgidx": "", "path_imglist": "", "data_shape": (), "batch_size": 0,
    "label_width": 1, "shuffle": False, "seed": 0, "seed_aug": None, "num_parts": 1, "part_index": 0,
    "round_batch": True, "mirror": False, "inter_method": 1, "mean_img": "",
    "mean_r": 0.0, "mean_g": 0.0, "mean_b": 0.0, "mean_a": 0.0,
    "std_r": 1.0, "std_g": 1.0, "std_b": 1.0, "std_a": 1.0,
    "scale": 1.0, "dtype": "float32", "preprocess_threads": 4,
    "data_name": "data", "label_name": "softmax_label",
}
#: how MXNet does the work: accepted and ignored here, results do not depend on it
_MEANINGLESS = {
    "ctx": "gpu", "device_id": 0, "prefetch_buffer": 4, "verbose": True, "shuffle_chunk_size": 0,
    "shuffle_chunk_seed": 0,
}
#: known, but accepted with their default value only
_ONLY_DEFAULT = {
    # Another value, if it were ignored, would give other pixels than in MXNet: so it is an error.
    "aug_seq": "aug_default", "rotate": -1, "max_img_size": 1e10, "min_img_size": 0.0,
    "max_random_contrast": 0.0, "max_random_illumination": 0.0,
}
_DEFAULTS = {**_AUGMENT_DEFAULTS, **_OTHER_DEFAULTS, **_MEANINGLESS, **_ONLY_DEFAULT}
#: arguments that must be given
_REQUIRED = ("path_imgrec", "data_shape", "batch_size")
#: for arguments whose default is None, the type of other values
_OPTIONAL: dict[str, Callable[[Any], Any]] = {"min_aspect_ratio": float, "seed_aug": int}
#: MXNet's names of types, in which "none" means that of the data
_DTYPES = {"float32": np.float32, "none": np.float32, "uint8": np.uint8, "int8": np.int8}
#: MXNet's number -> our name; it has no antialiased resizing
_METHOD_NAMES = {number: name for name, number in METHODS.items() if name != "antialias"}


class _Type(NamedTuple):
    """The type of an argument: how a value is converted, and what an error calls the type."""

    convert: Callable[[Any], Any]
    description: str


def read_arguments(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return all arguments with their values; each value may also be given as text, as in MXNet.

    A name that MXNet does not have is a TypeError, a value that is not supported an MXNetError that names it.
    `dtype` is returned as a numpy type, `inter_method` as our name of the method.
    """
    # MXNet's iterators ignore names that they do not know (InitAllowUnknown), and so misspelled ones.
    for name in kwargs:
        if name not in _DEFAULTS:
            hint = "".join(f": did you mean {close}?" for close in nearest(name, _DEFAULTS)[:1])
            raise TypeError(f"ImageRecordIter has no argument {name}{hint}")
    # Checked when all are converted: some belong together.
    args = {**_DEFAULTS, **{name: _convert(name, value) for name, value in kwargs.items()}}
    _check(args)
    args["dtype"] = _DTYPES[args["dtype"].lower()]
    args["inter_method"] = _METHOD_NAMES[args["inter_method"]]
    args["resize"] = max(args["resize"], 0)  # MXNet's -1 is our 0
    if args["mirror"]:
        args["rand_mirror"] = False  # all are mirrored, once
    return args


def augment_config(args: dict[str, Any]) -> AugmentConfig:
    """Return the AugmentConfig for the arguments that `read_arguments` returned."""
    return AugmentConfig(interpolation=args["inter_method"], mean_image=args["mean_img"],
                         **{field: args[name] for name, field in _AUGMENT.items()})


def _check(args: dict[str, Any]) -> None:
    """Raise MXNetError for values that have the right type and are still not supported."""
    for name in _REQUIRED:
        if not args[name]:
            raise MXNetError(f"ImageRecordIter needs {name}")
    for name, value in _ONLY_DEFAULT.items():
        if args[name] != value:
            raise MXNetError(f"{name} {args[name]}: is not offered here, leave it out")
    if len(args["data_shape"]) != 3:
        raise MXNetError(f"data_shape {args['data_shape']}: is (channels, height, width)")
    if args["batch_size"] < 1 or args["label_width"] < 1:
        raise MXNetError(f"batch_size {args['batch_size']}, label_width {args['label_width']}: must be above "
                         "0")
    if args["dtype"].lower() not in _DTYPES:
        raise MXNetError(f"dtype {args['dtype']}: must be float32, uint8 or int8")
    if args["inter_method"] not in _METHOD_NAMES:
        raise MXNetError(f"inter_method {args['inter_method']}: must be one of {sorted(_METHOD_NAMES)}")


def _convert(name: str, value: Any) -> Any:
    default = _DEFAULTS[name]
    expected = _type_of(name, default)
    # None means the default where MXNet's own default is None, and for `dtype`.
    if value is None and (default is None or name == "dtype"):
        return default
    try:
        return expected.convert(value)
    except (ValueError, TypeError, SyntaxError):
        raise MXNetError(f"{name} {value!r}: must be {expected.description}") from None


def _type_of(name: str, default: Any) -> _Type:
    # bool first: it is an int as well.
    if isinstance(default, bool):
        return _Type(_to_bool, "True or False")
    if isinstance(default, tuple):
        return _Type(_to_sizes, "a tuple of whole numbers")
    if name == "dtype":
        # A name, as "none" is no numpy type; np.float32 and np.dtype come to the same name.
        return _Type(lambda value: value if isinstance(value, str) else np.dtype(value).name, "a type")
    kind = _OPTIONAL[name] if default is None else type(default)
    if kind is int:
        return _Type(_to_int, "a whole number")
    return _Type(float, "a number") if kind is float else _Type(str, "text")


def _to_bool(value: Any) -> bool:
    # dmlc/parameter.h reads these four in any case. bool("False") would be True.
    text = str(value).lower()
    if text not in ("true", "1", "false", "0"):
        raise ValueError(value)
    return text in ("true", "1")


def _to_int(value: Any) -> int:
    # int alone would truncate 1.5 to 1.
    if int(value) != float(value):
        raise ValueError(value)
    return int(value)


def _to_sizes(value: Any) -> tuple[int, ...]:
    sizes = ast.literal_eval(value) if isinstance(value, str) else value  # "(3, 224, 224)", never run
    return tuple(_to_int(size) for size in sizes)
