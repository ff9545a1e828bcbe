"""A page in headless Chromium: what it requests, what the console says, and whether it fits a telephone."""

from __future__ import annotations

import functools
import http.server
import json
import re
import shutil
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest

#: a page around the page, of the same origin, that may look into it
_FRAME = """<!DOCTYPE html><meta charset="utf-8"><link rel="icon" href="data:,">
<iframe src="page.html" style="border:0;width:WIDTHpx;height:900px"></iframe><pre id="told"></pre>
<script>
onload = () => {
  const page = document.querySelector("iframe").contentDocument, root = page.documentElement;
  document.querySelector("#told").textContent = JSON.stringify({
    width: root.scrollWidth, background: getComputedStyle(page.body).backgroundColor,
    shown: [...page.querySelectorAll(".charts")].map(part => getComputedStyle(part).display)});
};
</script>"""


@dataclass
class Look:
    """What was seen: paths that were asked for, lines of the console, and the facts of `_FRAME`."""

    requests: list[str]
    console: list[str]
    width: int
    background: str
    shown: list[str]


def find_chromium() -> str:
    """Return the path of a browser; skips the test where there is none."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium")
    return chromium


def look_at(page: bytes, folder: Path, *, width: int = 360, is_dark: bool = False) -> Look:
    """Show a page in a window of this width; skips the test where there is no browser."""
    chromium = find_chromium()
    (folder / "page.html").write_bytes(page)
    (folder / "frame.html").write_text(_FRAME.replace("WIDTH", str(width)))
    requests: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            requests.append(self.path)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        result = subprocess.run(
            [chromium, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}",
             "--disable-background-networking", "--disable-component-update", "--no-first-run",
             "--disable-dev-shm-usage",
             f"--blink-settings=preferredColorScheme={0 if is_dark else 1}", "--enable-logging=stderr", "--v=0",
             "--virtual-time-budget=5000", "--dump-dom", f"http://127.0.0.1:{server.server_port}/frame.html"],
            capture_output=True, text=True, timeout=120, check=False)
        server.shutdown()
    told = re.search(r'<pre id="told">(\{.*\})</pre>', result.stdout)
    assert told, result.stderr[-2000:]
    console = [line for line in result.stderr.splitlines() if "CONSOLE" in line]
    return Look(sorted(set(requests)), console, **json.loads(told[1]))
