"""imgcls.compat.mxnet runs programs written for MXNet: the same numbers, names and log lines as MXNet 1.9.1."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from compat_cases import CASES, recorded
from conftest import ROOT

import imgcls.compat.mxnet as mx

FIXTURES = ROOT / "tests" / "fixtures" / "compat"
#: MXNet's arithmetic is float32, as ours is: relative to the largest value of an array
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def expected() -> dict[str, dict[str, Any]]:
    """Return program -> name -> what MXNet gave."""
    return json.loads(gzip.decompress((FIXTURES / "expected.json.gz").read_bytes()))


def same_log(line: str, other: str) -> bool:
    """Return whether two log lines are equal but for the last digit of their numbers."""
    if line == other:
        return True
    parts = [text.replace("=", " ").split() for text in (line, other)]
    return len(parts[0]) == len(parts[1]) and all(
        a == b or abs(float(a) - float(b)) < 2e-5 for a, b in zip(*parts, strict=True))


@pytest.mark.filterwarnings("ignore:Data provided by label_shapes:UserWarning")
@pytest.mark.filterwarnings("ignore:You created Module:UserWarning")
@pytest.mark.parametrize("name", CASES)
def test_programs_give_the_numbers_of_mxnet(name: str, expected: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    with mx.name.NameManager():
        results = {key: recorded(value) for key, value in CASES[name](mx, tmp_path).items()}
    assert results.keys() == expected[name].keys()
    for key, value in results.items():
        wanted = expected[name][key]
        if key == "log":
            lines = list(zip(value.splitlines(), wanted.splitlines(), strict=True))
            assert all(same_log(*pair) for pair in lines), [pair for pair in lines if not same_log(*pair)]
        elif isinstance(value, str):
            assert value == wanted, key
        else:
            scale = max(1.0, float(np.nanmax(np.abs(wanted), initial=0)))
            np.testing.assert_allclose(value, wanted, rtol=0, atol=TOLERANCE * scale, err_msg=key)


@pytest.mark.mxnet
def test_the_recorded_numbers_are_those_of_mxnet(expected: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    for file in ("compat_cases.py", "compat_gluon_cases.py", "fixtures/compat/make.py"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes((ROOT / "tests" / file).read_bytes())
    subprocess.run([os.environ["MXNET_PYTHON"], str(tmp_path / "fixtures" / "compat" / "make.py")], check=True,
                   capture_output=True)
    again = json.loads(gzip.decompress((tmp_path / "fixtures" / "compat" / "expected.json.gz").read_bytes()))
    for name, results in expected.items():
        for key, value in results.items():
            if not isinstance(value, str):
                np.testing.assert_allclose(again[name][key], value, rtol=1e-4, atol=1e-5, err_msg=key)
