"""imgcls-serve by HTTP: answers, refusals, bounds, and its page in a real browser."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from browser import find_chromium
from starlette.responses import HTMLResponse
from starlette.routing import Route

import imgcls
from imgcls.cli import serve
from imgcls.inference import server as serving
from imgcls.inference import server_protocol

MAX_BYTES = 100_000


def png(pixels: np.ndarray) -> bytes:
    import cv2

    return cv2.imencode(".png", pixels)[1].tobytes()


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Train a tiny network that tells dark pictures from light ones; return its prefix."""
    prefix = str(tmp_path_factory.mktemp("serve") / "net")
    labels = np.arange(64) % 2
    images = np.where(labels[:, None, None], 230, 20).astype(np.uint8) * np.ones((1, 12, 12), np.uint8)
    imgcls.fit((images, labels), network="mlp", num_epochs=4, model_prefix=prefix)
    Path(f"{prefix}-names.txt").write_text("dark <b>\nlight\n")
    return prefix


@pytest.fixture(scope="module")
def predictor(prefix: str) -> imgcls.Predictor:
    return imgcls.Predictor(prefix, top=2, synset=f"{prefix}-names.txt")


@contextlib.contextmanager
def running(app: Any) -> Iterator[int]:
    """Serve an application on a free port, which is given."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, http=server_protocol.BoundedProtocol, log_level="critical",
                                               lifespan="off", ws="none"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(20)


@pytest.fixture(scope="module")
def port(predictor: imgcls.Predictor) -> Iterator[int]:
    with running(serving.make_app(predictor, is_loopback=True, max_bytes=MAX_BYTES)) as port:
        yield port


def ask(port: int, body: bytes | Iterator[bytes] = b"", path: str = "/predict", method: str = "POST",
        **headers: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    with contextlib.closing(connection):
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        content = response.read()
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert "Access-Control-Allow-Origin" not in response.headers
        assert "Set-Cookie" not in response.headers
        if response.headers["Content-Type"] == "application/json":
            assert content.count(b"\n") == 1
            return response.status, json.loads(content)
        return response.status, content


def test_an_answer(port: int, predictor: imgcls.Predictor) -> None:
    light = np.full((30, 20, 3), 220, np.uint8)
    status, answer = ask(port, png(light))
    assert status == 200
    first, second = answer["predictions"]
    assert (first["class"], first["name"], second["class"], second["name"]) == (1, "light", 0, "dark <b>")
    assert first["score"] == pytest.approx(predictor(light)[0][1], abs=1e-6)
    assert ask(port, png(light), "/predict?top=1") == (200, {"predictions": [first]})
    assert ask(port, png(light), Host=f"localhost:{port}")[0] == 200
    assert ask(port, png(light), Host="[::1]", Origin="http://[::1]")[0] == 200


def bomb() -> bytes:
    data = png(np.zeros((30, 30), np.uint8))
    header = b"IHDR" + struct.pack(">II", 65000, 65000) + data[24:29]
    return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]


@pytest.mark.parametrize(("body", "status", "line"), [
    (b"", 422, "is empty"),
    (b"a text, no picture", 422, "is no image"),
    (png(np.zeros((30, 30), np.uint8))[:60], 422, "is "),
    (bomb(), 422, "65000"),
    (b"\0" * (MAX_BYTES + 1), 413, "100000 bytes at most"),
])
def test_what_is_no_picture(port: int, body: bytes, status: int, line: str) -> None:
    told, answer = ask(port, body)
    assert (told, list(answer)) == (status, ["error"])
    assert line in answer["error"]


def test_bounds_hold_for_bodies_of_unknown_length(port: int) -> None:
    status, answer = ask(port, iter([b"\0" * 50_000] * 3))
    assert (status, answer) == (413, {"error": "an image may have 100000 bytes at most"})


@pytest.mark.parametrize(("headers", "status"), [
    ({"Host": "evil.example"}, 403), ({"Host": ""}, 403), ({"Host": "127.0.0.1.evil.example"}, 403),
    ({"Host": "localhost@evil.example:80"}, 403), ({"Origin": "http://evil.example"}, 403), ({"Origin": "null"}, 403),
    ({"Origin": "http://127.0.0.1:1"}, 403), ({"Sec_Fetch_Site": "cross-site"}, 403),
    ({"Content_Type": "multipart/form-data; boundary=x"}, 415),
])
def test_other_sites_may_not_ask(port: int, headers: dict[str, str], status: int) -> None:
    told, answer = ask(port, png(np.zeros((12, 12), np.uint8)), **headers)
    assert (told, list(answer)) == (status, ["error"])


@pytest.mark.parametrize(("method", "path", "status"), [
    ("GET", "/predict", 405), ("POST", "/", 405), ("GET", "/../../etc/passwd", 404), ("POST", "/predict?top=0", 400),
    ("POST", "/predict?top=3", 400), ("POST", "/predict?top=%0a", 400), ("POST", "/predict?top=" + "9" * 5000, 400),
    ("POST", "/predict?top=000000001" + "9" * 5000, 400),
])
def test_other_requests(port: int, method: str, path: str, status: int) -> None:
    told, answer = ask(port, b"", path, method)
    assert (told, list(answer)) == (status, ["error"])


def test_who_listens_for_others_answers_to_any_name(predictor: imgcls.Predictor) -> None:
    with running(serving.make_app(predictor, is_loopback=False, max_bytes=MAX_BYTES)) as port:
        data = png(np.zeros((12, 12), np.uint8))
        assert ask(port, data, Host="photos.example")[0] == 200
        assert ask(port, data, Host="photos.example", Origin="https://photos.example")[0] == 200
        assert ask(port, data, Host="photos.example", Origin="https://evil.example")[0] == 403


def test_one_more_than_may_wait_is_told_to_come_again(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "MAX_WAITING", 0)
    assert ask(port, b"x") == (503, {"error": "busy: try again"})


def test_a_bug_is_one_line(port: int, predictor: imgcls.Predictor, monkeypatch: pytest.MonkeyPatch,
                           capfd: pytest.CaptureFixture[str]) -> None:
    def fails(*arguments: object) -> None:
        raise ZeroDivisionError("what nobody thought of")

    monkeypatch.setattr(predictor, "model", fails)
    status, answer = ask(port, png(np.zeros((12, 12), np.uint8)))
    assert (status, answer) == (500, {"error": "internal error; see the server's terminal"})
    err = capfd.readouterr().err
    assert err.count("\n") == 1
    assert "what nobody thought of" in err


def test_a_body_that_does_not_come_is_given_up(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "_UPLOAD_S", 0.1)
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\nbeginning")
        assert b" 408 " in connection.recv(1000)


def test_slow_clients_keep_nobody_out(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_protocol, "REQUEST_S", 0.4)
    beginnings = (b"", b"POST /pre", b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ",
                  b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\nbeginning")
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20))
                for _ in range(12) for _ in beginnings]
        for number, connection in enumerate(slow):
            connection.sendall(beginnings[number % 4])
        assert ask(port, png(np.zeros((12, 12), np.uint8)))[0] == 200
        assert [connection.recv(100) for number, connection in enumerate(slow) if number % 4 < 3] == [b""] * 36
        slow[3].sendall(b"x" * 41)  # an upload has more time
        assert slow[3].recv(1000).startswith(b"HTTP/1.1 422 ")


def test_what_is_no_http(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        head, _, body = connection.makefile("rb").read().partition(b"\r\n\r\n")
    assert b" 400 " in head
    assert json.loads(body) == {"error": "Invalid HTTP request received"}


def test_many_clients(port: int) -> None:
    """Each is answered, with classes or with "busy"; and so is the next."""
    data = png(np.zeros((12, 12), np.uint8))
    with ThreadPoolExecutor(40) as executor:
        answers = list(executor.map(lambda _: ask(port, data), range(120)))
    assert {status for status, _ in answers} <= {200, 503}
    assert all(answer == {"error": "busy: try again"} for status, answer in answers if status == 503)
    assert ask(port, data)[0] == 200


def test_the_page_allows_its_own_script_only(port: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    with contextlib.closing(connection):
        connection.request("GET", "/")
        response = connection.getresponse()
        policy = response.headers["Content-Security-Policy"]
        page = response.read().decode()
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    assert "<b>" not in page


@pytest.mark.parametrize(("flags", "status", "line"), [
    ([], 2, "--model is missing"),
    (["--model", "nowhere/net", "--port", "0"], 2, "there is no nowhere/net"),
    (["--model", "x", "--port", "65536"], 2, "--port 65536"),
    (["--model", "x", "--host", "no such host"], 2, "--host no such host: is no address of this machine"),
    (["--model", "x", "--host", "192.0.2.1"], 1, "cannot listen on 192.0.2.1 port 8000"),
])
def test_wrong_usage(flags: list[str], status: int, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert serve.main(flags) == status
    err = capsys.readouterr().err
    assert line in err
    assert err.count("\n") == 1


def test_a_port_in_use_and_a_package_that_is_missing(port: int, capsys: pytest.CaptureFixture[str],
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    assert serve.main(["--model", "x", "--port", str(port)]) == 1
    assert f"cannot listen on 127.0.0.1 port {port}: address already in use" in capsys.readouterr().err
    monkeypatch.setattr(serve.importlib.util, "find_spec", lambda name: None)
    assert serve.main(["--model", "x"]) == 1
    assert capsys.readouterr().err == ("imgcls-serve: error: needs starlette and uvicorn: "
                                       "pip install 'imgcls[serve]'\n")


@pytest.mark.slow
def test_the_command(prefix: str) -> None:
    command = [sys.executable, "-m", "imgcls", "serve", "--model", prefix, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        match = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/\n", process.stdout.readline())
        assert match
        assert ask(int(match[1]), png(np.full((12, 12), 220, np.uint8)))[1]["predictions"][0]["class"] == 1
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130


#: a page around the page that drops a photograph on it and tells what is seen then
_FRAME = """<!DOCTYPE html><meta charset="utf-8"><link rel="icon" href="data:,">
<iframe src="/" style="border:0;width:360px;height:900px"></iframe><pre id="told"></pre>
<script>
const frame = document.querySelector("iframe");
frame.onload = () => {
  const page = frame.contentDocument, win = frame.contentWindow;
  const files = new win.DataTransfer();
  files.items.add(new win.File([Uint8Array.from(atob("IMAGE"), (c) => c.charCodeAt(0))], "a.png"));
  page.querySelector("input").files = files.files;
  page.querySelector("input").dispatchEvent(new win.Event("change"));
  const wait = setInterval(() => {
    const rows = [...page.querySelectorAll("li b")].map((row) => row.textContent);
    const error = page.querySelector("#error").textContent;
    if (!rows.length && !error) return;
    clearInterval(wait);
    document.querySelector("#told").textContent = JSON.stringify({
      rows, error, width: page.documentElement.scrollWidth, picture: page.querySelector("img").naturalWidth,
      background: win.getComputedStyle(page.body).backgroundColor});
  }, 50);
};
</script>"""


class Framed:
    """ASGI: an application whose page may be framed, so that the frame sees into it, and what it was asked."""

    def __init__(self, app: Any, image: bytes) -> None:
        self.app = app
        self.asked: list[str] = []
        frame = _FRAME.replace("IMAGE", base64.b64encode(image).decode())
        app.router.routes.append(Route("/frame", lambda request: HTMLResponse(frame)))

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.asked.append(scope["path"])

        async def pass_on(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [(name, value.replace(b" frame-ancestors 'none'", b""))
                                      for name, value in message["headers"] if name.lower() != b"x-frame-options"]
            await send(message)

        await self.app(scope, receive, pass_on)


@pytest.mark.slow
@pytest.mark.parametrize("is_dark", [False, True])
def test_a_photograph_is_dropped(predictor: imgcls.Predictor, tmp_path: Path, is_dark: bool) -> None:
    """The page in a browser as wide as a telephone: an answer, no word on the console, no request elsewhere."""
    chromium = find_chromium()
    app = Framed(serving.make_app(predictor, is_loopback=True, max_bytes=MAX_BYTES),
                 png(np.full((40, 60, 3), 220, np.uint8)))
    with running(app) as port:
        result = subprocess.run(
            [chromium, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
             "--disable-background-networking", "--disable-component-update", "--no-first-run",
             "--disable-dev-shm-usage", f"--blink-settings=preferredColorScheme={0 if is_dark else 1}",
             "--enable-logging=stderr", "--v=0", "--virtual-time-budget=20000", "--dump-dom",
             f"http://127.0.0.1:{port}/frame"], capture_output=True, text=True, timeout=120, check=False)
    told = re.search(r'<pre id="told">(\{.*\})</pre>', result.stdout)
    assert told, result.stderr[-2000:]
    seen = json.loads(told[1].replace("&lt;", "<").replace("&gt;", ">"))
    assert (seen["rows"], seen["error"], seen["picture"]) == (["light", "dark <b>"], "", 60)
    assert seen["width"] <= 360
    assert seen["background"] == ("rgb(20, 23, 26)" if is_dark else "rgb(251, 251, 250)")
    assert [line for line in result.stderr.splitlines() if "CONSOLE" in line] == []
    assert sorted(set(app.asked)) == ["/", "/frame", "/predict"]
