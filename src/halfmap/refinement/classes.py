"""One iteration of a classification: the half maps of every class, and the references that are made of them.

A class has two sets, one for each half set of the particles, so that its FSC is between maps that share no image. Its
references are regularised as those of a refinement: each half set has its own, or one map of both serves the class
(`Plan.joined`), and then half maps agree on what is noise in it, too. Outside a focus mask all classes
have the same references, the mean of all classes, so that only what lies within tells them apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from typing import Any

import torch
from torch import Tensor

from halfmap.errors import InputError
from halfmap.maps.filters import apply_radial_gain
from halfmap.reconstruction.statistics import Backprojection, in_memory, sums_put
from halfmap.refinement import em
from halfmap.refinement.class_schedule import ClassSchedule
from halfmap.refinement.ctf_signs import SignSums
from halfmap.refinement.half_maps import Built, built
from halfmap.refinement.half_search import HALVES
from halfmap.refinement.problem import Problem
from halfmap.refinement.schedule import Plan
from halfmap.refinement.shared_work import expected, seed_of, united
from halfmap.refinement.state import PoseTable, State
from halfmap.regularisation.protocol import HalfSets, Solution, shell_ratio
from halfmap.runtime.stopwatch import NOTHING, CostMeter, Stopwatch
from halfmap.validation.fsc import fsc

FEWEST = 4.0  # images of a class in a half set, each as far as it belongs there; a class of fewer keeps its reference


@dataclass(frozen=True)
class ClassProblem(Problem):
    """What stays the same during a classification.

    schedule: of the classification. classes: how many there are. focus [z, y, x]: within which they differ; None:
    everywhere.
    """

    schedule: ClassSchedule
    classes: int = 2
    focus: Tensor | None = None


@dataclass(frozen=True)
class ClassMaps:
    """Half sets of a class (without their sums) and what the regulariser made of them; mask [z, y, x] of its FSC."""

    halves: HalfSets
    solution: Solution
    mask: Tensor


@dataclass(frozen=True)
class ClassStep:
    """One iteration as it ran: plan, the states before and after it, maps [k] of the classes (None: a class that is
    empty), pixel_size [b] of each particle's image in angstrom, whether images have their CTF's sign, and what it cost
    (wall seconds by stage, CPU seconds).
    """

    plan: Plan
    before: State
    after: State
    maps: tuple[ClassMaps | None, ...]
    pixel_size: Tensor
    signs: SignSums
    seconds: dict[str, float]
    cpu: float


def class_step(problem: ClassProblem, state: State, plan: Plan, following: em.Following) -> ClassStep:
    """One iteration: poses and shares of all images, half maps of every class, and references made of them."""
    meter = CostMeter(following.begun.cost if following.begun is not None else NOTHING)
    mine = expected(problem, state, plan, following)
    own_cpu, watch = mine.cost.cpu, Stopwatch(mine.tally.seconds)
    outcome = united(problem, plan, mine)
    del mine, following
    if problem.ranks.world > 1:
        watch.lap("gather")
    sets = list(outcome.statistics)
    outcome = replace(outcome, statistics=())
    held = _images_held(outcome.poses, problem.classes)
    if float(held.min(dim=1).values.max()) < FEWEST:
        raise InputError("no class holds images of a particle in both half sets: do the maps belong to these images?")
    seed, memory = seed_of(problem, state), dict(state.memory)
    with sums_put(problem.model.place or in_memory, problem.model.bench):
        common = None if plan.apart or problem.classes == 1 else _common(problem, sets, seed)
        found: list[Built | None] = []
        for k in range(problem.classes):
            quarters = tuple(sets[h * problem.classes + k] for h in range(HALVES))
            for h in range(HALVES):
                sets[h * problem.classes + k] = ()
            found.append(None if float(held[k].min()) < FEWEST else built(problem, quarters, seed, problem.focus))
        masks = [one.mask for one in [*found, common] if one is not None]
        mask = torch.stack(masks).amax(dim=0)
        window = problem.masking.window(mask)
        maps = tuple(_solved(problem, one, window, f"class {k}", memory) for k, one in enumerate(found))
        del found
        mean = None if common is None else _solved(problem, common, window, "all classes", memory)
    after = em.next_state(state, outcome, problem.model, problem.source.table)
    if mean is None:
        references = _own_references(problem, plan, state, maps, after.class_shares, window)
    else:
        references = _references_by_difference(problem, plan, state, maps, mean, mask)
    if not plan.draws_classes:
        memory.setdefault("first classes", after.poses.class_of[:, 0].clone())
    after = replace(after, references=references, mask=mask, memory=memory)
    watch.lap("solve")
    cost = meter.so_far()
    seconds = {**outcome.tally.seconds, "total": cost.wall}
    return ClassStep(plan, state, after, maps, problem.source.table.pixel_size, outcome.tally.signs,
                     seconds, cost.cpu + outcome.cost.cpu - own_cpu)


def _common(problem: ClassProblem, sets: list[tuple[Backprojection, ...]], seed: int) -> Built:
    """The half sets of all classes together, from the statistics [h K + k][q] of each."""
    def together(h: int) -> tuple[Backprojection, ...]:
        own = sets[h * problem.classes : (h + 1) * problem.classes]
        return tuple(reduce(add, quarter) for quarter in zip(*own, strict=True))

    return built(problem, tuple(together(h) for h in range(HALVES)), seed, problem.focus)


def _solved(
    problem: ClassProblem, made: Built | None, window: Tensor, name: str, memory: dict[str, Any]
) -> ClassMaps | None:
    """What the regulariser makes of half sets. Its own memory is kept in ``memory`` under this name."""
    if made is None:
        return None
    mask = made.mask if problem.focus is None else problem.focus
    solution = problem.regulariser.solve(replace(made.halves, window=window), mask, memory.get(name, {}))
    memory[name] = solution.memory
    return ClassMaps(replace(made.halves, halves=(), sums=()), solution, mask)


def _images_held(poses: PoseTable, classes: int) -> Tensor:
    """How many images [k, h] each class holds in each half set, each as far as it belongs there."""
    shares = poses.class_shares(classes) * (poses.present.double() * poses.known)[:, None]
    return torch.stack([shares[poses.half == h].sum(dim=0) for h in range(HALVES)], dim=1)


def _own_references(
    problem: ClassProblem, plan: Plan, state: State, maps: Sequence[ClassMaps | None], shares: Tensor,
    window: Tensor,
) -> tuple[Tensor, ...]:  # fmt: skip
    """The next references [h K + k]: each class's own maps. An empty class keeps the one it has."""
    made = list(state.references)
    for h in range(HALVES):
        first = h * problem.classes
        for k, one in enumerate(maps):
            if one is not None:
                made[first + k] = (one.solution.joined if plan.joined else one.solution.maps[h]) * window
        if problem.focus is not None:
            own = made[first : first + problem.classes]
            consensus = torch.einsum("k,kzyx->zyx", shares.to(own[0]), torch.stack(own))
            made[first : first + problem.classes] = [torch.lerp(consensus, v, problem.focus) for v in own]
    return tuple(made)


def _references_by_difference(
    problem: ClassProblem, plan: Plan, state: State, maps: Sequence[ClassMaps | None], mean: ClassMaps, mask: Tensor
) -> tuple[Tensor, ...]:
    """The next references [h K + k]: the map of all classes, and what is known of each class's difference from it.

    Half maps say how far the difference is known in each shell, and a Wiener filter keeps that much of it. So classes
    have in common what they are not seen to differ in; each with a map of its own, the largest one would explain all
    images best, because its map is the least noisy.
    """
    made = list(state.references)
    window = problem.masking.window(mask)
    within = mask if problem.focus is None else problem.focus
    for k, one in enumerate(maps):
        if one is None:
            continue
        own = [raw - whole for raw, whole in zip(one.halves.raw, mean.halves.raw, strict=True)]
        ratio = shell_ratio(_smooth(fsc(own[0] * within, own[1] * within)), plan.joined)
        gain = (ratio / (1 + ratio)).to(own[0])
        for h in range(HALVES):
            common = mean.solution.joined if plan.joined else mean.solution.maps[h]
            apart = apply_radial_gain((own[0] + own[1]) / 2 if plan.joined else own[h], gain)
            apart = apart * (window if problem.focus is None else problem.focus)
            made[h * problem.classes + k] = common * window + apart
    return tuple(made)


def _smooth(curve: Tensor) -> Tensor:
    """The curve, each shell the mean of itself and its neighbours: differences are weak, and so their FSC is noisy."""
    ends = torch.cat([curve[:1], curve, curve[-1:]])
    return (ends[:-2] + ends[1:-1] + ends[2:]) / 3
