"""The pages of docs/seeds: their commands are ones that there are, from the archives to the score.

`scripts/seed_pages.py` runs all of them on drawn archives, which takes minutes; here their flags, recipes and files of
settings are read.
"""

from __future__ import annotations

import importlib.util
import shlex
from pathlib import Path
from types import ModuleType

import pytest
from conftest import ROOT

from imgcls.cli import _im2rec_flags, convert, convert_theano, doctor, finetune, mean, predict, score, train
from imgcls.config import command_line

PAGES = sorted((ROOT / "docs" / "seeds").glob("*.md"))
#: what reads the flags of a command, and stops before it begins
CONFIGURED = {"train": train.main, "finetune": finetune.main, "score": score.main, "doctor": doctor.main,
              "predict": predict.main}
PLAIN = {"convert": convert.ConvertConfig, "mean": mean.MeanConfig,
         "convert-theano": convert_theano.ConvertTheanoConfig}


def runner() -> ModuleType:
    """Return scripts/seed_pages.py as a module."""
    spec = importlib.util.spec_from_file_location("seed_pages", ROOT / "scripts" / "seed_pages.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def command_lines(page: Path) -> list[list[str]]:
    """Return the words of each command of the package on a page."""
    lines = runner().commands(page).replace("\\\n", " ")
    for name, value in (("$MIN", "501"), ("$VAL", "50"), ("$RESIZE", "480")):
        lines = lines.replace(name, value)
    lines = lines.replace('"$(wc -l < data/full.classes.txt)"', "11221")
    words = [shlex.split(line, comments=True) for line in lines.splitlines()]
    return [line[:line.index(">")] if ">" in line else line for line in words
            if line and line[0].startswith(("imgcls-", "python"))]


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_every_flag_recipe_and_file_of_a_page_is_there(page: Path, monkeypatch: pytest.MonkeyPatch,
                                                       capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    lines = command_lines(page)
    assert any("--dry-run" in line for line in lines), "how long it takes, before it is begun"
    assert any(line[0] == "imgcls-score" for line in lines)
    for program, *words in lines:
        name = program.removeprefix("imgcls-")
        if program == "python":
            script, *words = words
            assert Path(script).is_file()
            if script.startswith("examples/"):
                continue
            name = "finetune" if "fine-tune" in script else "train"
        if name in CONFIGURED:
            with pytest.raises(SystemExit) as ended:
                assert CONFIGURED[name]([*words, "--print-config"]) == 0, capsys.readouterr().err
            assert ended.value.code == 0
        elif name in PLAIN:
            command_line.parse(words, PLAIN[name], prog=program, usage="", examples="")
        else:
            _im2rec_flags.parse(words)


def test_every_page_is_in_the_site() -> None:
    site = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert all(f"seeds/{page.name}" in site for page in PAGES)
