"""An export in the place of a checkpoint: as `--model` of imgcls-predict, imgcls-score and imgcls-serve.

Its class names and its preprocessing are those of its description. Files are not trusted: their size is
bounded, they are checked, and nothing in them is unpickled.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from torch import nn

from imgcls import pretrained
from imgcls.config.resolve import Config
from imgcls.errors import UsageError, reason, verbatim
from imgcls.formats import params
from imgcls.inference.export import checksum, executorch_file, onnx_file, pt2_file, safetensors_file
from imgcls.inference.export.exported import Description
from imgcls.inference.export.exported_network import ExportedNetwork
from imgcls.inference.export.pt2_graph import Graph
from imgcls.pretrained import PretrainedRef, checkpoint_files
from imgcls.storage.paths import to_local_path
from imgcls.storage.reading import open_regular

#: the suffixes of exports, and what runs them; a safetensors file is a checkpoint in one file instead
_RUNNERS = {onnx_file.SUFFIX: onnx_file.Runner, pt2_file.SUFFIX: Graph,
            executorch_file.SUFFIX: executorch_file.Runner}
#: settings that are part of a file which prepares its images itself
_INSIDE = ("image_shape", "data_shape", "rgb_mean", "rgb_std", "mean_image")


def load_network(name: str | os.PathLike[str], epoch: int | str, config: Config,
                 dtype: str) -> tuple[PretrainedRef, nn.Module]:
    """Return the reference and the network of a checkpoint (see `pretrained.locate`) or of an export.

    UsageError for settings that have no effect on an export, DataError for a file that is none.
    """
    path = os.fspath(name)
    # in lower case: NET.ONNX is an export, too
    suffix = os.path.splitext(path)[1].lower()
    # a checkpoint whose prefix ends in .onnx stays a checkpoint
    is_export = suffix in (*_RUNNERS, safetensors_file.SUFFIX) and not checkpoint_files.any_exist(path)
    if not is_export:
        ref = pretrained.locate(name, epoch)
        return ref, pretrained.build(pretrained.read(ref))
    if str(epoch).strip().lower() != "auto":
        raise UsageError(f"`load_epoch` {verbatim(epoch)}: {verbatim(path)} is an export, which holds one "
                         "network")
    local = to_local_path(path, "`model`")
    try:
        os.close(open_regular(str(local)))
    except (OSError, ValueError) as error:
        raise UsageError(f"`model` {verbatim(path)}: {reason(error)}") from error
    # Before a runtime loads it: runtimes compute with damaged weights and report nothing.
    checksum.verify(str(local))
    if suffix == safetensors_file.SUFFIX:
        return _safetensors(path, str(local))
    if dtype not in ("auto", "float32"):
        raise UsageError(f"`dtype` {verbatim(dtype)}: {verbatim(path)} is an export, which computes as it "
                         "was written")
    return _runnable(path, str(local), config)


def _runnable(path: str, local: str, config: Config) -> tuple[PretrainedRef, nn.Module]:
    """Return an export that its own runtime computes."""
    runner = _RUNNERS[os.path.splitext(path)[1].lower()](local)
    description = runner.description
    has_mean_image = bool(description.preprocessing.get("mean_image"))
    note = ""
    if description.takes_pixels:
        for setting in _INSIDE:
            if config.is_explicit(setting):
                raise UsageError(f"`{setting}`: is part of {verbatim(path)}, which prepares its images "
                                 "itself: take the checkpoint, or an export with `preprocessing` 0")
        if has_mean_image:
            note = f"note: the mean image is part of {verbatim(path)}"
    elif has_mean_image and not config.is_explicit("mean_image", "rgb_mean"):
        raise UsageError(f"`mean_image`: {verbatim(path)} was trained with one, which the export lacks: "
                         "give it")
    network = ExportedNetwork(runner.run, description, path)
    return _reference(path, description, note=note), network


def _safetensors(path: str, local: str) -> tuple[PretrainedRef, nn.Module]:
    """Return the network of a safetensors file: its layers and weights are those of the checkpoint."""
    content = safetensors_file.read(local)
    model = pretrained.build(content.pretrained)
    if content.mean_image is None:
        return _reference(path, content.description), model
    # Mean images are passed by path everywhere; this file exists for as long as the network.
    folder = tempfile.TemporaryDirectory(prefix="imgcls-")
    model.mean_image_folder = folder  # type: ignore[assignment]
    packed = b"".join(map(bytes, params.serialize(["mean_img"], [content.mean_image], path)))
    mean_image = Path(folder.name, "mean.bin")
    mean_image.write_bytes(packed)
    noted = {"sha256": hashlib.sha256(packed).hexdigest()}
    return _reference(path, content.description, noted, str(mean_image)), model


def _reference(path: str, description: Description, noted_mean: dict[str, str] | None = None,
               mean_image: str = "", note: str = "") -> PretrainedRef:
    noted = {**description.preprocessing, "image_shape": list(description.image_shape),
             "mean_image": noted_mean}
    return PretrainedRef(path, description.network, prefix=path, preprocessing=noted, mean_image=mean_image,
                         class_names=tuple(description.class_names), origin=path,
                         image_shape=tuple(description.image_shape), note=note,
                         held_out=description.held_out, dataset=description.dataset)
