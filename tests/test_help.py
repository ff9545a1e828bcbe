"""The help screens: -h fits on a screen, --help has every flag, --help WORD those about a word."""

from __future__ import annotations

import re

import pytest

from imgcls.cli import start
from imgcls.config import lookup

#: lines of a screen that is not small
SCREEN = 45


def screen(capsys: pytest.CaptureFixture[str], command: str, *words: str) -> list[str]:
    """Return the lines that a command prints before it ends with status 0."""
    with pytest.raises(SystemExit) as end:
        assert start(command, words) == 0, capsys.readouterr().err
    assert end.value.code == 0
    return capsys.readouterr().out.splitlines()


def flags_on(lines: list[str]) -> list[str]:
    """Return the flags that begin a line, in order."""
    return [match[1] for line in lines if (match := re.match(r"  (-[^ ]+(?:, --[^ ]+)*)", line))]


@pytest.mark.parametrize("columns", [80, 110])
@pytest.mark.parametrize("command", lookup.names("cli"))
def test_h_fits_on_a_screen(command: str, columns: int, monkeypatch: pytest.MonkeyPatch,
                            capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    short, full = screen(capsys, command, "-h"), screen(capsys, command, "--help")
    assert len(short) <= SCREEN
    # a command is there to be copied, and stays in one piece
    assert all(len(line) <= columns or line.startswith("  imgcls-") for line in short)
    if short == full:
        return
    assert short[:4] == full[:4], "usage and examples"
    assert set(flags_on(short)) < set(flags_on(full))
    assert short[-1] == (f"--help shows all {len(flags_on(full))} flags, --help WORD those with WORD in name or text")


def test_help_about_a_word(capsys: pytest.CaptureFixture[str]) -> None:
    found = flags_on(screen(capsys, "train", "--help", "lr"))
    assert {"--lr", "--lr-factor", "--bias-lr-mult", "--find-lr"} <= set(found)
    found = flags_on(screen(capsys, "train", "--help", "mage"))
    assert "--image-shape" in found
    assert "--mixup" not in found, "of a text the beginning of a word, which image is not"
    # a section by its title, in whatever spelling
    section = screen(capsys, "train", "--help", "learning-rate")
    assert {"Learning rate:", "Optimizer:"} <= set(section)
    assert {"--warmup-strategy", "--lr-regime"} <= set(flags_on(section))
    lines = screen(capsys, "train", "--dataset", "cifar10", "--help=image_shape")
    assert "(3,28,28)" in " ".join(lines), "the defaults are the data set's"
    total = len(flags_on(screen(capsys, "train", "--help")))
    assert lines[-1] == f"{len(flags_on(lines))} of {total} flags; --help shows all"
    assert flags_on(screen(capsys, "verify", "--help", "--nonsense"))


def test_help_about_a_word_that_nothing_has(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("train", "verify"):
        assert start(command, ["--help", "quux"]) == 2
        told = capsys.readouterr()
        assert told.out == ""
        assert re.fullmatch(rf"imgcls-{command}: error: no flag has 'quux' in its name or text; --help alone shows all "
                            r"\d+\n", told.err)


def test_h_takes_no_word(capsys: pytest.CaptureFixture[str]) -> None:
    assert screen(capsys, "predict", "-h", "cat.jpg") == screen(capsys, "predict", "-h")
    assert screen(capsys, "train", "--network", "lenet", "-h") == screen(capsys, "train", "-h")
