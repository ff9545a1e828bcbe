"""Write the index of a record file: MXNet's rec2idx.py. (imgcls itself reads records without one.)"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from imgcls.cli._run import ending_in_order, run_main
from imgcls.config.command_line import parse
from imgcls.config.flags import flag, positional
from imgcls.errors import tell
from imgcls.formats.recordio import RecordReader, index_path
from imgcls.storage.atomic import check_outputs, write_bytes
from imgcls.storage.paths import to_local_path

NAME = "imgcls-rec2idx"
EXAMPLES = """examples:
  imgcls-rec2idx data/train.rec                     data/train.idx, with keys 0, 1, 2, ...
  imgcls-rec2idx data/train.rec data/other.idx      another name
  imgcls-rec2idx --ids data/train.rec               keys are the images' ids, as im2rec writes them
"""


@dataclass(frozen=True)
class IndexConfig:
    """Index"""

    record: str = positional("the .rec file", metavar="RECORD")
    index: str = positional("to write (if not given: RECORD's .idx)", metavar="INDEX", default="")
    ids: bool = flag(False, "the images' ids as keys", takes="none")
    resync: bool = flag(False, "skip damage and index the intact records", takes="none")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Of a damaged file it writes an index only with --resync."""
    with ending_in_order():
        return run_main(_start, argv, NAME, IndexConfig)


def _start(argv: Sequence[str]) -> int:
    (args,) = parse(argv, IndexConfig, prog=NAME, usage="[flags] RECORD [INDEX]", examples=EXAMPLES)
    target = to_local_path(args.index) if args.index else index_path(to_local_path(args.record))
    check_outputs([target], [to_local_path(args.record)])
    start = time.perf_counter()
    # an index that exists already is not used: it is to be replaced
    reader = RecordReader(args.record, use_index=False, resync=args.resync)
    # an index of half a file would hide that the other half is gone
    if reader.problems and not args.resync:
        raise reader.problems[0]
    # MXNet's rec2idx.py counts; im2rec writes the ids of its list, which may be any numbers
    keys = reader.headers()["id"].tolist() if args.ids else range(len(reader))
    # a record that is no image has no id: an index with a made-up one would point at the wrong image
    if args.ids and reader.header_problems():
        raise next(iter(reader.header_problems().values()))
    # MXNet's format: key, tab, byte offset
    lines = [f"{key}\t{offset}\n" for key, offset in zip(keys, reader.offsets.tolist(), strict=True)]
    write_bytes(target, "".join(lines).encode())
    for problem in reader.problems:
        tell(f"passed over: {problem}", sys.stdout)
    print(f"time: {time.perf_counter() - start:f}  count: {len(reader)}")
    return 0
