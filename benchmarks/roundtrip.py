"""Our networks in MXNet's hands: each is exported, run by the real MXNet, and the logits are compared.

    python benchmarks/roundtrip.py --mxnet-python /path/to/venv/bin/python [--only resnet]

MXNet 1.9.1 runs in an environment of its own, since it needs numpy < 1.24. Each network gets random weights
and running statistics and small images; MXNet loads prefix-symbol.json and prefix-0001.params like any
checkpoint. Per network one line: the largest difference of a logit relative to the largest logit, first
against MXNet, then against the same files read back as a foreign symbol, and whether MXNet writes the symbol
that it read with the same bytes. Exit status 1 if a difference is above 1e-4 or bytes differ.

All 38 agreed in 3 minutes on 2 cores, the worst at 8e-6.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from imgcls import graph
from imgcls.config.sections import NetworkConfig
from imgcls.formats import params, symbol
from imgcls.networks import build_network

TOLERANCE = 1e-4  # of the largest logit, in float32; what was found is ten times smaller
#: more than one image, so that a mistake in the batch axis shows
BATCH = 2
# Every family, with those options that change its graph; depth alone only repeats blocks.
#: network, image shape (as small as it runs at), options
NETWORKS: list[tuple[str, tuple[int, int, int], dict[str, Any]]] = [
    ("mlp", (1, 28, 28), {}),
    ("lenet", (1, 28, 28), {}),
    ("lenet", (1, 28, 28), {"add_stn": True}),
    ("alexnet", (3, 99, 99), {}),
    ("alexnet-towers", (3, 99, 99), {}),
    ("alexnet-towers", (3, 99, 99), {"variant": "theano"}),
    ("vgg", (3, 32, 32), {"num_layers": 11}),
    ("vgg", (3, 32, 32), {"num_layers": 13}),
    ("vgg", (3, 32, 32), {"num_layers": 16, "batch_norm": True}),
    ("vgg", (3, 32, 32), {"num_layers": 19}),
    ("overfeat", (3, 128, 128), {}),
    ("overfeat", (3, 128, 128), {"variant": "accurate"}),
    ("googlenet", (3, 64, 64), {}),
    ("inception-bn", (3, 28, 28), {}),
    ("inception-bn", (3, 224, 224), {}),
    ("inception-bn-full", (3, 224, 224), {}),
    ("inception-v3", (3, 299, 299), {}),
    ("inception-v4", (3, 299, 299), {}),
    ("inception-resnet-v2", (3, 107, 107), {}),
    ("resnet", (3, 28, 28), {"num_layers": 20}),
    ("resnet", (3, 28, 28), {"num_layers": 164}),
    ("resnet", (3, 64, 64), {"num_layers": 18}),
    ("resnet", (3, 64, 64), {"num_layers": 50}),
    ("resnet-v1", (3, 28, 28), {"num_layers": 20}),
    ("resnet-v1", (3, 28, 28), {"num_layers": 164}),
    ("resnet-v1", (3, 64, 64), {"num_layers": 18}),
    ("resnetv1", (3, 64, 64), {"num_layers": 50}),
    ("resnet-28-small", (3, 28, 28), {}),
    ("resnet-caffe", (3, 224, 224), {"num_layers": 50}),
    ("resnet-caffe", (3, 128, 128), {"num_layers": 32}),
    ("resnext", (3, 32, 32), {"num_layers": 20}),
    ("resnext", (3, 32, 32), {"num_layers": 164}),
    ("resnext", (3, 64, 64), {"num_layers": 18}),
    ("resnext", (3, 64, 64), {"num_layers": 50}),
    ("mobilenet", (3, 64, 64), {}),
    ("mobilenet", (3, 32, 32), {"multiplier": 0.25}),
    ("mobilenetv2", (3, 64, 64), {}),
    ("mobilenetv2", (3, 64, 64), {"multiplier": 0.5}),
]

#: Logits and not probabilities: softmax hides a constant added to all of them. The two environments
#: need different versions of numpy, so files are all that they share.
#: run by MXNet's Python: prefix -> prefix-logits.npy, and its own text of the symbol it read
MXNET = """
import sys
import mxnet as mx
import numpy as np
for prefix in sys.stdin.read().split():
    symbol, arguments, states = mx.model.load_checkpoint(prefix, 1)
    images = np.load(prefix + "-images.npy")
    layers = symbol.get_internals()
    logits = layers[layers.list_outputs()[-3]]  # behind them come the label and the softmax
    wanted = set(logits.list_arguments())
    executor = logits.simple_bind(mx.cpu(), grad_req="null", data=images.shape)
    executor.copy_params_from({k: v for k, v in arguments.items() if k in wanted}, states)
    np.save(prefix + "-logits.npy", executor.forward(is_train=False, data=mx.nd.array(images))[0].asnumpy())
    symbol.save(prefix + "-again.json")
    print(prefix, flush=True)
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--mxnet-python", required=True, help="the Python of an environment with MXNet 1.9.1")
    parser.add_argument("--only", default="", help="networks whose name begins so")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    chosen = [case for case in NETWORKS if case[0].startswith(args.only)]
    worst, all_same = 0.0, True
    print(f"{'network':<46} {'against MXNet':>14} {'read back':>10}  symbol")
    for case in chosen:
        # Removed after each network: vgg's weights alone are more than a hundred megabytes.
        with tempfile.TemporaryDirectory() as folder:
            against, read_back, same = compare(*case, Path(folder), args.mxnet_python)
        # Continues after a difference: which networks differ shows where to look.
        worst, all_same = largest(worst, against, read_back), all_same and same
        verdict = "same bytes" if same else "OTHER BYTES"
        print(f"{describe(*case):<46} {against:>14.1e} {read_back:>10.1e}  {verdict}", flush=True)
    print(f"{len(chosen)} networks, worst {worst:.1e}, limit {TOLERANCE:.0e}")
    return int(not (worst <= TOLERANCE and all_same))


def compare(network: str, image_shape: tuple[int, int, int], options: dict[str, Any], folder: Path,
            mxnet_python: str) -> tuple[float, float, bool]:
    """Return relative differences of logits (MXNet's; of the files read back) and whether symbols agree."""
    config = NetworkConfig(network=network, image_shape=image_shape, **options)
    # In evaluation: moving statistics are used then, which training would neither need nor show.
    model = build_network(config, seed=0).eval()
    disturb(model)  # fresh statistics of 0 and 1 would hide a swapped mean and variance
    # Seeded, so that a difference can be looked at again.
    images = torch.rand(BATCH, *image_shape, generator=torch.Generator().manual_seed(1))
    prefix = folder / "net"
    written, arrays = graph.to_symbol(model), graph.arrays(model)
    symbol.save(f"{prefix}-symbol.json", written)
    params.save(f"{prefix}-0001.params", arrays)
    np.save(f"{prefix}-images.npy", images.numpy())
    with torch.no_grad():
        logits = model(images)
        # Through the symbol, as a file from somebody else: the classes of our networks play no part in it.
        read_back = graph.load(f"{prefix}-symbol.json", f"{prefix}-0001.params").eval()(images)
    result = subprocess.run([mxnet_python, "-c", MXNET], input=str(prefix), text=True, capture_output=True,
                            check=False)
    # MXNet's own words are at the end of its stderr, behind many warnings.
    if result.returncode:
        sys.exit(f"{network}: MXNet failed: {result.stderr.strip()[-2000:]}")
    # MXNet saved the symbol again after loading it: the same bytes mean that it understood every attribute.
    theirs = torch.from_numpy(np.load(f"{prefix}-logits.npy"))
    same = Path(f"{prefix}-again.json").read_bytes() == Path(f"{prefix}-symbol.json").read_bytes()
    return relative(theirs, logits), relative(read_back, logits), same


def disturb(model: nn.Module) -> None:
    """Give values of their own to everything that starts at 0 or 1, so that a mix-up shows."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, value in [*model.named_parameters(), *model.named_buffers()]:
            slot = name.rpartition(".")[2]
            # Around 0 and around 1, so that values neither vanish nor explode on the way through 164 layers;
            # variances must be above 0.
            if slot in ("bias", "beta", "moving_mean"):
                value.normal_(0, 0.1, generator=generator)
            elif slot in ("gamma", "moving_var"):
                value.uniform_(0.5, 1.5, generator=generator)


def relative(theirs: torch.Tensor, ours: torch.Tensor) -> float:
    """Return the largest difference, in units of the largest logit."""
    # Not of each logit: one close to 0 would turn rounding into a large ratio.
    return float((theirs - ours).abs().max() / ours.abs().max())


def largest(*differences: float) -> float:
    """Return the largest difference, and nan where one is: `max` passes over it, depending on the order."""
    return math.nan if any(map(math.isnan, differences)) else max(differences)


def describe(network: str, image_shape: tuple[int, int, int], options: dict[str, Any]) -> str:
    given = [f"{name}={value}" for name, value in options.items()]
    return " ".join([network, *given, ",".join(map(str, image_shape))])


if __name__ == "__main__":
    sys.exit(main())
