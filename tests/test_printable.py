"""What came from a file is shown escaped, on one line, and never taken for a setting."""

from __future__ import annotations

import ast
import io
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from imgcls.cli._run import run_main
from imgcls.config.resolve import spelling_of
from imgcls.config.sections import ReportConfig
from imgcls.errors import DataError, UsageError, printable, spell_settings, tell, verbatim
from imgcls.training.reporter import Reporter

PACKAGE = Path(__file__).resolve().parents[1] / "imgcls"

#: every one of them makes two lines of one, moves the cursor, turns the text around or cannot be encoded
HOSTILE = ["\x1b[2J\x1b]0;owned\x07", "\r", "\n", "\x0b", "\x0c", "\x1c", "\x85", "\x9b31m", "\u2028",
           "\u2029", "\u202e", "\u2066", "\u200b", "\ufeff", "\U000e0041", "\udcff", "\ud800", "\0", "\x7f",
           "\t", "\b"]
#: what languages need
FRIENDLY = ["señor", "日本語　空白", "می‌خواهم", "👩‍🔬", "l’été", "a b", "C:\\data", "`x`"]


@pytest.mark.parametrize("text", HOSTILE)
def test_what_no_screen_shows_is_escaped(text: str) -> None:
    shown = printable(f"a{text}b")
    assert shown.isprintable()
    assert "\\" in shown
    assert shown.encode("utf-8").decode().splitlines() == [shown]


@pytest.mark.parametrize("text", FRIENDLY)
def test_what_languages_need_stays(text: str) -> None:
    assert printable(text) == text


def test_a_byte_that_is_no_text_is_shown_as_the_byte() -> None:
    assert printable(os.fsdecode(b"caf\xe9")) == "caf\\xe9"
    assert printable("a\tb\n", keep="\t") == "a\tb\\n"


def test_a_narrow_terminal_gets_escapes_and_no_error() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="backslashreplace")
    tell("é \udcff \x1b", stream)
    stream.seek(0)
    assert stream.read() == "\\xe9 \\xff \\x1b\n"


def test_an_error_is_one_line_that_is_safe_to_print() -> None:
    error = DataError("a\x1b[31m\nb.rec", "record 'x\u2028y' is damaged\n  more of it", 7)
    assert str(error) == "a\\x1b[31m\\nb.rec at byte 7: record 'x\\u2028y' is damaged; more of it"
    assert error.path == "a\x1b[31m\nb.rec"
    assert len(str(UsageError("9" * 100_000))) < 5000


def test_a_name_between_backquotes_is_no_setting() -> None:
    error = DataError("`lr`/`x`.rec", "is damaged")
    assert str(error) == error.spelled(spelling_of()) == "`lr`/`x`.rec: is damaged"
    inside = UsageError(f"`data_train` {verbatim('`lr`')}: {error.message}")
    assert inside.spelled(spelling_of()) == "--data-train `lr`: `lr`/`x`.rec: is damaged"
    assert spell_settings(f"`lr` of {verbatim('`lr`')}") == "lr of `lr`"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk_costs_lines_of_the_log_and_no_run(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = Reporter(ReportConfig(log_file="/dev/full"), terminal=False)
    for write in (reporter.log, reporter.info, reporter.warn):
        write("a line")
    reporter.close()
    err = capsys.readouterr().err
    assert "Traceback" not in err
    assert err.count("warning: cannot write /dev/full: no space left on the device") == 1


def test_every_way_to_the_screen_escapes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    reporter = Reporter(ReportConfig(log_file=str(tmp_path / "log")), terminal=False)
    reporter.log("data_train='`lr`'")  # the arguments are the user's own: nothing in them is a setting of ours
    for write in (reporter.log, reporter.info, reporter.warn):
        write("a\tb \x1b[2J\n\u2028")
    reporter.close()

    def warn_and_fail(_argv: object) -> int:
        logging.getLogger("imgcls.test").warning("left out: %s", "x\x1b[2J\ny")
        raise UsageError("q\x1b[2J\ry")

    assert run_main(warn_and_fail, [], "cmd") == 2
    for text in ((tmp_path / "log").read_text(), capsys.readouterr().err):
        assert text.count("\\x1b[2J\\n\\u2028") == 3
        assert "data_train='`lr`'" in text
        assert text.isascii()
        assert "\x1b" not in text


def test_no_name_crashes_under_a_plain_locale(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9\x1b[2J\n.rec")
    for variables in ({"LC_ALL": "C"}, {"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}):
        done = subprocess.run([sys.executable, "-m", "imgcls", "verify", tmp_path / name], check=False,
                              capture_output=True, env={**os.environ, **variables})
        assert done.returncode == 2
        assert b"Traceback" not in done.stderr
        assert b"caf\\xe9\\x1b[2J\\n.rec: no such file" in done.stderr
        assert b"\x1b" not in done.stderr + done.stdout


#: these print no text of a file, or text for programs, whose own rules hold
PRINTERS = {
    "errors.py": {"tell"},
    "cli/__init__.py": {"_tell_about"},
    "cli/benchmark.py": {"_write"},
    "cli/_run.py": {"_status_of"},
    "cli/doctor.py": {"_start"},
    "cli/score.py": {"_start"},
    "cli/mean.py": {"_start"},
    "cli/parse_log.py": {"_start"},
    "cli/rec2idx.py": {"_start"},
    "cli/report.py": {"_start", "_write_sheet"},
    "cli/_im2rec_lists.py": {"show_progress", "print_line"},
    "cli/launch.py": {"_run_mpi", "_write_script"},
    "compat/mxnet/gluon/_summary.py": {"print_summary"},
    "compat/mxnet/visualization.py": {"print_summary", "_print_row"},
    "config/command_line.py": {"parse"},
    "config/resolve.py": {"parse", "_print_help"},
    "distributed/parameter_server/server.py": {"_make_serve", "serve"},
    "distributed/topology.py": {"serve_mxnet_role"},
    "launch/job.py": {"print_commands"},
    "training/read_speed.py": {"measure"},
    "training/reporter.py": {"log", "epoch_over", "_print_above_bar"},
    "training/results.py": {"print_result"},
}


def _is_to_a_file(call: ast.Call) -> bool:
    return any(keyword.arg == "file" and isinstance(keyword.value, ast.Name) for keyword in call.keywords)


def test_text_for_people_goes_through_tell() -> None:
    """A `print` of something else than a constant must be among those that were looked at."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
                continue
            for call in ast.walk(function):
                if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) \
                        and call.func.id == "print" and not _is_to_a_file(call) and not all(
                            isinstance(value, ast.Constant) for value in call.args):
                    file = path.relative_to(PACKAGE).as_posix()
                    if function.name not in PRINTERS.get(file, ()):
                        found.append(f"{file}:{call.lineno} in {function.name}: print instead of errors.tell")
    assert not found, "\n".join(found)
