"""Write docs/networks.md: every network with its size, its speed here, and whether MXNet runs its files.

    python benchmarks/networks.py [--only resnet] [--mxnet-python /path/to/venv/bin/python] [--no-speed]

Measures what benchmarks/networks.json does not hold yet (`--again`: all of it), one network after the other,
saves after each, and writes the page from that file: it may be stopped and started again. Speed: ours and
torchvision's network of the same name take turns in one process, eager, channels_last, float32, the same
optimizer, batch and threads; images per second are medians over `--rounds`, ratios are taken within a round.
The machine has to be quiet: with another program on its cores the figures mean nothing. With `--mxnet-python`
each network also goes through the check of benchmarks/roundtrip.py (two minutes). All of it takes about ten
minutes on 2 cores.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

# the checkout, installed or not
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from imgcls.config.sections import DeviceConfig, NetworkConfig
from imgcls.distributed.topology import make_worker
from imgcls.networks import build_network
from imgcls.storage.atomic import write_bytes
from imgcls.training import network_size

# the figures are kept apart from the page, so that a new wording needs no new measurement
ROOT = Path(__file__).resolve().parents[1]
PAGE, RESULTS = ROOT / "docs" / "networks.md", ROOT / "benchmarks" / "networks.json"
#: a round is at least one step and at least this long, in seconds
ROUND_SECONDS = 0.3
#: images up to this side are small: batches of 64; networks from this many operations an image on: of 4;
#: others: of 8
SMALL_SIDE, LARGE_FLOPS = 32, 10e9


@dataclass(frozen=True)
class Case:
    """A row: a network at one of its configurations, and torchvision's of the same name, if there is one."""

    network: str
    shape: tuple[int, int, int] = (3, 224, 224)
    options: dict[str, Any] = field(default_factory=dict)
    classes: int = 1000
    torchvision: str = ""

    @property
    def name(self) -> str:
        """Return the network and its flags as on the command line, without --network."""
        flags = [f"--{key.replace('_', '-')}" + ("" if value is True else f" {value}")
                 for key, value in self.options.items()]
        return " ".join([self.network, *flags])

    @property
    def key(self) -> str:
        """Return the key of the results file."""
        return f"{self.name} {','.join(map(str, self.shape))}"

    @property
    def config(self) -> NetworkConfig:
        """Return the settings that build the network."""
        return NetworkConfig(network=self.network, image_shape=self.shape, num_classes=self.classes,
                             **self.options)


def _depths(network: str, torchvision: str = "") -> list[Case]:
    return [Case(network, options={"num_layers": depth}, torchvision=torchvision and f"{torchvision}{depth}")
            for depth in (18, 34, 50, 101, 152)]


#: the form for CIFAR-10, with the crops that train_cifar10.py takes
SMALL: dict[str, Any] = {"shape": (3, 28, 28), "classes": 10}
#: in the order of the page; the sides of images are those that each network was made for
CASES = [
    Case("mlp", (1, 28, 28), classes=10),
    Case("lenet", (1, 28, 28), classes=10),
    Case("lenet", (1, 28, 28), {"add_stn": True}, classes=10),
    Case("alexnet", torchvision="alexnet"),
    Case("alexnet-towers"),
    Case("alexnet-towers", (3, 227, 227), {"variant": "theano"}),
    Case("overfeat", (3, 231, 231)),
    Case("overfeat", (3, 221, 221), {"variant": "accurate"}),
    *[Case("vgg", options={"num_layers": depth, **norm}, torchvision=f"vgg{depth}{'_bn' if norm else ''}")
      for norm in ({}, {"batch_norm": True}) for depth in (11, 13, 16, 19)],
    Case("googlenet", torchvision="googlenet"),
    Case("inception-bn"),
    Case("inception-bn", **SMALL),
    Case("inception-bn-full", classes=21841),
    Case("inception-v3", (3, 299, 299), torchvision="inception_v3"),
    Case("inception-v4", (3, 299, 299)),
    Case("inception-resnet-v2", (3, 299, 299)),
    *_depths("resnet", "resnet"),
    *[Case("resnet", options={"num_layers": depth}, **SMALL) for depth in (20, 110)],
    *_depths("resnet-v1", "resnet"),
    *[Case("resnet-v1", options={"num_layers": depth}, **SMALL) for depth in (20, 110)],
    Case("resnetv1", options={"num_layers": 50}),
    Case("resnet-28-small", **SMALL),
    Case("resnet-caffe", options={"num_layers": 32}),
    Case("resnet-caffe", options={"num_layers": 50}, torchvision="resnet50"),
    Case("resnext", options={"num_layers": 50}, torchvision="resnext50_32x4d"),
    Case("resnext", options={"num_layers": 101}),
    Case("resnext", options={"num_layers": 20}, **SMALL),
    Case("mobilenet"),
    Case("mobilenet", options={"multiplier": 0.25}),
    Case("mobilenetv2", torchvision="mobilenet_v2"),
    Case("mobilenetv2", options={"multiplier": 0.5}),
    Case("airbench", (3, 32, 32), classes=10),
]
#: where MXNet is given smaller images than the row has, as small as the network runs at
ROUNDTRIP_SIDE = {"alexnet": 99, "alexnet-towers": 99, "overfeat": 128, "vgg": 32, "googlenet": 64,
                  "resnet": 64, "resnet-v1": 64, "resnetv1": 64, "resnext": 64, "mobilenet": 64,
                  "mobilenetv2": 64, "inception-resnet-v2": 107}

#: key of a case -> what was measured of it: "size", "mxnet", "speed"
Results = dict[str, dict[str, Any]]


def main() -> int:
    """Measure what is missing, save after each measurement, write the page."""
    args = _arguments()
    torch.set_num_threads(args.threads)
    make_worker(DeviceConfig())  # the memory settings of a run on the CPU, for both peers alike
    path = Path(args.results)
    results: Results = json.loads(path.read_text()) if path.exists() else {}
    started = time.perf_counter()
    for case in (case for case in CASES if case.name.startswith(args.only)):
        result = results.setdefault(case.key, {})
        for name, is_asked_for, measure in _measurements(case, args):
            if is_asked_for and (args.again or name not in result):
                # Saved after each: what is measured survives Ctrl-C and a machine that goes away.
                result[name] = measure()
                write_bytes(path, (json.dumps(results, indent=1) + "\n").encode())
        print(f"{time.perf_counter() - started:6.0f} s  {_row(case, result)}", flush=True)
    write_bytes(args.page, render(results).encode())
    return 0


def size(case: Case) -> dict[str, Any]:
    """Return the numbers of parameters (with gammas fixed at 1, without moving statistics) and operations."""
    # On the meta device: shapes without memory, so that the largest network costs nothing.
    with torch.device("meta"):
        model = build_network(case.config, seed=0)
        peer = _torchvision(case) if case.torchvision else None
        # A gamma fixed at 1 is a buffer here and a parameter in MXNet's files: counted as there.
        gammas = sum(b.numel() for name, b in model.named_buffers() if name.endswith("gamma"))
        sizes = {"parameters": network_size.count_parameters(model) + gammas,
                 "flops": network_size.measure(model, case.shape).flops}
        if peer is not None:
            sizes |= {"peer_parameters": network_size.count_parameters(peer),
                      "peer_flops": network_size.measure(peer, case.shape).flops}
        return sizes


def speed(case: Case, flops: int, rounds: int) -> dict[str, Any]:
    """Return the images per second of inference and training, ours and the peer's, and on what machine."""
    # Many small images, few large ones: a round then takes about as long for each network.
    batch = 64 if max(case.shape) <= SMALL_SIDE else 4 if flops >= LARGE_FLOPS else 8
    models = {"imgcls": build_network(case.config, seed=0)}
    if case.torchvision:
        models["torchvision"] = _torchvision(case)
    images = torch.randn(batch, *case.shape).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(case.classes, (batch,))
    steps: dict[str, dict[str, Callable[[], object]]] = {"inference": {}, "training": {}}
    for name, model in models.items():
        # The layout that a run on the CPU uses; torchvision gains from it as well.
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        steps["inference"][name] = _inference(model, images)
        steps["training"][name] = _training(model, images, labels)
    return {"batch": batch, "on": _machine()} | {
        mode: _take_turns(peers, batch, rounds) for mode, peers in steps.items()}


def render(results: Results) -> str:
    """Return the page, docs/networks.md."""
    # More than one where rows were measured on different machines: then the page names them all.
    machines = sorted({result["speed"]["on"] for result in results.values() if "speed" in result})
    checked = [result["mxnet"] for result in results.values() if "mxnet" in result]
    lines = [
        "# Networks", "",
        f"Written by `python benchmarks/networks.py --mxnet-python PATH` from `benchmarks/networks.json`; "
        f"{len(CASES)} configurations of `--network`.", "",
        f"Speed: {'; '.join(machines) or 'not measured yet'}. Images per second, float32, eager, "
        f"`channels_last`, random images in memory, batches of 8 (4 from {LARGE_FLOPS / 1e9:.0f} GFLOPs an "
        f"image on, 64 up to {SMALL_SIDE} x {SMALL_SIDE} pixels); training is forward, backward and SGD with "
        "momentum. torchvision's network took turns with ours in the same process with the same settings; "
        "*x* is ours over theirs, the median of the ratios within a round; above 1, ours is faster.", "",
        "Parameters are weights, biases, gammas (fixed ones too) and betas; FLOPs are those of convolutions "
        "and fully connected layers for one image, a multiplication and an addition counted as two.", "",
        _roundtrip_text(checked), "",
        "| `--network` | input | parameters | FLOPs | MXNet file | inference, img/s | training, img/s "
        "| torchvision | its inference | its training |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *[_row(case, results.get(case.key, {})) for case in CASES],
        "", NOTES]
    return "\n".join(lines)


NOTES = """Where torchvision's network of the same name differs:

- alexnet: 64, 192, 384, 256, 256 filters without response normalisation ("One weird trick"); MXNet's has 96,
  256, 384, 384, 256 and normalises twice.
- googlenet: batch normalisation after every convolution, and 3 x 3 where the paper and MXNet have 5 x 5. For
  the comparison it is built without its auxiliary heads, and so is inception_v3.
- resnet50 and deeper: the stride is in the 3 x 3 convolution ("v1.5"), in the first 1 x 1 in resnet-v1 and
  resnet-caffe. `--network resnet` is version 2 (normalisation and relu first), which torchvision does not
  have.
- resnext50_32x4d: ours also normalises the image, as MXNet's does. torchvision's 101 layers are 32x8d and
  64x4d, MXNet's 32x4d, so they are not compared.
- mobilenet_v2: MXNet's first block has one more 1 x 1 convolution.
- vgg and inception_v3 have the same layers, apart from constants of the normalisation.

Every network of torchvision can be used as `--network torchvision:NAME`; MXNet cannot express those, so they
have no MXNet file. `resnetv1` is another name of `resnet-v1`.
"""


def _measurements(case: Case, args: argparse.Namespace) -> list[tuple[str, bool, Callable[[], Any]]]:
    """Return what is measured for a row: its name in the results, whether it was asked for, and how."""
    # Functions, so that nothing is computed for what the file holds already.
    return [("size", True, lambda: size(case)),
            ("mxnet", bool(args.mxnet_python), lambda: _roundtrip(case, args.mxnet_python)),
            ("speed", args.speed, lambda: speed(case, size(case)["flops"], args.rounds))]


def _torchvision(case: Case) -> nn.Module:
    return build_network(NetworkConfig(network=f"torchvision:{case.torchvision}", image_shape=case.shape,
                                       num_classes=case.classes), seed=0)


def _inference(model: nn.Module, images: torch.Tensor) -> Callable[[], object]:
    def step() -> object:
        # here and not once before: the same network trains after that
        model.eval()
        with torch.no_grad():
            return model(images)
    return step


def _training(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> Callable[[], object]:
    # fused: one pass over the weights, for both peers.
    # The rate is small, since the labels are random: weights that ran away would change how long arithmetic
    # takes.
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4, fused=True)

    def step() -> None:
        model.train()
        optimizer.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return step


def _take_turns(peers: dict[str, Callable[[], object]], batch: int, rounds: int) -> dict[str, Any]:
    """Return the images per second of each peer, medians over the rounds, and the ratio to the first."""
    steps = {}
    for name, step in peers.items():
        step()  # the first one makes gradients, buffers and kernels
        started = time.perf_counter()
        step()
        # The number is settled before the rounds: no clock is asked between two steps of one.
        steps[name] = math.ceil(ROUND_SECONDS / (time.perf_counter() - started))
    speeds: dict[str, list[float]] = {name: [] for name in peers}
    # By turns, forwards and backwards: neither peer is always second.
    for number in range(rounds):
        for name in list(peers)[::-1 if number % 2 else 1]:  # who goes first has the warmer or colder cores
            started = time.perf_counter()
            for _ in range(steps[name]):
                peers[name]()
            speeds[name].append(batch * steps[name] / (time.perf_counter() - started))
    medians: dict[str, Any] = {name: _digits(statistics.median(values)) for name, values in speeds.items()}
    if "torchvision" in speeds:
        # Within a round, then the median: a machine that slows down for a minute slows both.
        ratios = [ours / theirs for ours, theirs in zip(speeds["imgcls"], speeds["torchvision"], strict=True)]
        medians |= {"ratio": round(statistics.median(ratios), 3),
                    "ratios": [round(min(ratios), 3), round(max(ratios), 3)]}
    return medians


def _roundtrip(case: Case, mxnet_python: str) -> float:
    """Return the largest relative difference of a logit between MXNet and us on the same files.

    Ends the program where bytes differ or the difference is above the tolerance.
    """
    # A neighbour in this folder; it needs MXNet in another environment, so most runs never ask for it.
    import roundtrip

    # MXNet's CPU build takes minutes at full size; the layers are the same at a smaller one.
    side = ROUNDTRIP_SIDE.get(case.network) if max(case.shape) > SMALL_SIDE else None
    shape = (case.shape[0], side, side) if side else case.shape
    with tempfile.TemporaryDirectory() as folder:
        against, read_back, same = roundtrip.compare(case.network, shape, case.options, Path(folder),
                                                     mxnet_python)
    # At once, and not as a row: a page with a network that MXNet reads differently must not appear.
    worst = roundtrip.largest(against, read_back)
    if not (same and worst <= roundtrip.TOLERANCE):  # nan is no agreement
        sys.exit(f"{case.key}: MXNet differs: {against:.1e}, read back {read_back:.1e}, same symbol: {same}")
    return float(f"{worst:.1e}")


def _roundtrip_text(checked: list[float]) -> str:
    if not checked:
        return "MXNet file: not tested yet (`--mxnet-python`)."
    return ("MXNet file: written by us with random weights and statistics, loaded and run by MXNet 1.9.1, "
            "and read back here, as `benchmarks/roundtrip.py` does; the number is the largest difference of "
            "a logit relative to the largest logit, and MXNet writes our symbol with the same bytes. "
            f"{len(checked)} of {len(CASES)} rows were tested, most at smaller images than the table has; "
            f"the worst is {max(checked):.0e}.")



def _row(case: Case, result: dict[str, Any]) -> str:
    """Return a line of the table; what was not measured is empty."""
    sizes = result.get("size", {})
    speeds = result.get("speed", {})
    ours = [""] * 2
    theirs = [""] * 2
    for column, mode in enumerate(("inference", "training")):
        if mode in speeds:
            ours[column] = f"{speeds[mode]['imgcls']:g}"
            if case.torchvision:
                theirs[column] = f"{speeds[mode]['torchvision']:g}, x{speeds[mode]['ratio']:.2f}"
    peer = ""
    if "peer_parameters" in sizes:
        peer = f"{case.torchvision} ({sizes['peer_parameters'] / 1e6:.2f} M)"
    shape = ",".join(map(str, case.shape)) + (f" ({case.classes} classes)" if case.classes != 1000 else "")
    # Cells stay empty where nothing was measured: a page may be written at any time.
    cells = [f"`{case.name}`", shape, f"{sizes['parameters']:,}" if sizes else "",
             network_size.short(sizes["flops"]) if sizes else "",
             f"yes, {result['mxnet']:.0e}" if "mxnet" in result else "", *ours, peer, *theirs]
    return "| " + " | ".join(cells) + " |"


def _digits(value: float) -> float:
    """Round to three digits: more say nothing in a measurement of this kind."""
    return float(f"{value:.3g}")


def _machine() -> str:
    from importlib.metadata import version

    # What decides on speed: cores, instruction set, threads and versions. A host name would say nothing.
    processor = f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"
    # 2.15.0+cpu and 2.15.0+cu130 are the same on a CPU
    versions = ", ".join(f"{name} {version(name).partition('+')[0]}" for name in ("torch", "torchvision"))
    return f"{os.cpu_count()} cores ({processor}), {torch.get_num_threads()} threads, {versions}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="",
                        help="networks whose name begins so (\"resnet --num-layers 50\")")
    parser.add_argument("--mxnet-python", help="the Python of an environment with MXNet 1.9.1")
    parser.add_argument("--no-speed", dest="speed", action="store_false")
    parser.add_argument("--again", action="store_true", help="measure what is known already, too")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--results", default=str(RESULTS), help="file of what was measured")
    parser.add_argument("--page", default=str(PAGE))
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
