"""prefix + epoch <-> files, so that a run resumed is the run that was never stopped.

    PREFIX-symbol.json     the network, MXNet's format
    PREFIX-0001.params     weights after epoch 1, MXNet's format
    PREFIX-0001.states     optimizer, loss scale and position (safetensors), for the last few epochs
    PREFIX-position.states the same and the weights, from inside an epoch; newer than any epoch, or not there
    PREFIX-network.json    in place of the symbol, for a network that MXNet cannot express (torchvision's, timm's)
    PREFIX-meta.json       class names, preprocessing, the resolved configuration, versions

Every file is written aside and renamed. `.states` goes before `.params`, so weights that are there can be resumed from.
Under a URL the position has a new name each time, PREFIX-position-UPDATE-WRITER.states, and PREFIX-latest.json, written
after it, tells which of them counts; all of it is uploaded in the background (`uploads.py`).
MXNet's own checkpoints are read too: what has no `.states` starts with a fresh optimizer.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import sys
import uuid
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import IO, Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn

from imgcls import graph
from imgcls.config.version import __version__
from imgcls.errors import DataError, RunError, UsageError
from imgcls.formats import params, symbol
from imgcls.formats import states as mxnet_states
from imgcls.layers import Layer
from imgcls.storage.atomic import check_writable
from imgcls.storage.locks import lock_file
from imgcls.storage.paths import AnyPath, to_local_path, to_path
from imgcls.storage.reading import open_read
from imgcls.storage.remote import RemotePath
from imgcls.storage.uploads import UploadQueue
from imgcls.storage.urls import url_scheme

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
    #: samples of a batch over all processes, and how many of those there were; 0 where that was not written down
    batch_size: int = 0
    world: int = 0


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
    #: in place of `optimizer`, what MXNet saved: states by the position of their parameter
    mxnet_states: Mapping[int | str, mxnet_states.State] | None = None


class Checkpoint:
    """Writes the files of one run under `prefix`; holds the prefix's lock, so that two runs cannot share it.

    A URL has no lock: there a second run is noticed at the next save, by PREFIX-latest.json.
    """

    def __init__(self, prefix: str, *, keep_states: int = 2, run: str = "") -> None:
        """Raises RunError where the folder cannot be written or another run is writing there."""
        self.prefix, self.run = os.fspath(to_path(prefix, "`model_prefix`")), run or uuid.uuid4().hex
        self._keep_states = keep_states
        check_writable(self.prefix, "`model_prefix`")
        self._uploads = UploadQueue(self.prefix)
        self._lock = None if self._uploads.is_remote else _lock(self.prefix)
        #: of this object, for PREFIX-latest.json; and the position under a URL that it told of last
        self._writer, self._position = uuid.uuid4().hex, ""

    def begin(self, model: nn.Module, network: Mapping[str, Any], meta: Mapping[str, Any], resumed: bool) -> None:
        """Write what holds for the whole run: the network and the meta data. `network` are its settings.

        A run from scratch takes the states of an earlier run under this prefix away and notes which weights are not
        its own, so that `--load-epoch auto` never goes on from those.
        """
        if resumed:
            foreign = read_meta(self.prefix).get("earlier_epochs", [])
        else:
            foreign = sorted(_numbered(self.prefix, "params"))
            self._uploads.remove(f"{self.prefix}-position.states")
            for epoch in _numbered(self.prefix, "states"):
                self._uploads.remove(f"{self.prefix}-{epoch:04d}.states")
        if self._uploads.is_remote:
            self._take_over(resumed)
        if any(isinstance(module, Layer) for module in model.modules()):
            self._uploads.write(f"{self.prefix}-symbol.json", symbol.dumps(graph.to_symbol(model)).encode())
        else:
            self._uploads.write(f"{self.prefix}-network.json", json.dumps(dict(network), indent=1).encode())
        text = json.dumps({"imgcls": __version__, "run": self.run, "earlier_epochs": foreign, **meta}, indent=1,
                          ensure_ascii=False)
        self._uploads.write(f"{self.prefix}-meta.json", text.encode())
        self._uploads.flush(wait=True)  # now, not after an epoch: whether one may write there

    def save_epoch(self, model: nn.Module, optimizer: torch.optim.Optimizer, scaler: Mapping[str, Any],
                   position: Position) -> str:
        """Write the checkpoint after `position.epoch` epochs; returns the path of the weights."""
        arrays = graph.arrays(model)
        stem = f"{self.prefix}-{position.epoch:04d}"
        self._uploads.write(f"{stem}.states", self._states(model, optimizer, scaler, position, arrays))
        self._uploads.write(f"{stem}.params", *params.serialize(list(arrays), list(arrays.values()), f"{stem}.params"))
        if self._uploads.is_remote:
            self._point(position)
        with contextlib.suppress(OSError):
            self._uploads.remove(f"{self.prefix}-position.states")
            self._uploads.wait()
            there = sorted({position.epoch, *_numbered(self.prefix, "states")})
            for old in there[:-self._keep_states]:
                if old < position.epoch:
                    self._uploads.remove(f"{self.prefix}-{old:04d}.states")
        self._uploads.flush()
        return f"{stem}.params"

    def save_position(self, model: nn.Module, optimizer: torch.optim.Optimizer, scaler: Mapping[str, Any],
                      position: Position) -> str:
        """Write everything that a position inside an epoch needs into one file, in place of the one before."""
        path = f"{self.prefix}-position.states"
        if self._uploads.is_remote:
            path = f"{self.prefix}-position-{position.update:08d}-{self._writer[:8]}.states"
        arrays = graph.arrays(model)
        self._uploads.write(path, self._states(model, optimizer, scaler, position, arrays, with_weights=True))
        if self._uploads.is_remote:
            self._point(position, path)
        self._uploads.flush()
        return path

    def wait(self) -> None:
        """Until what was saved under a URL has arrived; raises what went wrong with it."""
        self._uploads.wait()

    def close(self) -> None:
        """Give the prefix back, when all that was saved has arrived (an impatient second Ctrl-C does not wait)."""
        try:
            self._uploads.close(wait=not isinstance(sys.exc_info()[1], KeyboardInterrupt))
        finally:
            if self._lock is not None:
                to_local_path(f"{self.prefix}.lock").unlink(missing_ok=True)
                self._lock.close()

    def _take_over(self, resumed: bool) -> None:
        """Under a URL, at the beginning: PREFIX-latest.json has our name from now on; positions that it does not tell
        of go, all of them where nothing is resumed."""
        latest = _read_latest(self.prefix)
        name = str(latest.get("position") or "") if resumed else ""
        self._position = f"{_folder(self.prefix)}/{name}" if name else ""
        self._uploads.write(f"{self.prefix}-latest.json", self._latest(int(latest.get("epoch") or 0) if resumed else 0))
        for path in _positions(self.prefix):
            if str(path) != self._position:
                self._uploads.remove(str(path))

    def _point(self, position: Position, path: str = "") -> None:
        """Under a URL: tell of the files just written, then remove the position told of before."""
        self._uploads.add_check(self._check_writer)
        before, self._position = self._position, path
        self._uploads.write(f"{self.prefix}-latest.json", self._latest(position.epoch))
        if before and before != path:
            self._uploads.remove(before)

    def _latest(self, epoch: int) -> bytes:
        """PREFIX-latest.json: the newest epoch, and the file of the position if that is newer."""
        name = os.path.basename(self.prefix)
        return json.dumps({"format": STATES_FORMAT, "run": self.run, "writer": self._writer, "epoch": epoch,
                           "params": f"{name}-{epoch:04d}.params" if epoch else "",
                           "position": os.path.basename(self._position)}, indent=1).encode()

    def _check_writer(self) -> None:
        if _read_latest(self.prefix).get("writer", self._writer) != self._writer:
            raise RunError(f"`model_prefix` {self.prefix}: another run is writing there since; this one was not saved "
                           "any more")

    def _states(self, model: nn.Module, optimizer: torch.optim.Optimizer, scaler: Mapping[str, Any],
                position: Position, arrays: Mapping[str, np.ndarray], with_weights: bool = False) -> bytes:
        tensors = {f"optimizer/{name}": tensor.detach().cpu().contiguous()
                   for name, tensor in _optimizer_tensors(model, optimizer).items()}
        if with_weights:
            tensors |= {f"weights/{name}": torch.from_numpy(np.ascontiguousarray(a)) for name, a in arrays.items()}
        return _encode(tensors, self.run, _crc(arrays), type(optimizer).__name__, position, scaler)


def pack(saved: Saved) -> bytes:
    """All of it in one piece, for the other processes of a job; `unpack` reads it."""
    tensors = {f"weights/{name}": torch.from_numpy(np.ascontiguousarray(a)) for name, a in saved.arrays.items()}
    tensors |= {f"optimizer/{name}": tensor.contiguous() for name, tensor in (saved.optimizer or {}).items()}
    return saved.path.encode() + b"\0" + _encode(tensors, saved.run, _crc(saved.arrays), saved.optimizer_class,
                                                 saved.position, saved.scaler)


def unpack(content: bytes) -> Saved:
    """What `pack` made."""
    path, _, states = content.partition(b"\0")
    return _decode(states, path.decode())


def _encode(tensors: Mapping[str, Tensor], run: str, weights_crc: int, optimizer: str, position: Position,
            scaler: Mapping[str, Any]) -> bytes:
    text = json.dumps({"format": STATES_FORMAT, "run": run, "weights_crc": weights_crc, "optimizer": optimizer,
                       "position": asdict(position), "scaler": dict(scaler)})
    # safetensors before 0.5 cannot read what it writes of no tensors at all
    return save_safetensors(dict(tensors) or {"nothing": torch.zeros(1)}, {"imgcls": text})


def load(prefix: str, epoch: str) -> Saved | None:
    """The checkpoint that --load-epoch means: a number (8, 0008), or auto for the newest state (None: there is none).

    Raises UsageError when there is no such epoch, naming those there are, and DataError for damaged files.
    """
    root = os.fspath(to_path(prefix, "`model_prefix`"))
    if epoch.strip().lower() == "auto":
        return _newest(root)
    number = parse_epoch(epoch)
    for stem in (f"{root}-{number:04d}", f"{root}-0-{number:04d}"):  # the second: rank 0 of MXNet's first scripts
        if to_path(f"{stem}.params").exists():
            return _read_epoch(stem, number)
    there = sorted(_numbered(root, "params"))
    have = f"there is {', '.join(map(str, there))}" if there else "no epoch was saved there"
    raise UsageError(f"`load_epoch` {epoch}: {root}-{number:04d}.params does not exist; {have}")


def parse_epoch(text: str) -> int:
    """8, 0008 and 0000 are epochs."""
    if not text.strip().isdigit():
        raise UsageError(f"`load_epoch` {text}: must be an epoch such as 8 or 0008, or auto")
    return int(text)


def newest_epoch(prefix: str) -> int | None:
    """The highest epoch whose weights are there, or None."""
    return max(_numbered(os.fspath(to_path(prefix)), "params"), default=None)


def read_meta(prefix: str) -> dict[str, Any]:
    """PREFIX-meta.json, or {} for a checkpoint that has none (MXNet's own)."""
    return _read_json(to_path(f"{to_path(prefix)}-meta.json"), "the meta data of a checkpoint")


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


def translate_states(model: nn.Module, optimizer: torch.optim.Optimizer, saved: Saved, lr: float, update: int) -> Saved:
    """`saved` with MXNet's optimizer states in torch's terms, for sgd, nag and adam, whose last learning rate was `lr`
    and which had done `update` updates (the file says neither); without them, ready for a fresh start, for others.

    MXNet's momentum holds -lr times torch's buffer. DataError where the states belong to another network.
    """
    names = [name.removeprefix("arg:") for name in graph.arrays(model) if name.startswith("arg:")]
    trained = {name for key, name in graph.parameter_names(model).items() if key in dict(model.named_parameters())}
    kinds = {"SGD": ("momentum_buffer",), "Adam": ("exp_avg", "exp_avg_sq"),
             "AdamW": ("exp_avg", "exp_avg_sq")}.get(type(optimizer).__name__, ())
    found: dict[str, Tensor] = {}
    for key, state in (saved.mxnet_states or {}).items():
        place = int(key) if str(key).isdigit() else names.index(key) if key in names else len(names)
        if place >= len(names):
            raise DataError(saved.path.replace(".params", ".states"), f"has a state for parameter {key}, and this "
                            f"network has {len(names)}")
        arrays = state if isinstance(state, tuple) else () if state is None else (state,)
        if names[place] not in trained or not arrays:
            continue  # a gamma that is fixed, or sgd without momentum
        if len(arrays) != len(kinds) or any(array is None or isinstance(array, tuple) for array in arrays) or not lr:
            return dataclasses.replace(saved, optimizer=None, optimizer_class="")
        for kind, array in zip(kinds, arrays, strict=True):
            tensor = torch.from_numpy(np.array(array, np.float32))
            found[f"{names[place]}/{kind}"] = tensor / -lr if kind == "momentum_buffer" else tensor
        if len(kinds) > 1:
            found[f"{names[place]}/step"] = torch.tensor(float(update))
    return dataclasses.replace(saved, optimizer=found, optimizer_class=type(optimizer).__name__)


def _optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """ "MXNET_NAME/kind" -> tensor, for everything the optimizer remembers."""
    names = graph.parameter_names(model)
    return {f"{names[key]}/{kind}": value if isinstance(value, Tensor) else torch.tensor(value)
            for key, p in model.named_parameters() for kind, value in optimizer.state.get(p, {}).items()
            if value is not None}


def _newest(root: str) -> Saved | None:
    """The state that is furthest on among those of the run that wrote the meta data; weights alone if nothing else."""
    foreign = read_meta(root).get("earlier_epochs", [])
    epochs = sorted(_numbered(root, "params"), reverse=True)
    name = os.path.basename(str(_read_latest(root).get("position") or "")) if url_scheme(root) else ""
    inside = to_path(f"{_folder(root)}/{name}" if name else f"{root}-position.states")
    position = _read_states(inside) if inside.exists() else None
    for epoch in epochs:
        if position and position.position.epoch >= epoch:
            break
        stem = f"{root}-{epoch:04d}"
        if epoch in foreign and not to_path(f"{stem}.states").exists():
            continue  # the weights of an earlier, longer run under the same prefix
        return _read_epoch(stem, epoch)
    return position


def _read_epoch(stem: str, number: int) -> Saved:
    """Weights, and the state beside them if it is theirs."""
    arrays = params.load(f"{stem}.params")
    states = to_path(f"{stem}.states")
    if states.exists():
        if _is_mxnets(states):
            return Saved(f"{stem}.params", arrays, Position(epoch=number), mxnet_states=mxnet_states.load(str(states)))
        saved = _read_states(states, arrays)
        return dataclasses.replace(saved, path=f"{stem}.params", arrays=arrays)
    return Saved(f"{stem}.params", arrays, Position(epoch=number))


def _is_mxnets(path: AnyPath) -> bool:
    """Whether a `.states` file is a pickle, as MXNet writes them, and not safetensors: a length and then JSON."""
    try:
        with open_read(path) as stream:
            head = stream.read(9)
    except OSError as error:
        raise DataError(path, (error.strerror or str(error)).lower()) from error
    return head[:1] in (b"\x80", b"(", b"}") and head[8:] != b"{"


def _read_states(path: AnyPath, arrays: Mapping[str, np.ndarray] | None = None) -> Saved:
    """A `.states` file: with `arrays` the state that belongs to them, without it one that holds the weights too."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(path, (error.strerror or str(error)).lower()) from error
    return _decode(content, str(path), arrays)


def _decode(content: bytes, path: str, arrays: Mapping[str, np.ndarray] | None = None) -> Saved:
    try:
        tensors = load_safetensors(content)
        header = json.loads(content[8:8 + int.from_bytes(content[:8], "little")])
        state = json.loads(header["__metadata__"]["imgcls"])
        if state["format"] != STATES_FORMAT:
            raise DataError(path, f"written in format {state['format']}, this version reads {STATES_FORMAT}")
        position = Position(**state["position"])
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise DataError(path, f"not a training state of imgcls, or cut short ({error})") from error
    optimizer = {k.removeprefix("optimizer/"): t for k, t in tensors.items() if k.startswith("optimizer/")}
    if arrays is None:
        arrays = {k.removeprefix("weights/"): t.numpy() for k, t in tensors.items() if k.startswith("weights/")}
    if _crc(arrays) != state["weights_crc"]:
        raise DataError(path, "belongs to other weights than those beside it; remove it to go on with a fresh "
                              "optimizer")
    return Saved(path, arrays, position, optimizer if state["optimizer"] else None, state["optimizer"],
                 state["scaler"], state["run"])


def _crc(arrays: Mapping[str, np.ndarray]) -> int:
    """A checksum over names and values, that ties a state to its weights (in any order)."""
    crc = 0
    for name in sorted(arrays):
        crc = zlib.crc32(np.ascontiguousarray(arrays[name]).data, zlib.crc32(name.encode(), crc))
    return crc


def _numbered(root: str, suffix: str) -> Iterator[int]:
    """The epochs e for which ROOT-eeee.suffix exists (an epoch over 9999 has more digits)."""
    pattern = re.compile(rf"{re.escape(to_path(root).name)}-(\d{{4,}})\.{suffix}")
    return iter([int(match[1]) for match in map(pattern.fullmatch, _beside(root)) if match])


def _beside(root: str) -> list[str]:
    """The names of all files in the folder of the prefix, as it is now."""
    folder = to_path(root).parent
    if isinstance(folder, RemotePath):
        return [path.name for path in folder.iterdir()]
    return os.listdir(folder) if folder.is_dir() else []


def _folder(root: str) -> str:
    return str(to_path(root).parent)


def _positions(root: str) -> list[AnyPath]:
    """Under a URL: the files of all positions, those that nothing tells of any more included."""
    start = f"{to_path(root).name}-position-"
    return [to_path(f"{_folder(root)}/{name}") for name in _beside(root)
            if name.startswith(start) and name.endswith(".states")]


def _read_latest(root: str) -> dict[str, Any]:
    """PREFIX-latest.json, or {} where there is none."""
    return _read_json(to_path(f"{root}-latest.json"), "what tells of the newest checkpoint")


def _read_json(path: AnyPath, what: str) -> dict[str, Any]:
    """The object in a JSON file, {} where there is none; `what` says what it should have been."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise DataError(path, f"not {what}: {error}") from error
    if not isinstance(found, dict):
        raise DataError(path, f"not {what}: must be a JSON object")
    return found


def _lock(prefix: str) -> IO[str]:
    """Hold PREFIX.lock for this process; the system lets go of it however the process ends."""
    stream = open(f"{prefix}.lock", "w")  # noqa: SIM115 - open for as long as the run
    if not lock_file(stream):
        stream.close()
        raise RunError(f"`model_prefix` {prefix}: another run is writing there; wait for it or choose another prefix")
    return stream
