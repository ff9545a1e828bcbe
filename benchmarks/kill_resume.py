"""Is a run that is killed and resumed the run that was never stopped? Kills it many times and compares the bytes.

    python benchmarks/kill_resume.py [--kills 20] [--signal KILL|TERM] [--network lenet] [-- more flags of imgcls-train]

Trains once without a break, then again with `kill` at random moments and `--load-epoch auto` after each, with another
number of loader threads every time. Prints one line per kill and exits 1 if the final weights differ in one byte.
Runs on the embedded digits by default and takes a few minutes.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main() -> int:
    words = _arguments()
    with tempfile.TemporaryDirectory() as folder:
        flags = ["--network", words.network, "--num-epochs", str(words.num_epochs), *words.flags]
        started = time.perf_counter()
        subprocess.run(_command(Path(folder, "whole/net"), flags), check=True, stderr=subprocess.DEVNULL,
                       stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - started
        wanted = _digest(Path(folder, "whole/net"), words.num_epochs)
        print(f"undisturbed: {seconds:.1f} s, weights {wanted[:16]}", flush=True)

        prefix, chance = Path(folder, "broken/net"), random.Random(words.seed)
        for number in range(words.kills):
            after = chance.uniform(0.2, 1.0) * (seconds if words.kills < 5 else max(seconds / 3, 4))
            if _run_and_kill(prefix, [*flags, "--data-nthreads", str(number % 4)], after, words.signal):
                print(f"kill {number + 1}: finished before {after:.1f} s; begin again", flush=True)
                if _digest(prefix, words.num_epochs) != wanted:
                    print("DIFFERENT BYTES")
                    return 1
                for path in prefix.parent.glob("net-*"):
                    path.unlink()
            else:
                print(f"kill {number + 1}: after {after:.1f} s, at {_position(prefix)}", flush=True)
        subprocess.run([*_command(prefix, flags), "--load-epoch", "auto"], check=True, stderr=subprocess.DEVNULL,
                       stdout=subprocess.DEVNULL)
        same = _digest(prefix, words.num_epochs) == wanted
        print(f"after {words.kills} x SIG{words.signal}: {'the same bytes' if same else 'DIFFERENT BYTES'}")
        return 0 if same else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--signal", choices=("KILL", "TERM"), default="KILL")
    parser.add_argument("--network", default="lenet")
    parser.add_argument("--num-epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("flags", nargs="*")
    words = parser.parse_args()
    words.flags = words.flags or ["--dataset", "digits", "--save-every", "0.01"]
    return words


def _command(prefix: Path, flags: list[str]) -> list[str]:
    return [sys.executable, "-m", "imgcls", "train", "--model-prefix", str(prefix), *flags]


def _run_and_kill(prefix: Path, flags: list[str], after: float, name: str) -> bool:
    """Whether the run ended by itself before it was to be killed; checks the exit status of the other case."""
    process = subprocess.Popen([*_command(prefix, flags), "--load-epoch", "auto"], stderr=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL)
    try:
        return process.wait(after) == 0
    except subprocess.TimeoutExpired:
        process.send_signal(getattr(signal, f"SIG{name}"))
    status = process.wait()
    if status not in {"KILL": (-9,), "TERM": (143, 0, -15)}[name]:  # 0: it was just done; -15: not yet training
        raise SystemExit(f"exit status {status} after SIG{name}")
    return status == 0


def _position(prefix: Path) -> str:
    """The newest state on the disk, in words."""
    epochs = sorted(prefix.parent.glob(f"{prefix.name}-[0-9]*.params"))
    inside = Path(f"{prefix}-position.states").exists()
    return f"{epochs[-1].name if epochs else 'the beginning'}{' and inside the next epoch' if inside else ''}"


def _digest(prefix: Path, epoch: int) -> str:
    return hashlib.sha256(Path(f"{prefix}-{epoch:04d}.params").read_bytes()).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
