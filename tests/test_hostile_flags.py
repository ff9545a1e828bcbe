"""Hostile values behind every flag of every command, with `scripts/hostile_flags.py`: a part of what it can try."""

from __future__ import annotations

import random
import subprocess
import sys

import pytest
import torch  # noqa: F401 - before a command is given five seconds
from conftest import ROOT

sys.path.insert(0, str(ROOT / "scripts"))

import hostile_flags

NAMES = ["train", "finetune", "benchmark", "score", "predict", "serve", "im2rec", "launch", "rec2idx",
         "verify", "convert-mean", "convert", "mean"]


def test_all_commands_are_walked() -> None:
    commands = {command.name: command for command in hostile_flags.commands()}
    assert set(NAMES) <= set(commands)
    assert {"seed", "image_shape", "load_epoch"} <= set(commands["train"].fields())
    assert {"top_k", "load_epoch", "model"} <= set(commands["score"].fields())
    assert {"num_workers", "timeout"} <= set(commands["launch"].fields())


@pytest.mark.parametrize("name", ["train", "score", "serve", "im2rec", "launch", "benchmark", "convert", "mean"])
def test_a_value_ends_a_command_in_a_line_or_works(name: str) -> None:
    """A dozen flags each; the script goes through all of them, in a minute or in as many as it is given."""
    chosen = [command for command in hostile_flags.commands() if command.name == name]
    cases = hostile_flags.cases(random.Random(1), chosen)
    with hostile_flags.workplace():
        for _ in range(12):
            command, argv = next(cases)
            if not any(argument.startswith(hostile_flags.STARTS_PROCESSES) for argument in argv):
                assert not hostile_flags.complaint(command.name, argv), argv


@pytest.mark.slow
def test_twenty_seconds_of_it() -> None:
    result = subprocess.run([sys.executable, "scripts/hostile_flags.py", "--minutes", "0.33", "--seed", "2"], cwd=ROOT,
                            capture_output=True, text=True, timeout=150, check=False)
    assert result.returncode == 0, result.stdout[-3000:]
