"""Train briefly over NCCL, on a machine with GPUs: do several GPUs give what one gives?

    python benchmarks/nccl_smoke.py [--gpus 0,1]

Trains lenet on the drawn digits for two epochs on one GPU with as many micro-batches as there are GPUs, and
on all of them; prints speeds and the largest difference of the weights, and exits with 1 where that is more
than rounding (1e-2 after 188 steps in float32: lenet doubles a rounding error every few steps). With one GPU
it still goes through NCCL.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

#: goes into PYTHONPATH: the checkout is run, installed or not
ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    """Train both ways; return 0 if the weights agree, 1 if not, 77 without a GPU."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", default="")
    gpus = parser.parse_args().gpus or _all_gpus()
    if not gpus:
        print("no GPU here: nothing was run")
        return 77  # what test runners take for "skipped"
    # One GPU with as many micro-batches adds in the same order as that many GPUs.
    count = gpus.count(",") + 1
    with tempfile.TemporaryDirectory() as folder:
        one = _train(f"{folder}/one", "--gpus", gpus.split(",")[0], "--micro-batches", str(count))
        # --max-restarts makes even one GPU a process under the agent, which joins a group of one over NCCL
        several = _train(f"{folder}/several", "--gpus", gpus, "--max-restarts", "1")
        sys.path.insert(0, str(ROOT))
        import numpy as np

        from imgcls.formats import params

        alone, together = (params.load(f"{folder}/{name}-0002.params") for name in ("one", "several"))
        # Not the same bits: NCCL may sum in another order than one GPU does.
        # Over all arrays: one layer whose gradients were not summed has to show.
        # numpy's max and not Python's, which may pass over a nan
        worst = float(np.max([np.abs(alone[name] - together[name]).max() for name in alone]))
    print(f"1 GPU: {one:,.0f} samples/s; {count} GPUs: {several:,.0f} samples/s; "
          f"weights differ by {worst:.2g} at most")
    return 0 if worst < 1e-2 else 1


def _all_gpus() -> str:
    import torch

    return ",".join(map(str, range(torch.cuda.device_count()))) if torch.cuda.is_available() else ""


def _train(prefix: str, *flags: str) -> float:
    """Train, and return the speed of the last epoch."""
    # float32: a difference then means a mistake, and not the coarse rounding of a shorter type.
    command = [sys.executable, "-m", "imgcls", "train", "--dataset", "digits", "--network", "lenet",
               "--num-epochs", "2", "--batch-size", "64", "--dtype", "float32",
               "--model-prefix", prefix, *flags]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    lines = [json.loads(line) for line in Path(f"{prefix}-metrics.jsonl").read_text().splitlines()]
    # The first epoch also loads kernels and sets NCCL up.
    return [line["speed"] for line in lines if line["kind"] == "train"][-1]


if __name__ == "__main__":
    raise SystemExit(main())
