"""Image lists as CSV: a column of paths and one of labels, numbers or names.

The first line may name the columns (`path,label`, or one of the other names below); the two may then stand in
any order, and among other columns. Without such a line the first column is the path and the second the label.
Labels are numbers throughout, or names throughout: a name among numbers is an error, since it would number
all classes anew. Columns are divided by commas, or by tabs or semicolons where the first line that is not
blank has no comma; quotes as in RFC 4180. A file may come from anybody: the length of a line is bounded
before it is read.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator
from itertools import chain, repeat

from imgcls.errors import DataError, reason, verbatim
from imgcls.formats.image_folders import SUFFIXES
from imgcls.formats.lists import ListEntry, bounded_lines
from imgcls.storage.paths import AnyPath
from imgcls.storage.reading import open_read

#: endings of files that are read as CSV lists
ENDINGS = (".csv", ".tsv")
#: what the columns are called
PATH_COLUMNS = ("path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path",
                "img", "img_path")
LABEL_COLUMNS = ("label", "labels", "class", "class_name", "category", "target", "cls")
#: a label above it is none that float32 tells from its neighbours; longer texts are never converted
_MAX_DIGITS = 20


class CsvList:
    """The images of a CSV file. `names` are the labels' names, complete after iterating over all images."""

    def __init__(self, path: AnyPath) -> None:
        self.path = path
        #: name -> label, in the order in which they are met; empty where labels are numbers
        self.names: dict[str, int] = {}
        self._first_number = 0

    def __iter__(self) -> Iterator[ListEntry | DataError]:
        """Yield the images, ids being line numbers, and a DataError for a line that is none.

        A DataError is raised for a file that is no such list as a whole.
        """
        try:
            # line ends as they are: a quoted field may hold one
            with open_read(self.path) as stream, io.TextIOWrapper(stream, "utf-8-sig", "surrogateescape",
                                                                  newline="") as text:
                lines = bounded_lines(text, self.path)
                num_blank, head = _first_line(lines)
                # the blank ones too: lines are counted
                rows = csv.reader(chain(repeat("\n", num_blank), [head], lines), delimiter=_delimiter(head),
                                  strict=True)
                yield from self._entries(rows)
        except csv.Error as error:
            raise DataError(self.path, f"line {rows.line_num}: is no CSV: {verbatim(error)}") from error
        except OSError as error:
            raise DataError(self.path, reason(error)) from error

    def _entries(self, rows: Iterator[list[str]]) -> Iterator[ListEntry | DataError]:
        columns: tuple[int, int] | None = None
        for row in rows:
            number: int = rows.line_num  # type: ignore[attr-defined]
            # blank lines, as at the end of many files
            if not any(field.strip() for field in row):
                continue
            if columns is None:
                columns, is_header = self._columns(row, number)
                if is_header:
                    continue
            if len(row) <= max(columns):
                yield DataError(self.path, f"line {number} has {len(row)} columns, and column "
                                           f"{max(columns) + 1} is needed")
                continue
            yield self._entry(number, row[columns[0]].strip(), row[columns[1]].strip())

    def _columns(self, row: list[str], number: int) -> tuple[tuple[int, int], bool]:
        """Return (column of the path, of the label), and whether the row names them."""
        # capitals and blanks differ from program to program
        names = [field.strip().lower() for field in row]
        path = next((names.index(name) for name in PATH_COLUMNS if name in names), None)
        label = next((names.index(name) for name in LABEL_COLUMNS if name in names), None)
        if path is not None and label is not None:
            return (path, label), True
        # then it must look like an image at least
        is_image = os.path.splitext(names[0])[1] in SUFFIXES
        # a header that is taken for an image would be a separate class, and number the others anew
        if path is not None or label is not None or not is_image or len(row) < 2:
            shown = verbatim(repr(",".join(row))[:60])
            raise DataError(self.path, f"line {number} is {shown}, which neither names a column of paths "
                                       f"({', '.join(PATH_COLUMNS[:4])}, ...) and one of labels "
                                       f"({', '.join(LABEL_COLUMNS[:4])}, ...) nor begins with the path of "
                                       "an image and its label")
        return (0, 1), False

    def _entry(self, number: int, path: str, label: str) -> ListEntry | DataError:
        if not path or not label or "\0" in path:
            what = "label is empty" if path and not label else "path is empty or holds a zero byte"
            return DataError(self.path, f"line {number}: the {what}")
        # the first label decides whether all of them are numbers or names
        value = _number(label)
        if value is not None:
            if self.names:
                raise self._mixed(number, label, next(iter(self.names)))
            self._first_number = self._first_number or number
            return ListEntry(number, (value,), path)
        if self._first_number:
            raise self._mixed(self._first_number, "a number", label, other_line=number)
        return ListEntry(number, (float(self.names.setdefault(label, len(self.names))),), path)

    def _mixed(self, number: int, label: str, name: str, other_line: int = 0) -> DataError:
        where = f"line {other_line}" if other_line else "a line before"
        return DataError(self.path, f"line {number} has the label {verbatim(label[:60])}, and {where} has "
                                    f"{verbatim(repr(name[:60]))}: labels are all numbers, or all names")


def _first_line(lines: Iterator[str]) -> tuple[int, str]:
    """Return the first line that is not blank, "" where there is none, and the number of those before it."""
    num_blank = 0
    for line in lines:
        # delimiters alone are empty fields
        if line.replace(",", "").replace(";", "").strip():
            return num_blank, line
        num_blank += 1
    return num_blank, ""


def _delimiter(head: str) -> str:
    # a path may hold blanks, so those divide nothing
    return next((mark for mark in (",", "\t", ";") if mark in head), ",")


def _number(label: str) -> float | None:
    """Return a label as the number that it is, None for a name."""
    # Python would read 1_2 as 12: here it is a name
    if len(label) > _MAX_DIGITS or label[0] not in "+-.0123456789" or "_" in label:
        return None
    try:
        return float(label)
    except ValueError:
        return None
