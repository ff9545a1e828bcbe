"""MXNet's files, and ours beside them: PREFIX-symbol.json, PREFIX-0000.params, PREFIX-meta.json.

For networks from elsewhere (the zoo, a URL, torchvision) that are to become a checkpoint on this machine.
Preprocessing and class names are in the meta data, which MXNet does not read.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from imgcls import graph, pretrained
from imgcls.config.version import __version__
from imgcls.data.normalize import read_mean_image
from imgcls.errors import UsageError, verbatim
from imgcls.formats import params, symbol
from imgcls.formats.symbol import Symbol
from imgcls.inference.export.exported import Exported
from imgcls.pretrained import checkpoint_files

SUFFIX = ""  # it is a prefix
RUNTIME = "imgcls, read back"
TAKES_PIXELS = False
HAS_CHECKSUM = False  # MXNet reads these files: nothing of ours may be in them


def check(output: str) -> None:
    """Raise UsageError for a prefix that has a checkpoint: the two would be taken for one."""
    if output.endswith(".params"):
        raise UsageError(f"`output` {verbatim(output)}: give the prefix, the part before -0000.params")
    if checkpoint_files.any_exist(output):
        raise UsageError(f"`output` {verbatim(output)}: a checkpoint has this prefix; choose another")


def write(exported: Exported, stem: Path) -> list[Path]:
    """Write the files whose names begin with `stem`; return them."""
    contents: dict[str, bytes] = {}
    kind, text = describe_network(exported)
    contents[f"-{kind}.json"] = text.encode()
    arrays = graph.arrays(exported.servable.network)
    path = f"{stem}-0000.params"
    pieces = params.serialize(list(arrays), list(arrays.values()), path)
    contents["-0000.params"] = b"".join(map(bytes, pieces))
    mean_image = _mean_image(exported)
    if mean_image:
        contents["-mean.bin"] = mean_image
    # Last: imgcls takes a prefix without it for MXNet's own, and its preprocessing for unknown.
    contents["-meta.json"] = _meta(exported, mean_image)
    written = []
    for end, content in contents.items():
        written.append(stem.with_name(stem.name + end))
        # Into a temporary folder; `run.py` moves them in this order when all are right.
        written[-1].write_bytes(content)
    return written


def describe_network(exported: Exported) -> tuple[str, str]:
    """Return what the network is as text: ("symbol", MXNet's) or ("network", its settings) as JSON."""
    network = exported.pretrained.network
    if isinstance(network, Symbol):
        return "symbol", symbol.dumps(graph.to_symbol(exported.servable.network))
    # torchvision's networks and those of packages have no symbol: MXNet cannot read these, imgcls can.
    return "network", json.dumps(asdict(network), indent=1)


class Runner:
    """Reads the files back and runs the network: float32 (N, C, H, W) -> probabilities (N, classes)."""

    def __init__(self, stem: Path) -> None:
        """Read the files whose names begin with `stem`."""
        ref = pretrained.locate(str(stem), 0)  # as imgcls-predict would find them
        self._model = pretrained.build(pretrained.read(ref))

    @torch.no_grad()
    def run(self, images: np.ndarray) -> np.ndarray:
        """Return the probabilities of a batch."""
        return self._model(torch.from_numpy(images)).softmax(1).numpy()


def _mean_image(exported: Exported) -> bytes:
    if not exported.mean_image:
        return b""
    array = read_mean_image(exported.mean_image, exported.description.image_shape)
    return b"".join(map(bytes, params.serialize(["mean_img"], [array], exported.mean_image)))


def _meta(exported: Exported, mean_image: bytes) -> bytes:
    """Return the meta data as training writes them, as far as they are known here."""
    description = exported.description
    preprocessing = {
        **description.preprocessing, "image_shape": list(description.image_shape),
        "mean_image": {"sha256": hashlib.sha256(mean_image).hexdigest()} if mean_image else None,
        "channels": "grey" if description.image_shape[0] == 1 else "RGB", "range": "0-255"}
    content = {"imgcls": __version__, "network": description.network, "command": "imgcls-export",
               "class_names": list(description.class_names), "preprocessing": preprocessing}
    return json.dumps(content, indent=1, ensure_ascii=False).encode(errors="backslashreplace")
