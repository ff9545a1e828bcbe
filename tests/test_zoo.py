"""Pretrained networks by name, from a local server: mirrors, hashes, cut downloads and messages."""

from __future__ import annotations

import hashlib
import http.server
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import run_cli

import imgcls
from imgcls import pretrained
from imgcls.errors import DataError, RunError, UsageError
from imgcls.formats import params
from imgcls.pretrained import zoo
from imgcls.storage import folders

FOLDER = "/models/imagenet/resnet/18-layers"


class Handler(http.server.BaseHTTPRequestHandler):
    """Serve `server.files`; a path in `server.cut` ends after so many bytes, once. `server.seen`: requests."""

    def do_GET(self) -> None:
        server, byte_range = self.server, self.headers["Range"]
        server.seen.append((self.path, byte_range))  # type: ignore[attr-defined]
        content = server.files.get(self.path)  # type: ignore[attr-defined]
        if content is None:
            self.send_error(404)
            return
        start = int(byte_range[len("bytes="):-1]) if byte_range else 0
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        self.wfile.write(content[start:server.cut.pop(self.path, len(content))])  # type: ignore[attr-defined]

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[SimpleNamespace]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("IMGCLS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("IMGCLS_MIRROR", raising=False)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.files, server.cut, server.seen = {}, {}, []  # type: ignore[attr-defined]
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(zoo, "BASE_URL", f"{url}/gone/")
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield SimpleNamespace(files=server.files, cut=server.cut, seen=server.seen,
                          url=url)  # type: ignore[attr-defined]
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    prefix = tmp_path_factory.mktemp("zoo") / "net"
    chance = np.random.default_rng(0)
    imgcls.fit((chance.integers(0, 255, (20, 3, 8, 8), dtype=np.uint8), np.arange(20) % 4), network="mlp",
               num_epochs=1,
               model_prefix=str(prefix), rgb_mean="1,2,3")
    return prefix


def offer(server: SimpleNamespace, trained: Path, stem: str = f"{FOLDER}/resnet-18", epoch: int = 0) -> bytes:
    """Put the files on the server; return the weights."""
    weights = Path(f"{trained}-0001.params").read_bytes()
    server.files[f"{stem}-symbol.json"] = Path(f"{trained}-symbol.json").read_bytes()
    server.files[f"{stem}-{epoch:04d}.params"] = weights
    return weights


def test_names() -> None:
    assert zoo.find_model("resnext-101") == zoo.find_model("imagenet1k_ResNeXt-101") == "imagenet1k-resnext-101"
    assert zoo.find_model("imagenet11k-resnet-152") == "imagenet11k-resnet-152"
    assert zoo.find_model("resnet-19") is None
    assert len(zoo.ZOO) == 12
    model = zoo.ZOO["imagenet1k-inception-bn"]
    assert (model.folder, model.stem, model.epoch) == ("models/imagenet/inception-bn", "Inception-BN", 126)


def test_torchvision_has_every_equivalent() -> None:
    models = pytest.importorskip("torchvision.models")
    available = models.list_models(module=models)
    assert all(model.torchvision in available for model in zoo.ZOO.values())


def test_a_mirror_of_the_zoo(server: SimpleNamespace, trained: Path, monkeypatch: pytest.MonkeyPatch,
                             capsys: pytest.CaptureFixture[str]) -> None:
    weights = offer(server, trained)
    monkeypatch.setenv("IMGCLS_MIRROR", server.url)
    reference = pretrained.locate("resnet-18", "0000")
    assert reference.preprocessing["mean"] == (0.0, 0.0, 0.0)
    assert Path(f"{reference.prefix}-0000.params").read_bytes() == weights
    assert "no hash of resnet-18-0000.params is published" in capsys.readouterr().err
    asked = len(server.seen)
    model = imgcls.load_model("imagenet1k-resnet-18")  # out of the cache
    assert len(server.seen) == asked
    images = torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(model(images), imgcls.load_model(trained)(images))

    # what was noted at the first download holds from then on
    Path(f"{reference.prefix}-0000.params").write_bytes(weights[:-1] + b"x")
    with pytest.raises(DataError, match=r"resnet-18-0000\.params: has changed since it was downloaded"):
        pretrained.locate("resnet-18")
    Path(f"{reference.prefix}-0000.params").unlink()
    server.files[f"{FOLDER}/resnet-18-0000.params"] = weights[:-1] + b"x"
    with pytest.raises(RunError, match="wrong content"):
        pretrained.locate("resnet-18")


@pytest.mark.parametrize("hash_source", ["beside", "sums"])
def test_a_cut_download_is_resumed(server: SimpleNamespace, trained: Path, monkeypatch: pytest.MonkeyPatch,
                                   hash_source: str, capsys: pytest.CaptureFixture[str]) -> None:
    weights, path = offer(server, trained), f"{FOLDER}/resnet-18-0000.params"
    monkeypatch.setenv("IMGCLS_MIRROR", server.url)
    digest = hashlib.sha256(weights).hexdigest()
    if hash_source == "beside":
        server.files[f"{path}.sha256"] = digest.encode()
    else:
        server.files[f"{FOLDER}/SHA256SUMS"] = f"{'0' * 64} *other\n{digest}  ./resnet-18-0000.params\n".encode()
    server.cut[path] = 5000
    reference = pretrained.locate("resnet-18")
    assert Path(f"{reference.prefix}-0000.params").read_bytes() == weights
    assert [byte_range for seen, byte_range in server.seen if seen == path] == [None, "bytes=5000-"]
    assert "no hash of resnet-18-0000.params" not in capsys.readouterr().err


def test_a_wrong_hash(server: SimpleNamespace, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(server, trained)
    server.files[f"{FOLDER}/resnet-18-0000.params.sha256"] = f"{'1' * 64}  resnet-18-0000.params\n".encode()
    monkeypatch.setenv("IMGCLS_MIRROR", server.url)
    with pytest.raises(RunError, match=f"wrong content .sha256 .*, not {'1' * 64}"):
        pretrained.locate("resnet-18")
    assert not (folders.cache_folder(FOLDER.strip("/")) / "resnet-18-0000.params").exists()


def test_a_model_that_no_mirror_has(server: SimpleNamespace, monkeypatch: pytest.MonkeyPatch,
                                    tmp_path: Path) -> None:
    monkeypatch.setenv("IMGCLS_MIRROR", server.url)
    with pytest.raises(RunError,
                       match=r"404.*; .*404.*; .*take torchvision:resnext101_64x4d, the living equivalent"):
        pretrained.locate("resnext-101-64x4d")
    monkeypatch.delenv("IMGCLS_MIRROR")
    monkeypatch.setattr(zoo, "BASE_URL", "http://127.0.0.1:1/")
    with pytest.raises(RunError,
                       match=r"cannot download resnet-50-symbol.json: http://127.0.0.1:1/\S*json: .*; "
                             r"MXNet's server is gone: take torchvision:resnet50, the living equivalent"):
        pretrained.locate("resnet-50")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.slow
def test_as_a_user_sees_it(server: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "photos" / "a").mkdir(parents=True)
    env = {"IMGCLS_CACHE": str(tmp_path / "cache"), "IMGCLS_MIRROR": server.url,
           "no_proxy": "127.0.0.1,data.mxnet.io",
           "http_proxy": "http://127.0.0.1:1"}
    done = run_cli("finetune", "--pretrained-model", "resnet-34", "--data-dir", tmp_path / "photos",
                   cwd=tmp_path,
                   env=env)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("imgcls-finetune: error: cannot download resnet-34-symbol.json: ")
    assert "take torchvision:resnet34, the living equivalent of imagenet1k-resnet-34" in last


def test_a_local_file_wins(server: SimpleNamespace, trained: Path, tmp_path: Path,
                           monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for end in ("symbol.json", "0000.params"):
        Path(f"resnext-101-{end}").write_bytes(Path(f"{trained}-{end.replace('0000', '0001')}").read_bytes())
    assert pretrained.locate("resnext-101", "0000").prefix == "resnext-101"
    assert imgcls.load_model("resnext-101", 0)(torch.zeros(1, 3, 8, 8)).shape == (1, 4)
    assert not server.seen


def test_the_epochs_of_the_zoo(server: SimpleNamespace, trained: Path,
                               monkeypatch: pytest.MonkeyPatch) -> None:
    offer(server, trained, "/models/imagenet/inception-bn/Inception-BN", 126)
    monkeypatch.setenv("IMGCLS_MIRROR", server.url)
    for epoch in ("auto", "0000", "126"):
        reference = pretrained.locate("inception-bn", epoch)
        assert (reference.epoch, reference.preprocessing["mean"]) == ("126", (123.68, 116.779, 103.939))
    assert pretrained.read(reference).path.endswith("Inception-BN-0126.params")
    with pytest.raises(UsageError, match="load_epoch 5: the zoo has imagenet1k-inception-bn after one epoch"):
        pretrained.locate("inception-bn", "5")


@pytest.mark.parametrize(("end", "epoch"), [("", "3"), ("-0003.params", "auto"), ("-symbol.json", "3")])
def test_a_url(server: SimpleNamespace, trained: Path, end: str, epoch: str) -> None:
    weights = offer(server, trained, "/mine/my net", 3)
    for path in list(server.files):
        server.files[path.replace(" ", "%20")] = server.files.pop(path)
    server.files["/mine/my%20net-meta.json"] = Path(f"{trained}-meta.json").read_bytes()
    reference = pretrained.locate(f"{server.url}/mine/my%20net{end}", epoch)
    assert reference.preprocessing["mean"] == [1.0, 2.0, 3.0]
    assert reference.network == "mlp"
    assert Path(pretrained.read(reference).path).read_bytes() == weights
    asked = len(server.seen)
    pretrained.locate(f"{server.url}/mine/my%20net{end}", epoch)
    assert len(server.seen) == asked


def test_urls_that_lead_nowhere(server: SimpleNamespace, trained: Path) -> None:
    with pytest.raises(RunError, match=f"cannot download net: there is no {server.url}/none/net-symbol.json"):
        pretrained.locate(f"{server.url}/none/net")
    offer(server, trained, "/mine/net", 3)
    with pytest.raises(RunError,
                       match=r"404.*; epoch 0 of .*/mine/net was requested; load_epoch names another"):
        pretrained.locate(f"{server.url}/mine/net")
    with pytest.raises(UsageError, match="must end with the prefix of the files"):
        pretrained.locate(f"{server.url}/mine/")
    with pytest.raises(RunError, match=r"http://127\.0\.0\.1:1/net-meta\.json: "):
        pretrained.locate("http://127.0.0.1:1/net")
    assert pretrained.locate(f"file://{trained}").preprocessing["mean"] == [1.0, 2.0, 3.0]


# ---- torchvision's


def test_torchvisions_weights(server: SimpleNamespace, tmp_path: Path,
                              monkeypatch: pytest.MonkeyPatch) -> None:
    """From a mirror, into the cache, checked against the hash in the name."""
    models = pytest.importorskip("torchvision.models")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    torch.manual_seed(0)
    original = models.squeezenet1_1().eval()
    torch.save(original.state_dict(), tmp_path / "w.pth")
    content = (tmp_path / "w.pth").read_bytes()
    file = f"squeezenet1_1-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    weights = models.SqueezeNet1_1_Weights.DEFAULT
    monkeypatch.setattr(weights.value, "url", f"{server.url}/hub/{file}")  # where torchvision says that it is
    server.files[f"/hub/{file}"] = content[:-1] + b"x"
    name = "torchvision:squeezenet1_1"
    with pytest.raises(RunError, match=r"wrong content.*; put .* into .*, or give a file of your own"):
        pretrained.read(pretrained.locate(name))
    server.files[f"/hub/{file}"] = content
    server.cut[f"/hub/{file}"] = 100_000
    reference = pretrained.locate(name)
    assert reference.preprocessing == {"image_shape": (3, 224, 224), "mean": (123.675, 116.28, 103.53),
                                       "std": (58.395, 57.12, 57.375), "val_resize": 256,
                                       "interpolation": "antialias"}
    assert reference.class_names[0] == "tench"
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(pretrained.build(pretrained.read(reference))(images), original(images))
    assert (tmp_path / "cache" / "models" / "torchvision" / file).read_bytes() == content
    del server.files[f"/hub/{file}"]
    assert pretrained.read(reference).network.num_classes == 1000  # type: ignore[union-attr]
    (tmp_path / "cache" / "models" / "torchvision" / file).unlink()
    with pytest.raises(RunError, match="404"):
        pretrained.read(reference)


def test_a_state_dict_from_a_file(tmp_path: Path) -> None:
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(1)
    original = models.mobilenet_v2(num_classes=9).eval()
    torch.save(original.state_dict(), tmp_path / "w.pth")
    model = imgcls.load_model(f"torchvision:mobilenet_v2:{tmp_path / 'w.pth'}")
    with torch.no_grad():
        assert torch.equal(model(torch.ones(1, 3, 64, 64)), original(torch.ones(1, 3, 64, 64)))
    with pytest.raises(UsageError, match="there is no such file"):
        imgcls.load_model("torchvision:mobilenet_v2:none.pth")

    class Evil:
        def __reduce__(self) -> tuple:
            return (print, ("executed",))
    torch.save({"w": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(DataError, match="not weights in torch's format"):
        imgcls.load_model(f"torchvision:mobilenet_v2:{tmp_path / 'evil.pth'}")


def test_a_params_file(trained: Path) -> None:
    reference = pretrained.locate(f"{trained}-0001.params")
    assert (reference.network, list(reference.preprocessing["mean"])) == ("mlp", [1.0, 2.0, 3.0])
    assert set(pretrained.read(reference).arrays) == set(params.load(f"{trained}-0001.params"))


def test_a_mean_image_beside_a_url(server: SimpleNamespace, tmp_path: Path) -> None:
    """It is downloaded with the checkpoint where the meta data tell of one, and only then."""
    images = np.zeros((4, 1, 8, 8), np.uint8), np.arange(4) % 2
    params.save(tmp_path / "mean.bin", {"mean_img": np.ones((1, 8, 8), np.float32)})
    imgcls.fit(images, network="mlp", num_epochs=1, mean_image=str(tmp_path / "mean.bin"),
               model_prefix=str(tmp_path / "net"))
    offer(server, tmp_path / "net", "/mine/net", 1)
    for end in ("meta.json", "mean.bin"):
        server.files[f"/mine/net-{end}"] = Path(f"{tmp_path}/net-{end}").read_bytes()
    predictor = imgcls.Predictor(f"{server.url}/mine/net", 1)
    assert re.search(r"mean \S+/net-mean\.bin, std 255 \(as http", predictor.notes[0])
    offer(server, tmp_path / "net", "/other/net", 1)
    server.files["/other/net-meta.json"] = server.files["/mine/net-meta.json"]
    with pytest.raises(DataError, match=r"net-mean\.bin: no such file.*bring it along"):
        imgcls.Predictor(f"{server.url}/other/net", 1)
