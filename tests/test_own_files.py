"""The files of a checkpoint, as anybody may have changed them: one line for each, never a traceback."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save as save_safetensors

from imgcls.config import files as config_files
from imgcls.config.flags import convert
from imgcls.config.resolve import FIELDS
from imgcls.config.sections import NetworkConfig
from imgcls.errors import DataError, UsageError
from imgcls.formats import json_text, lists
from imgcls.pretrained import checkpoint_files
from imgcls.storage.paths import to_path
from imgcls.training.checkpoint import Position, Saved, states
from imgcls.training.checkpoint.files import read_latest, read_meta
from imgcls.training.checkpoint.position import read_position
from imgcls.training.log_files import MetricsFile
from imgcls.training.resume import resume_position

DEEP = "[" * 100_000
LONG = "9" * 100_000
BROKEN_JSON = {
    "nothing": b"", "no UTF-8": b"\xff\xfe{}", "deep": DEEP.encode(), "deep objects": b'{"a":' * 100_000,
    "deep and closed": (DEEP + "]" * 100_000).encode(), "long number": b'{"a": ' + LONG.encode() + b"}",
    "long negative": b'{"a": -' + LONG.encode() + b"}", "list": b"[]", "text": b'"x"', "cut": b'{"a"',
    "zero bytes": bytes(1000)}

META: dict[str, Any] = {
    "imgcls": "1", "run": "a", "earlier_epochs": [], "network": "mlp", "class_names": ["a", "b"],
    "preprocessing": {"image_shape": [1, 28, 28], "mean": [0.0], "std": [255.0], "val_resize": None,
                      "interpolation": "bilinear", "channels": "RGB", "range": "0-255"},
    "command": "imgcls-train", "versions": {}, "config": {"lr": 0.1}, "job": ""}
WRONG_META = [
    ("run", 5), ("run", ["a"]), ("earlier_epochs", 5), ("earlier_epochs", "abc"), ("earlier_epochs", [-1]),
    ("earlier_epochs", [1.5]), ("earlier_epochs", [True]), ("network", {}), ("network", "\ud800"),
    ("class_names", 5), ("class_names", "ab"), ("class_names", [1, 2]), ("class_names", {"a": 1}),
    ("preprocessing", []), ("preprocessing", "x"), ("config", [1]), ("job", 1),
    ("image_shape", "1,28,28"), ("image_shape", [28, 28]), ("image_shape", [1, -28, 28]),
    ("image_shape", [1, 0, 28]), ("image_shape", [1, 10**9, 28]), ("image_shape", [1, 28.5, 28]),
    ("mean", "x"), ("mean", [float("nan")]), ("mean", [float("inf")]), ("mean", [1e300]), ("mean", ["1"]),
    ("std", [0]), ("std", [float("nan")]), ("val_resize", -1), ("val_resize", 1.5), ("val_resize", 10**12),
    ("val_resize", "x"), ("interpolation", 3)]


@pytest.mark.parametrize("content", BROKEN_JSON.values(), ids=BROKEN_JSON)
def test_what_is_no_json_object(tmp_path: Path, content: bytes) -> None:
    for name, read in (("meta.json", read_meta), ("latest.json", read_latest),
                       ("network.json", lambda prefix: checkpoint_files.describe(prefix, "auto"))):
        (tmp_path / f"net-{name}").write_bytes(content)
        with pytest.raises(DataError) as caught:
            read(str(tmp_path / "net"))
        assert len(str(caught.value)) < 400
        (tmp_path / f"net-{name}").unlink()


@pytest.mark.parametrize(("name", "value"), WRONG_META)
def test_a_member_of_the_meta_data_is_wrong(tmp_path: Path, name: str, value: object) -> None:
    meta = {**META, "preprocessing": dict(META["preprocessing"])}
    (meta if name in meta else meta["preprocessing"])[name] = value
    (tmp_path / "net-meta.json").write_text(json.dumps(meta))
    with pytest.raises(DataError, match=name):
        read_meta(str(tmp_path / "net"))


def test_right_meta_data_and_those_of_other_versions_are_read(tmp_path: Path) -> None:
    for meta in (META, {}, {"new": 1}, {**META, "class_names": None}):
        (tmp_path / "net-meta.json").write_text(json.dumps(meta))
        assert read_meta(str(tmp_path / "net")) == meta


@pytest.mark.parametrize("change", [
    {"num_classes": 10**12}, {"num_classes": -1}, {"num_classes": "x"}, {"image_shape": [1]*9},
    {"image_shape": [1, 10**9, 2]}, {"unknown": 1}, {"multiplier": float("inf")}])
def test_the_settings_of_a_network_have_bounds(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "net-network.json"
    settings = asdict(NetworkConfig())
    path.write_text(json.dumps(settings))
    assert checkpoint_files.describe(str(tmp_path / "net"), "auto").network == "mlp"
    path.write_text(json.dumps(settings | change))
    with pytest.raises(DataError, match="not the settings of a network"):
        checkpoint_files.describe(str(tmp_path / "net"), "auto")


SAVED = Saved("x", {"arg:w": np.ones(2, np.float32)}, Position(3, 2, 32, ([1.0], 5), None, (1.5, 2)),
              {"w/momentum_buffer": torch.ones(2)}, "SGD", {}, "run")


def changed(**change: object) -> bytes:
    """Return a state whose JSON differs from the right one."""
    content = states.encode(SAVED, with_weights=True)
    header = json.loads(content[8:8 + int.from_bytes(content[:8], "little")])
    state = json.loads(header["__metadata__"]["imgcls"])
    for name, value in change.items():
        (state if name in state else state["position"])[name] = value
    tensors = {"optimizer/w/momentum_buffer": torch.ones(2), "weights/arg:w": torch.ones(2)}
    return save_safetensors(tensors, {"imgcls": json.dumps(state)})


@pytest.mark.parametrize(("name", "value"), [
    *[(name, value) for name in ("epoch", "batch", "update", "batch_size", "world", "num_threads")
      for value in (-1, float("inf"), float("nan"), 1.5, "1", None, True, 10**30, [1])],
    ("epoch_totals", 5), ("epoch_totals", [[1.0], -1]), ("epoch_totals", [["x"], 1]), ("epoch_totals", [[], 1, 2]),
    ("interval_totals", "x"), ("epoch_loss", None), ("epoch_loss", [1.0, float("inf")]), ("interval_loss", [1.0]),
    ("format", 2), ("format", None), ("run", 7), ("optimizer", 3), ("weights_crc", "x"), ("position", []),
    ("scaler", []),
    ("dtype", 5), ("dtype", None), ("dtype", "float64"), ("scaler", {"scale": 1}), ("scaler", "x"), ("unknown", 1)])
def test_a_state_that_no_training_can_be_in(name: str, value: object) -> None:
    with pytest.raises(DataError) as caught:
        states.decode(changed(**{name: value}), "x.states")
    assert "x.states" in str(caught.value)


def test_the_state_of_a_run_that_went_astray_is_read() -> None:
    content = changed(epoch_loss=[float("nan"), 3], interval_loss=[float("inf"), 1])
    assert states.decode(content, "x").position.epoch_loss[1] == 3
    again = states.unpack(states.pack(replace(SAVED, path=os.fsdecode(b"/caf\xe9"))))
    assert again.path == os.fsdecode(b"/caf\xe9")


def test_numbers_that_no_double_holds_are_none() -> None:
    values = json_text.loads("[1e308, -5, 1" + "0" * 350 + ", NaN, -Infinity, true]", "x", "a list")
    assert [json_text.is_number(value) for value in values] == [True, True, False, False, False, False]


@pytest.mark.parametrize("text", [DEEP, '{"format": 1, "run": ' + LONG + "}", "5", "", '{"format": 1}'])
def test_the_json_inside_a_state_is_wrong(text: str) -> None:
    with pytest.raises(DataError):
        states.decode(save_safetensors({"nothing": torch.zeros(1)}, {"imgcls": text}), "x.states")
    with pytest.raises(DataError):
        read_position({"epoch": json_text}, "x")


@pytest.mark.parametrize(("epoch", "batch", "update"), [(1, 11, 21), (0, 10**9, 10**9), (2, 3, 5)])
def test_a_position_beyond_the_end_of_its_epoch(epoch: int, batch: int, update: int) -> None:
    saved = Saved("x.states", {}, Position(epoch, batch, update))
    config = SimpleNamespace(checkpoint=SimpleNamespace(load_epoch="auto"))
    with pytest.raises(UsageError, match="an epoch has 10 batches now"):
        resume_position(config, saved, SimpleNamespace(batches_per_epoch=10), None, None)


HOSTILE_YAML = {
    "deep": DEEP, "deep map": "{a: " * 50_000, "deep blocks": "- " * 100_000, "cycle": "lr: &x [*x]",
    "cyclic map": "&x {lr: *x}", "nested": "lr: [[[[1]]]]", "json nested": '{"lr": ' + "[" * 900 + "]" * 900 + "}",
    "laughs": "\n".join(
        ["a0: &a0 [x, x]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12))]),
    "merges": "\n".join(["a0: &a0 {x: 1}", *(
        f"a{i}: &a{i}\n  <<: [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12))]),
    "long number": f"lr: {LONG}", "long octal": "lr: 0" + "7" * 100_000, "sixties": "lr: 1" + ":1" * 100_000,
    "date": "lr: 2001-99-99", "empty int": "lr: !!int ''", "empty float": "lr: !!float ''", "bool": "lr: !!bool x",
    "timestamp": "lr: !!timestamp ''", "python": "lr: !!python/object/apply:os.system ['true']",
    "binary": "lr: !!binary x", "list key": "? [a]\n: 1", "long key": f"? {LONG}\n: 1", "tab": "\tlr: 1",
    "zero": "lr: \0",
    "surrogate": 'lr: "\\ud800"', "several": "--- 1\n--- 2", "list": "[1, 2]", "text": "lr", "set": "!!set {lr}",
    "json deep": '{"lr": ' + DEEP, "json long": '{"lr": ' + LONG + "}", "huge": "# " + "x" * (2 << 20)}


@pytest.mark.parametrize("name", HOSTILE_YAML)
def test_a_hostile_config(tmp_path: Path, name: str) -> None:
    path = tmp_path / "c.yaml"
    text = HOSTILE_YAML[name]
    path.write_text(text, encoding="utf-8")
    if name in ("surrogate", "date"):  # a wrong value: the setting's own rule refuses it
        assert config_files.read_settings(str(path)).keys() == {"lr"}
        return
    with pytest.raises(UsageError) as caught:
        config_files.read_settings(str(path))
    assert len(str(caught.value)) < 1000


def test_configs_of_people_are_read(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("<<: {lr: 0.1, mom: &m 0.9}\nlr-factor: *m\nnum-epochs: 3\ngpus:\nimage_shape: [3, 28, 28]\n")
    read = config_files.read_settings(str(path))
    assert read["lr"] == 0.1
    assert read["num_epochs"] == 3
    path.write_text(json.dumps(META))
    assert config_files.read_settings(str(path)) == {"lr": 0.1}
    path.write_text('{lr: 0.1, "mom": 1e-3}')
    assert config_files.read_settings(str(path)) == {"lr": 0.1, "mom": "1e-3"}


def test_a_class_name_with_a_line_break_of_unicode_stays_one_class(tmp_path: Path) -> None:
    names = ["a", "b\u2028c", "d\x0be", "f\x85g", os.fsdecode(b"caf\xe9")]
    lists.write_class_names(tmp_path / "x.classes.txt", names)
    assert lists.class_names(tmp_path / "x.rec") == tuple(names)


def test_a_blank_separated_name_may_hold_blanks_of_unicode(tmp_path: Path) -> None:
    path = tmp_path / "x.lst"
    path.write_text("0 1 a\u00a0b\u2028c.jpg\n1\t0\td e.jpg\r\n", encoding="utf-8")
    listing = lists.read_blank_separated(path)
    assert [entry.path for entry in listing.entries] == ["a\u00a0b\u2028c.jpg", "d e.jpg"]


def test_a_home_folder_that_nobody_has() -> None:
    with pytest.raises(UsageError, match="no home folder ~nobody-of-this-name"):
        to_path("~nobody-of-this-name/x.rec", "`data_train`")
    with pytest.raises(UsageError, match=r"data_train ~\\x00a: a path holds no zero byte"):
        to_path("~\0a", "`data_train`")


@pytest.mark.parametrize(("text", "setting", "value"), [
    ("nnodes: 1:4", "nnodes", "1:4"), ("load_epoch: 0010", "load_epoch", "0010"), ("rdzv_id: 010", "rdzv_id", "010"),
    ("model_prefix: 1.10", "model_prefix", "1.10"), ("model_prefix: 2026-1-1", "model_prefix", "2026-1-1"),
    ("kv_store: off", "kv_store", "off"), ("gpus: [0, 1]", "gpus", "0,1"), ("num_epochs: 20.0", "num_epochs", 20),
    ("lr: .1", "lr", 0.1), ("lr: 1.5e-3", "lr", 0.0015), ("random_crop: yes", "random_crop", True),
    ("val_resize: null", "val_resize", None)])
def test_values_of_yaml_are_what_was_written(text: str, setting: str, value: object, tmp_path: Path) -> None:
    """As on the command line: YAML 1.1 would read 64 machines and epoch 8."""
    (tmp_path / "c.yaml").write_text(text)
    raw = config_files.read_settings(str(tmp_path / "c.yaml"))
    assert convert(FIELDS[setting], raw[setting]) == value


@pytest.mark.parametrize("text", ["lr: 0x10", "lr: 1_0", "lr: 1:30", "batch_size: 0o7", "batch_size: yes"])
def test_numbers_of_yaml_that_no_flag_takes(text: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(text)
    (name, value), = config_files.read_settings(str(tmp_path / "c.yaml")).items()
    with pytest.raises(UsageError, match="must be a"):
        convert(FIELDS[name], value)


@pytest.mark.parametrize("text", ["lr: 1\nlr: 2\n", "keep-states: 1\nkeep_states: 2\n"])
def test_a_key_that_stands_in_yaml_twice(text: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(UsageError, match=r"line 2: .* occurs twice"):
        config_files.read_settings(str(tmp_path / "c.yaml"))


def test_a_line_of_metrics_that_is_no_text_is_dropped(tmp_path: Path) -> None:
    """json reads bytes that stand for half a character, which nobody can write again."""
    path = tmp_path / "x-metrics.jsonl"
    path.write_bytes(b'{"update": 1}\n{"update": 2, "note": "\xed\xa0\x80"}\n{"update": 3}\n')
    assert MetricsFile(str(path)).resume(25) == ['{"update": 1}', '{"update": 3}']
    assert path.read_bytes() == b'{"update": 1}\n{"update": 3}\n'
