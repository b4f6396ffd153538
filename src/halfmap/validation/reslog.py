"""How resolution grows with the number of particles, and what more particles would bring.

If images of a particle differ by noise only, 1/d^2 is a line in the logarithm of their number,

    1/d^2 = intercept + (2/B) ln N,

with B (A^2) everything that blurs the average image: molecule, radiation damage, optics, and errors of the poses
(Rosenthal & Henderson 2003, J. Mol. Biol. 333, 721). A curve that is higher needs fewer particles (Punjani et al. 2020,
Nature Methods 17, 1214, figure 6). The ResLog plot of Stagg et al. 2014 (J. Struct. Biol. 185, 418) has 1/d in place of
1/d^2, and no theory predicts a straight line for it.

B here is positive, as in the paper: it blurs. The B that sharpens such a map is negative.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

LEAST_POINTS = 3  # that a line needs for its error to be known
# A line is called bent if its slope changes by more than BENT of itself and by more than SURELY standard errors.
BENT, SURELY = 0.3, 3.0
SURE = 2.0  # a slope gives a B factor if it is positive by more than this many standard errors

# Number of particles -> resolutions (A) of the subsets drawn.
Curve = Mapping[int, Sequence[float]]


def mean_inverse_square(resolutions: Sequence[float]) -> float:
    """The mean of 1/d^2 (1/A^2) over subsets."""
    return statistics.fmean(d**-2 for d in resolutions)


def spread(values: Sequence[float]) -> float | None:
    """Standard deviation over subsets; None for a single one."""
    return statistics.stdev(values) if len(values) > 1 else None


@dataclass(frozen=True)
class Needed:
    """How many particles reach a resolution.

    bound: "" for an interpolated number, "<" where the smallest number tried is already better, ">" where the largest
    is not good enough.
    """

    particles: float
    bound: str


def needed(level: float, curve: Curve) -> Needed:
    """The number of particles with which a curve reaches `level` (1/A^2); never extrapolated.

    Linear between neighbours in the logarithm of the number.
    """
    counts = sorted(curve)
    heights = [mean_inverse_square(curve[n]) for n in counts]
    if heights[0] >= level:
        return Needed(counts[0], "" if math.isclose(heights[0], level) else "<")
    for i in range(1, len(counts)):
        if heights[i] >= level:
            share = (level - heights[i - 1]) / (heights[i] - heights[i - 1])
            return Needed(counts[i - 1] * (counts[i] / counts[i - 1]) ** share, "")
    return Needed(counts[-1], ">")


@dataclass(frozen=True)
class LineFit:
    """A straight line 1/d^2 = intercept + slope ln N (1/A^2) through the means of fewest .. most particles.

    error: standard error of the slope from the scatter about the line (points - 2 degrees of freedom). bend: by which
    fraction of itself the slope of a parabola through the points grows from the first to the last; bend_error: its
    standard error. Both are None where there are too few points.
    """

    slope: float
    error: float
    intercept: float
    points: int
    fewest: int
    most: int
    bend: float | None
    bend_error: float | None

    @property
    def bfactor(self) -> float | None:
        """B in A^2; None where the slope is not surely positive."""
        return 2 / self.slope if self.slope > SURE * self.error and self.slope > 0 else None

    @property
    def bfactor_error(self) -> float | None:
        """Standard error of B in A^2."""
        return None if self.bfactor is None else 2 * self.error / self.slope**2

    @property
    def bent(self) -> bool:
        """Whether the points leave a straight line by much, and by more than their scatter."""
        if self.bend is None or self.bend_error is None:
            return False
        return abs(self.bend) > max(BENT, SURELY * self.bend_error)

    def height(self, particles: float) -> float:
        """1/d^2 of the line (1/A^2) at a number of particles."""
        return self.intercept + self.slope * math.log(particles)


def fit_line(curve: Curve, fewest: int = 0) -> LineFit | None:
    """Least-squares line through the means of all numbers from `fewest` particles on, with equal weights.

    None for fewer than three numbers.
    """
    counts = sorted(n for n in curve if n >= fewest and curve[n])
    if len(counts) < LEAST_POINTS:
        return None
    x = [math.log(n) for n in counts]
    y = [mean_inverse_square(curve[n]) for n in counts]
    slope, intercept = statistics.linear_regression(x, y)
    middle = statistics.fmean(x)
    spread_x = sum((v - middle) ** 2 for v in x)
    residual = [v - intercept - slope * u for u, v in zip(x, y, strict=True)]
    freedom = len(x) - 2
    error = math.sqrt(sum(r * r for r in residual) / freedom / spread_x)
    turns = [None if c is None or slope == 0 else c * 2 * (x[-1] - x[0]) / abs(slope) for c in _curvature(x, residual)]
    return LineFit(slope, error, intercept, len(x), counts[0], counts[-1], *turns)


def _curvature(x: Sequence[float], residual: Sequence[float]) -> tuple[float | None, float | None]:
    """The square term of a parabola through the residuals of a line, and its standard error.

    None and None for fewer than five points.
    """
    if len(x) < LEAST_POINTS + 2:
        return None, None
    middle = statistics.fmean(x)
    square = [(v - middle) ** 2 for v in x]
    slope, intercept = statistics.linear_regression(x, square)
    # The part of a parabola that no line fits.
    arch = [s - intercept - slope * v for v, s in zip(x, square, strict=True)]
    power = sum(a * a for a in arch)
    curvature = sum(a * r for a, r in zip(arch, residual, strict=True)) / power
    rest = sum((r - curvature * a) ** 2 for a, r in zip(arch, residual, strict=True)) / (len(x) - 3)
    return curvature, math.sqrt(rest / power)


@dataclass(frozen=True)
class Extrapolation:
    """How many particles would reach `resolution` (A) if the line continued beyond the data.

    times: `particles` over the number at hand. low, high: the same for a slope one standard error steeper and flatter;
    high may be infinite.
    """

    resolution: float
    particles: float
    times: float
    low: float
    high: float


def extrapolated(line: LineFit, particles: int, resolution: float, gain: float = 1.0) -> Extrapolation | None:
    """The particles for a resolution finer by `gain` (A) than that of all particles: N exp(B/2 (1/d'^2 - 1/d^2)).

    None where the line gives no B factor, or where the finer resolution would not be positive.
    """
    target = resolution - gain
    if line.bfactor is None or target <= 0:
        return None
    climb = target**-2 - resolution**-2

    def times(slope: float) -> float:
        return math.exp(min(climb / slope, 700.0)) if slope > 0 else math.inf

    factor = times(line.slope)
    return Extrapolation(target, particles * factor, factor, times(line.slope + line.error),
                         times(line.slope - line.error))


def halvings(total: int, smallest: int) -> int:
    """How often `total` particles can be halved without falling below `smallest`."""
    return max(0, int(math.log2(total / smallest) + 1e-9)) if total >= smallest else 0


def drawn(length: int, level: int, draw: int, draws: int) -> slice:
    """Where subset `draw` of 1/2^level of all particles lies in a random order of `length` particles.

    draws: a power of two. Subsets of one level share no particle; there are `draws` of them, or 2^level where that is
    fewer. Draw d of a level lies within draw d of the level above it, or, where that has fewer, within draw d // 2.
    """
    width = min(draws, 2**level)
    start, stop = draw * length // width, (draw + 1) * length // width
    return slice(start, stop if 2**level <= draws else start + max(1, round((stop - start) * draws / 2**level)))
