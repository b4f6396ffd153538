"""Starts: maps that are found from images alone, each from random orientations of its own.

Of a point group two ways are tried. A map is found without symmetry, its axes are found (validation/symmetry_axes.py),
and symmetry is imposed along them; or symmetry is imposed from the beginning, which fails more often and costs less the
more rotations there are. The evidence decides between them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from halfmap.fourier.shells import hermitian_weights, shell_index_3d, shell_sum
from halfmap.fourier.transform import volume_fft
from halfmap.geometry.symmetry import symmetry_group
from halfmap.maps.filters import apply_radial_gain
from halfmap.maps.rigid import moved
from halfmap.refinement.soft_em import SoftMaps, SoftSearch, SoftStep, SoftTask, random_maps, soft_step
from halfmap.refinement.starting_agreement import SURE, Agreement, FoundMaps, agreement
from halfmap.refinement.starting_schedule import (
    AFTER_AXES,
    AFTER_HAND,
    FEW,
    FINE,
    MANY,
    SHARPENED,
    Beginning,
    order_for,
    search_at,
    searches_after_axes,
    searches_for_hand,
    searches_from_nothing,
    shell,
)
from halfmap.validation.fsc import GOLD_STANDARD, resolution
from halfmap.validation.poses import common_shift
from halfmap.validation.symmetry_axes import symmetry_axes

SHARE = 0.5  # of images that hold a particle, before it is known
FINISHING = 2  # iterations of the best start at most, each with finer detail
FINER = 1.2  # times, in each of them
POINT_GROUPS = ("C2", "C3", "C4", "C5", "C6", "C7", "D2", "D3", "D4", "D5", "D6", "D7", "T", "O", "I1")
LIKELY = 0.8  # score from which on a group may be that of the particle


@dataclass(frozen=True)
class Start:
    """One start at its end.

    number: from 1. route: ``free`` (no symmetry), ``axes`` (found, then imposed) or ``imposed`` (from the beginning).
    last: its last iteration. gains: mean log evidence of an image, in nats, by iteration (tempered at first; where
    likelihoods are sharpened, divided by that).
    """

    number: int
    route: str
    last: SoftStep
    gains: list[float] = field(default_factory=list)

    @property
    def gain(self) -> float:
        """Mean log evidence of an image, of a particle or none, against the map of the other half, in nats."""
        return self.last.gain

    @property
    def found(self) -> FoundMaps:
        """Maps and poses, as starts are compared by."""
        return FoundMaps(tuple(one.joined for one in self.last.classes), self.last.poses)


@dataclass(frozen=True)
class Ranked:
    """Starts, the best by evidence first; and what each has in common with the first [n], which agrees with itself."""

    starts: list[Start]
    agreements: list[Agreement]

    @property
    def agreeing(self) -> list[Agreement]:
        """Of those that agree with the best one."""
        return [one for one in self.agreements[1:] if one.agrees]


@dataclass(frozen=True)
class GroupScore:
    """A point group, and how well a map has it.

    score: correlation of the map with itself turned, mean over the turns of the group about the best axes, as a part of
    what the noise of the map allows: 1 for a group that the particle has. operators [o, 3, 3]: of the group, about the
    axes where the map has them.
    """

    name: str
    score: float
    operators: Tensor


def _run(
    task: SoftTask, classes: Sequence[SoftMaps], searches: Sequence[SoftSearch], generator: torch.Generator,
    gains: list[float], advance: Callable[[], None],
) -> SoftStep:  # fmt: skip
    """Iterations one after the other; their evidence is added to ``gains``."""
    share, step = SHARE, None
    for search in searches:
        step = soft_step(task, classes, search, share, generator)
        classes, share = step.classes, step.share
        gains.append(step.gain / max(1.0, search.tempering))
        advance()
    assert step is not None
    return step


def _route_of(number: int, group: Tensor) -> str:
    """How start ``number`` (from 1) treats a group [o, 3, 3]: both ways in turn, the one without symmetry less often
    where there are many rotations. Few about one axis that are imposed from the beginning take more time for each start
    that succeeds (C2: 2 of 10 did, at 2/5 of the cost; C4: 3 of 15, at a quarter)."""
    operators = len(group)
    if operators == 1:
        return "free"
    if operators <= FEW and bool((group[:, 2, 2] > 1 - 1e-6).all()):
        return "axes"
    return "axes" if number % (4 if operators >= MANY else 2) == 1 else "imposed"


def _free_to(task: SoftTask, fine: float) -> float:
    """The resolution in angstrom that a start for a group ends at before symmetry is imposed: that of a group of many
    axes is finer than what a search of all orientations has time for."""
    return max(fine, FINE) if len(task.group) >= MANY else fine


def _as_shells(route: str, task: SoftTask) -> bool:
    """Whether a start treats the particle as one that may be a hollow shell."""
    return route == "imposed" and len(task.group) >= MANY


def _searches(task: SoftTask, fine: float, route: str) -> list[SoftSearch]:
    shells = _as_shells(route, task)
    beginning = Beginning.of(shells)
    tempering = beginning.tempering(task.energy(shell(task.grid, beginning.coarse)))
    searches = searches_from_nothing(task.grid, task.diameter, fine, beginning, tempering)
    return searches + (searches_for_hand(task.grid, task.diameter, fine) if shells else [])


def start_from_nothing(
    task: SoftTask, number: int, fine: float, seed: int, advance: Callable[[], None] = lambda: None, classes: int = 1
) -> Start:
    """Start ``number`` (from 1), down to a resolution ``fine`` (A).

    advance: called after every iteration. classes: maps that are sought.
    """
    generator = torch.Generator().manual_seed(seed * 100_003 + number)
    route, gains = _route_of(number, task.group), list[float]()
    searches = _searches(task, fine if route == "imposed" else _free_to(task, fine), route)
    without = task if route == "imposed" else replace(task, group=task.group[:1])
    first = random_maps(without, classes, searches[0].limit, generator)
    step = _run(without, first, searches, generator, gains, advance)
    if route == "axes":
        step = _with_axes(task, step, fine, generator, gains, advance)
    return Start(number, route, step, gains)


def _with_axes(
    task: SoftTask, step: SoftStep, fine: float, generator: torch.Generator, gains: list[float],
    advance: Callable[[], None],
) -> SoftStep:  # fmt: skip
    """Find the axes of the group in every map, put them where the convention has them, and go on with symmetry
    imposed."""
    pixel_size, classes = task.grid.pixel_size, []
    for one in step.classes:
        axes = symmetry_axes(one.joined, pixel_size, _free_to(task, fine), task.diameter, task.group)
        maps = tuple(moved(half, axes.rotation, axes.shift, pixel_size) for half in one.maps)
        classes.append(replace(one, maps=maps))
    return _run(task, classes, searches_after_axes(task.grid, task.diameter, fine), generator, gains, advance)


def iterations_of(number: int, task: SoftTask) -> int:
    """How many iterations start ``number`` takes."""
    route = _route_of(number, task.group)
    shells = _as_shells(route, task)
    return Beginning.of(shells).iterations + AFTER_AXES * (route == "axes") + (SHARPENED + AFTER_HAND) * shells


def ranked(starts: Sequence[Start], task: SoftTask, alike: Tensor) -> Ranked:
    """Starts by evidence, each compared with the best one modulo ``alike`` [o, 3, 3], operators in that one's frame."""
    order = sorted(starts, key=lambda start: -start.gain)
    return Ranked(order, [agreement(order[0].found, one.found, task.grid, alike) for one in order])


def finished(task: SoftTask, best: Start, fine: float, seed: int, advance: Callable[[], None]) -> Start:
    """The best start taken further, to finer detail and smaller angles, as long as its half maps agree there and the
    evidence of the images at that detail grows."""
    generator, gains, last = torch.Generator().manual_seed(seed), list(best.gains), best.last
    nyquist, limit = task.grid.box // 2 - 2, shell(task.grid, fine)
    for _ in range(FINISHING):
        reached = resolution(last.largest.curve, task.grid.box, task.grid.pixel_size, GOLD_STANDARD)
        limit = min(nyquist, round(FINER * limit), int(FINER * task.grid.length / reached))
        detail = task.grid.length / limit
        search = search_at(task.grid, task.diameter, limit, order_for(detail, task.diameter), 1.0)
        step = soft_step(task, last.classes, search, last.share, generator)
        advance()
        if gains and step.gain < gains[-1]:
            break
        gains.append(step.gain)
        last = step
    return replace(best, last=last, gains=gains)


def _whitened(step: SoftStep) -> Tensor:
    """The map with all shells of equal power, as far as the half maps agree: coarse shells alone are alike about any
    axis."""
    v = step.largest.joined
    box, columns = len(v), hermitian_weights(len(v)).to(v.device)
    shell, coefficients = shell_index_3d(box).to(v.device), volume_fft(v)
    power = shell_sum(coefficients.abs().double().square() * columns, shell, box // 2 + 1)
    count = shell_sum(torch.ones_like(shell) * columns, shell, box // 2 + 1)
    power = power / count.clamp_min(1)
    gain = torch.where(power > 0, step.largest.curve.clamp(0, 1).to(power) / power.clamp_min(1e-30), 0.0).sqrt()
    return apply_radial_gain(v, gain)


def scored_groups(step: SoftStep, task: SoftTask, fine: float) -> list[GroupScore]:
    """The score of every point group that proteins are usually found with, the best first."""
    white, expected = _whitened(step), _agreement_with_itself(step, shell(task.grid, fine))

    def scored(name: str) -> GroupScore:
        group = symmetry_group(name)
        axes = symmetry_axes(white, task.grid.pixel_size, fine, task.diameter, group)
        others = (axes.best**2 * len(group) - 1) / (len(group) - 1)  # the mean over all turns but the identity
        return GroupScore(name, min(1.0, max(0.0, others / expected)), axes.rotation.T @ group @ axes.rotation)

    return sorted((scored(name) for name in POINT_GROUPS), key=lambda one: -one.score)


def _agreement_with_itself(step: SoftStep, limit: int) -> float:
    """Correlation of the whitened map with another one of the same particle and as noisy, up to a shell ``limit``.

    By the FSC F of its half maps the map of all images has a part 2 F / (1 + F) of signal in its power.
    """
    fsc = step.largest.curve[1 : limit + 1].clamp(0, 1).cpu()
    weight = fsc * torch.arange(1, len(fsc) + 1, dtype=fsc.dtype).square()
    return max(0.05, float((weight * 2 * fsc / (1 + fsc)).sum() / weight.sum().clamp_min(1e-9)))


def operators_in_frame(scores: Sequence[GroupScore]) -> Tensor:
    """Operators [o, 3, 3] of the largest group that a map has by its score, about the axes where the map has them."""
    likely = [one.operators for one in scores if one.score >= LIKELY]
    return max(likely, key=len, default=torch.eye(3, dtype=torch.float64)[None])


def centred(start: Start, task: SoftTask) -> Start:
    """The start with every class about the point that its images are centred on, as far as symmetry leaves that free.

    Shifts are then as small as they can be, and a refinement looks for small ones.
    """
    eye, last, classes = torch.eye(3, dtype=torch.float64), start.last, []
    poses, shifts = last.poses, last.poses.shifts.double()
    for number, one in enumerate(last.classes):
        own = poses.class_of == number
        centre = -common_shift(poses.rotations, poses.shifts, own & (poses.present > SURE))
        centre = (task.group.cpu().double() @ centre).mean(dim=0)
        shifts = shifts + own[:, None] * (poses.rotations.double() @ centre)[:, :2]
        made = [moved(v, eye, -centre, task.grid.pixel_size) for v in (*one.maps, one.joined)]
        classes.append(replace(one, maps=tuple(made[:2]), joined=made[2]))
    return replace(start, last=replace(last, classes=tuple(classes), poses=replace(poses, shifts=shifts)))


def by_share(start: Start) -> Start:
    """The start with its classes sorted by their share, the largest first."""
    last = start.last
    order = sorted(range(len(last.classes)), key=lambda number: -last.classes[number].share)
    rank = torch.tensor(order).argsort()
    return replace(start, last=replace(last, classes=tuple(last.classes[number] for number in order),
                                       poses=replace(last.poses, class_of=rank[last.poses.class_of]),
                                       seen=[one.in_order(order) for one in last.seen]))
