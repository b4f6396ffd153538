"""OPUS-SSRI: maps that are sparse and smooth, solved for on the sums of each half set.

Luo, Ni, Wang & Ma (2021) PNAS 118, e2013756118, equations 3-8: a log-l1 and a log-TV penalty, and a pull towards the
half set's previous map (the paper's "implicit gradient" term). proximal.py holds the penalties and the descent,
normal_equations.py the data term. This file chooses what the paper sets by hand or leaves open:

- alpha, beta and gamma are relative, so that the grey scale does not matter: gamma to the mean weight, alpha and beta
  to eps times rms(A^H D y), the paper's unit (over the padded box, as in the authors' program), or 0.45 sd of the noise
  that the images bring to a voxel of b, if that is less. The rms holds the signal too, so it grows with every particle
  and at low resolution, while what a penalty has to hold down is the noise. ``published-code`` keeps the rms.
- eps, "the level of density values corresponding to molecular content", is the level at which our own mask would be
  drawn on that half set's plain map (maps/masks.py, automatic_threshold).
- mu, which smooths the norm of the gradient, is the sd of the plain map's noise, which the sums tell.
- Where the sums end far below Nyquist the map is solved for on a coarser grid over the same extent. It is solved for
  only in the cuboid around the window that references are kept within (support.py).
- The strength of the penalties is one of four:
  ``fixed``: as given.
  ``cross-validated``: a common factor for alpha and beta is chosen inside each half set, by how well the map of one
  quarter set predicts the sums of the other.
  ``published-code``: as in the authors' program, which their paper does not mention: the sums of the other half set
  choose. That leaks.
  ``local``, our own: alpha and beta are those of the core. Their factor at each place is the inverse square of the
    local cut-off that non-uniform refinement finds inside the half set (nonuniform.py): the core is kept, the belt
    smoothed.
"""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from halfmap.errors import InputError
from halfmap.fourier.gridding import trilinear_envelope
from halfmap.fourier.shells import half_volume_radius, hermitian_weights, shell_index_3d, shell_sum
from halfmap.fourier.transform import coarser_box, half_volume, half_volume_extent, resample_volume, volume_fft
from halfmap.maps.filters import gaussian_lowpass
from halfmap.maps.masks import automatic_threshold, spherical_mask
from halfmap.reconstruction.inverse import reconstruct
from halfmap.reconstruction.statistics import Backprojection
from halfmap.regularisation.local_filter import Lattice
from halfmap.regularisation.nonuniform import NonUniform, local_resolution
from halfmap.regularisation.normal_equations import NormalEquations, mean_weight
from halfmap.regularisation.protocol import HalfSets, MapPair, Solution
from halfmap.regularisation.proximal import Descent, Penalty, Problem, Strength, descend
from halfmap.regularisation.support import Support

# Factors of alpha and beta that cross-validation tries, one after the other; each descent starts from the last map.
STRENGTHS = tuple(2 ** (k / 2) for k in range(3, -5, -1))
# The factors that the authors' program tries.
PUBLISHED = tuple(Strength(1 / (1 + e), (1 - j / 5) / (1 + e)) for e in (0, 1) for j in range(5))
PATH_SHARE = 5  # each of these factors gets one part in five of the steps: its descent starts from its neighbour's map
TOLERANCE = 1e-4  # relative change of the map by one step; below it the map counts as solved
ENOUGH = 3e-4  # part of what F has gained: a step that gains less is the last; the next iteration goes on from its map
MARGIN = 1.5  # size of the coarser grid over what the sums' limit needs: sparse maps hold finer detail than the sums
LEVEL_LOWPASS = 15.0  # A, for the map on which the level is found; the same as for the mask
EMPTY, QUIETEST = 1e-8, 1e-3  # parts of the largest noise power: shells below EMPTY are empty, QUIETEST limits weights
MOST_NOISE = 0.45  # sd of the noise in b: with it the defaults did best over four proteins (benchmarks/README.md)
LOCAL_POWER = -2.0  # of the local cut-off, which gives the strength at a place
CORE = 0.2  # part of the mask that is resolved best; where it begins, alpha and beta are as given
LAST_AGREEING = 0.3  # FSC: the authors' choice looks no further than the last shell above it
_CROSSES = "solvent mask, limit of alignment (FSC)"


@dataclass(frozen=True)
class SparseSmooth:
    """Options of OPUS-SSRI.

    alpha, beta, gamma: strengths of sparseness, of smoothness and of the pull towards the previous map, relative as in
    the paper. eps_gradient: eps' over eps. steps: of the descent, at most. parameters: ``fixed``, ``cross-validated``,
    ``published-code`` or ``local``.
    """

    alpha: float = 0.6
    beta: float = 2.0
    gamma: float = 0.1
    eps_gradient: float = 1.0
    steps: int = 100
    parameters: str = "fixed"
    name: str = "sparse_smooth"

    @property
    def crosses(self) -> str:
        """The mask and the limit of alignment; in some modes more, in ``published-code`` more than should be."""
        if self.parameters == "published-code":
            return f"{_CROSSES}, strength of regularisation chosen with the other half set's images (a leak)"
        return NonUniform().crosses if self.parameters == "local" else _CROSSES

    def solve(self, halves: HalfSets, mask: Tensor, memory: dict[str, Any]) -> Solution:
        """References that minimise F on each half set's sums, and their mean.

        memory: ``maps`` [h], those of the last iteration within its mask. The descent starts from them, and gamma pulls
        towards them. arrays: ``theta`` [z, y, x], the mean local cut-off in angstrom, where it gives the strength.
        chosen: ``objective`` [h], F after every step; ``strength`` [h], the factors of alpha and beta.
        """
        cutoffs: list[Lattice] = []
        if self.parameters == "local":
            cutoffs = [half.cutoff for half in NonUniform().validated(halves, mask)]
        local = [strength_by_place(cutoff, mask, solving_box(halves.halves[0])) for cutoff in cutoffs] or (None, None)
        earlier = memory.get("maps", (None, None))
        solved = [self._of_half_set(halves, h, earlier[h], local[h]) for h in (0, 1)]
        return _solution(solved, mask, local_resolution(cutoffs, halves.halves[0].box, halves.pixel_size))

    def filter_pair(self, pair: MapPair, mask: Tensor) -> Solution:
        """The same for finished half maps, from which sums are made (`sums_of_maps`).

        Where a strength is chosen, half maps choose it for each other.
        """
        maps = (pair.half1, pair.half2)
        sums, support = sums_of_maps(*maps), Support.whole(len(pair.half1))
        solved, cutoffs = [], []
        if self.parameters == "local":
            cutoffs = [NonUniform().agreed(*maps, mask, pair.pixel_size)]
        for h in (0, 1):
            level = density_level(maps[h], pair.pixel_size)
            half = self._posed(sums[h], support, level, 1.0, None)
            if self.parameters == "cross-validated":
                chosen = self._validated([NormalEquations.of(s) for s in sums], level)
                half = half.at(chosen / self._unit(half.problem.data))
            elif self.parameters == "published-code":
                judge = _published_judge(sums[1 - h], pair.curves.unmasked, support)
                half = self._along_published_path(half, judge)
            elif self.parameters == "local":
                half = half.with_local(strength_by_place(cutoffs[0], mask, len(maps[h])))
            solved.append(self._solved(half).in_box(len(maps[h])))
        return _solution(solved, mask, local_resolution(cutoffs, len(pair.half1), pair.pixel_size))

    def alone(self, sums: Backprojection, pixel_size: float, previous: Tensor | None) -> Descent:
        """The map [z, y, x] of one half set at the given strengths, and F of every step.

        pixel_size: in angstrom. previous [z, y, x]: the map that the descent starts from and that gamma pulls towards,
        zero outside the window that references are kept within. None: the descent starts from a damped plain map, in
        the whole box.
        """
        box, level = solving_box(sums), density_level(reconstruct(sums), pixel_size)
        support = Support.of(previous, box)
        half = self._posed(sums.coarser(sums.limit, box), support, level, sums.box / box, previous)
        solved = self._solved(half, ENOUGH).in_box(sums.box)
        return Descent(solved.map, solved.objective)

    def penalty(self, data: NormalEquations, level: float, spacing: float) -> Penalty:
        """The penalty in the units of the data; level: eps; spacing: size of the voxels, in those of the full map."""
        unit = self._unit(data) * level
        return Penalty(
            sparse=self.alpha * unit, smooth=self.beta * unit * self.eps_gradient,
            inertia=self.gamma, eps=level, eps_gradient=self.eps_gradient * level, rounding=data.noise, spacing=spacing,
        )  # fmt: skip

    def _unit(self, data: NormalEquations) -> float:
        """The density that alpha and beta refer to, times eps."""
        return data.rms if self.parameters == "published-code" else min(data.rms, MOST_NOISE * data.noise)

    def _of_half_set(self, halves: HalfSets, h: int, previous: Tensor | None, local: Tensor | None) -> _Solved:
        """Solve for the map of half set h, and keep nothing else of the problem in memory.

        local [z, y, x]: factor of both strengths at every place; None: 1.
        """
        whole, plain, chosen, judge = halves.halves[h], halves.plain(h), None, None
        limit, box = whole.limit, solving_box(whole)
        spacing, support = whole.box / box, Support.of(halves.window, box)
        level = density_level(plain, halves.pixel_size)
        del plain
        sums = whole.coarser(limit, box)
        if self.parameters == "cross-validated":  # comes first, before the problem itself takes memory
            quarters = [NormalEquations.of(halves.quarter(h, q, limit, box), spacing, support) for q in (0, 1)]
            chosen = self._validated(quarters, level, spacing)
            del quarters
        elif self.parameters == "published-code":
            judge = _published_judge(halves.halves[1 - h].coarser(limit, box), halves.curves.unmasked, support)
        half = self._posed(sums, support, level, spacing, previous)
        if chosen is not None:
            half = half.at(chosen / self._unit(half.problem.data))
        elif local is not None:
            half = half.with_local(local)
        elif judge is not None:
            half = self._along_published_path(half, judge)
        return self._solved(half, ENOUGH).in_box(whole.box)

    def _posed(
        self, sums: Backprojection, support: Support, level: float, spacing: float, previous: Tensor | None
    ) -> _HalfSet:
        """The problem of one half set. Without a previous map the descent starts from a plain map that is damped by the
        mean weight."""
        sums = sums.on_bench()
        if previous is None:
            damped = torch.full((sums.limit + 1,), mean_weight(sums), dtype=torch.float64)
            start = support.cut(reconstruct(sums, damped))
        else:
            start = previous = support.cut(resample_volume(previous, sums.box)).to(sums.sums)
        data = NormalEquations.of(sums, spacing, support)
        return _HalfSet(Problem(data, self.penalty(data, level, spacing), previous), support, start)

    def _solved(self, half: _HalfSet, share: float = 0.0) -> _HalfSet:
        """Solve at the half set's own strength, unless a path has found its map already; share: see `descend`."""
        if half.objective:
            return half
        found = descend(half.problem.times(half.strength), half.map, self.steps, TOLERANCE, share)
        return replace(half, map=found.map, objective=found.objective)

    def _validated(self, parts: list[NormalEquations], level: float, spacing: float = 1.0) -> float:
        """The factor of both strengths, times unit and mean weight of two parts, at which the parts' maps predict each
        other's sums best; the errors of both are added.

        Nothing pulls towards the previous map here: it was made of both parts, and would tell each about the other.
        """
        errors = [0.0] * len(STRENGTHS)
        for data, other in (parts, parts[::-1]):
            problem, x = Problem(data, self.penalty(data, level, spacing)), torch.zeros_like(data.linear)
            for i, factor in enumerate(STRENGTHS):
                x = descend(problem.times(Strength(factor, factor)), x, self._path_steps, TOLERANCE).map
                errors[i] += other.misfit(x) * other.mean_weight
        best = STRENGTHS[errors.index(min(errors))]
        return best * sum(self._unit(part) * part.mean_weight for part in parts) / len(parts)

    def _along_published_path(self, half: _HalfSet, judge: NormalEquations) -> _HalfSet:
        """Out of the maps at the program's ten settings, the one that fits the judge's sums best. Each descent starts
        where the last ended."""
        x, best, chosen = half.map, math.inf, half
        for strength in PUBLISHED:
            found = descend(half.problem.times(strength), x, self._path_steps, TOLERANCE)
            x, error = found.map, judge.misfit(found.map)
            if error < best:
                best, chosen = error, replace(half, map=x, strength=strength, objective=found.objective)
        return chosen

    @property
    def _path_steps(self) -> int:
        return max(1, self.steps // PATH_SHARE)


def _published_judge(other: Backprojection, curve: Tensor, support: Support) -> NormalEquations:
    """What the authors' program chooses by: the sums of the other half set, up to the last shell on which the half sets
    agree; curve [s]: their FSC."""
    agreeing = torch.nonzero(curve[: other.limit + 1] > LAST_AGREEING)
    shell = max(int(agreeing[-1]) if len(agreeing) else 0, 2)
    return NormalEquations.of(other.coarser(shell, other.box), support=support)


@dataclass(frozen=True)
class Joined(SparseSmooth):
    """OPUS-SSRI and non-uniform refinement in one: strengths by place, under a name of its own."""

    parameters: str = "local"
    name: str = "joined"


@dataclass(frozen=True)
class _HalfSet:
    """The problem of a half set, and how far it is solved.

    map [z, y, x]: the map so far, over the support. strength: factors of alpha and beta. objective: F of every step,
    empty until the problem is solved.
    """

    problem: Problem
    support: Support
    map: Tensor
    strength: Strength = field(default_factory=Strength)
    objective: tuple[float, ...] = ()

    def in_box(self, box: int) -> _Solved:
        """The solution, with the map on a grid of ``box`` voxels, zero outside the support."""
        return _Solved(resample_volume(self.support.within_box(self.map), box), self.strength, self.objective)

    def at(self, factor: float) -> _HalfSet:
        """With this factor of both strengths, which holds the mean weight of the sums that it was chosen with.

        The penalty itself is carried over, as a prior is: all images of the half set now weigh against it, not half.
        """
        own = factor / self.problem.data.mean_weight
        return replace(self, strength=Strength(own, own))

    def with_local(self, local: Tensor) -> _HalfSet:
        """With a factor of both strengths at every voxel; local [z, y, x]: over the whole box."""
        penalty = replace(self.problem.penalty, local=self.support.cut(local).to(self.map))
        return replace(self, problem=replace(self.problem, penalty=penalty))


@dataclass(frozen=True)
class _Solved:
    """Solution of a half set's problem: the map [z, y, x] in the whole box, the factors of alpha and beta, and F of
    every step."""

    map: Tensor
    strength: Strength
    objective: tuple[float, ...]


def strength_by_place(cutoff: Lattice, mask: Tensor, box: int) -> Tensor:
    """Factor [z, y, x] of the strengths on a grid of ``box``: 1 where the core begins, more at a lower cut-off."""
    local = cutoff.on_grid(box).double()
    inside = local[resample_volume(mask, box).to(local.device) > 0.5].cpu()  # a GPU does not repeat kthvalue
    core = float(inside.kthvalue(math.ceil((1 - CORE) * len(inside))).values) if len(inside) else float(local.max())
    return (local / core) ** LOCAL_POWER


def _solution(solved: list[_Solved], mask: Tensor, arrays: dict[str, Tensor]) -> Solution:
    maps = tuple(half.map for half in solved)
    chosen = {"objective": [half.objective for half in solved], "strength": [astuple(half.strength) for half in solved]}
    memory = {"maps": tuple(m * mask.to(m) for m in maps)}
    return Solution(maps, (maps[0] + maps[1]) / 2, memory, arrays, chosen)


def solving_box(statistics: Backprojection) -> int:
    """Side of the grid on which a map is solved for."""
    return coarser_box(statistics.box, MARGIN * (2 * statistics.limit + 2))


def density_level(plain: Tensor, pixel_size: float) -> float:
    """The density at which a mask would be drawn on a plain map [z, y, x], or two sd of the map if nothing stands out.

    pixel_size: in angstrom.
    """
    smooth = gaussian_lowpass(plain, pixel_size, LEVEL_LOWPASS)
    ball = spherical_mask(len(plain), len(plain) / 2, 0.0).to(plain.device) > 0
    level = automatic_threshold(smooth, ball, pixel_size)
    return level if level is not None and level > 0 else 2 * float(smooth.std())


def sums_of_maps(first: Tensor, second: Tensor) -> tuple[Backprojection, Backprojection]:
    """Sums of which two half maps [z, y, x] with independent noise would be the plain reconstructions.

    The weight of a shell is one over the power of its noise, which is half the power of the half maps' difference.
    Raises InputError if the maps are the same, because then there is no noise to weigh against.
    """
    box, padding = len(first), 2
    difference = volume_fft((first - second).float())
    weights = hermitian_weights(box).to(difference.device)
    shell, count = shell_index_3d(box).to(difference.device), (box + 1) // 2
    power = shell_sum((difference.real.square() + difference.imag.square()) * weights, shell, count)
    noise = 0.5 * power / shell_sum(weights.expand(difference.shape), shell, count)
    measured = torch.nonzero(noise > EMPTY * noise.max())
    if not len(measured):
        raise InputError("the half maps are the same: without a difference there is no noise to weigh density against")
    limit = max(int(measured[-1]), 2)
    weight = 1 / (padding**3 * noise.clamp_min(QUIETEST * float(noise.max())))
    place = half_volume_radius(half_volume_extent(padding, limit)).to(weight) / padding
    shells = place.clamp(max=limit).round().long()
    inside = torch.where(place <= limit + 0.5, weight[shells], 0.0).float()
    envelope = trilinear_envelope(box, padding).to(difference.real)
    envelope = (envelope[:, None, None] * envelope[:, None] * envelope).square()
    result = []
    for v in (first, second):  # half_volume divides by the envelope once, and the sums have to hold it once
        numerator = torch.view_as_real(half_volume(v.float() * envelope, padding, limit)) * inside[..., None]
        result.append(Backprojection(torch.cat([numerator, inside[..., None]], dim=-1), box, padding, limit, True))
    return result[0], result[1]
