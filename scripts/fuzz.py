#!/usr/bin/env python3
"""Fuzz the readers of all formats with spoilt inputs, and keep those that they fail at.

    python scripts/fuzz.py --list               the formats
    python scripts/fuzz.py rec pth              these, a minute each
    python scripts/fuzz.py --minutes 10         all, ten minutes each
    python scripts/fuzz.py --replay FILE pth    a finding again

Input number i of a seed is always the same. Status 1 if there is a finding; its input and what happened are
in --out. Needs Linux or macOS, and the packages of the tests.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    # one thread: the same input then does the same in any process, and a fork would lose a pool of threads
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]
    from fuzz import runner
    from fuzz.targets import TARGETS

    args = _parse(argv)
    if args.list:
        for target in TARGETS.values():
            print(f"{target.name:<16}{target.about}")
        return 0
    if unknown := [name for name in args.formats if name not in TARGETS]:
        print(f"fuzz.py: error: no format {unknown[0]}; there is {', '.join(TARGETS)}", file=sys.stderr)
        return 2
    if args.replay:
        problem = runner.read_once(args.formats[0], Path(args.replay))
        print(problem or "nothing is wrong")
        return 1 if problem else 0
    if not args.formats:
        import torch  # noqa: F401 - once here, and not in the process of each format
    num_findings = 0
    for name in args.formats or TARGETS:
        start = time.monotonic()
        num_inputs = args.inputs if args.inputs is None or args.inputs > 0 else TARGETS[name].num_inputs
        outcome = runner.fuzz(name, Path(args.out), seed=args.seed, num_inputs=num_inputs,
                              minutes=args.minutes)
        num_findings += len(outcome.findings)
        print(f"{name:<16}{outcome.num_inputs:>9,} inputs in {time.monotonic() - start:5.0f} s, "
              f"{len(outcome.findings)} findings", *outcome.findings, flush=True)
    return 1 if num_findings else 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Fuzz the readers of all formats.", allow_abbrev=False)
    parser.add_argument("formats", nargs="*", metavar="FORMAT", help="the formats to fuzz (all)")
    parser.add_argument("--list", action="store_true", help="list the formats")
    parser.add_argument("--minutes", type=float, default=1, help="time for each format (%(default)s)")
    parser.add_argument("--inputs", type=int,
                        help="number of inputs in place of a time; 0: as many as the tests give")
    parser.add_argument("--seed", type=int, default=0, help="which inputs (%(default)s)")
    parser.add_argument("--out", default="fuzz-findings", help="folder of the findings (%(default)s)")
    parser.add_argument("--replay", metavar="FILE", help="give FORMAT this input and show what happens")
    args = parser.parse_args(argv)
    if args.replay and len(args.formats) != 1:
        parser.error("--replay needs one FORMAT")
    return args


if __name__ == "__main__":
    sys.exit(main())
