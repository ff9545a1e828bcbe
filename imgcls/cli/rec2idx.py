"""Write the index of a record file: MXNet's rec2idx.py. (imgcls itself reads records without one.)"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

from imgcls.cli._argparse import Parser
from imgcls.cli._run import run_main
from imgcls.formats.recordio import RecordReader, index_path
from imgcls.storage.atomic import write_bytes
from imgcls.storage.paths import to_local_path

EXAMPLES = """examples:
  imgcls-rec2idx data/train.rec                     data/train.idx, with keys 0, 1, 2, ...
  imgcls-rec2idx data/train.rec data/other.idx      another name
  imgcls-rec2idx --ids data/train.rec               keys are the images' ids, as im2rec writes them
"""


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Of a damaged file it writes an index only with --resync."""
    return run_main(_start, argv, "imgcls-rec2idx")


def _start(argv: Sequence[str]) -> int:
    flags = _parse(argv)
    start = time.perf_counter()
    reader = RecordReader(flags.record, use_index=False, resync=flags.resync)
    if reader.problems and not flags.resync:
        raise reader.problems[0]
    keys = reader.headers()["id"].tolist() if flags.ids else range(len(reader))
    if flags.ids and reader.header_problems():
        raise next(iter(reader.header_problems().values()))
    lines = [f"{key}\t{offset}\n" for key, offset in zip(keys, reader.offsets.tolist(), strict=True)]
    write_bytes(flags.index or index_path(to_local_path(flags.record)), "".join(lines).encode())
    for problem in reader.problems:
        print(f"passed over: {problem}")
    print(f"time: {time.perf_counter() - start:f}  count: {len(reader)}")
    return 0


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser(prog="imgcls-rec2idx", usage="imgcls-rec2idx [flags] RECORD [INDEX]",
                    description=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("record", metavar="RECORD", help="the .rec file")
    parser.add_argument("index", nargs="?", metavar="INDEX", help="to write (default: RECORD's .idx)")
    parser.add_argument("--ids", action="store_true", help="the images' ids as keys")
    parser.add_argument("--resync", action="store_true", help="pass over damage and index what is good")
    return parser.parse_args(argv)
