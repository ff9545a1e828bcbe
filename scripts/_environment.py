"""Make and keep the environment that the README's commands run in: .venv in this checkout, nothing elsewhere.

Needs only Python 3.10 to 3.13 and a package index. A stamp in .venv tells later calls what is installed.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / ".venv"
#: "digest extra extra ...": what the environment was made from, and which extras are in it
STAMP = FOLDER / "installed"


def ensure(*extras: str) -> str:
    """Return the path of the environment's Python, with this checkout and its `extras` ("test") installed."""
    if sys.version_info[:2] < (3, 10):  # noqa: UP036 - this file alone is run by whatever python3 is
        raise SystemExit(f"Python {sys.version.split()[0]} is too old: 3.10 or newer is needed")
    # its Python is called by its path: nothing has to be activated, and no shell is changed
    python = str(FOLDER / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))
    # Other requirements or another Python start afresh: nothing old may hide that a package is missing.
    digest = hashlib.sha256((ROOT / "pyproject.toml").read_bytes() + sys.version.encode()).hexdigest()
    # empty where the disk was full when it was written
    stamp_digest, *installed = (STAMP.read_text().split() if STAMP.exists() else []) or [""]
    if stamp_digest != digest:
        print(f"making the environment {FOLDER} (once; torch is large)", file=sys.stderr, flush=True)
        _run([sys.executable, "-m", "venv", "--clear", str(FOLDER)],
             "Python's venv module does not work here; on Debian and Ubuntu: apt install python3-venv")
        installed = []
    if not set(extras) <= set(installed):
        _run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
              "-e", f"{ROOT}[{','.join(extras)}]"], "the packages could not be installed (see above)")
        # Written last: an installation that was broken off is tried again by the next call.
        STAMP.write_text(" ".join([digest, *sorted({*installed, *extras})]))
    return python


def _run(command: list[str], complaint: str) -> None:
    if subprocess.run(command, check=False).returncode:
        raise SystemExit(f"error: {complaint}")
