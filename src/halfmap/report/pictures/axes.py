"""Axes of charts: where a value lies on them, and which values are ticked."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Values = Sequence[float | None]
# A: candidates for ticks, the roundest first. A tick is left out where an earlier one is too close.
ROUND_RESOLUTIONS = (
    *(10.0, 5.0, 20.0, 4.0, 3.0, 7.0, 6.0, 2.0, 2.5, 8.0, 15.0, 30.0, 3.5, 4.5, 1.5, 1.0, 12.0, 9.0, 1.2),
    *(1.8, 2.2, 40.0, 60.0, 100.0, 25.0, 50.0, 35.0, 5.5, 6.5, 7.5, 2.8, 3.2, 3.8, 2.1, 2.3, 1.6, 1.7, 1.9),
    *(1.3, 1.4, 1.1, 0.9, 0.8, 0.5),
)


@dataclass(frozen=True)
class Tick:
    """A tick of an axis: its value, in the unit of the axis, and its label."""

    value: float
    label: str


@dataclass(frozen=True)
class PlacedTick:
    """A tick ready to be drawn: its place in percent along the axis, and its label."""

    percent: float
    label: str


@dataclass(frozen=True)
class Axis:
    """A value axis with `lo` at the left or bottom. An `inverse` axis holds lengths in A, drawn as 1/length."""

    lo: float
    hi: float
    label: str
    kind: Literal["linear", "log", "inverse"] = "linear"
    ticks: tuple[Tick, ...] = ()

    def _place(self, value: float) -> float:
        if self.kind == "log":
            return math.log10(value) if value > 0 else -math.inf
        if self.kind == "inverse":
            return 1.0 / value if value > 0 else math.inf
        return value

    def fraction(self, value: float) -> float:
        """Position of a value along the axis, 0 at lo and 1 at hi."""
        lo, hi = self._place(self.lo), self._place(self.hi)
        return (self._place(value) - lo) / (hi - lo)

    def drawn_ticks(self) -> list[PlacedTick]:
        """The ticks that fall on the axis."""
        placed = [PlacedTick(100 * self.fraction(tick.value), tick.label) for tick in self.ticks]
        return [PlacedTick(round(tick.percent, 3), tick.label) for tick in placed if -0.01 <= tick.percent <= 100.01]


def resolution_ticks(coarsest: float, finest: float, gap: float = 0.065) -> tuple[Tick, ...]:
    """Ticks at round resolutions (A) between two ends, of which the coarsest may be infinite.

    gap: least distance between two ticks, as a fraction of the axis, which is even in 1/d.
    """
    span = 1.0 / finest - 1.0 / coarsest
    chosen: list[float] = []
    for value in ROUND_RESOLUTIONS:
        inside = 1.0 / coarsest <= 1.0 / value <= 1.0 / finest + 1e-9
        if inside and all(abs(1.0 / value - 1.0 / other) >= gap * span for other in chosen):
            chosen.append(value)
    return tuple(Tick(value, f"{value:g}") for value in sorted(chosen, reverse=True))


def linear_ticks(lo: float, hi: float, count: int = 5) -> tuple[Tick, ...]:
    """Ticks at multiples of 1, 2 or 5 times a power of ten, about `count` of them."""
    step = 10.0 ** math.floor(math.log10((hi - lo) / count))
    step *= next(factor for factor in (1, 2, 5, 10) if (hi - lo) / (factor * step) <= count + 0.5)
    first, last = math.ceil(lo / step - 1e-9), math.floor(hi / step + 1e-9)
    return tuple(Tick(i * step, f"{i * step:.10g}") for i in range(first, last + 1))


def log_ticks(lo: float, hi: float) -> tuple[Tick, ...]:
    """Ticks of a logarithmic axis: decades, with 2 and 5 times each decade where the span is short."""
    decades = range(math.floor(math.log10(lo)), math.ceil(math.log10(hi)) + 1)
    span = math.log10(hi / lo)
    factors = (1, 2, 5) if span < 2.6 else (1,)
    every = max(1, math.ceil(span / 6))
    values = [factor * 10.0**decade for decade in decades if decade % every == 0 for factor in factors]
    return tuple(Tick(value, f"{value:g}") for value in values if lo * 0.999 <= value <= hi * 1.001)


def value_axis(series: Sequence[Values], label: str, log: bool = False, zero: bool = False) -> Axis:
    """A y axis that holds all values with a margin. zero: start at 0."""
    found = [value for values in series for value in values if value is not None and (value > 0 or not log)]
    lo, hi = (min(found), max(found)) if found else (0.0, 1.0) if not log else (0.1, 1.0)
    if log:
        lo, hi = lo / 1.35, hi * 1.35
        return Axis(lo, hi, label, "log", log_ticks(lo, hi))
    margin = 0.12 * (hi - lo) or 0.1 * abs(hi) or 1.0
    lo, hi = (min(0.0, lo), hi + margin) if zero else (lo - margin, hi + margin)
    return Axis(lo, hi, label, "linear", linear_ticks(lo, hi, 4))
