"""Pretrained networks by name: files of one's own, MXNet's model zoo, a URL, torchvision's weights.

`locate` finds out what a name means and downloads what it takes, `read` reads it, `build` makes the network that was
trained. `--pretrained-model` and `--model` of the commands come here, and so do `load_model` and `Predictor` of `api`.
Downloads go to the folder `models` of the cache (`IMGCLS_CACHE`) and are checked against the hash that a mirror
publishes beside a file; where there is none, the hash of the first download is noted and holds from then on.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
import os
import re
import sys
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn

from imgcls import graph
from imgcls.config.sections import NetworkConfig
from imgcls.errors import DataError, RunError, UsageError, nearest
from imgcls.formats import caffe, params, symbol
from imgcls.formats.symbol import Symbol
from imgcls.networks import build_network
from imgcls.storage import download, folders
from imgcls.storage.atomic import write_bytes
from imgcls.storage.paths import AnyPath, to_local_path, to_path
from imgcls.training import checkpoint

#: where MXNet kept them; the server is gone, and IMGCLS_MIRROR is asked for the same paths (models/imagenet/...)
BASE_URL = "http://data.mxnet.io/"
#: no network of the zoo has a larger file (its largest has 620 MB)
MAX_BYTES = 4 << 30
#: what the zoo's residual networks were trained with: they normalise the image themselves
_RAW: dict[str, Any] = {"image_shape": (3, 224, 224), "mean": (0.0, 0.0, 0.0), "std": (1.0,), "val_resize": 256}
_PHOTOGRAPHS = _RAW | {"mean": (123.68, 116.779, 103.939)}


@dataclass(frozen=True)
class ZooModel:
    """One of MXNet's: `path` below BASE_URL without its epoch, and torchvision's nearest (`exactly` the same layers
    or only about as large)."""

    path: str
    living: str
    epoch: int = 0
    preprocessing: Mapping[str, Any] = field(default_factory=lambda: _RAW)

    @property
    def folder(self) -> str:
        return self.path.rpartition("/")[0]

    @property
    def stem(self) -> str:
        return self.path.rpartition("/")[2]


#: MXNet's name (common/modelzoo.py) -> files
ZOO: dict[str, ZooModel] = {
    "imagenet1k-inception-bn": ZooModel("models/imagenet/inception-bn/Inception-BN", "googlenet", 126, _PHOTOGRAPHS),
    **{f"imagenet1k-resnet-{depth}": ZooModel(f"models/imagenet/resnet/{depth}-layers/resnet-{depth}", f"resnet{depth}")
       for depth in (18, 34, 50, 101, 152)},
    "imagenet1k-resnext-50": ZooModel("models/imagenet/resnext/50-layers/resnext-50", "resnext50_32x4d"),
    "imagenet1k-resnext-101": ZooModel("models/imagenet/resnext/101-layers/resnext-101", "resnext101_32x8d"),
    "imagenet1k-resnext-101-64x4d": ZooModel("models/imagenet/resnext/101-layers/resnext-101-64x4d",
                                             "resnext101_64x4d"),
    "imagenet11k-resnet-152": ZooModel("models/imagenet-11k/resnet-152/resnet-152", "resnet152"),
    "imagenet11k-place365ch-resnet-50": ZooModel("models/imagenet-11k-place365-ch/resnet-50", "resnet50"),
    "imagenet11k-place365ch-resnet-152": ZooModel("models/imagenet-11k-place365-ch/resnet-152", "resnet152"),
}


@dataclass(frozen=True)
class PretrainedRef:
    """Where a pretrained network is, all of it on this machine, and what is known about it.

    `preprocessing` is as in a checkpoint's meta.json, {} where nobody noted it; `origin` says who did.
    """

    name: str
    #: what --network would call it, or as much as is known of that
    network: str
    prefix: str = ""
    epoch: str = "auto"
    #: torchvision's name of the network and, after a colon, of its weights; then there is no prefix
    torchvision: str = ""
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    class_names: Sequence[str] = ()
    origin: str = ""
    #: the --dataset of its training, "" where nobody noted it
    dataset: str = ""


@dataclass(frozen=True)
class Pretrained:
    """A network that was read and not yet built: a symbol, or the settings of one that no symbol expresses."""

    network: Symbol | NetworkConfig
    #: weights by MXNet's names, or by torch's
    arrays: Mapping[str, np.ndarray]
    path: str
    #: the file of the symbol, for errors; "" where there is none
    symbol_path: str = ""


def locate(name: str | os.PathLike[str], epoch: int | str = "auto", *, flag: str = "`model`") -> PretrainedRef:
    """What `name` means: a prefix or .params file of one's own, which wins over a name of the zoo; a network of the
    zoo, also without its imagenet1k-; the http, https or file URL of a prefix; torchvision:NAME[:WEIGHTS].

    `epoch` is a number or "auto" (the newest; of a URL, 0). Raises UsageError where there is no such thing, RunError
    where it cannot be downloaded.
    """
    name, epoch = os.fspath(name), str(epoch).strip()
    caffe.refuse_model(flag.strip("`"), name)
    kind, colon, rest = name.partition(":")
    if colon and kind.lower() == "torchvision":
        return _torchvision_place(name, rest, flag)
    if colon and kind.lower() == "timm":
        raise UsageError(f"{flag} {name}: pretrained are MXNet's zoo and torchvision's; timm's come untrained, as "
                         f"`network` {name} of imgcls-train")
    if name.lower().startswith(("http://", "https://")):
        return _download_url(name, epoch, flag)
    if name.lower().startswith("file:"):
        name = urllib.request.url2pathname(urllib.parse.urlsplit(name).path)
    if _is_here(name):
        return _own_place(name, epoch)
    found = find_model(name)
    if found is None:
        raise _nothing_there(name, flag)
    return _download_model(found, epoch)


def find_model(name: str) -> str | None:
    """The zoo's own name for `name` (`resnext-101` is imagenet1k-resnext-101), None where it has no such network."""
    spelled = name.strip().lower().replace("_", "-")
    return next((full for full in (spelled, f"imagenet1k-{spelled}") if full in ZOO), None)


def read(place: PretrainedRef) -> Pretrained:
    """The files of a place; DataError for what is damaged."""
    if place.torchvision:
        return _read_torchvision(place)
    arrays, path = _weights(place)
    return read_network(place.prefix, arrays, path)


def read_network(prefix: str, arrays: Mapping[str, np.ndarray], path: str) -> Pretrained:
    """The network whose files have this prefix, with weights that were read already from `path`."""
    settings = to_path(f"{_stem(prefix)}-network.json")
    if settings.exists():
        return Pretrained(_settings(settings), arrays, path)
    symbol_path = _symbol_path(path, prefix)
    return Pretrained(symbol.load(symbol_path), arrays, path, str(symbol_path))


def build(pretrained: Pretrained) -> nn.Module:
    """The network as it was trained, in evaluation mode: float (N, C, H, W) -> logits (N, classes)."""
    if isinstance(pretrained.network, Symbol):
        return graph.from_symbol(pretrained.network, pretrained.arrays, path=pretrained.path,
                                 symbol_path=pretrained.symbol_path).eval()
    model = build_network(pretrained.network, seed=0)
    graph.load_arrays(model, pretrained.arrays, path=pretrained.path)
    return model.eval()


# Files of one's own


def _is_here(prefix: str) -> bool:
    """Whether any file of a checkpoint has this prefix. What lies elsewhere than on a disk is looked up by `read`."""
    if "://" in prefix or prefix.endswith(".params"):
        return True
    root = to_local_path(prefix)
    return any(Path(f"{root}-{end}").exists() for end in ("symbol.json", "network.json", "0-symbol.json")) or (
        checkpoint.newest_epoch(prefix) is not None)


def _own_place(name: str, epoch: str) -> PretrainedRef:
    stem = _stem(name)
    meta, settings = checkpoint.read_meta(stem), to_path(f"{stem}-network.json")
    known, then = meta.get("preprocessing"), meta.get("config")
    network = _settings(settings).network if settings.exists() else str(meta.get("network") or Path(stem).name)
    return PretrainedRef(name, network, name, epoch, preprocessing=known if isinstance(known, dict) else {},
                   class_names=[str(one) for one in meta.get("class_names") or ()], origin=f"{stem}-meta.json",
                   dataset=str(then.get("dataset") or "") if isinstance(then, dict) else "")


def _nothing_there(name: str, flag: str) -> UsageError:
    line = f"{flag} {name}: there is no {name}-0001.params or any other epoch"
    if "/" in name or os.sep in name:
        return UsageError(line)
    close = nearest(name, [*ZOO, *(full.removeprefix("imagenet1k-") for full in ZOO)])
    there = f"near it: {', '.join(close)}" if close else f"it has {', '.join(ZOO)}"
    return UsageError(f"{line}, and the zoo has no network of this name; {there}")


def _weights(place: PretrainedRef) -> tuple[dict[str, np.ndarray], str]:
    if place.prefix.endswith(".params"):
        return params.load(place.prefix), place.prefix
    saved = checkpoint.load(place.prefix, place.epoch)
    if saved is None:
        raise UsageError(f"`model` {place.prefix}: there is no {place.prefix}-0001.params or any other epoch")
    return dict(saved.arrays), saved.path


def _stem(prefix: str) -> str:
    """The prefix itself, also for PREFIX-0008.params."""
    return os.fspath(to_path(re.sub(r"(-\d{4,})?\.params$", "", prefix)))


def _symbol_path(params_path: str, prefix: str) -> AnyPath:
    """The symbol that goes with the weights: PREFIX-symbol.json, also for PREFIX-0008.params and PREFIX-0-0008."""
    stem = params_path.rpartition("-")[0]
    for one in (prefix.removesuffix(".params"), stem, stem.removesuffix("-0")):
        if (found := to_path(f"{one}-symbol.json")).exists():
            return found
    raise DataError(f"{prefix}-symbol.json", "does not exist; it says which network the weights belong to")


def _settings(path: AnyPath) -> NetworkConfig:
    """The settings of a network that no symbol expresses."""
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
        return NetworkConfig(**{**given, "image_shape": tuple(given["image_shape"])})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(path, f"not the settings of a network: {error}") from error


# Downloads


def _download_model(name: str, epoch: str) -> PretrainedRef:
    """MXNet's files of a zoo network, from IMGCLS_MIRROR or the old host, into models/ of the cache."""
    model = ZOO[name]
    if epoch.lower() != "auto" and checkpoint.parse_epoch(epoch) not in (0, model.epoch):
        raise UsageError(f"`load_epoch` {epoch}: the zoo has {name} after one epoch only, {model.epoch:04d} "
                         "(0000 means it too)")
    folder = folders.cache_folder(model.folder)
    files = [f"{model.stem}-symbol.json", f"{model.stem}-{model.epoch:04d}.params"]
    advice = (f"MXNet's server is gone: take torchvision:{model.living}, the living equivalent of {name}, or put "
              f"{' and '.join(files)} into {folder}, or name a mirror of that server in {download.MIRROR_VARIABLE}")
    for file in files:
        _fetch([f"{BASE_URL}{model.path.rpartition('/')[0]}/{file}"], folder / file, model.folder, advice)
    return PretrainedRef(name, name, str(folder / model.stem), str(model.epoch), preprocessing=model.preprocessing,
                   origin="MXNet's zoo")


def _download_url(url: str, epoch: str, flag: str) -> PretrainedRef:
    """The files of a prefix somewhere on the web: its network, its weights and, where there is one, its meta.json."""
    base, number = url, 0 if epoch.lower() == "auto" else checkpoint.parse_epoch(epoch)
    if match := re.fullmatch(r"(.+)-(\d{4,})\.params", url):
        base, number = match[1], int(match[2])
    base = base.removesuffix("-symbol.json")
    stem = re.sub(r"[^\w.+-]", "_", urllib.parse.unquote(urllib.parse.urlsplit(base).path.rpartition("/")[2]))
    if not stem:
        raise UsageError(f"{flag} {url}: must end with the prefix of the files, such as .../resnet-18 for "
                         ".../resnet-18-symbol.json and .../resnet-18-0000.params")
    folder = folders.cache_folder("models") / "url" / hashlib.sha256(base.encode()).hexdigest()[:16]
    if not any((folder / f"{stem}-{end}.json").exists() for end in ("symbol", "network")):
        _small_files(base, folder, stem)
    file = f"{stem}-{number:04d}.params"
    advice = f"of {base} epoch {number} was asked for; `load_epoch` names another"
    _fetch([f"{base}-{number:04d}.params"], folder / file, None, advice)
    return dataclasses.replace(_own_place(str(folder / stem), str(number)), name=url, origin=f"{base}-meta.json")


def _small_files(base: str, folder: Path, stem: str) -> None:
    """The network and the meta data of the prefix at `base`; RunError where there is no network."""
    found = {end: content for end in ("meta.json", "symbol.json")
             if (content := download.read_url(f"{base}-{end}", symbol.MAX_BYTES))}
    if "symbol.json" not in found and (content := download.read_url(f"{base}-network.json", 1 << 20)):
        found["network.json"] = content
    if not found.keys() - {"meta.json"}:
        raise RunError(f"cannot download {stem}: there is no {base}-symbol.json")
    for end, content in found.items():
        write_bytes(folder / f"{stem}-{end}", content)


def _fetch(urls: Sequence[str], target: Path, collection: str | None, advice: str) -> None:
    """Make `target` exist and be what it was: checked by a published hash, or by the one of the first download."""
    noted = target.with_name(f"{target.name}.sha256")
    wanted = _noted(noted)
    if target.exists():
        if wanted and _sha256(target) != wanted:
            raise DataError(target, "has changed since it was downloaded; remove it to download it again, or "
                                    f"{noted.name} beside it to take it as it is")
        return
    unreachable = []
    sources = [*download.user_mirror(collection, target.name), *urls]
    for url in [] if wanted else sources:
        try:
            wanted = wanted or download.published_sha256(url)
        except RunError as error:
            unreachable.append(str(error).replace(f"{url}.sha256", url))
    if len(unreachable) == len(sources):
        raise RunError("\n".join([f"cannot download {target.name}:", *unreachable, advice]))
    download.fetch(urls, target, sha256=wanted, max_bytes=MAX_BYTES, collection=collection, advice=advice)
    if not wanted:
        wanted = _sha256(target)
        print(f"note: no hash of {target.name} is published; what came (sha256 {wanted[:16]}...) is noted beside it "
              "and checked from now on", file=sys.stderr)
    write_bytes(noted, f"{wanted}  {target.name}\n".encode())


def _noted(path: Path) -> str | None:
    try:
        words = path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError):
        return None
    return words[0].lower() if words and re.fullmatch("[0-9a-fA-F]{64}", words[0]) else None


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while piece := stream.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


# torchvision's


def _torchvision_place(name: str, wanted: str, flag: str) -> PretrainedRef:
    """What torchvision says about a network's weights; nothing is downloaded yet."""
    network, _, _ = wanted.partition(":")
    weights, file = _torchvision_weights(name, wanted, flag)
    pre = weights.transforms()
    crop, mean, std = pre.crop_size[0], pre.mean, pre.std
    if network in ("googlenet", "inception_v3"):  # their weights take -1 to 1, into which torchvision's own network
        mean = std = [0.5] * 3                    # converts what it is given (transform_input) and ours does not
    known = {"image_shape": (3, crop, crop), "mean": tuple(round(255 * one, 4) for one in mean),
             "std": tuple(round(255 * one, 4) for one in std), "val_resize": pre.resize_size[0],
             "interpolation": "cubic" if pre.interpolation.value == "bicubic" else "antialias"}
    return PretrainedRef(name, f"torchvision:{network}", torchvision=wanted, preprocessing=known,
                   class_names=() if file else tuple(weights.meta["categories"]), origin="torchvision")


def _torchvision_weights(name: str, wanted: str, flag: str) -> tuple[Any, str]:
    """torchvision's weights by name, its best without one; or, of another file, those that tell how images are
    prepared, and the file."""
    try:
        models: ModuleType = importlib.import_module("torchvision.models")
    except ImportError as error:
        raise UsageError(f"{flag} {name}: torchvision cannot be imported ({error}): "
                         "pip install 'imgcls[zoo]'") from None
    network, _, which = wanted.partition(":")
    known = models.list_models(module=models)
    if network not in known:
        close = nearest(network, known)
        raise UsageError(f"{flag} {name}: torchvision has no such network; "
                         + (f"near it: {', '.join(close)}" if close else f"it has {', '.join(known[:6])}, ..."))
    weights = models.get_model_weights(network)
    if which.endswith((".pth", ".pt")):
        return weights.DEFAULT, which
    if which and which not in weights.__members__:
        raise UsageError(f"{flag} {name}: torchvision's weights of {network} are {', '.join(weights.__members__)} (or "
                         "give a .pth file)")
    return (weights[which] if which else weights.DEFAULT), ""


def _read_torchvision(place: PretrainedRef) -> Pretrained:
    """Download the weights of a torchvision network, or take the given file, and read them."""
    network = place.torchvision.partition(":")[0]
    weights, file = _torchvision_weights(place.name, place.torchvision, "`model`")
    path = to_local_path(file) if file else _torchvision_file(weights, network)
    state = _state_dict(path, network)
    shape = tuple(place.preprocessing["image_shape"])
    config = NetworkConfig(network=f"torchvision:{network}", num_classes=len(place.class_names) or 2, image_shape=shape)
    if file:
        head = next(iter(head_keys(config)))
        config = dataclasses.replace(config, num_classes=int(state[head].shape[0]) if head in state else 2)
    model = build_network(config, seed=0)
    try:
        missing = model.load_state_dict(state, strict=False).missing_keys  # type: ignore[arg-type]
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        raise DataError(path, f"not the weights of torchvision's {network}: {lines[min(1, len(lines) - 1)]}") from error
    if missing:
        raise DataError(path, f"not the weights of torchvision's {network}: {', '.join(missing[:3])} "
                              f"{'is' if len(missing) == 1 else 'are'} missing")
    return Pretrained(config, {key: value.numpy() for key, value in model.state_dict().items()}, str(path))


def _torchvision_file(weights: Any, network: str) -> Path:
    """The file of the weights: torch's own cache may have it, else it is downloaded into ours. Its name ends with the
    beginning of its hash."""
    url = str(weights.url)
    file = url.rpartition("/")[2]
    theirs = Path(torch.hub.get_dir(), "checkpoints", file)
    if theirs.is_file():
        return theirs
    digest = re.search(r"-([0-9a-f]{8,})\.pth$", file)
    folder = folders.cache_folder("models") / "torchvision"
    return download.fetch([url], folder / file, sha256=digest[1] if digest else None, max_bytes=MAX_BYTES,
                          collection="torchvision", advice=f"put {file} into {folder}, or give a file of your own: "
                                                           f"torchvision:{network}:FILE.pth")


def _state_dict(path: Path, network: str) -> dict[str, torch.Tensor]:
    """name -> tensor of a .pth file, under today's names. Only tensors and plain containers are taken out of it."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UsageError(f"torchvision:{network}:{path}: there is no such file") from None
    except Exception as error:  # whatever the pickle and the archive inside can have wrong with them
        raise DataError(path, f"not weights in torch's format: {str(error).strip().splitlines()[0]}") from error
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise DataError(path, "not weights: must hold tensors by name (a state_dict)")
    for key in list(state):  # torchvision's first names of densenet's layers
        today = re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.", key)
        if today != key:
            state[today] = state.pop(key)
    return state


def head_keys(config: NetworkConfig) -> list[str]:
    """The parameters of a torchvision or timm network that the number of classes shapes, by torch's names."""
    shapes = []
    for classes in (2, 3):
        with torch.device("meta"):
            model = build_network(dataclasses.replace(config, num_classes=classes), seed=0)
        shapes.append({key: tuple(value.shape) for key, value in model.state_dict().items()})
    return [key for key, shape in shapes[0].items() if shape != shapes[1][key]]
