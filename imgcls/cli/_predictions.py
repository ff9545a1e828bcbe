"""How imgcls-predict writes predictions: for a person, as a table, CSV, JSON lines or a .lst."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from imgcls.errors import DataError, printable

if TYPE_CHECKING:
    from imgcls.inference.predictor import Prediction

#: after so many predictions a table begins anew, with other widths of its columns
_TABLE_ROWS = 500


class Text:
    """`name (score = 0.98765)`, one line a class, as classify_image.py prints it.

    Every format has `add`, which returns the text of one prediction, and `end`, called after the last.
    """

    def __init__(self, several: bool, top: int) -> None:
        self._several = several
        self._top = top

    def add(self, prediction: Prediction) -> str:
        """Return the lines of a prediction; with several images its path is above or before its classes."""
        lines = [f"{prediction.image}:"] if self._several and self._top > 1 else []
        before = f"{prediction.image}: " if self._several and self._top == 1 else ""
        lines += [f"{before}{name} (score = {probability:.5f})" for name, probability in prediction.ranking]
        return "".join(f"{printable(line)}\n" for line in lines)

    def end(self) -> str:
        """Return what is left to write after the last prediction."""
        return ""


class Table(Text):
    """Columns lined up, a row for each class; many predictions in parts, each with widths of its own."""

    def __init__(self, several: bool, top: int) -> None:
        super().__init__(several, top)
        self._rows: list[Sequence[str]] = []
        self._num_waiting = 0

    def add(self, prediction: Prediction) -> str:
        """Keep a prediction; return the table when it has grown long."""
        for rank, (name, probability) in enumerate(prediction.ranking):
            # the path in the first row only: the empty cells below it show which rows belong together
            self._rows.append((printable(prediction.image) if rank == 0 else "", f"{probability:.5f}",
                               printable(name)))
        self._num_waiting += 1
        return self.end() if self._num_waiting >= _TABLE_ROWS else ""

    def end(self) -> str:
        """Return the rows that were kept, below a header."""
        rows = [("image", "score", "class"), *self._rows] if self._rows else []
        self._rows, self._num_waiting = [], 0
        width = max((len(row[0]) for row in rows), default=0)
        return "".join(f"{image:<{width}}  {score:>7}  {name}\n" for image, score, name in rows)


class Csv(Text):
    """A row for each class: image, rank from 1, the class's number and name, its probability."""

    def __init__(self, several: bool, top: int) -> None:
        super().__init__(several, top)
        self._header: list[Sequence[object]] = [("image", "rank", "class", "name", "score")]

    def add(self, prediction: Prediction) -> str:
        """Return the rows of a prediction, the first time below the header."""
        ranked = zip(prediction.classes, prediction.ranking, strict=True)
        rows = [(prediction.image, rank, index, name, f"{probability:.7g}")  # float32 has seven digits
                for rank, (index, (name, probability)) in enumerate(ranked, 1)]
        return self._written(rows)

    def end(self) -> str:
        """Return the header where there was no prediction."""
        return self._written([])

    def _written(self, rows: Sequence[Sequence[object]]) -> str:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([*self._header, *rows])
        self._header = []
        return text.getvalue()


class JsonLines(Text):
    """An object a line: the image, and its classes with number, name and probability."""

    def add(self, prediction: Prediction) -> str:
        """Return the line of a prediction."""
        # In ASCII: a name of any bytes survives as escapes, and one line stays one line.
        return json.dumps({"image": prediction.image, "predictions": as_json(prediction)}) + "\n"


class Lst(Text):
    """The list that imgcls-im2rec packs: a number, the likeliest class as label, the path."""

    def __init__(self, several: bool, top: int) -> None:
        super().__init__(several, top)
        self._number = 0

    def add(self, prediction: Prediction) -> str:
        """Return the line of a prediction; DataError for a name that no list can hold."""
        name = prediction.image
        if name.strip() != name or re.search(r"[\t\n\r]", name):
            raise DataError(name, "a list cannot hold a name with tabs, line breaks or blanks at its ends")
        line = f"{self._number}\t{prediction.classes[0]:f}\t{name}\n"  # %f, as im2rec.py writes labels
        self._number += 1
        return line


#: the value of --format -> how it is written
FORMATS: dict[str, type[Text]] = {"text": Text, "table": Table, "csv": Csv, "jsonl": JsonLines, "lst": Lst}


def as_json(prediction: Prediction) -> list[dict[str, object]]:
    """Return the classes of a prediction as objects for JSON, the likeliest first."""
    ranked = zip(prediction.classes, prediction.ranking, strict=True)
    return [{"class": index, "name": name, "score": round(probability, 7)}
            for index, (name, probability) in ranked]
