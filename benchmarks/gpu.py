"""Check a GPU and measure it, in under nine minutes: correctness first, then images per second.

    python benchmarks/gpu.py [--gpu 0] [--minutes 9] [--output gpu.json]
    python benchmarks/gpu.py --tiny          the same script on the CPU, at sizes that only show that it runs

Checks: losses of CPU and GPU over 20 steps, a resumed run against one that was not stopped (the same bytes),
bfloat16, float16, `--compile`, `--cuda-graphs`, NCCL. Then training speed in bfloat16 on images that stay in
memory, beside torchvision's network in a plain loop, with the share of the bfloat16 peak that a large matrix
product reaches in the same process; on records of JPEGs, with the decoded cache, and with nvJPEG. What does
not fit into the time is left out, and said so. Exits with 1 where a check fails, with 77 without a GPU.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# the checkout, installed or not
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

#: steps in which the losses of two devices are compared; later ones differ by rounding that has grown
NUM_STEPS = 20
#: largest difference of losses of about 2.3: kernels add in another order, and 20 steps let that grow
LOSS_TOLERANCE = 0.02
#: seconds of work in one measurement of a step, at least
ROUND_SECONDS = 1.0
# about the short edge that ImageNet is packed with for training at 224: decoding then costs
# what it costs in a real run
JPEG_SIDE = 320


@dataclass(frozen=True)
class Case:
    """A network to time: our flags, images and batch, and torchvision's network of the same name."""

    name: str
    flags: tuple[str, ...]
    shape: str
    batch_size: int
    classes: int
    torchvision: str = ""


# batches that fill an H200 and still fit into 80 GB: smaller ones measure the launching of
# kernels. The small networks stand for runs that the host limits
CASES = (
    Case("lenet", ("--network", "lenet"), "1,28,28", 512, 10),
    Case("inception-bn (28)", ("--network", "inception-bn"), "3,28,28", 512, 10),
    Case("resnet-50", ("--network", "resnet-v1", "--num-layers", "50"), "3,224,224", 256, 1000, "resnet50"),
    Case("alexnet", ("--network", "alexnet"), "3,224,224", 512, 1000, "alexnet"),
    Case("vgg-16", ("--network", "vgg", "--num-layers", "16"), "3,224,224", 128, 1000, "vgg16"),
    Case("inception-bn", ("--network", "inception-bn"), "3,224,224", 256, 1000),
    Case("resnext-101", ("--network", "resnext", "--num-layers", "101"), "3,224,224", 128, 1000,
         "resnext101_32x4d"),
)
# the smallest shapes that the layers allow, so that CI can check that the script itself runs
TINY = (Case("lenet", ("--network", "lenet"), "1,28,28", 8, 10),
        Case("resnet-18", ("--network", "resnet-v1", "--num-layers", "18"), "3,64,64", 2, 10, "resnet18"))


@dataclass(frozen=True)
class Result:
    """A line of the table: what was tried, whether it is right (None: a figure only), and what was seen."""

    name: str
    is_right: bool | None
    seen: str
    seconds: float = 0.0


class Benchmark:
    """All checks and measurements, one after the other; a failure of one does not stop the others."""

    def __init__(self, gpu: str, deadline: float, folder: Path, *, is_tiny: bool) -> None:
        self.device_flags = [] if is_tiny else ["--gpus", gpu]
        self.gpu = gpu
        self.deadline = deadline
        self.folder = folder
        self.is_tiny = is_tiny
        # float16 has no fast kernels on a CPU: there it takes minutes
        self.dtypes = ("bfloat16",) if is_tiny else ("bfloat16", "float16")

    def run(self) -> Iterator[Result]:
        """Yield the results in order; what no time is left for is a result as well."""
        # a generator, so that each line is printed as soon as it is known: the machine may be taken
        # away
        for name, measure in self._parts():
            started = time.perf_counter()
            if started > self.deadline:
                yield Result(name, None, "left out: no time left")
                continue
            try:
                is_right, seen = measure()
            # an out-of-memory error of torch is a RuntimeError: the next case may fit
            except (RuntimeError, OSError, ValueError, KeyError, subprocess.SubprocessError) as error:
                is_right, seen = False, f"failed: {str(error).strip().splitlines()[-1]}"
            yield Result(name, is_right, seen, time.perf_counter() - started)

    def _parts(self) -> Iterator[tuple[str, Callable[[], tuple[bool | None, str]]]]:
        yield "losses of CPU and GPU", self.losses
        yield "resumed, the same bytes", self.resume
        for dtype in self.dtypes:
            yield f"--dtype {dtype}", lambda dtype=dtype: self.accuracy("--dtype", dtype)
        if not self.is_tiny:  # minutes on a CPU
            yield "--compile", lambda: self.accuracy("--compile")
            yield "--cuda-graphs, losses as without", self.cuda_graphs
            yield "NCCL", self.nccl
        cases = TINY if self.is_tiny else CASES
        yield "bfloat16 peak of a matrix product", self.peak
        for case in cases:
            yield f"{case.name}, batch {case.batch_size}", lambda case=case: self.speed(case)
        if not self.is_tiny:
            yield "lenet, --cuda-graphs", lambda: self.speed(CASES[0], "--cuda-graphs")
        on_records = [("records", ("--decoded-cache-gb", "0")),
                      ("records, decoded cache", ("--decoded-cache-gb", "4"))]
        if not self.is_tiny:
            on_records.append(("records, decoded on the GPU", ("--jpeg-decoder", "gpu")))
        case = cases[-1 if self.is_tiny else 2]
        for name, flags in on_records:
            yield f"{case.name} on {name}", lambda flags=flags: self.records(case, *flags)

    # Correctness

    def losses(self) -> tuple[bool, str]:
        """Train a few steps on both devices from the same weights, in float32."""
        # a log line for each batch, to compare step by step; a small rate, with which rounding
        # grows slowly; and float32, as a CPU and a GPU round bfloat16 sums differently
        flags = ("--disp-batches", "1", "--num-epochs", "1", "--lr", "0.01", "--dtype", "float32")
        cpu = self._train("cpu", *flags, device=[])
        gpu = self._train("gpu", *flags)
        pairs = list(zip(_losses(cpu), _losses(gpu), strict=True))[:NUM_STEPS]
        worst = max(abs(a - b) for a, b in pairs)
        return worst < LOSS_TOLERANCE, f"differ by {worst:.2g} at most over {len(pairs)} steps"

    def resume(self) -> tuple[bool, str]:
        """Train two epochs at once, and one and one; the files must be equal to the byte."""
        self._train("whole", "--num-epochs", "2")
        # the momenta, the random numbers of the order and the learning rate must all survive
        self._train("parts", "--num-epochs", "1")
        self._train("parts", "--num-epochs", "2", "--load-epoch", "1")
        whole, parts = ((self.folder / f"{name}-0002.params").read_bytes() for name in ("whole", "parts"))
        return whole == parts, "equal" if whole == parts else "not equal"

    def accuracy(self, *flags: str) -> tuple[bool, str]:
        """Train lenet on the drawn digits; it learns nine tenths of them in any number type."""
        lines = self._train("-".join(flags).strip("-"), "--num-epochs", "4", *flags)
        # a network that computes nonsense stays at a tenth, ten classes being equally frequent
        accuracy = [line["accuracy"] for line in lines if line["kind"] == "validation"][-1]
        return accuracy > 0.9, f"accuracy {accuracy:.3f} after 4 epochs"

    def cuda_graphs(self) -> tuple[bool, str]:
        """Train with and without; the same kernels run, so that the losses are the same."""
        flags = ("--disp-batches", "1", "--num-epochs", "1", "--lr", "0.01")
        eager = self._train("eager", *flags)
        # the first steps run eagerly in both; what could go wrong are inputs that a graph does not
        # see change
        graphs = self._train("graphs", *flags, "--cuda-graphs")
        pairs = list(zip(_losses(eager), _losses(graphs), strict=True))[:NUM_STEPS]
        worst = max(abs(a - b) for a, b in pairs)
        return worst < LOSS_TOLERANCE, f"differ by {worst:.2g} at most over {len(pairs)} steps"

    def nccl(self) -> tuple[bool, str]:
        """Run benchmarks/nccl_smoke.py."""
        # in a process of its own, with a limit: a failed rendezvous waits for ever
        command = [sys.executable, str(ROOT / "benchmarks" / "nccl_smoke.py"), "--gpus", self.gpu]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=_environment(),
                              check=False)
        lines = (done.stdout or done.stderr).strip().splitlines()
        return done.returncode == 0, lines[-1] if lines else f"status {done.returncode}"

    # Speed

    def peak(self) -> tuple[None, str]:
        """Measure the product of two square matrices, 2 n^3 operations each."""
        self.peak_flops = _matrix_flops(self._device(), 512 if self.is_tiny else 8192)
        return None, f"{self.peak_flops / 1e12:.3g} TFLOP/s"

    def speed(self, case: Case, *flags: str) -> tuple[None, str]:
        """Time our training step, and torchvision's network in a plain loop on the same device."""
        # cuDNN tries its algorithms in the first batches, which are not counted
        num_warm_up, num_batches = ("2", "2") if self.is_tiny else ("15", "20")
        command = ["benchmark", "--mode", "train", *case.flags, "--image-shape", case.shape,
                   "--num-classes", str(case.classes), "--batch-size", str(case.batch_size),
                   "--dtype", "bfloat16", "--format", "json", "--warm-up", num_warm_up,
                   "--num-batches", num_batches, *flags, *self.device_flags]
        row = json.loads(_imgcls(command))["rows"][0]
        # the benchmark notes a case that did not fit into memory and goes on; here that is a
        # failure
        if row["note"]:
            raise RuntimeError(row["note"])
        speed = row["images_per_s"]
        seen = [f"{speed:,.0f} img/s"]
        flops = _flops_of_step(case)
        # absent where measuring the peak failed, and a share of nothing is no figure
        if getattr(self, "peak_flops", 0):
            seen.append(f"{100 * speed * flops / self.peak_flops:.0f} % of the peak")
        if case.torchvision:
            peer = _torchvision_speed(case, self._device())
            seen.append(f"torchvision {peer:,.0f} img/s: x{speed / peer:.2f}")
        return None, ", ".join(seen)

    def records(self, case: Case, *flags: str) -> tuple[None, str]:
        """Train three epochs from JPEGs, and return the speed of the first and of the last."""
        rec = self._pack()
        lines = self._train(f"records{''.join(flags)}", *case.flags, "--data-train", str(rec),
                            "--image-shape", case.shape, "--num-classes", "10", "--num-epochs", "3",
                            "--val-ratio", "0",
                            # ImageNet's usual augmentation
                            "--random-resized-crop", "--random-mirror", "1", "--min-random-area", "0.08",
                            *flags, network=(), dataset="imagenet", batch_size=str(case.batch_size))
        # the first epoch fills the cache, the last reads it
        speeds = [line["speed"] for line in lines if line["kind"] == "train"]
        return None, f"{speeds[0]:,.0f} img/s in the first epoch, {speeds[-1]:,.0f} in the last"

    def _pack(self) -> Path:
        """Return a record file of JPEGs of smooth noise, which compress like photographs."""
        path = self.folder / "noise.rec"
        if not path.exists():
            _write_noise(path, 40 if self.is_tiny else 5000)
        return path

    def _device(self) -> str:
        return "cpu" if self.is_tiny else f"cuda:{self.gpu.split(',')[0]}"

    def _train(self, name: str, *flags: str, device: list[str] | None = None,
               network: tuple[str, ...] = ("--network", "lenet"), dataset: str = "digits",
               batch_size: str = "64") -> list[dict[str, Any]]:
        """Train, and return the lines of the run's metrics."""
        prefix = self.folder / name
        _imgcls(["train", "--dataset", dataset, *network, "--batch-size", batch_size, "--model-prefix",
                 str(prefix), *flags, *(self.device_flags if device is None else device)])
        return [json.loads(line) for line in Path(f"{prefix}-metrics.jsonl").read_text().splitlines()]


def main() -> int:
    """Run everything; print a table in Markdown, and write the figures where `--output` says."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpu", default="0", help="number of the GPU")
    parser.add_argument("--minutes", type=float, default=9, help="when to begin nothing new")
    parser.add_argument("--tiny", action="store_true", help="on the CPU, at sizes that show that it runs")
    parser.add_argument("--output", default="", help="JSON file to write")
    args = parser.parse_args()
    import torch

    # 77 is what test runners of autotools and meson take for "skipped": no GPU is no failure
    if not args.tiny and not torch.cuda.is_available():
        print("no GPU here: nothing was run (--tiny runs the script on the CPU)")
        return 77
    device = "CPU, tiny" if args.tiny else torch.cuda.get_device_name(int(args.gpu.split(",")[0]))
    print(f"{device}, torch {torch.__version__}, {os.cpu_count()} cores\n\n| | | seen | s |")
    print("|---|---|---|---|", flush=True)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        benchmark = Benchmark(args.gpu, time.perf_counter() + 60 * args.minutes, Path(folder),
                              is_tiny=args.tiny)
        for result in benchmark.run():
            results.append(result)
            verdict = {None: "", True: "right", False: "**WRONG**"}[result.is_right]
            print(f"| {result.name} | {verdict} | {result.seen} | {result.seconds:.0f} |", flush=True)
            if args.output:  # after each: what was measured survives a machine that goes away
                text = json.dumps({"device": device, "results": [asdict(result) for result in results]})
                Path(args.output).write_text(text + "\n")
    return 1 if any(result.is_right is False for result in results) else 0


def _imgcls(arguments: list[str]) -> str:
    """Run a command of the checkout; return its stdout, RuntimeError with the last line of its stderr."""
    # a process for each: none finds kernels, memory or threads that another has left
    done = subprocess.run([sys.executable, "-m", "imgcls", *arguments], capture_output=True, text=True,
                          timeout=300, env=_environment(), check=False)
    if done.returncode:
        raise RuntimeError((done.stderr.strip() or f"status {done.returncode}").splitlines()[-1])
    return done.stdout


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def _losses(lines: list[dict[str, Any]]) -> list[float]:
    return [line["loss"] for line in lines if line["kind"] == "batch"]


def _flops_of_step(case: Case) -> float:
    """Return the operations of a training step for one image: a backward pass is two forward passes."""
    import torch

    from imgcls.config.sections import NetworkConfig
    from imgcls.networks import build_network
    from imgcls.training import network_size

    options = dict(zip(case.flags[::2], case.flags[1::2], strict=True))
    shape = tuple(map(int, case.shape.split(",")))
    depth = options.get("--num-layers")
    # on meta nothing is allocated or computed: only shapes matter
    with torch.device("meta"):
        model = build_network(NetworkConfig(network=options["--network"], image_shape=shape,
                                            num_classes=case.classes,
                                            num_layers=int(depth) if depth else None), seed=0)
        # gradients of the inputs and those of the weights take a product each, as large as the
        # forward one
        return 3 * network_size.measure(model, shape).flops


def _matrix_flops(device: str, side: int) -> float:
    """Return the operations per second of a product in bfloat16, the best of a few rounds."""
    import torch

    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    return max(2 * side**3 / seconds for seconds in _time(lambda: a @ b, device))


def _torchvision_speed(case: Case, device: str) -> float:
    """Return the images per second of torchvision's network: autocast, channels_last, fused SGD."""
    import torch
    import torchvision

    if case.torchvision == "resnext101_32x4d":  # torchvision has these widths by its class only
        resnet = torchvision.models.resnet
        model = resnet.ResNet(resnet.Bottleneck, [3, 4, 23, 3], groups=32, width_per_group=4)
    else:
        model = getattr(torchvision.models, case.torchvision)(num_classes=case.classes)
    model = model.to(device).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4, fused=True)
    # random images that stay on the device: the peer has no loader to wait for, and neither have
    # we here
    images = torch.randn(case.batch_size, *map(int, case.shape.split(",")), device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(case.classes, (case.batch_size,), device=device)
    device_type = torch.device(device).type

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device_type, dtype=torch.bfloat16):
            logits = model(images)
        torch.nn.functional.cross_entropy(logits.float(), labels).backward()
        optimizer.step()

    for _ in range(2 if device == "cpu" else 15):
        step()
    # the median of three, as our own figure is
    return case.batch_size / sorted(_time(step, device))[1]


def _time(step: Callable[[], object], device: str) -> list[float]:
    """Return the seconds of one step, three times; each over as many steps as take a second."""
    import torch

    def wait() -> None:
        if device != "cpu":
            torch.cuda.synchronize(device)

    step()
    wait()
    started = time.perf_counter()
    step()
    wait()
    # so many steps that the clock and the final wait count for little
    count = math.ceil((0.05 if device == "cpu" else ROUND_SECONDS) / (time.perf_counter() - started))
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        for _ in range(count):
            step()
        wait()
        seconds.append((time.perf_counter() - started) / count)
    return seconds


def _write_noise(path: Path, count: int) -> None:
    import cv2
    import numpy as np

    from imgcls.formats import recordio

    random = np.random.default_rng(0)
    with recordio.RecordWriter(path) as writer:
        for index in range(count):
            # noise of single pixels would make JPEGs several times the size of a photograph's
            coarse = random.integers(0, 256, (JPEG_SIDE // 8, JPEG_SIDE // 8, 3), np.uint8)
            image = cv2.resize(coarse, (JPEG_SIDE, JPEG_SIDE), interpolation=cv2.INTER_CUBIC)
            jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
            header = recordio.ImageHeader(flag=0, label=float(index % 10), id=index)
            writer.write(recordio.pack(header, jpeg))


if __name__ == "__main__":
    raise SystemExit(main())
