"""The page about a data set: what is wrong with it, with the images in question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from imgcls.data.checks.findings import KINDS, Finding, Sample
from imgcls.data.checks.look import decode
from imgcls.data.image_header import BadImageError
from imgcls.data.opencv import cv2
from imgcls.data.sources import Source
from imgcls.errors import DataError
from imgcls.report import pictures
from imgcls.report.page import card, page, table
from imgcls.report.svg import escape

#: groups of a finding that are shown, and images of each
# enough to recognise a pattern; a page of thousands of pictures opens in no browser
_MAX_GROUPS, _MAX_IMAGES = 24, 4
#: kinds of findings whose images cannot be decoded
_WITHOUT_PICTURES = ("damaged",)


@dataclass(frozen=True)
class _Group:
    """Images that belong together, decoded, with their names and a text."""

    images: tuple[np.ndarray, ...]
    names: tuple[str, ...]
    detail: str


def data_page(title: str, sets: Mapping[str, Source], findings: Sequence[Finding]) -> bytes:
    """Return the page as UTF-8: figures, then a part for each finding, in the order of `KINDS`."""
    faults = sum(finding.severity == "fault" for finding in findings)
    cards = [card(f"{name} images", f"{len(source):,}") for name, source in sets.items()]
    cards += [card("faults", f"{faults:,}"), card("remarks", f"{len(findings) - faults:,}")]
    body = [f"<h1>{escape(title)}</h1>", f'<div class="cards">{"".join(cards)}</div>']
    if not findings:
        body.append("<p>Nothing was found.</p>")
    for finding in sorted(findings, key=lambda finding: KINDS.index(finding.kind)):
        # escaped: names of files and classes may hold any characters
        body.append(f"<h2>{escape(finding.kind)}</h2><p>{escape(finding.message.replace('`', ''))}</p>")
        body.append(_shown(finding, sets))
    return page(title, "\n".join(body))


def name_of(sets: Mapping[str, Source], sample: Sample) -> str:
    """Return the name by which a person finds a sample: its file, or its file and record."""
    which, index = sample
    error = sets[which].problem(index, "")
    place = "" if error.offset is None else f" at byte {error.offset}"
    return f"{error.path}{place} {error.reason}".strip()


def _shown(finding: Finding, sets: Mapping[str, Source]) -> str:
    """Return pictures of the groups, or a table where there are none to see."""
    details = finding.details or ("",) * len(finding.samples)
    # cut before anything is decoded
    pairs = list(zip(finding.samples, details, strict=True))[:_MAX_GROUPS]
    if not pairs:
        return ""
    left_out = len(finding.samples) - len(pairs)
    if finding.kind in _WITHOUT_PICTURES:
        rows = [("", [name_of(sets, group[0]), detail]) for group, detail in pairs]
        html = table(["image", "what is wrong"], rows, "texts")
    else:
        html, too_many = pictures.gallery([_group(group, detail, sets) for group, detail in pairs], _figure)
        left_out += too_many
    return html + (f'<p class="soft">and {left_out:,} more</p>' if left_out else "")


def _group(group: Sequence[Sample], detail: str, sets: Mapping[str, Source]) -> _Group:
    images, names = [], []
    for sample in group[:_MAX_IMAGES]:
        # read again: only the images that are shown need to be in memory
        try:
            images.append(decode(sets[sample[0]].read(sample[1])))
        except (BadImageError, DataError, cv2.error):
            continue  # what is damaged has a finding of its own
        names.append(f"{sample[0]}: {name_of(sets, sample)}")
    more = f"; {len(group) - _MAX_IMAGES} more like these" if len(group) > _MAX_IMAGES else ""
    return _Group(tuple(images), tuple(names), detail + more)


def _figure(group: _Group, extension: str) -> str:
    shown = "".join(pictures.original(image, name, extension)
                    for image, name in zip(group.images, group.names, strict=True))
    names = "<br/>".join(f'<span class="soft">{escape(name)}</span>' for name in group.names)
    detail = f"<b>{escape(group.detail)}</b><br/>" if group.detail else ""
    css = ' class="pair"' if len(group.images) > 1 else ""
    return f"<figure><div{css}>{shown}</div><figcaption>{detail}{names}</figcaption></figure>"
