"""Overwritten bytes among pixels that are stored as they are (BMP, TIFF): rows that no picture has.

Bytes of something else make noise, a hole a line of black: neither fits to the rows above and below it, which
fit to each other. A flat area overwritten with its own colour, or a few overwritten bytes, are not found.
"""

from __future__ import annotations

import numpy as np

#: numbers in a row that are looked at together: 32 pixels in colour
_WINDOW_VALUES = 96
#: mean difference of neighbours in a row of noise (85 is that of random bytes, 118 that of the differences of
#: their colours, in which pictures have far less), and of what stands around it
_NOISE, _COLOR_NOISE, _CALM = (70.0, 105.0), 85.0, 30.0
#: different values in the window, of those that random bytes have in the mean
_MIN_DISTINCT = 0.75
#: a line of one value has so many pixels, of which others above and below may have it too
_MIN_LINE, _MAX_SAME = 40, 0.05
#: mean difference of the rows above and below a line of one row, at the most, and their least deviation
_MAX_BETWEEN, _MIN_DEVIATION = 24.0, 4.0


def overwritten(pixels: np.ndarray) -> str:
    """Return what was overwritten in decoded pixels, uint8 (H, W, 3), or "".

    The rows are to stand as in the file: bytes of something else go on from one to the next.
    """
    # grey ones have three equal channels
    image = pixels[:, :, :1] if (pixels == pixels[:, :, :1]).all() else pixels
    if image.shape[0] < 3 or image.shape[1] * image.shape[2] < _WINDOW_VALUES:
        return ""
    row = _noisy_row(image)
    if row is not None:
        return f"bytes of something else in the pixels, in row {row}"
    for value in (0, 255):
        row = _row_of_line(image, value)
        if row is not None:
            return f"bytes of {value} in place of pixels, in row {row}"
    return ""


def _noisy_row(image: np.ndarray) -> int | None:
    """Return the first row with a piece of noise and a calm row right above or below it."""
    window = _WINDOW_VALUES // image.shape[2]
    values = image.astype(np.int16)
    means = _mean_steps(values, window)
    is_noisy = (means > _NOISE[0]) & (means < _NOISE[1])
    if image.shape[2] > 1 and is_noisy.any():
        is_noisy &= _mean_steps(np.diff(values, axis=2), window) > _COLOR_NOISE
    is_calm = means < _CALM
    beside = np.zeros_like(is_calm)
    beside[1:] = is_calm[:-1]
    beside[:-1] |= is_calm[1:]
    wanted = _MIN_DISTINCT * 256 * (1 - (1 - 1 / 256) ** _WINDOW_VALUES)
    for row, column in np.argwhere(is_noisy & beside).tolist():
        if len(np.unique(image[row, column:column + window])) >= wanted:
            return row
    return None


def _mean_steps(values: np.ndarray, window: int) -> np.ndarray:
    """Return float64 (H, W - window + 1): the mean difference of neighbours in each piece of a row."""
    steps = np.abs(np.diff(values, axis=1)).mean(2, dtype=np.float32)
    sums = np.cumsum(np.pad(steps, ((0, 0), (1, 0))), axis=1, dtype=np.float64)
    return (sums[:, window - 1:] - sums[:, :1 - window]) / (window - 1)


def _row_of_line(image: np.ndarray, value: int) -> int | None:
    """Return the row where a run of one value begins that nothing above and below it continues.

    Runs go on from row to row, as bytes of a file do.
    """
    height, width = image.shape[:2]
    flat = image.reshape(height * width, -1)
    is_value = (flat == value).all(1)
    edges = np.flatnonzero(np.diff(np.pad(is_value, 1).astype(np.int8)))
    for start, end in edges.reshape(-1, 2).tolist():
        length = min(end - start, width)
        is_last = end == len(flat)
        # what touches the upper edge may be a frame, and a bar from edge to edge is drawn
        if end - start < _MIN_LINE or start < width or (start % width == 0 and end % width == 0):
            continue
        if end + width > len(flat) and not is_last:
            continue
        above = flat[start - width:start - width + length]
        below = above if is_last else flat[end + width - length:end + width]
        if max((above == value).all(1).mean(), (below == value).all(1).mean()) > _MAX_SAME:
            continue
        # a drawn line: on flat ground, or the side of a box
        if min(above.std(), below.std()) < _MIN_DEVIATION or _has_corner(is_value, start, end, width):
            continue
        if end - start > width or np.abs(above.astype(np.int16) - below).mean() < _MAX_BETWEEN:
            return start // width
    return None


def _has_corner(is_value: np.ndarray, start: int, end: int, width: int) -> bool:
    """Whether the value goes on above or below one of the ends of a run."""
    places = [place + turn for place in (start, end - 1) for turn in (-width, width)]
    # a resumed run in the next row has its own pixels there
    return any(bool(is_value[place]) for place in places
               if place < len(is_value) and not start <= place < end)
