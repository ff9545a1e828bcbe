"""Makes and keeps the environment that the README's commands run in: .venv beside this folder, nothing elsewhere.

Needs nothing but Python 3.10 to 3.13 and a package index. A second call sees by a stamp that all is installed.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / ".venv"
STAMP = FOLDER / "installed"


def ensure(extras: str) -> str:
    """The path of the environment's Python, with this checkout and `extras` (such as "test") installed."""
    if not sys.version_info[:2] >= (3, 10):
        raise SystemExit(f"Python {sys.version.split()[0]} is too old: 3.10 or newer is needed")
    python = FOLDER / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    wanted = hashlib.sha256((ROOT / "pyproject.toml").read_bytes() + f"{extras} {sys.version}".encode()).hexdigest()
    if STAMP.exists() and STAMP.read_text() == wanted:
        return str(python)
    print(f"making the environment {FOLDER} (once; torch is large)", file=sys.stderr, flush=True)
    _run([sys.executable, "-m", "venv", "--clear", str(FOLDER)],
         "Python's venv module does not work here; on Debian and Ubuntu: apt install python3-venv")
    _run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-e", f"{ROOT}[{extras}]"],
         "the packages could not be installed (see above)")
    STAMP.write_text(wanted)
    return str(python)


def _run(command: list[str], complaint: str) -> None:
    if subprocess.run(command, check=False).returncode:
        raise SystemExit(f"error: {complaint}")
