"""One refinement by several processes: each deals with its share of the images, and the first does everything else.

In every iteration each process runs the expectation step on its own particles. The results are added up in the first
process. It alone makes maps, decides and writes, and it hands out the references and the few numbers that the next step
needs. So all processes do the same whatever machine they run on, and the memory and time for maps is spent once. The
other processes know the poses of their own particles only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from halfmap import kernels
from halfmap.kernels.threads import available_cores
from halfmap.refinement import em
from halfmap.refinement.checkpoints import Checkpoints, StepIdentity
from halfmap.refinement.curvature import asked, with_sign
from halfmap.refinement.optics_pass import refitted
from halfmap.refinement.problem import Problem
from halfmap.refinement.schedule import Plan, Progressed
from halfmap.refinement.state import PoseTable, State
from halfmap.runtime.distributed import ALONE, Ranks
from halfmap.runtime.log import RunLog
from halfmap.runtime.stopwatch import Cost

ROW = tuple(f.name for f in fields(PoseTable) if f.name != "half")  # what is found for a particle


def share_cores(wanted: int, ranks: Ranks = ALONE) -> None:
    """Set the threads of this process: as many as wanted, or (0) an equal part of the machine's cores."""
    _set_threads(wanted or max(1, available_cores() // ranks.on_machine))


def take_cores(ranks: Ranks) -> None:
    """In the first process: have the cores of those that wait for it on its machine, until `hand_back_cores`."""
    if ranks.first and ranks.on_machine > 1:
        _set_threads(kernels.thread_count() * ranks.on_machine)


def hand_back_cores(ranks: Ranks) -> None:
    """In the first process: go on with its own part of the cores."""
    if ranks.first and ranks.on_machine > 1:
        _set_threads(max(1, kernels.thread_count() // ranks.on_machine))


def tell_processes(problem: Problem, log: RunLog) -> None:
    """Wait for all processes, and note how many there are."""
    ranks = problem.ranks
    if ranks.world > 1:
        log.notice(f"{ranks.world} processes, {ranks.on_machine} on the machine of the first; threads of a process: "
                   f"{kernels.thread_count()}")
    ranks.wait()


def how_to_go_on(run: Path) -> str:
    """What to do when the processes of a run are gone."""
    return f"Then go on with: halfmap resume {run}" if (run / "checkpoint" / "state").exists() else ""


def expected(problem: Problem, state: State, plan: Plan, following: em.Following) -> em.Expectation:
    """The expectation step on this process's share of the particles."""
    ranks = problem.ranks
    following = replace(following, chosen=partial(problem.chosen, plan.images))
    if ranks.world > 1:
        mine = partial(problem.source.share, part=ranks.rank, parts=ranks.world)
        following = replace(following, share=mine)
    model = with_sign(problem.model, state)
    return em.expectation_step(state, problem.source, model, plan, seed_of(problem, state), following)


def before_step(
    problem: Problem, state: State, plan: Plan, advance: Callable[[int], None] = lambda n: None
) -> State:
    """The state with what is asked of the images before an iteration: where the plan wants it their optics, and before
    the final pass the sign of their curvature. advance: told how many of them were asked about their optics."""
    state = refitted(problem, state, plan, advance)
    if plan.stage != "final":
        return state
    source = problem.with_optics(state.optics).source
    return asked(state, source, problem.model, plan.sampling.limit, problem.ranks)


def seed_of(problem: Problem, state: State) -> int:
    """The seed of everything random in the iteration after ``state``."""
    return problem.seed * 100_003 + state.iteration


def united(problem: Problem, plan: Plan, mine: em.Expectation) -> em.Expectation:
    """In the first process: the results of all processes together. In the others: nothing of use.

    Sums add up in place, one quarter set after another, so that no copy of them is made. (Adding up in the first
    process alone is no quicker with gloo.) The others wait until `handed_out`, and the first process has their cores.
    """
    ranks = problem.ranks
    if ranks.world == 1:
        return mine
    tally = mine.tally
    moves = tally.moves
    small = [*tally.noise, *tally.count, tally.cross, tally.norm, tally.present, tally.images,
             moves.turn, moves.shift, moves.images, tally.signs.cross, tally.signs.norm,
             torch.tensor([mine.cost.cpu], dtype=torch.float64)]
    together = torch.cat([values.flatten() for values in small])
    ranks.add_([q.sums for quarters in mine.statistics for q in quarters] + [together])
    for values, total in zip(small, together.split([len(values) for values in small]), strict=True):
        values.copy_(total)
    poses = _every_pose(mine.poses, problem, plan)
    if not ranks.first:
        return replace(mine, statistics=())
    take_cores(ranks)
    return replace(mine, poses=poses, cost=Cost(mine.cost.wall, float(small[-1])))


def _every_pose(poses: PoseTable, problem: Problem, plan: Plan) -> PoseTable:
    """The table with the rows that other processes found, in the first process."""
    source, ranks = problem.source, problem.ranks
    members = [problem.chosen(plan.images, half, torch.nonzero(poses.half == half)[:, 0]) for half in (0, 1)]
    shares = [torch.cat([source.share(m, part, ranks.world) for m in members]) for part in range(ranks.world)]
    gather_rows_([getattr(poses, name) for name in ROW], shares, ranks)
    return poses


def gather_rows_(columns: Sequence[Tensor], shares: Sequence[Tensor], ranks: Ranks) -> None:
    """Put the rows that all processes found into the columns [b, ...] of the first one. shares: the rows that belong to
    each process, int64."""
    if ranks.world == 1:
        return
    mine = shares[ranks.rank]
    widths = [column[0].numel() for column in columns]
    packed = torch.cat([c[mine].reshape(len(mine), width) for c, width in zip(columns, widths, strict=True)], dim=1)
    for rows, found in zip(shares, ranks.rows(packed, [len(rows) for rows in shares]), strict=ranks.first):
        for column, values in zip(columns, found.split(widths, dim=1), strict=True):
            column[rows] = values.reshape(len(rows), *column.shape[1:]).to(column.dtype)


def handed_out(problem: Problem, state: State, latest: Progressed | None) -> tuple[State, Progressed | None]:
    """The state and the latest iteration, as the first process has them.

    Handed out is what the next expectation step needs. Poses, mask and the regulariser's memory stay what each process
    has.
    """
    ranks = problem.ranks
    if ranks.world == 1:
        return state, latest
    hand_back_cores(ranks)
    told = ranks.told((state.iteration, state.shift_sigma, state.share, state.prior, state.class_shares, latest))
    iteration, shift_sigma, share, prior, class_shares, latest = told
    given = [torch.clone(values, memory_format=torch.contiguous_format)
             for values in (*state.references, *state.sigma2, state.scale)]
    ranks.hand_out_(given)
    sets = len(state.references)
    state = replace(
        state, iteration=iteration, shift_sigma=shift_sigma, share=share, prior=prior, class_shares=class_shares,
        references=tuple(given[:sets]), sigma2=tuple(given[sets:-1]), scale=given[-1],
    )  # fmt: skip
    return state, latest


def step_after(problem: Problem, state: State) -> StepIdentity:
    """Identifies the expectation step that follows ``state``."""
    return StepIdentity(state.iteration, problem.limits.batch, problem.model.place is not None)


def assist(problem: Problem, state: State, checkpoints: Checkpoints, history: Sequence[Progressed] = ()) -> State:
    """What every process but the first does until the refinement is over. The results are the first process's."""
    problem.ranks.wait()  # until the folder of the run is there
    known = list(history)
    while (plan := problem.schedule.next(known, state.shift_sigma)) is not None:
        state = before_step(problem, state, plan)
        problem = problem.with_optics(state.optics)
        step = step_after(problem, state)
        begun, _ = checkpoints.begun(step, problem.model.place)
        following = em.Following(begun, keep=partial(checkpoints.keep, step))
        mine = united(problem, plan, expected(problem, state, plan, following))
        state, latest = handed_out(problem, replace(state, poses=mine.poses), None)
        checkpoints.drop_sums()
        assert latest is not None
        known.append(latest)
    return state


def _set_threads(count: int) -> None:
    kernels.set_threads(count)
    torch.set_num_threads(kernels.thread_count())
