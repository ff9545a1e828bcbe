"""Compare a run that is killed and resumed many times with one that was never stopped, byte by byte.

    python benchmarks/kill_resume.py [--kills 20] [--signal KILL|TERM] [--network lenet] [-- more flags]

Trains once without a break, then again with `kill` at random moments and `--load-epoch auto` after each, with
another number of loader threads every time. Prints one line per kill and exits 1 if the final weights differ
in one byte. Runs on the embedded digits by default and takes a few minutes.
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
    """Train once undisturbed and once with kills; return 1 if the weights differ."""
    args = _arguments()
    with tempfile.TemporaryDirectory() as folder:
        flags = ["--network", args.network, "--num-epochs", str(args.num_epochs), *args.flags]
        started = time.perf_counter()
        # Two dozen logs of training would hide the lines of this script.
        subprocess.run(_command(Path(folder, "undisturbed/net"), flags), check=True,
                       stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - started
        expected = _digest(Path(folder, "undisturbed/net"), args.num_epochs)
        print(f"undisturbed: {seconds:.1f} s, weights {expected[:16]}", flush=True)

        prefix = Path(folder, "killed/net")
        # With the seed the moments can be had again, though not what the machine was doing at them.
        chance = random.Random(args.seed)
        for number in range(args.kills):
            # With few kills they fall anywhere in the run; with many each run is given a third of it, so that
            # most of them are killed inside an epoch and the whole stays within minutes.
            after = chance.uniform(0.2, 1.0) * (seconds if args.kills < 5 else max(seconds / 3, 4))
            # 0 to 3 threads by turns: the order of the samples must not depend on who prepares them.
            if _run_and_kill(prefix, [*flags, "--data-nthreads", str(number % 4)], after, args.signal):
                print(f"kill {number + 1}: finished before {after:.1f} s; begin again", flush=True)
                # A run that was too fast to be killed must be right all the same.
                if _digest(prefix, args.num_epochs) != expected:
                    print("DIFFERENT BYTES")
                    return 1
                for path in prefix.parent.glob("net-*"):
                    path.unlink()
            else:
                print(f"kill {number + 1}: after {after:.1f} s, at {_position(prefix)}", flush=True)
        subprocess.run([*_command(prefix, flags), "--load-epoch", "auto"], check=True,
                       stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        same = _digest(prefix, args.num_epochs) == expected
        print(f"after {args.kills} x SIG{args.signal}: {'the same bytes' if same else 'DIFFERENT BYTES'}")
        return 0 if same else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--signal", choices=("KILL", "TERM"), default="KILL")
    parser.add_argument("--network", default="lenet")
    parser.add_argument("--num-epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("flags", nargs="*")
    args = parser.parse_args()
    # A position every 0.6 s, so that most kills fall between two of them and inside an epoch.
    args.flags = args.flags or ["--dataset", "digits", "--save-every", "0.01"]
    return args


def _command(prefix: Path, flags: list[str]) -> list[str]:
    return [sys.executable, "-m", "imgcls", "train", "--model-prefix", str(prefix), *flags]


def _run_and_kill(prefix: Path, flags: list[str], after: float, name: str) -> bool:
    """Return whether the run ended before it was to be killed; end the program where it failed by itself."""
    process = subprocess.Popen([*_command(prefix, flags), "--load-epoch", "auto"], stderr=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL)
    # Waiting is the clock: the run is killed when the time is over, unless it ends by itself before that.
    try:
        status = process.wait(after)
        if status:
            raise SystemExit(f"the run failed by itself before the kill, with exit status {status}")
        return True
    except subprocess.TimeoutExpired:
        process.send_signal(getattr(signal, f"SIG{name}"))
    status = process.wait()
    # After TERM: 143 when it saved, 0 when it was just done, -15 when it had not begun to train.
    if status not in {"KILL": (-9,), "TERM": (143, 0, -15)}[name]:
        raise SystemExit(f"exit status {status} after SIG{name}")
    return status == 0


def _position(prefix: Path) -> str:
    """Describe the newest state on the disk."""
    epochs = sorted(prefix.parent.glob(f"{prefix.name}-[0-9]*.params"))
    inside = Path(f"{prefix}-position.states").exists()
    return f"{epochs[-1].name if epochs else 'the beginning'}{' and inside the next epoch' if inside else ''}"


def _digest(prefix: Path, epoch: int) -> str:
    # Only the weights: wrong states would have led to other weights by now.
    # The file and not its arrays: what is promised are the same bytes.
    return hashlib.sha256(Path(f"{prefix}-{epoch:04d}.params").read_bytes()).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
