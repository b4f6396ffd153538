"""What the iterations of a start search: from coarse to fine, and from soft to sharp.

A map of random orientations explains nothing, and a posterior that is sharp against it settles by chance. So
log-likelihoods are tempered at first: multiplied by a number below 1 that grows in every iteration, until nothing is
held back in the last third. How far they must be held back is a matter of the signal: the coarse shells of an image
with little noise hold a thousand nats, those of a small protein in noisy images thirty. The band grows meanwhile.

Particles whose point group has many axes are often hollow shells. Coarse shells of their images look the same from all
sides, so that a start with such symmetry begins with finer ones. It comes to rest at a map of both hands at once, its
own mirror image: at the detail where hands begin to differ an image fits its pose and the mirrored one nearly alike,
and has a half share in both. Log-likelihoods that are sharpened, multiplied by more than 1, for some iterations let the
slightest difference between them grow until one hand is left (`searches_for_hand`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from halfmap.geometry.orientation_grid import angular_step
from halfmap.maps.grid import Grid
from halfmap.refinement.soft_em import SoftSearch

COARSE = 30.0  # A, of the first iteration
FINE, FINE_SHELLS = 14.0, 9.0  # A, of the last: usual, and for groups of many axes, whose maps may be hollow shells
MANY, FEW = 12, 4  # rotations of a group that has many axes, and of one that a map without symmetry shows best
COARSE_SHELLS = 12.0  # A, of the first iteration where the symmetry of such a group is imposed
ITERATIONS, ITERATIONS_SHELLS = 20, 24
FIRST_NATS = 35.0  # that the signal of an image is worth in the first iteration, tempered
FIRST_NATS_SHELLS = 10.0  # the same, of which most is alike in all orientations
SHARPENED, SHARPENING, AFTER_HAND = 10, 3.0, 2  # iterations, what log-likelihoods are multiplied by, iterations after
SOFTEST, SHARPEST = 0.01, 0.6  # tempering of the first iteration
TEMPERED = 0.7  # part of the iterations in which it rises to 1
BROADENING = 0.8  # part of the iterations in which the band grows
AFTER_AXES = 6  # iterations when symmetry is imposed on a map whose axes were found
AXES_TEMPERING = 0.5
REACH, SPREAD = 0.08, 0.04  # of the diameter: how far particles are off centre, at most and by one sd
LEAST_REACH = 10.0  # A
SHIFTS = 3.0  # steps of shifts to the finest detail
TURN = 1.6  # of the finest detail, which the rim of the particle moves by in a step of the orientation grid
LEAST_ORDER, MOST_ORDER = 2, 3


def shell(grid: Grid, resolution: float) -> int:
    """The last shell not finer than a resolution in angstrom."""
    return max(3, int(grid.length / resolution))


def finest(operators: int) -> float:
    """Resolution in angstrom that starts end at, for a group of so many rotations."""
    return FINE_SHELLS if operators >= MANY else FINE


def order_for(resolution: float, diameter: float) -> int:
    """Order of the orientation grid in which no step moves the rim by more than TURN times the detail (A)."""
    order = LEAST_ORDER
    while order < MOST_ORDER and angular_step(order) > TURN * math.degrees(resolution / (0.5 * diameter)):
        order += 1
    return order


def search_at(grid: Grid, diameter: float, limit: int, order: int, tempering: float) -> SoftSearch:
    """A search to a shell ``limit``."""
    detail = grid.length / limit
    reach = max(LEAST_REACH, REACH * diameter)
    return SoftSearch(limit, order, tempering, reach, detail / SHIFTS, SPREAD * diameter)


@dataclass(frozen=True)
class Beginning:
    """How a start begins: at a resolution ``coarse`` (A), with ``nats`` of signal in an image, tempered; and how many
    iterations it takes from there."""

    coarse: float
    nats: float
    iterations: int

    @staticmethod
    def of(shells: bool) -> Beginning:
        """The usual one, or that of particles that may be hollow ``shells``."""
        if shells:
            return Beginning(COARSE_SHELLS, FIRST_NATS_SHELLS, ITERATIONS_SHELLS)
        return Beginning(COARSE, FIRST_NATS, ITERATIONS)

    def tempering(self, energy: float) -> float:
        """That of the first iteration. energy: mean power of the signal of an image in its shells, in units of the
        noise (`SoftTask.energy`)."""
        return min(SHARPEST, max(SOFTEST, self.nats / max(energy, 1e-9)))


def searches_from_nothing(
    grid: Grid, diameter: float, fine: float, beginning: Beginning, tempering: float
) -> list[SoftSearch]:
    """The iterations of one start, down to a resolution ``fine`` (A). tempering: of the first."""
    first, last, result, begun = shell(grid, beginning.coarse), shell(grid, fine), list[SoftSearch](), tempering
    for done in range(beginning.iterations):
        part = done / (beginning.iterations - 1)
        tempering = begun ** max(0.0, 1 - part / TEMPERED)
        limit = round(first + (last - first) * min(1.0, part / BROADENING))
        result.append(search_at(grid, diameter, limit, order_for(grid.length / limit, diameter), tempering))
    return result


def searches_for_hand(grid: Grid, diameter: float, fine: float) -> list[SoftSearch]:
    """The iterations in which a map of both hands becomes one of a single hand."""
    limit = shell(grid, fine)
    order = order_for(grid.length / limit, diameter)
    return [search_at(grid, diameter, limit, order, tempering)
            for tempering in [SHARPENING] * SHARPENED + [1.0] * AFTER_HAND]


def searches_after_axes(grid: Grid, diameter: float, fine: float) -> list[SoftSearch]:
    """The iterations in which the symmetry of a map whose axes were found is imposed."""
    last, result = shell(grid, fine), list[SoftSearch]()
    first = max(shell(grid, COARSE), round(0.75 * last))
    for done in range(AFTER_AXES):
        part = min(1.0, done / (AFTER_AXES - 2))
        limit = round(first + (last - first) * part)
        result.append(search_at(grid, diameter, limit, order_for(grid.length / limit, diameter),
                                AXES_TEMPERING ** (1 - part)))
    return result
