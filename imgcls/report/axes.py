"""The ticks of an axis and their labels: numbers in, numbers and text out."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

#: ticks are 1, 2, 2.5 or 5 times a power of ten apart: what people count in
_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
#: from this ratio of the largest to the smallest on, values are easier to read as powers of ten
LOG_RATIO = 15.0
#: seconds in a unit; a time is shown in the largest unit of which it has at least two
_TIME_UNITS = (("d", 86_400.0), ("h", 3600.0), ("min", 60.0), ("s", 1.0))


@dataclass(frozen=True)
class Scale:
    """An axis from `low` to `high` with its ticks; `place` maps a value to 0..1 along it."""

    low: float
    high: float
    ticks: tuple[float, ...]
    labels: tuple[str, ...]
    is_log: bool = False

    def place(self, value: float) -> float:
        """Return how far along the axis a value is: 0 at `low`, 1 at `high`."""
        if self.is_log:
            return (math.log(value) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
        return (value - self.low) / (self.high - self.low)


def linear(values: Iterable[float], *, num_ticks: int = 5, floor: float | None = None,
           ceiling: float | None = None, is_integer: bool = False, is_tight: bool = False) -> Scale:
    """Return an axis that holds the finite ones of `values`, with round ticks.

    It ends at round numbers, or at the values themselves where `is_tight`; never below `floor` or above
    `ceiling`.
    """
    # a loss that was nan once must not leave the chart without an axis
    finite = [value for value in values if math.isfinite(value)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-12):  # one value: some space around it
        # a tenth of a number of 300 zeros would be 0
        room = 0.5 if is_integer or abs(low) < 1e-300 else abs(low) / 10
        low, high = low - room, high + room
    step = _round_step((high - low) / num_ticks)
    if is_integer:
        step = max(1.0, round(step))
    # with a tolerance, so that 0.30000000000000004 does not need another step
    if not is_tight:
        low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
    low = low if floor is None else max(low, floor)
    high = high if ceiling is None else min(high, ceiling)
    # not >=: nan would pass that
    if not high > low:  # the bounds have left nothing: values outside of them
        low, high = low - step, low + step
    # ticks are counted in steps, so that no rounding error adds up
    first = math.ceil(low / step - 1e-9)
    count = math.floor(high / step + 1e-9) - first + 1
    ticks = tuple((first + i) * step for i in range(max(count, 0)))
    return Scale(low, high, ticks, tuple(tick_label(tick, step) for tick in ticks))


def logarithmic(values: Iterable[float]) -> Scale:
    """Return an axis with a tick at each power of ten; all values must be above 0."""
    values = list(values)
    # whole powers of ten, and one of them at least
    low, high = math.floor(math.log10(min(values)) + 1e-9), math.ceil(math.log10(max(values)) - 1e-9)
    high = max(high, low + 1)
    every = max(1, math.ceil((high - low) / 6))
    # of very many powers every second or third: six ticks are enough
    exponents = range(low, high + 1, every)
    return Scale(10.0 ** low, 10.0 ** high, tuple(10.0 ** e for e in exponents),
                 tuple(f"{10.0 ** e:g}" for e in exponents), is_log=True)


def suits_log(values: Iterable[float]) -> bool:
    """Return whether values are easier to read on a logarithmic axis: positive, and far apart."""
    values = list(values)
    # 1e-300 would have three hundred powers of ten
    return bool(values) and min(values) > 1e-30 and max(values) / min(values) >= LOG_RATIO


def time_unit(seconds: float) -> tuple[str, float]:
    """Return the unit, and its seconds, that so long a time is shown in."""
    return next(((name, size) for name, size in _TIME_UNITS if seconds >= 2 * size), _TIME_UNITS[-1])


def tick_label(value: float, step: float) -> str:
    """Return a tick's number with as many digits as distinguish it from the next tick."""
    # 1e-17 is what is left of 0.1 - 0.1
    if abs(value) < step * 1e-6:
        return "0"
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        # 10k and 12k, but 1000 and 1200
        if step >= size / 10 and abs(value) >= 10 * size / 2:
            return f"{value / size:g}{suffix}"
    if step < 1e-4 or abs(value) >= 1e7:
        return f"{value:.3g}"
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    # a step of 0.25 needs one digit more than its power of ten
    if abs(round(step, digits) - step) > step * 1e-6:
        digits += 1
    return f"{value:.{digits}f}"


def _round_step(step: float) -> float:
    """Return the next larger number of the kind 1, 2, 2.5, 5 times a power of ten."""
    # the size of the step, without its first digit
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in _STEPS if factor * power >= step * (1 - 1e-9))


def show(value: float | None) -> str:
    """Return a number for a table or a label: about four significant digits, 12,345, "" for None."""
    if value is None:
        return ""
    if not math.isfinite(value) or not value:
        return f"{value:g}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) < 1e-3:
        return f"{value:.3g}"
    # 0.9570 under 0.9612: measured values keep their zeros
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.4g}"


def show_time(seconds: float | None) -> str:
    """Return a time as people say it: 12.3 s, 4 min 05 s, 2 h 07 min."""
    if seconds is None or not math.isfinite(seconds):
        return ""
    # in hours the seconds do not matter
    if seconds < 60:
        return f"{seconds:.3g} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60):02d} s"
    return f"{int(seconds // 3600):,} h {int(seconds % 3600 // 60):02d} min"
