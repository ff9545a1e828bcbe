"""Export a network: read it, write a temporary file, run that, compare it with the checkpoint, and only then
keep it."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from imgcls import pretrained
from imgcls.config.resolve import Config
from imgcls.errors import RunError, UsageError, reason, verbatim
from imgcls.inference.export import (
    aot_file,
    checksum,
    executorch_file,
    int8,
    mxnet_files,
    onnx_file,
    pt2_file,
    safetensors_file,
)
from imgcls.inference.export.compare import Comparison, Expected, batches, compare, expected
from imgcls.inference.export.exported import Description, Exported, Servable
from imgcls.inference.export.pictures import Pictures, find_pictures, make_pictures
from imgcls.inference.export.preprocessing import Preprocessing
from imgcls.inference.predictor import configure
from imgcls.pretrained.class_names import find_class_names
from imgcls.pretrained.preprocessing import for_evaluation
from imgcls.storage.atomic import atomic_write, check_outputs, check_writable
from imgcls.storage.paths import to_path

#: value of `format` -> the file that writes and runs it
FORMATS = {"onnx": onnx_file, "mxnet": mxnet_files, "safetensors": safetensors_file, "pt2": pt2_file,
           "aot": aot_file, "pte": executorch_file}
#: made images, where the user names none
_NUM_MADE = 32


@dataclasses.dataclass(frozen=True)
class Request:
    """What is to be exported, and how it is compared."""

    model: str
    epoch: str
    synset: str
    format: str
    output: str
    #: path of the pictures that it is compared on; "": made ones
    images: str
    num_images: int
    preprocessing: bool
    is_int8: bool = False
    #: for int8: pictures for its ranges, and the accuracy that it may lose
    num_calibration: int = 100
    max_drop: float = 0.05


@dataclasses.dataclass(frozen=True)
class Result:
    """What was written, and how it compares."""

    files: Sequence[str]
    num_bytes: int
    comparison: Comparison
    #: what int8 lost; None for any other export
    drop: int8.Drop | None = None


def export(request: Request, settings: dict[str, Any], tell: Callable[[str], None]) -> Result:
    """Write the export; `settings` are those of preprocessing that the user set, as `Predictor` takes them.

    `tell` is called with lines for a person, with settings between backquotes.

    UsageError for what cannot be exported, and for a package that is missing; RunError, and nothing written,
    where the export classifies pictures differently from the checkpoint (int8: where it loses more than
    `max_drop`).
    """
    module = FORMATS[request.format]
    if not request.output.lower().endswith(module.SUFFIX):
        raise UsageError(f"`output` {verbatim(request.output)}: a file of `format` {request.format} must "
                         f"end in {module.SUFFIX}")
    # checked first: packages are imported only after seconds of work, and perhaps a download
    module.check(request.output)
    if request.is_int8:
        _check_int8(request, module)
    check_outputs([request.output], [request.images] if request.images else [])
    check_writable(request.output, "`output`")
    exported, config = _prepare(request, configure(settings), tell)
    pictures = _pictures(request, exported)
    calibration = None
    if request.is_int8:
        calibration, pictures = int8.divide(pictures, request.num_calibration)
    checkpoint = expected(exported, config, pictures)
    # into a temporary folder, not beside the output: no part of an export that fails is left there
    with tempfile.TemporaryDirectory(prefix="imgcls-export-") as folder:
        path = Path(folder) / Path(request.output).name
        if calibration is None:
            with _writing_aside(folder):
                written = module.write(exported, path)
        else:
            tell(f"int8: ranges are measured on {len(calibration)} of the pictures, the others are compared")
            given = expected(exported, config, calibration).inputs
            with _writing_aside(folder):
                written = module.write_int8(exported, path,
                                            (batch for _, batch in batches(exported, calibration, given)))
        # the file that was written is read again and run by its own runtime: the network in memory would
        # prove nothing
        comparison = compare(exported, module.Runner(path).run, pictures, checkpoint)
        tell(describe(comparison, pictures, module.RUNTIME))
        if checkpoint.num_read_otherwise:
            tell(_about_files(checkpoint))
        drop = None
        if calibration is None:
            _require_equal(comparison, pictures, request)
        else:
            drop = int8.measure(comparison, checkpoint.probabilities, pictures, exported.description,
                                len(calibration))
            tell(drop.describe())
            _require_small(drop, request)
            with _writing_aside(folder):
                module.redescribe(path, dataclasses.replace(exported.description, int8=drop.as_json()))
        if module.HAS_CHECKSUM:  # last of all: it covers the description, which may just have been written
            checksum.seal(path)
        num_bytes = sum(path.stat().st_size for path in written)
        return Result([_keep(path, request) for path in written], num_bytes, comparison, drop)


@contextlib.contextmanager
def _writing_aside(folder: str) -> Iterator[None]:
    """Raise RunError, with the folder, where the disk is full or the size of files is limited."""
    try:
        yield
    except OSError as error:  # a format writes with functions of its own, which name no file
        raise RunError(f"cannot write the temporary export in {verbatim(folder)} (TMPDIR names another "
                       f"place): {reason(error)}") from error


def _check_int8(request: Request, module: Any) -> None:
    """Raise UsageError where int8 cannot be written, or not be measured."""
    if not hasattr(module, "write_int8"):
        raise UsageError(f"`int8`: is for `format` onnx and pte, not {request.format}")
    if not request.images:
        raise UsageError("`images` is missing: `int8` needs photographs as the network will get them, a "
                         "hundred or more, for the ranges of its numbers and to measure what it loses")
    module.check_int8()


def _require_equal(comparison: Comparison, pictures: Pictures, request: Request) -> None:
    if not comparison.is_equal:
        names = ", ".join(map(pictures.name, comparison.different[:3]))
        raise RunError(f"{verbatim(request.output)} is not kept: {len(comparison.different)} of "
                       f"{comparison.num_images} images have another label than with the checkpoint "
                       f"({names})")


def _require_small(drop: int8.Drop, request: Request) -> None:
    # with `not`: a drop of nan is refused as well
    if not drop.drop <= request.max_drop:
        raise RunError(f"{verbatim(request.output)} is not kept: int8 loses {drop.drop:.4f}, more than "
                       f"`max_drop` {request.max_drop:g}")


def describe(comparison: Comparison, pictures: Pictures, runtime: str) -> str:
    """Return in one line how the export and the checkpoint agree."""
    source = f"images of {verbatim(pictures.description)}"
    if pictures.is_made:
        source = "generated images, no photographs (`images` PATH compares on yours)"
    return (f"compared in {runtime} on {comparison.num_images} {source}: "
            f"{comparison.num_equal} of {comparison.num_images} labels equal, largest difference of a "
            f"probability {comparison.max_difference:.2g}")


def _about_files(checkpoint: Expected) -> str:
    """Return a note on files that imgcls decodes differently from the programs that run exports."""
    return (f"note: imgcls decodes {checkpoint.num_read_otherwise} of them at a half or less, or as grey; a "
            f"program that decodes all of their pixels gets another label for {checkpoint.num_other_labels}, "
            "from the checkpoint as well (it should shrink large photographs first)")


def _prepare(request: Request, config: Config, tell: Callable[[str], None]) -> tuple[Exported, Config]:
    """Return what is to be exported, and the configuration with the network's preprocessing."""
    ref = pretrained.locate(request.model, request.epoch)
    read = pretrained.read(ref)
    model = pretrained.build(read)
    for parameter in model.parameters():
        parameter.requires_grad_(False)  # some exporters refuse constants with gradients
    evaluation = for_evaluation(config, ref, model)
    config = evaluation.config
    classes = find_class_names(ref, request.synset, evaluation.num_classes)
    shape = config.network.image_shape
    for line in filter(None, (evaluation.description, evaluation.note, classes.note)):
        tell(line)
    if ref.dtype not in ("", "float32"):
        tell(f"note: the export computes in float32; the checkpoint was trained in {ref.dtype}, which "
             "imgcls-score and imgcls-predict compute in where the hardware has it (`dtype`)")
    augment = config.augment
    takes_pixels = request.preprocessing and FORMATS[request.format].TAKES_PIXELS
    preprocessing = Preprocessing(shape, augment).eval() if takes_pixels else None
    noted = {"mean": list(augment.rgb_mean), "std": list(augment.rgb_std), "val_resize": augment.val_resize,
             "interpolation": augment.interpolation, "mean_image": bool(augment.mean_image)}
    description = Description(
        network=ref.network, class_names=list(classes.names), num_classes=evaluation.num_classes,
        image_shape=list(shape), takes_pixels=takes_pixels, preprocessing=noted,
        note=evaluation.description, dataset=ref.dataset, held_out=dict(ref.held_out),
        dtype="int8" if request.is_int8 else "float32",
        file_sha256=checksum.UNKNOWN if FORMATS[request.format].HAS_CHECKSUM else "")
    servable = Servable(model, preprocessing).eval()
    return Exported(servable, description, read, augment.mean_image), config


def _pictures(request: Request, exported: Exported) -> Pictures:
    if request.images:
        # pictures for the ranges are added, so that as many are compared as were requested
        more = request.num_calibration if request.is_int8 else 0
        return find_pictures(request.images, request.num_images + more)
    return make_pictures(exported.description.image_shape, min(_NUM_MADE, request.num_images))


def _keep(path: Path, request: Request) -> str:
    """Copy a file that passed the comparison to its final name; return that name."""
    # Formats with several files name the others after the first one: net.onnx, net.onnx.data.
    target = os.fspath(to_path(request.output)) + path.name.removeprefix(Path(request.output).name)
    try:
        with path.open("rb") as source, atomic_write(target) as stream:
            shutil.copyfileobj(source, stream)
    except OSError as error:
        raise RunError(f"cannot write {verbatim(target)}: {reason(error)}") from error
    return target
