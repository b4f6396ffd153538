"""`halfmap select`: divide a run's particles by what the run found out about each of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from halfmap.errors import InputError
from halfmap.particles.star import read_star, write_star
from halfmap.particles.star_text import numbers_of, read_tables
from halfmap.particles.table import ParticleTable
from halfmap.refinement.outputs import PROBABILITY
from halfmap.runtime import terminal
from halfmap.settings.particle_sets import run_folder, run_setting
from halfmap.settings.resume import finished
from halfmap.settings.select import SelectSettings, class_numbers

REASON = "halfmapLeftOut"
CLASS = "rlnClassNumber"
LIKELY = 0.5  # probability of a particle that is asked for by default
CANNOT_SEE = (
    "The probability compares the map with noise alone: a broken particle that aligns well, or one of another kind, "
    "looks like a particle. To tell those apart takes classification."
)


@dataclass(frozen=True)
class _Criterion:
    """What particles are judged by.

    option: that asks for it; label: the column of the STAR file; bound: at least so much where `least`, else at most;
    reason: why a particle is left out that does not pass. among: the numbers that pass, where it is not a bound.
    """

    option: str
    label: str
    bound: float
    least: bool
    reason: str
    among: tuple[int, ...] | None = None

    def fails(self, values: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which particles [b] do not pass."""
        if self.among is not None:
            return ~np.isin(values, self.among)
        return values < self.bound if self.least else values > self.bound


def select(settings: SelectSettings) -> None:
    """Write the particles that pass every criterion into settings.out, and the others into settings.left_out.

    Prints how many do not pass each criterion, and how many remain. settings: as `validated_select` returns them.
    Raises InputError where a file cannot be read or written, lacks a column or holds a value that is no number, and
    where no particle passes.
    """
    assert settings.left_out is not None  # named by validated_select
    table = read_star(settings.particles)
    criteria = _criteria(settings, table)
    failed = np.stack([one.fails(_numbers(table, one)) for one in criteria])
    kept = ~failed.any(axis=0)

    def say(line: str) -> None:
        terminal.say_lines([line], "particles")

    say(f"{table.source}: {len(table):,} particles, {half_sizes(table)}")
    for note in _notes(settings, table):
        say(f"note: {note}")
    for one, out in zip(criteria, failed, strict=True):
        say(f"{int(out.sum()):,} of {len(table):,}: {one.reason}")
    if not kept.any():
        raise InputError(f"{table.source}: no particle passes ({'; '.join(one.reason for one in criteria)}); ask for "
                         "less")
    remaining = table.select(kept)
    say(f"{len(remaining):,} of {len(table):,} remain, {half_sizes(remaining)}")
    if table.half is not None and len(np.unique(table.half[kept])) < 2:
        say("note: all that remain are of one half set; a refinement will divide them anew")
    if any(one.label == PROBABILITY for one in criteria) and not any(one.label == CLASS for one in criteria):
        say(CANNOT_SEE)
    if kept.all():
        write_star(settings.out, table)
        say(f"Every particle passes. Wrote {settings.out}, which holds what {table.source.name} does")
        return
    write_star(settings.left_out, _with_reasons(table, criteria, failed).select(~kept))
    write_star(settings.out, remaining)
    say(f"Wrote {settings.out}, and the others with the reason ({REASON}): {settings.left_out}")


def _criteria(settings: SelectSettings, table: ParticleTable) -> list[_Criterion]:
    """The criteria that are asked for."""
    classes = _classes(settings, table)
    probability = settings.min_probability
    if probability is None:  # nobody asked, and other programs' classes say nothing of it
        probability = None if classes and PROBABILITY not in table.columns else LIKELY
    asked = (
        ("--min-probability", PROBABILITY, probability or None, True,
         "probability of a particle below {:g}"),
        ("--max-angle-sd", "halfmapAngleSd", settings.max_angle_sd, False,
         "standard deviation of the orientation above {:g} deg"),
        ("--max-shift-sd", "halfmapShiftSd", settings.max_shift_sd, False,
         "standard deviation of the place above {:g} A"),
        ("--min-max-posterior", "rlnMaxValueProbDistribution", settings.min_max_posterior, True,
         "weight of the best pose below {:g}"),
    )  # fmt: skip
    return classes + [_Criterion(option, label, bound, least, reason.format(bound))
                      for option, label, bound, least, reason in asked if bound is not None]


def _classes(settings: SelectSettings, table: ParticleTable) -> list[_Criterion]:
    """The criterion of classes, if it is asked for. Raises InputError for a class that no particle is of."""
    asked = {"--classes": settings.classes, "--classes-not": settings.classes_not}
    for option, text in asked.items():
        if text is None:
            continue
        wanted = class_numbers(option, text)
        there = np.unique(_numbers(table, _Criterion(option, CLASS, 0.0, True, ""))).astype(int).tolist()
        known = there + _empty_classes(table, there)
        absent = [number for number in wanted if number not in known]
        if absent or not wanted:
            listed = f"{there[0]} to {there[-1]}" if there == list(range(there[0], there[-1] + 1)) else str(there)[1:-1]
            named = f"class {absent[0]}" if absent else "class without a number"
            raise InputError(f"{option} {text}: {table.source.name} holds no {named}; its classes are {listed}")
        among = wanted if option == "--classes" else [number for number in there if number not in wanted]
        return [_Criterion(option, CLASS, 0.0, True, "not in the classes chosen", tuple(among))]
    return []


def _empty_classes(table: ParticleTable, there: list[int]) -> list[int]:
    """Classes that the run has and that no particle is in."""
    means = table.source.parent / "classes.star"
    if not means.is_file():
        return []
    of = next((one for one in read_tables(means) if one.name == "model_classes"), None)
    return [] if of is None else sorted(set(range(1, len(of) + 1)) - set(there))


def _numbers(table: ParticleTable, criterion: _Criterion) -> NDArray[np.float64]:
    """The column [b] that a criterion judges. Raises InputError where it is missing or holds what is no number."""
    if criterion.label not in table.columns:
        if criterion.label == CLASS:
            raise InputError(f"{table.source}: has no column {CLASS}, which {criterion.option} chooses by; give the "
                             "particles of a classification")
        without = "; --min-probability 0 does without it" if criterion.label == PROBABILITY else ""
        raise InputError(f"{table.source}: has no column {criterion.label}, which {criterion.option} judges; give the "
                         f"particles.star of a run of this version{without}")
    column = table.columns[criterion.label]
    values = numbers_of(column)
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise InputError(f"{table.name(int(bad[0]))}: {criterion.label} is '{str(column[bad[0]])[:60]}', not a finite "
                         "number; correct or remove the row")
    return values


def half_sizes(table: ParticleTable) -> str:
    """The number of particles in each half set."""
    if table.half is None:
        return "no half sets"
    return "half sets of {:,} and {:,}".format(*np.bincount(table.half, minlength=2))


def _notes(settings: SelectSettings, table: ParticleTable) -> list[str]:
    """What to know of the run and the images before the figures are read, each a line."""
    notes = []
    run = run_folder(settings.particles)
    if run is not None and not finished(run):
        notes.append("the run has not finished; its particles will change")
    if run is not None and settings.min_probability != 0 and not (run / "classes.star").exists():
        if run_setting(run, "null_hypothesis") is False or run_setting(run, "search") == "fixed":
            notes.append("the run did not ask whether images hold a particle, so every probability is 1")
    absent = [stack for stack in table.stacks if not stack.is_file()]
    if absent:
        notes.append(f"{len(absent)} of {len(table.stacks)} image stacks were not found (first: {absent[0]}); their "
                     "paths are as they were")
    return notes


def _with_reasons(
    table: ParticleTable, criteria: Sequence[_Criterion], failed: NDArray[np.bool_]
) -> ParticleTable:
    """The table with the column of reasons. failed [c,b]: which particles do not pass each criterion."""
    reasons = [", ".join(one.reason for one, out in zip(criteria, column, strict=True) if out) for column in failed.T]
    return replace(table, columns=table.columns | {REASON: reasons})
