"""safetensors: the weights by MXNet's names, with the network and its description among the metadata."""

from __future__ import annotations

import os
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from imgcls import graph, pretrained
from imgcls.config.flags import convert, flags_of
from imgcls.config.sections import NetworkConfig
from imgcls.data.normalize import read_mean_image
from imgcls.errors import DataError, RunError, UsageError, first_line, verbatim
from imgcls.formats import json_text, symbol
from imgcls.inference.export.exported import KEY, Description, Exported
from imgcls.inference.export.mxnet_files import describe_network
from imgcls.pretrained.reference import Pretrained

SUFFIX = ".safetensors"
RUNTIME = "imgcls, read back"
TAKES_PIXELS = False
HAS_CHECKSUM = True
_MEAN_IMAGE = "imgcls:mean_image"


def check(output: str) -> None:
    """Do nothing: what is needed comes with imgcls."""


def write(exported: Exported, path: Path) -> list[Path]:
    """Write the network to `path`; return its files, which is that one."""
    kind, text = describe_network(exported)
    # not ascontiguousarray: it makes a scalar one-dimensional
    arrays = {name: np.asarray(array, order="C")
              for name, array in graph.arrays(exported.servable.network).items()}
    if exported.mean_image:
        arrays[_MEAN_IMAGE] = read_mean_image(exported.mean_image, exported.description.image_shape)
    # Metadata are text by the format, so the network is stored there as JSON: one file holds everything.
    try:
        save_file(arrays, path, metadata={**exported.description.metadata(), kind: text})
    except SafetensorError as error:  # no OSError, even of a full disk
        raise RunError(f"cannot write {verbatim(path)}: {first_line(error)}") from error
    return [path]


class Content(NamedTuple):
    """What such a file holds; `mean_image` is float32 (C, H, W) or None."""

    description: Description
    pretrained: Pretrained
    mean_image: np.ndarray | None


def read(path: str | os.PathLike[str]) -> Content:
    """Read a file; DataError for one that is damaged, or was not written here."""
    try:
        with safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
            # Only the header has been read so far; each tensor is checked against the file when it is read.
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
    except (SafetensorError, OSError, TypeError, AttributeError) as error:  # types that numpy does not have
        raise DataError(path, f"is no safetensors file: {first_line(error)}") from error
    if KEY not in metadata:
        raise DataError(path, f"is no export of imgcls: its metadata have no entry {KEY}")
    description = Description.from_json(metadata[KEY], path)
    mean_image = arrays.pop(_MEAN_IMAGE, None)
    if mean_image is not None and mean_image.shape != tuple(description.image_shape):
        raise DataError(path, f"its mean image has the shape {mean_image.shape}, and not that of its images")
    if "symbol" in metadata:
        network = symbol.loads(metadata["symbol"], path)
    else:
        settings = json_text.loads_object(metadata.get("network", ""), path, "the settings of a network")
        known = flags_of(NetworkConfig)
        try:
            # Checked as flags are: a file from anywhere can name no network and no depth that a user cannot.
            network = NetworkConfig(**{each.name: convert(known[each.name], settings[each.name])
                                       for each in fields(NetworkConfig) if each.name in settings})
        except UsageError as error:
            raise DataError(path, f"not the settings of a network: {error.message}") from error
    return Content(description, Pretrained(network, arrays, str(path)), mean_image)


class Runner:
    """Reads the file back and runs the network: float32 (N, C, H, W) -> probabilities (N, classes)."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Read the file; DataError for one that is damaged, or was not written here."""
        content = read(path)
        self.description = content.description
        self._model = pretrained.build(content.pretrained)

    @torch.no_grad()
    def run(self, images: np.ndarray) -> np.ndarray:
        """Return the probabilities of a batch."""
        return self._model(torch.from_numpy(images)).softmax(1).numpy()
