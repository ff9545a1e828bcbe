"""Whether one image is another with narrow borders cut off: its thumbnail is that of a window of the other.

Thumbnails of a crop are shifted and scaled, and correlate less than those of copies. `duplicates.py` finds
the few images that are most alike; here they are compared again, with the window that fits best: first those
of a grid, which is then moved by smaller and smaller steps.
"""

from __future__ import annotations

import itertools

import numpy as np

#: side of the grey thumbnails; 1 kB of each image
DETAIL_SIDE = 32
#: cells to a side that a window and the whole of the other image are compared in
_CELLS = 16
#: the least correlation. Of 397 photographs of ants and bees no two different ones exceed 0.93, as they are
#: or mirrored; those with 5 % cut off at a side, at two or at all four reach 0.986
MIN_CORRELATION = 0.98
#: pairs that reach less in no window of the grid are not looked at further
_MIN_GRID_CORRELATION = 0.9
#: parts of width or height that a border may have: of the grid, and at the most
_BORDERS, _MAX_BORDER, _MAX_CUT = (0.0, 0.06, 0.12), 0.2, 0.24
#: by which the borders are moved
_STEPS = (0.03, 0.015, 0.0075)
#: pairs that are compared at once: 20 MB
_BLOCK = 256


def is_crop(images: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return bool (P,): which of the pairs are an image and the same with borders cut off, either way round.

    Both are uint8 (P, 32 * 32), grey thumbnails of the whole image each.
    """
    found = np.zeros(len(images), bool)
    for start in range(0, len(images), _BLOCK):
        part = slice(start, start + _BLOCK)
        one, other = (np.asarray(some[part], np.float32).reshape(-1, DETAIL_SIDE, DETAIL_SIDE)
                      for some in (images, others))
        found[part] = (_best_correlation(one, other) >= MIN_CORRELATION) | (
            _best_correlation(other, one) >= MIN_CORRELATION)
    return found


def _best_correlation(whole: np.ndarray, crops: np.ndarray) -> np.ndarray:
    """Return float32 (P,): the correlation of the best window of each of `whole` (P, 32, 32) with `crops`."""
    factor = DETAIL_SIDE // _CELLS
    wanted = _normalized(crops.reshape(-1, _CELLS, factor, _CELLS, factor).mean((2, 4)))
    cuts = np.array([pair for pair in itertools.product(_BORDERS, repeat=2) if sum(pair) <= _MAX_CUT])
    windows = _window_means(cuts)
    # rows and columns are cut by themselves: (P, vertical cut, horizontal cut, cells)
    seen = np.matmul(np.matmul(windows[:, None], whole[:, None, None]), windows.transpose(0, 2, 1))
    fits = np.einsum("pyxd,pd->pyx", _normalized(seen), wanted).reshape(len(whole), -1)
    best = fits.argmax(1)
    correlations = fits[np.arange(len(whole)), best]
    vertical, horizontal = np.divmod(best, len(cuts))
    borders = np.concatenate([cuts[vertical], cuts[horizontal]], 1)
    rows = np.flatnonzero(correlations >= _MIN_GRID_CORRELATION)
    if len(rows):
        correlations[rows] = _refined(whole[rows], wanted[rows], borders[rows], correlations[rows])
    return correlations


def _refined(whole: np.ndarray, wanted: np.ndarray, borders: np.ndarray, best: np.ndarray) -> np.ndarray:
    """Return the correlations once each of the four borders, (P, 4), was moved as far as that helps."""
    for step, _, border, sign in itertools.product(_STEPS, range(2), range(4), (1, -1)):
        moved = borders.copy()
        moved[:, border] = np.clip(moved[:, border] + sign * step, 0, _MAX_BORDER)
        seen = _window_means(moved[:, :2]) @ whole @ _window_means(moved[:, 2:]).transpose(0, 2, 1)
        fits = np.einsum("pd,pd->p", _normalized(seen), wanted)
        borders = np.where((fits > best)[:, None], moved, borders)
        best = np.maximum(fits, best)
    return best


def _window_means(cuts: np.ndarray) -> np.ndarray:
    """Return float32 (K, 16, 32): the matrices that average a row of pixels in the cells of a window.

    `cuts` (K, 2) are the parts that are cut off at its two ends.
    """
    ends = cuts[:, :1] + (1 - cuts.sum(1, keepdims=True)) * np.arange(_CELLS + 1) / _CELLS
    # how much of each pixel lies before an end of a cell
    before = np.clip(ends[:, :, None] * DETAIL_SIDE - np.arange(DETAIL_SIDE), 0, 1)
    weights = np.diff(before, axis=1)
    return (weights / weights.sum(2, keepdims=True)).astype(np.float32)


def _normalized(images: np.ndarray) -> np.ndarray:
    """Return (..., D) of images (..., H, W), with mean 0 and length 1; of a blank one zeros."""
    vectors = images.reshape(*images.shape[:-2], -1)
    vectors = vectors - vectors.mean(-1, keepdims=True)
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.where(norms > _CELLS, vectors / np.maximum(norms, 1e-6), 0)
