"""One iteration of a classification: the half maps of every class, and the references that are made of them.

A class has two sets, one for each half set of the particles, so that its FSC is between maps that share no image. Its
references are regularised as those of a refinement: each half set keeps its own, or one map of both serves the class
(`ClassProblem.one_reference`), and then half maps agree on what is noise in it, too. Outside a focus mask all classes
have the same references, the mean of all classes, so that only what lies within tells them apart.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from halfmap.errors import InputError
from halfmap.reconstruction.statistics import in_memory, sums_put
from halfmap.refinement import em
from halfmap.refinement.ctf_signs import SignSums
from halfmap.refinement.half_search import HALVES
from halfmap.refinement.problem import Problem
from halfmap.refinement.schedule import Plan
from halfmap.refinement.shared_work import expected, seed_of, united
from halfmap.refinement.state import PoseTable, State
from halfmap.regularisation.protocol import HalfSets, Solution
from halfmap.runtime.stopwatch import NOTHING, CostMeter, Stopwatch
from halfmap.validation.fsc import FscCurves, corrected_fsc

FEWEST = 4.0  # images of a class in a half set, each as far as it belongs there; a class of fewer keeps its reference


@dataclass(frozen=True)
class ClassProblem(Problem):
    """What stays the same during a classification.

    classes: how many there are. one_reference: whether both half sets of a class are compared with one map of both.
    focus [z, y, x]: within which classes differ; None: everywhere.
    """

    classes: int = 2
    one_reference: bool = True
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
    built: list[HalfSets | None] = []
    masks = list[Tensor]()
    memory: dict[str, Any] = dict(state.memory)
    maps = list[ClassMaps | None]()
    with sums_put(problem.model.place or in_memory):
        for k in range(problem.classes):
            quarters = tuple(sets[h * problem.classes + k] for h in range(HALVES))
            for h in range(HALVES):
                sets[h * problem.classes + k] = ()
            if float(held[k].min()) < FEWEST:
                built.append(None)
                continue
            halves = HalfSets.build(quarters, problem.model.symmetry, problem.model.pixel_size,
                                    lambda a, b: _curves(problem, a, b, masks, seed_of(problem, state)))
            built.append(halves if problem.keeps_quarters else replace(halves, sums=()))
        mask = torch.stack(masks).amax(dim=0) if masks else state.mask
        window, judged = problem.masking.window(mask), iter(masks)
        for k in range(problem.classes):
            halves_k, built[k] = built[k], None
            if halves_k is None:
                maps.append(None)
                continue
            own = problem.focus if problem.focus is not None else next(judged)
            solution = problem.regulariser.solve(replace(halves_k, window=window), own, memory.get(f"class {k}", {}))
            memory[f"class {k}"] = solution.memory
            maps.append(ClassMaps(replace(halves_k, halves=(), sums=()), solution, own))
            del halves_k
    after = em.next_state(state, outcome, problem.model, problem.source.table)
    references = _references(problem, state, maps, after.class_shares, window)
    if not plan.draws_classes:
        memory.setdefault("first classes", after.poses.class_of[:, 0].clone())
    after = replace(after, references=references, mask=mask, memory=memory)
    watch.lap("solve")
    cost = meter.so_far()
    seconds = {**outcome.tally.seconds, "total": cost.wall}
    return ClassStep(plan, state, after, tuple(maps), problem.source.table.pixel_size, outcome.tally.signs,
                     seconds, cost.cpu + outcome.cost.cpu - own_cpu)


def _images_held(poses: PoseTable, classes: int) -> Tensor:
    """How many images [k, h] each class holds in each half set, each as far as it belongs there."""
    shares = poses.class_shares(classes) * (poses.present.double() * poses.known)[:, None]
    return torch.stack([shares[poses.half == h].sum(dim=0) for h in range(HALVES)], dim=1)


def _curves(problem: ClassProblem, half1: Tensor, half2: Tensor, masks: list[Tensor], seed: int) -> FscCurves:
    """The FSC of a class's half maps, within the focus or the mask drawn around them, which is added to ``masks``."""
    masks.append(problem.masking.mask(half1, half2))
    generator = torch.Generator(device=half1.device).manual_seed(seed)
    radius = 0.5 * problem.masking.diameter / problem.model.pixel_size
    within = masks[-1] if problem.focus is None else problem.focus
    return corrected_fsc(half1, half2, within, generator, sphere_radius=min(radius, problem.model.box / 2 - 1))


def _references(
    problem: ClassProblem, state: State, maps: list[ClassMaps | None], shares: Tensor, window: Tensor
) -> tuple[Tensor, ...]:
    """The next references [h K + k]. An empty class keeps the one it has."""
    made = list(state.references)
    for h in range(HALVES):
        first = h * problem.classes
        for k, one in enumerate(maps):
            if one is not None:
                made[first + k] = (one.solution.joined if problem.one_reference else one.solution.maps[h]) * window
        if problem.focus is not None:
            weights = shares.to(made[first]) / shares.sum().to(made[first])
            own = made[first : first + problem.classes]
            consensus = torch.einsum("k,kzyx->zyx", weights, torch.stack(own))
            made[first : first + problem.classes] = [torch.lerp(consensus, v, problem.focus) for v in own]
    return tuple(made)
