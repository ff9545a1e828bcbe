"""Check a data set before training: damage, duplicates, leaks, labels, unusual images."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgcls.cli._preparing import threads_flag
from imgcls.cli._run import loading_torch, run_main
from imgcls.config import resolve as configuration
from imgcls.config.flags import flag, positional
from imgcls.config.resolve import Config
from imgcls.errors import DataError, UsageError, printable, reason, tell, verbatim
from imgcls.storage import atomic
from imgcls.storage.atomic import atomic_folder, write_bytes

if TYPE_CHECKING:
    from imgcls.data.checks.findings import Finding
    from imgcls.data.sources import Source

NAME = "imgcls-doctor"
EXAMPLES = """examples:
  imgcls-doctor photos/                                a folder with a folder for each class
  imgcls-doctor data/train.rec data/val.rec            two record files; an image in both is a leak
  imgcls-doctor photos/ --report about/                a page with the images in question
  imgcls-doctor photos/ --model model/pets             and the labels that this network contradicts
  imgcls-doctor photos/ --fix clean/                   a copy without damage, copies and leaks
  imgcls-doctor --dataset mnist --format json          a data set of imgcls-train, for a program
"""
# the settings of imgcls-train that say which images are read; the others would have no effect here, and are
# refused
USED = ("dataset", "data_dir", "data_train_idx", "data_val_idx", "data_root", "outside_root", "cache_gb")
#: the settings that -h shows
COMMON = ("model", "report", "fix", "near_duplicates", "format", "dataset", "data_dir")
#: samples that are named below a finding
_MAX_NAMED = 5


@dataclass(frozen=True)
class DoctorConfig:
    """Doctor"""

    data_train: str = positional("training data: a folder, a .rec, a;b, a pattern or a .lst",
                                 metavar="DATA", default="")
    data_val: str = positional("validation data", metavar="VAL", default="")
    model: str = flag("", "a checkpoint's prefix (or whatever imgcls-predict takes): report labels that "
                      "this network is sure are wrong; best is a network that was trained on other images",
                      metavar="NAME")
    near_duplicates: bool = flag(True, "do not look for near duplicates (re-encoded, resized), only for "
                                 "equal files", negation="--no-near-duplicates", takes="none")
    format: str = flag("text", "text lines to read, or JSON for programs", choices=("text", "json"))
    report: str = flag("", "folder for a page with the images in question", metavar="DIR")
    fix: str = flag("", "folder for a clean copy; the data themselves are never changed", metavar="DIR")
    num_thread: int = threads_flag()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. 0: no fault was found (remarks may be), 1: faults, 2: wrong usage."""
    return run_main(_start, argv, NAME, DoctorConfig)


def _start(argv: Sequence[str]) -> int:
    config = configuration.parse(argv, prog=NAME, examples=EXAMPLES, own=DoctorConfig, used=USED,
                                 common=COMMON)
    own: DoctorConfig = config.own
    if not own.data_train and not config.is_explicit("dataset"):
        raise UsageError("DATA is missing: name a folder, a .rec or a .lst (or --dataset mnist)")
    # here --data-val is short for --data-val-idx: without this check VAL would not be read, and a leak missed
    if config.is_explicit("data_val_idx") and not own.data_val:
        raise UsageError(f"`data_val_idx` {verbatim(config.data.data_val_idx)}: is the index of validation "
                         "data, which are named as the second word: imgcls-doctor DATA VAL")
    # imported when they are needed: --help shall not wait for numpy and OpenCV
    from imgcls.data.checks.clean import check_copy

    opened, findings = _open(config)
    sets: dict[str, Source] = {name: source for name, source in opened.items() if source is not None}
    if own.fix:
        for source in sets.values():
            check_copy(source, Path(own.fix))
    if own.report:  # before the images are examined, which takes a while
        _make_folder(own.report)
    findings += _examine(own, sets)
    from imgcls.data.checks.findings import KINDS

    # by kind and not by set: people correct all copies first, then all labels
    findings.sort(key=lambda finding: (KINDS.index(finding.kind), finding.severity))
    if own.format == "json":
        # ASCII: names may hold bytes that no terminal shows, and JSON escapes them
        print(json.dumps(_as_json(sets, findings), ensure_ascii=True, indent=1))
    else:
        _print(sets, findings)
    if own.report:
        from imgcls.report.data_page import data_page

        path = Path(own.report, "index.html")
        title = " and ".join(printable(source.description) for source in sets.values())
        write_bytes(path, data_page(title, sets, findings))
        tell(f"report: {path}")
    if own.fix:
        _write_copy(own, sets, findings)
    return 1 if any(finding.severity == "fault" for finding in findings) else 0


def _make_folder(report: str) -> None:
    try:
        Path(report).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"`report` {verbatim(report)}: is no folder and cannot be made one: "
                         f"{reason(error)}") from error


def _open(config: Config) -> tuple[dict[str, Source | None], list[Finding]]:
    """Return the sets, and what was found while they were opened."""
    from imgcls import datasets
    from imgcls.data.sources import open_source

    own: DoctorConfig = config.own
    if not own.data_train:
        splits = datasets.load_splits(config)
        return {"train": splits.train, "val": splits.val}, []
    data = config.data

    def opened(path: str, setting: str, index: str) -> Source:
        # "count": an unreadable entry becomes a finding, where training would stop
        return open_source(path, setting, index=index, root=data.data_root, on_bad="count",
                           cache_gb=data.cache_gb, outside_root=data.outside_root)

    sets: dict[str, Source | None] = {"train": opened(own.data_train, "`data_train`", data.data_train_idx)}
    # not given the class names of the training data: whether they agree is examined here, not required
    sets["val"] = opened(own.data_val, "`data_val`", data.data_val_idx) if own.data_val else None
    found = [finding for name, source in sets.items() if source for finding in _stored(name, source)]
    return sets, found


def _stored(name: str, source: Source) -> Iterator[Finding]:
    """Yield faults of the files themselves: malformed records and lines, an index that does not match."""
    from imgcls.data.checks.findings import Finding
    from imgcls.formats.recordio import RecordReader

    problems: list[DataError] = getattr(source, "problems", [])
    if problems:
        what = "1 entry" if len(problems) == 1 else f"{len(problems):,} entries"
        more = f"; and {len(problems) - _MAX_NAMED:,} more" if len(problems) > _MAX_NAMED else ""
        named = "; ".join(problem.message for problem in problems[:_MAX_NAMED])
        yield Finding("damaged", "fault", f"{name}: {what} cannot be used: {named}{more}")
    for reader in getattr(source, "readers", []):
        if isinstance(reader, RecordReader):
            # records are found without the index: with it, a wrong index would be compared with itself
            error = RecordReader(reader.path, resync=True, use_index=False).check_index()
            if error:
                yield Finding("index", "fault", f"{name}: {error.message}; imgcls-rec2idx makes a new one")


def _examine(own: DoctorConfig, sets: Mapping[str, Source]) -> list[Finding]:
    """Look at all images, and return what is found."""
    import numpy as np

    from imgcls.data.checks import duplicates, images, labels
    from imgcls.data.checks.look import look

    numbers = {name: np.asarray(source.labels) for name, source in sets.items()}
    # of several labels the first, as im2rec and training take it
    numbers = {name: (one if one.ndim == 1 else one[:, 0]).astype(np.int64) for name, one in numbers.items()}
    train = sets["train"]
    # two at the least: a set of one class is a finding, and no division by 0
    num_classes = max(len(train.class_names) or int(numbers["train"].max()) + 1, 2)
    max_compared = duplicates.MAX_COMPARED if own.near_duplicates else 0
    facts = {name: look(source, own.num_thread or os.cpu_count() or 1, name, max_compared)
             for name, source in sets.items()}
    findings = [finding for name, source in sets.items()
                for finding in labels.check_labels(name, source, numbers[name], num_classes)]
    findings += labels.check_class_names(train, sets.get("val"))
    findings += [finding for name in sets for finding in images.check_images(name, facts[name])]
    if "val" in sets:
        findings += images.compare_sets(facts["train"], facts["val"])
    findings += duplicates.check_duplicates(list(sets), list(facts.values()), list(numbers.values()),
                                            train.class_names, with_near=own.near_duplicates)
    if own.model:
        with loading_torch():
            from imgcls.inference.predictor import Predictor
            from imgcls.inference.suspicious import find_suspicious
        # all classes, since the probability of the label is needed whatever its rank
        predictor = Predictor(own.model, top=10**7)
        for name, source in sets.items():
            # damaged images and labels below 0 are findings already
            good = np.flatnonzero(facts[name].is_good & (numbers[name] >= 0)).tolist()
            findings += find_suspicious(predictor, name, source, numbers[name], good)
    return findings


def _print(sets: Mapping[str, Source], findings: Sequence[Finding]) -> None:
    """Print each finding with the first five of its groups of samples, and a line that sums up."""
    from imgcls.report.data_page import name_of

    for finding in findings:
        tell(f"{finding.severity}: {finding.kind}: {finding.message}", sys.stdout)
        # a detail for each group, such as the probability of its label, or none at all
        details = finding.details or ("",) * len(finding.samples)
        for group, detail in list(zip(finding.samples, details, strict=True))[:_MAX_NAMED]:
            names = ", ".join(name_of(sets, sample) for sample in group[:_MAX_NAMED])
            tell(f"  {printable(names)}{f': {printable(detail)}' if detail else ''}", sys.stdout)
        if len(finding.samples) > _MAX_NAMED:
            tell(f"  and {len(finding.samples) - _MAX_NAMED:,} more", sys.stdout)
    count = ", ".join(f"{len(source):,} {name} image{'s' * (len(source) != 1)}"
                      for name, source in sets.items())
    faults = sum(finding.severity == "fault" for finding in findings)
    remarks = len(findings) - faults
    tell(f"{count}: {faults} fault{'s' * (faults != 1)}, {remarks} remark{'s' * (remarks != 1)}", sys.stdout)


def _as_json(sets: Mapping[str, Source], findings: Sequence[Finding]) -> dict[str, Any]:
    from imgcls.report.data_page import name_of

    return {
        "sets": {name: {"description": source.description, "images": len(source),
                        "classes": list(source.class_names)} for name, source in sets.items()},
        # messages without backquotes: there are no flags in a program's input
        "findings": [{
            "kind": finding.kind, "severity": finding.severity, "message": finding.message.replace("`", ""),
            "groups": [[{"set": sample[0], "index": sample[1], "name": name_of(sets, sample)}
                        for sample in group] for group in finding.samples],
            "details": list(finding.details)} for finding in findings]}


def _write_copy(own: DoctorConfig, sets: Mapping[str, Source], findings: Sequence[Finding]) -> None:
    """Write the clean copy, a folder for each set where there are two."""
    import numpy as np

    from imgcls.data.checks.clean import bad_samples, copy_without

    fix = Path(own.fix)
    atomic.remove_leftovers(fix.absolute().parent, re.compile(re.escape(fix.name)), folders=True)
    lines = []
    # atomic, since part of a copy would look complete; but an empty folder may be a mount point, and is kept
    with nullcontext(own.fix) if fix.exists() else atomic_folder(fix) as begun:
        for name, source in sets.items():
            bad = bad_samples(name, findings, np.asarray(source.labels))
            # a single set is written into the folder itself, which can then be given to imgcls-train
            inner = name if len(sets) > 1 else ""
            path, count = copy_without(source, bad, Path(begun, inner), fix / inner)
            lines.append(f"{path}: {count:,} of {len(source):,} {name} images, {len(bad):,} left out")
    for line in lines:
        tell(line)
