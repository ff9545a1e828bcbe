"""torchvision's pretrained weights: which there are, how their images are prepared, download and reading.

torchvision is imported only when one of its networks is requested: it doubles the import time of torch.
"""

from __future__ import annotations

import dataclasses
import importlib
import io
import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from imgcls.config.sections import NetworkConfig
from imgcls.errors import DataError, UsageError, nearest, verbatim
from imgcls.formats import torch_file
from imgcls.networks import build_network
from imgcls.pretrained.fetch import MAX_BYTES
from imgcls.pretrained.reference import Pretrained, PretrainedRef
from imgcls.storage import download, folders
from imgcls.storage.paths import to_local_path

#: networks whose weights take images from -1 to 1: torchvision's own code converts its input
#: (transform_input=True), ours leaves that to the preprocessing
_MINUS_ONE_TO_ONE = ("googlenet", "inception_v3")


def describe(name: str, network_and_weights: str, setting: str) -> PretrainedRef:
    """Return the reference to a network's weights, with torchvision's description; nothing is downloaded yet.

    `network_and_weights` is NAME, NAME:WEIGHTS or NAME:FILE.pth; `setting` and `name` are for errors.
    Raises UsageError for a network or weights that torchvision does not have.
    """
    network, _, _ = network_and_weights.partition(":")
    weights, file = _find_weights(name, network_and_weights, setting)
    transforms = weights.transforms()
    crop = transforms.crop_size[0]
    mean = transforms.mean
    std = transforms.std
    if network in _MINUS_ONE_TO_ONE:  # (x / 255 - 0.5) / 0.5
        mean = std = [0.5] * 3
    preprocessing = {
        "image_shape": (3, crop, crop), "mean": tuple(round(255 * value, 4) for value in mean),
        "std": tuple(round(255 * value, 4) for value in std), "val_resize": transforms.resize_size[0],
        "interpolation": "cubic" if transforms.interpolation.value == "bicubic" else "antialias"}
    # a file with a name of torchvision's is its download; any other may have other classes, 1000 of them too
    published = {str(known.url).rpartition("/")[2] for known in type(weights).__members__.values()}
    return PretrainedRef(
        name, f"torchvision:{network}", torchvision=network_and_weights, preprocessing=preprocessing,
        class_names=() if file else tuple(weights.meta["categories"]), origin="torchvision",
        is_imagenet=not file or Path(file).name in published)


def read(ref: PretrainedRef) -> Pretrained:
    """Read the weights of a torchvision network: the user's file, or torchvision's, downloaded if needed.

    DataError for a file that is damaged or has another network's weights.
    """
    network = ref.torchvision.partition(":")[0]
    weights, file = _find_weights(ref.name, ref.torchvision, "model")
    path = to_local_path(file) if file else _download(weights, network)
    state = _read_state_dict(path, network)
    config = NetworkConfig(network=f"torchvision:{network}", num_classes=len(ref.class_names) or 2,
                           image_shape=tuple(ref.preprocessing["image_shape"]))
    if file:  # a file of one's own may have any number of classes: that of its last layer
        config = dataclasses.replace(config, num_classes=_num_classes(config, state))
    model = build_network(config, seed=0)
    # strict=False: a googlenet's or inception_v3's file also has the auxiliary heads, which ours is built
    # without
    try:
        missing = model.load_state_dict(state, strict=False).missing_keys  # type: ignore[arg-type]
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        detail = lines[min(1, len(lines) - 1)]  # torch's first line only names the class
        raise DataError(path, f"not the weights of torchvision's {network}: {detail}") from error
    if missing:  # superfluous ones are not an error, missing ones are
        raise DataError(path, f"not the weights of torchvision's {network}: {', '.join(missing[:3])} "
                              f"{'is' if len(missing) == 1 else 'are'} missing")
    return Pretrained(config, {key: value.numpy() for key, value in model.state_dict().items()}, str(path))


def _num_classes(config: NetworkConfig, state: Mapping[str, torch.Tensor]) -> int:
    """Return the number of classes of the weights: the rows of the head, or 2 where its width is wrong."""
    head = next(iter(head_keys(config)))
    with torch.device("meta"):
        expected = build_network(config, seed=0).state_dict()[head].shape
    # with another width it is another network's: load_state_dict then says how they differ
    has_head = head in state and state[head].ndim and state[head].shape[1:] == expected[1:]
    return int(state[head].shape[0]) if has_head else 2


def head_keys(config: NetworkConfig) -> list[str]:
    """Return the keys of a torchvision or timm network's head: parameters shaped by the number of classes.

    Found by comparing two such networks, on the meta device: no package says which layer is its head.
    """
    shapes = []
    for num_classes in (2, 3):
        with torch.device("meta"):
            model = build_network(dataclasses.replace(config, num_classes=num_classes), seed=0)
        shapes.append({key: tuple(value.shape) for key, value in model.state_dict().items()})
    return [key for key, shape in shapes[0].items() if shape != shapes[1][key]]


def cache_folders() -> tuple[Path, ...]:
    """Return the folders that hold weights of torchvision's on this machine: torch's own cache, and ours."""
    return _torch_cache(), folders.cache_folder("models") / "torchvision"


def published() -> list[tuple[str, str, float]]:
    """Return (name for --pretrained-model, file, top-1 accuracy on ImageNet in per cent) of all weights.

    [] without torchvision.
    """
    try:
        models: ModuleType = importlib.import_module("torchvision.models")
    except (ImportError, RuntimeError):  # RuntimeError: built for another torch
        return []
    found = []
    for network in models.list_models(module=models):
        for weights in models.get_model_weights(network):  # without DEFAULT, a second name of one of them
            accuracy = weights.meta.get("_metrics", {}).get("ImageNet-1K", {}).get("acc@1", 0.0)
            file = str(weights.url).rpartition("/")[2]
            found.append((f"torchvision:{network}:{weights.name}", file, accuracy))
    return found


def _torch_cache() -> Path:
    return Path(torch.hub.get_dir(), "checkpoints")


def _find_weights(name: str, network_and_weights: str, setting: str) -> tuple[Any, str]:
    """Return (torchvision's weights of this name, the user's file or "").

    Without a name of weights they are torchvision's best ones; for a file too: they say how images are
    preprocessed.
    """
    try:
        models: ModuleType = importlib.import_module("torchvision.models")
    except ImportError as error:
        raise UsageError(f"`{setting}` {verbatim(name)}: torchvision cannot be imported ({error}): "
                         "pip install torchvision") from None
    network, _, weights_name = network_and_weights.partition(":")
    networks = models.list_models(module=models)
    if network not in networks:
        close = nearest(network, networks)
        offer = f"near it: {', '.join(close)}" if close else f"it has {', '.join(networks[:6])}, ..."
        raise UsageError(f"`{setting}` {verbatim(name)}: torchvision has no such network; {offer}")
    weights = models.get_model_weights(network)
    if weights_name.endswith((".pth", ".pt")):
        return weights.DEFAULT, weights_name
    if weights_name and weights_name not in weights.__members__:
        raise UsageError(f"`{setting}` {verbatim(name)}: torchvision's weights of {network} are "
                         f"{', '.join(weights.__members__)} (or give a .pth file)")
    return (weights[weights_name] if weights_name else weights.DEFAULT), ""


def _download(weights: Any, network: str) -> Path:
    """Return the file of the weights: the one in torch's own cache, else it is downloaded into ours.

    Its name ends with the first digits of its SHA-256, which the download is checked against.
    """
    url = str(weights.url)
    file = url.rpartition("/")[2]
    cached_by_torch = _torch_cache() / file
    if cached_by_torch.is_file():  # torchvision itself has downloaded it before
        return cached_by_torch
    digest = re.search(r"-([0-9a-f]{8,})\.pth$", file)
    folder = folders.cache_folder("models") / "torchvision"
    advice = f"put {file} into {folder}, or give a file of your own: torchvision:{network}:FILE.pth"
    return download.fetch([url], folder / file, sha256=digest[1] if digest else None, max_bytes=MAX_BYTES,
                          collection="torchvision", advice=advice)


def _read_state_dict(path: Path, network: str) -> dict[str, torch.Tensor]:
    """Read name -> tensor from a .pth file, under today's names.

    weights_only: torch takes tensors and plain containers out of the pickle and runs nothing of it. Before
    that, `torch_file.check` bounds the memory it takes.
    """
    if not path.exists():
        raise UsageError(f"torchvision:{network}:{verbatim(path)}: there is no such file")
    torch_file.check(path)
    try:
        # A legacy file from memory: in one on disk torch would look for a tar first, and unpack it.
        source = path if torch_file.is_archive(path) else io.BytesIO(path.read_bytes())
        state = torch.load(source, map_location="cpu", weights_only=True)
    # Any exception: the pickle and the storages may be damaged in any way. torch's own text is not shown: it
    # advises to switch weights_only off.
    except Exception as error:
        raise DataError(path, "not weights in torch's format: torch cannot read it, it is damaged") from error
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise DataError(path, "not weights: must hold tensors by name (a state_dict)")
    for key in list(state):  # torchvision's first names of densenet's layers, as in its own densenet.py
        today = re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.", key)
        if today != key:
            state[today] = state.pop(key)
    return state
