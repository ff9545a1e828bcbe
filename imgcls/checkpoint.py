"""prefix + epoch <-> files, so that a run resumed is the run that was never stopped.

    PREFIX-symbol.json     the network, MXNet's format
    PREFIX-0001.params     weights after epoch 1, MXNet's format
    PREFIX-0001.states     optimizer, loss scale and position (safetensors), for the last few epochs
    PREFIX-position.states the same and the weights, from inside an epoch; newer than any epoch, or not there
    PREFIX-network.json    in place of the symbol, for a network that MXNet cannot express (torchvision's, timm's)
    PREFIX-meta.json       class names, preprocessing, the resolved configuration, versions

Every file is written aside and renamed. `.states` goes before `.params`, so weights that are there can be resumed from.
MXNet's own checkpoints are read too: what has no `.states` starts with a fresh optimizer.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import uuid
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn

from imgcls import __version__, graph, storage
from imgcls.errors import DataError, RunError, UsageError
from imgcls.formats import params, symbol
from imgcls.layers import Layer

#: version of the layout of `.states`
STATES_FORMAT = 1


@dataclass(frozen=True)
class Position:
    """How far training has come: `epoch` epochs done and `batch` batches of the next, `update` updates in all."""

    epoch: int = 0
    batch: int = 0
    update: int = 0
    #: sums of the metrics over those batches: since the epoch began, and since the last progress line
    epoch_totals: tuple[list[float], int] | None = None
    interval_totals: tuple[list[float], int] | None = None
    epoch_loss: tuple[float, int] = (0.0, 0)
    interval_loss: tuple[float, int] = (0.0, 0)


@dataclass(frozen=True)
class Saved:
    """What was found at a prefix: `arrays` by MXNet's names (arg:..., aux:...), and the state if there was one."""

    path: str
    arrays: Mapping[str, np.ndarray]
    position: Position
    #: "MXNET_NAME/kind" -> tensor of the optimizer; None where the checkpoint holds weights only
    optimizer: Mapping[str, Tensor] | None = None
    #: torch's class of that optimizer
    optimizer_class: str = ""
    scaler: Mapping[str, Any] = field(default_factory=dict)
    run: str = ""


class Checkpoint:
    """Writes the files of one run under `prefix`; holds the prefix's lock, so that two runs cannot share it."""

    def __init__(self, prefix: str, *, keep_states: int = 2, run: str = "") -> None:
        """Raises RunError where the folder cannot be written or another run is writing there."""
        self.prefix, self.run = os.fspath(storage.local(prefix, "--model-prefix")), run or uuid.uuid4().hex
        self._keep_states = keep_states
        storage.check_writable(self.prefix, "--model-prefix")
        self._lock = _lock(self.prefix)

    def begin(self, model: nn.Module, network: Mapping[str, Any], meta: Mapping[str, Any], resumed: bool) -> None:
        """Write what holds for the whole run: the network and the meta data. `network` are its settings.

        A run from scratch takes the states of an earlier run under this prefix away and notes which weights are not
        its own, so that `--load-epoch auto` never goes on from those.
        """
        if resumed:
            foreign = read_meta(self.prefix).get("earlier_epochs", [])
        else:
            foreign = sorted(_numbered(self.prefix, "params"))
            Path(f"{self.prefix}-position.states").unlink(missing_ok=True)
            for epoch in _numbered(self.prefix, "states"):
                Path(f"{self.prefix}-{epoch:04d}.states").unlink(missing_ok=True)
        if any(isinstance(module, Layer) for module in model.modules()):
            symbol.save(f"{self.prefix}-symbol.json", graph.to_symbol(model))
        else:
            storage.write_bytes(f"{self.prefix}-network.json", json.dumps(dict(network), indent=1).encode())
        text = json.dumps({"imgcls": __version__, "run": self.run, "earlier_epochs": foreign, **meta}, indent=1,
                          ensure_ascii=False)
        storage.write_bytes(f"{self.prefix}-meta.json", text.encode())

    def save_epoch(self, model: nn.Module, optimizer: torch.optim.Optimizer, scaler: Mapping[str, Any],
                   position: Position) -> str:
        """Write the checkpoint after `position.epoch` epochs; returns the path of the weights."""
        arrays = graph.arrays(model)
        stem = f"{self.prefix}-{position.epoch:04d}"
        storage.write_bytes(f"{stem}.states", self._states(model, optimizer, scaler, position, arrays))
        params.save(f"{stem}.params", arrays)
        with contextlib.suppress(OSError):
            Path(f"{self.prefix}-position.states").unlink(missing_ok=True)
            for old in sorted(_numbered(self.prefix, "states"))[:-self._keep_states]:
                if old < position.epoch:
                    Path(f"{self.prefix}-{old:04d}.states").unlink(missing_ok=True)
        return f"{stem}.params"

    def save_position(self, model: nn.Module, optimizer: torch.optim.Optimizer, scaler: Mapping[str, Any],
                      position: Position) -> str:
        """Write everything that a position inside an epoch needs into one file, in place of the one before."""
        path = f"{self.prefix}-position.states"
        arrays = graph.arrays(model)
        storage.write_bytes(path, self._states(model, optimizer, scaler, position, arrays, with_weights=True))
        return path

    def close(self) -> None:
        """Give the prefix back."""
        Path(f"{self.prefix}.lock").unlink(missing_ok=True)
        self._lock.close()

    def _states(self, model: nn.Module, optimizer: torch.optim.Optimizer, scaler: Mapping[str, Any],
                position: Position, arrays: Mapping[str, np.ndarray], with_weights: bool = False) -> bytes:
        tensors = {f"optimizer/{name}": tensor.detach().cpu().contiguous()
                   for name, tensor in _optimizer_tensors(model, optimizer).items()}
        if with_weights:
            tensors |= {f"weights/{name}": torch.from_numpy(np.ascontiguousarray(a)) for name, a in arrays.items()}
        text = json.dumps({"format": STATES_FORMAT, "run": self.run, "weights_crc": _crc(arrays),
                           "optimizer": type(optimizer).__name__,
                           "position": asdict(position), "scaler": dict(scaler)})
        return save_safetensors(tensors, {"imgcls": text})


def load(prefix: str, epoch: str) -> Saved | None:
    """The checkpoint that --load-epoch means: a number (8, 0008), or auto for the newest state (None: there is none).

    Raises UsageError when there is no such epoch, naming those there are, and DataError for damaged files.
    """
    root = os.fspath(storage.local(prefix, "--model-prefix"))
    if epoch.strip().lower() == "auto":
        return _newest(root)
    number = parse_epoch(epoch)
    for stem in (f"{root}-{number:04d}", f"{root}-0-{number:04d}"):  # the second: rank 0 of MXNet's first scripts
        if Path(f"{stem}.params").exists():
            return _read_epoch(stem, number)
    there = sorted(_numbered(root, "params"))
    have = f"there is {', '.join(map(str, there))}" if there else "no epoch was saved there"
    raise UsageError(f"--load-epoch {epoch}: {root}-{number:04d}.params does not exist; {have}")


def parse_epoch(text: str) -> int:
    """8, 0008 and 0000 are epochs."""
    if not text.strip().isdigit():
        raise UsageError(f"--load-epoch {text}: must be an epoch such as 8 or 0008, or auto")
    return int(text)


def newest_epoch(prefix: str) -> int | None:
    """The highest epoch whose weights are there, or None."""
    return max(_numbered(os.fspath(storage.local(prefix)), "params"), default=None)


def read_meta(prefix: str) -> dict[str, Any]:
    """PREFIX-meta.json, or {} for a checkpoint that has none (MXNet's own)."""
    path = Path(f"{storage.local(prefix)}-meta.json")
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise DataError(path, f"not the meta data of a checkpoint: {error}") from error
    if not isinstance(meta, dict):
        raise DataError(path, "not the meta data of a checkpoint: must be a JSON object")
    return meta


def restore_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, saved: Saved) -> None:
    """Give a fresh optimizer of `model` the state that `saved` holds; DataError where they do not belong together.

    The state of another kind of optimizer means nothing to this one: the caller checks `optimizer_class`.
    """
    names = graph.parameter_names(model)
    parameters = {names[key]: p for key, p in model.named_parameters()}
    by_parameter: dict[nn.Parameter, dict[str, Tensor]] = {}
    for path, tensor in (saved.optimizer or {}).items():
        name, _, kind = path.rpartition("/")
        if name not in parameters or (tensor.ndim and tensor.shape != parameters[name].shape):
            raise DataError(saved.path, f"the optimizer state of {name} does not fit this network")
        if tensor.ndim:  # in the memory order of the weights: fused steps walk both side by side
            tensor = torch.empty_like(parameters[name], dtype=tensor.dtype).copy_(tensor)
        by_parameter.setdefault(parameters[name], {})[kind] = tensor.detach()
    state = optimizer.state_dict()
    order = [p for group in optimizer.param_groups for p in group["params"]]
    state["state"] = {index: by_parameter[p] for index, p in enumerate(order) if p in by_parameter}
    optimizer.load_state_dict(state)


def _optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """ "MXNET_NAME/kind" -> tensor, for everything the optimizer remembers."""
    names = graph.parameter_names(model)
    return {f"{names[key]}/{kind}": value if isinstance(value, Tensor) else torch.tensor(value)
            for key, p in model.named_parameters() for kind, value in optimizer.state.get(p, {}).items()
            if value is not None}


def _newest(root: str) -> Saved | None:
    """The state that is furthest on among those of the run that wrote the meta data; weights alone if nothing else."""
    foreign = read_meta(root).get("earlier_epochs", [])
    inside = Path(f"{root}-position.states")
    position = _read_states(inside) if inside.exists() else None
    for epoch in sorted(_numbered(root, "params"), reverse=True):
        if position and position.position.epoch >= epoch:
            break
        stem = f"{root}-{epoch:04d}"
        if epoch in foreign and not Path(f"{stem}.states").exists():
            continue  # the weights of an earlier, longer run under the same prefix
        return _read_epoch(stem, epoch)
    return position


def _read_epoch(stem: str, number: int) -> Saved:
    """Weights, and the state beside them if it is theirs."""
    arrays = params.load(f"{stem}.params")
    states = Path(f"{stem}.states")
    if states.exists():
        saved = _read_states(states, arrays)
        return dataclasses.replace(saved, path=f"{stem}.params", arrays=arrays)
    return Saved(f"{stem}.params", arrays, Position(epoch=number))


def _read_states(path: Path, arrays: Mapping[str, np.ndarray] | None = None) -> Saved:
    """A `.states` file: with `arrays` the state that belongs to them, without it one that holds the weights too."""
    try:
        content = path.read_bytes()
        tensors = load_safetensors(content)
        header = json.loads(content[8:8 + int.from_bytes(content[:8], "little")])
        state = json.loads(header["__metadata__"]["imgcls"])
        if state["format"] != STATES_FORMAT:
            raise DataError(path, f"written in format {state['format']}, this version reads {STATES_FORMAT}")
        position = Position(**state["position"])
    except OSError as error:
        raise DataError(path, (error.strerror or str(error)).lower()) from error
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise DataError(path, f"not a training state of imgcls, or cut short ({error})") from error
    optimizer = {k.removeprefix("optimizer/"): t for k, t in tensors.items() if k.startswith("optimizer/")}
    if arrays is None:
        arrays = {k.removeprefix("weights/"): t.numpy() for k, t in tensors.items() if k.startswith("weights/")}
    if _crc(arrays) != state["weights_crc"]:
        raise DataError(path, "belongs to other weights than those beside it; remove it to go on with a fresh "
                              "optimizer")
    return Saved(str(path), arrays, position, optimizer, state["optimizer"], state["scaler"], state["run"])


def _crc(arrays: Mapping[str, np.ndarray]) -> int:
    """A checksum over names and values, that ties a state to its weights (in any order)."""
    crc = 0
    for name in sorted(arrays):
        crc = zlib.crc32(np.ascontiguousarray(arrays[name]).data, zlib.crc32(name.encode(), crc))
    return crc


def _numbered(root: str, suffix: str) -> Iterator[int]:
    """The epochs e for which ROOT-eeee.suffix exists (an epoch over 9999 has more digits)."""
    folder, name = Path(root).parent, re.escape(Path(root).name)
    pattern = re.compile(rf"{name}-(\d{{4,}})\.{suffix}")
    entries: Sequence[str] = os.listdir(folder) if folder.is_dir() else ()
    return iter([int(match[1]) for match in map(pattern.fullmatch, entries) if match])


def _lock(prefix: str) -> IO[str]:
    """Hold PREFIX.lock for this process; the system lets go of it however the process ends."""
    stream = open(f"{prefix}.lock", "w")  # noqa: SIM115 - open for as long as the run
    try:
        import fcntl

        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:
        return stream
    except OSError as error:
        stream.close()
        raise RunError(f"--model-prefix {prefix}: another run is writing there; wait for it or choose another "
                       "prefix") from error
    return stream
