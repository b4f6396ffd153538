"""`halfmap reslog`: resolution against the number of particles, from random subsets of finished runs."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from halfmap import kernels
from halfmap.errors import InputError
from halfmap.maps.mrc import replaced_atomically
from halfmap.refinement.outputs import made_folder
from halfmap.runtime import terminal
from halfmap.settings.reslog import ManyResLogSettings, reslog_command
from halfmap.validation.fsc import GOLD_STANDARD, FscCurves, corrected_fsc, crossing_shell
from halfmap.validation.reslog import (
    LEAST_POINTS,
    Curve,
    LineFit,
    extrapolated,
    fit_line,
    halvings,
    mean_inverse_square,
    needed,
    spread,
)
from halfmap.workflows.compare_runs import names_apart
from halfmap.workflows.fixed_poses import FixedRun, read_fixed_run, subsets
from halfmap.workflows.half_map_pair import read_half_maps
from halfmap.workflows.refined_subsets import places, read_refined_run, refined

MEASURES = ("unmasked", "corrected")
CAUTION = {
    "fixed": "poses are those found with all particles: every subset is better aligned than it could align itself "
             "(optimistic), so the curves measure the data, not the method; --refine measures the method",
    "refined": "every subset was refined anew from the run's starting map: the curves measure data and method together",
}
GAIN = 1.0  # A by which the resolution is extrapolated
UNLIKE = 0.05  # relative difference from the run's own resolution above which a remark is made
_DRAWS = 4  # of randomised phases, averaged
_SEED = 0  # of the randomised phases

Report = Callable[..., Any]
# Resolution (A) by name of the FSC curve; None where the half maps agree in no shell, or in all that were measured.
Measured = Mapping[str, float | None]


@dataclass(frozen=True)
class Draw:
    """One random subset: its number of particles, and the resolutions of its half maps."""

    particles: int
    found: Measured


@dataclass
class Measurements:
    """What was measured of one run or regulariser.

    total: particles of the run; own: resolutions of the run's own half maps; levels: the draws of each level of
    halving.
    """

    name: str
    folder: Path
    regulariser: str
    total: int
    own: Measured
    levels: dict[int, list[Draw]] = field(default_factory=dict)
    cpu_seconds: float = 0.0

    def add(self, level: int, count: int, found: Measured) -> None:
        """Add a draw of `count` particles to a level."""
        self.levels.setdefault(level, []).append(Draw(count, found))

    def draws(self, measure: str) -> dict[int, list[float | None]]:
        """Resolutions (A) of the draws by number of particles, which is the mean of draws that differ by a few."""
        found = {}
        for level in sorted(self.levels, reverse=True):
            counts = [draw.particles for draw in self.levels[level]]
            found[round(sum(counts) / len(counts))] = [draw.found[measure] for draw in self.levels[level]]
        return found

    def curve(self, measure: str) -> Curve:
        """The same, at numbers of particles where every draw has a resolution: some draws alone would be biased."""
        return {n: [d for d in draws if d is not None] for n, draws in self.draws(measure).items() if None not in draws}


def reslog(
    settings: ManyResLogSettings, report: Report | None = None, finish: Callable[[Path], object] = lambda folder: None
) -> dict[str, Any]:
    """Measure the resolution of subsets of particles, fit lines, and write reslog.json into settings.out.

    settings: as `validated_reslog` returns them. report: writes page and picture, and is called with the summary, which
    is also returned. finish: called with the folder of each refinement done here. Raises InputError where a run cannot
    be used or has too few particles for a line.
    """
    assert settings.out is not None  # named by validated_reslog
    kernels.set_threads(settings.threads)
    torch.set_num_threads(kernels.thread_count())
    console = terminal.console()
    if settings.refine:
        found = _refined(settings, finish)
    else:
        runs = [read_fixed_run(run, settings.mask) for run in settings.runs]  # all are checked before any is measured
        levels = [_levels(settings, run.folder, len(run.source.table)) for run in runs]
        names = names_apart(settings.runs)
        found = [_fixed(settings, run, name, depth, console)
                 for run, name, depth in zip(runs, names, levels, strict=True)]
    summary = _summarised(settings, found)
    _write(settings.out, summary)
    if report is not None:
        report(summary=summary)
    _print(console, summary, settings.out)
    return summary


def _levels(settings: ManyResLogSettings, run: Path, total: int) -> int:
    """How many times the particles are halved. Raises InputError where that gives too few points for a line."""
    levels = halvings(total, settings.smallest)
    if levels + 1 < LEAST_POINTS:
        raise InputError(f"--smallest {settings.smallest}: {run} has {total} particles, which leaves {levels + 1} "
                         f"numbers and a line needs {LEAST_POINTS}; take {max(16, total // 4)} or fewer")
    if settings.draws > 2**levels:
        raise InputError(f"--repeats {settings.draws}: {run} has {total} particles, {2**levels} subsets of "
                         f"{total >> levels}; take fewer repeats or a smaller --smallest")
    return levels


def _fixed(settings: ManyResLogSettings, run: FixedRun, name: str, levels: int, console: Console) -> Measurements:
    """Measure subsets of a run, reconstructed at the run's poses."""
    own = _resolutions(run.own.curves, run.own.box, run.own.pixel_size, run.limit)
    total = len(run.source.table)
    found = Measurements(name, run.folder, run.regulariser, total, own)
    started, done = time.process_time(), 0
    with console.status(f"{escape(name)}: reading") as status:

        def advance(count: int) -> None:
            nonlocal done
            done += count
            status.update(f"{escape(name)}: {done} of {total} particles")

        for subset in subsets(run, levels, settings.draws, settings.seed, advance):
            generator = torch.Generator().manual_seed(_SEED)
            curves = corrected_fsc(subset.half1, subset.half2, run.mask, generator, draws=_DRAWS)
            found.add(subset.level, subset.count, _resolutions(curves, run.grid.box, run.grid.pixel_size, run.limit))
    found.cpu_seconds = time.process_time() - started
    return found


def _refined(settings: ManyResLogSettings, finish: Callable[[Path], object]) -> list[Measurements]:
    """Measure subsets of a run, refined anew with each regulariser."""
    run = read_refined_run(settings.runs[0])
    total = len(run.table)
    levels = _levels(settings, run.folder, total)
    mask = settings.mask or run.folder / "mask.mrc"
    out, diameter = settings.out, run.settings.diameter
    assert out is not None

    def measured(folder: Path) -> Measured:
        pair = read_half_maps(folder / "half1_unfil.mrc", folder / "half2_unfil.mrc", mask, diameter)
        return _resolutions(pair.curves, pair.box, pair.pixel_size, pair.box // 2)

    own = measured(run.folder)
    names = settings.regularisers or (run.settings.regulariser,)
    found = [Measurements(name, out, name, total, own) for name in names]
    for place in places(run, levels, settings.draws, out):
        for one in found:
            started = time.process_time()
            subset = refined(run, place, one.regulariser, finish, seed=settings.seed, threads=settings.threads)
            one.add(place.level, subset.count, measured(subset.folder))
            one.cpu_seconds += time.process_time() - started
    return found


def _resolutions(curves: FscCurves, box: int, pixel_size: float, limit: int) -> Measured:
    """Resolutions (A) at FSC 0.143 within shells up to limit; None where a curve crosses in none, or in the first."""
    found: dict[str, float | None] = {}
    for name in MEASURES:
        shell = crossing_shell(getattr(curves, name)[: limit + 1], GOLD_STANDARD)
        found[name] = None if shell is None or shell <= 1 else box * pixel_size / shell
    return found


def _summarised(settings: ManyResLogSettings, found: list[Measurements]) -> dict[str, Any]:
    """Everything measured as plain JSON values."""
    poses = "refined" if settings.refine else "fixed"
    curves = []
    for one in found:
        curves.append({
            "name": one.name, "folder": str(one.folder), "regulariser": one.regulariser, "particles": one.total,
            "cpu_seconds": round(one.cpu_seconds, 1), "own_resolution_A": dict(one.own),
            **{measure: _measure(one, measure, settings.fit_from) for measure in MEASURES},
        })  # fmt: skip
    comparison = {m: _compared(found, m) for m in MEASURES}
    return {
        "command": reslog_command(settings), "poses": poses, "caution": CAUTION[poses], "threshold": GOLD_STANDARD,
        "curves": curves, "comparison": comparison,
        "notes": [note for one in curves for measure in MEASURES for note in _notes(one, measure, poses)],
    }  # fmt: skip


def _measure(one: Measurements, measure: str, fit_from: int) -> dict[str, Any]:
    """Points, line and extrapolation of one curve."""
    draws, curve = one.draws(measure), one.curve(measure)
    points = [{
        "particles": n, "draws_A": list(curve[n]), "resolution_A": mean_inverse_square(curve[n]) ** -0.5,
        "spread_A": spread(curve[n]), "inverse_square": mean_inverse_square(curve[n]),
        "spread_inverse_square": spread([d**-2 for d in curve[n]]),
    } for n in sorted(curve)]  # fmt: skip
    line = fit_line(curve, fit_from)
    more = None
    if line is not None and one.total in curve:
        more = extrapolated(line, one.total, mean_inverse_square(curve[one.total]) ** -0.5, GAIN)
    return {
        "points": points, "left_out": sorted(set(draws) - set(curve)),
        "line": None if line is None else _line(line),
        "one_A_better": None if more is None else {
            "resolution_A": more.resolution, "particles": more.particles, "times": more.times,
            "times_low": more.low, "times_high": more.high if math.isfinite(more.high) else None,
        },
    }  # fmt: skip


def _line(line: LineFit) -> dict[str, Any]:
    return {
        "slope": line.slope, "slope_error": line.error, "intercept": line.intercept,
        "bfactor_A2": line.bfactor, "bfactor_error_A2": line.bfactor_error,
        "bend": line.bend, "bend_error": line.bend_error, "bent": line.bent,
        "points": line.points, "fewest": line.fewest, "most": line.most,
        "ends": [line.height(line.fewest), line.height(line.most)],
    }  # fmt: skip


def _compared(found: list[Measurements], measure: str) -> list[dict[str, Any]]:
    """Compare the first curve with each other one.

    A row says with how many particles the better curve reaches the resolution that the other reaches with all. The
    number is interpolated, never extrapolated.
    """
    rows = []
    best = [one for one in found if one.curve(measure)]
    for other in best[1:]:
        tops = [(mean_inverse_square(list(one.curve(measure).values())[-1]), one) for one in (best[0], other)]
        (level, lower), (_, higher) = sorted(tops, key=lambda top: top[0])
        enough = needed(level, higher.curve(measure))
        rows.append({
            "lower": lower.name, "higher": higher.name, "resolution_A": level**-0.5, "particles": enough.particles,
            "bound": enough.bound, "of": higher.total,
        })  # fmt: skip
    return rows


def _notes(one: Mapping[str, Any], measure: str, poses: str) -> list[tuple[str, str]]:
    """Remarks on one curve: (whose, sentence) of each."""
    found, line, said = one[measure], one[measure]["line"], []
    if found["left_out"]:
        counts = ", ".join(str(n) for n in found["left_out"])
        said.append(f"{counts} particles are left out: the half maps of a subset agree on nothing, or on every shell")
    if line is None:
        said.append(f"no line was fitted to fewer than {LEAST_POINTS} points")
    elif line["bfactor_A2"] is None:
        said.append("1/d^2 does not surely rise with the number of particles: no B factor")
    elif line["bent"]:
        way, wrong = ("flatten", "hopeful") if line["bend"] < 0 else ("steepen", "gloomy")
        said.append(f"the points {way} towards large numbers more than their scatter explains: the line is a summary, "
                    f"and what is extrapolated from it too {wrong}")
    own, points = one["own_resolution_A"][measure], found["points"]
    if poses == "fixed" and own and points and points[-1]["particles"] == one["particles"]:
        again = points[-1]["resolution_A"]
        if abs(own / again - 1) > UNLIKE:
            said.append(f"all particles at the poses in particles.star give {again:.2f} A, the run's own half maps "
                        f"{own:.2f} A: further modes of the posterior matter, which are not in that file")
    return [(f"{one['name']}, {measure}", text) for text in said]


def _write(out: Path, summary: dict[str, Any]) -> None:
    with replaced_atomically(made_folder(out) / "reslog.json") as stream:
        stream.write((json.dumps(summary, indent=1) + "\n").encode())


def _print(console: Console, summary: dict[str, Any], out: Path) -> None:
    for one in summary["curves"]:
        table = Table(title=escape(f"{one['name']} ({one['cpu_seconds']:.0f} CPU seconds)"), title_justify="left")
        for label in ("particles", *MEASURES):
            table.add_column(label, justify="right")
        points = {m: {p["particles"]: p for p in one[m]["points"]} for m in MEASURES}
        for n in sorted(set().union(*points.values())):
            table.add_row(f"{n:,}", *(_cell(points[m].get(n)) for m in MEASURES))
        table.add_row("B factor", *(_bfactor(one[m]["line"]) for m in MEASURES), style="bold")
        table.add_row("1 A better", *(_more(one[m]["one_A_better"]) for m in MEASURES))
        console.print(table)
    for measure in MEASURES:
        for row in summary["comparison"][measure]:
            console.print(escape(f"{measure}: {_comparison_sentence(row)}"), soft_wrap=True)
    notes = [*(f"{whose}: {text}" for whose, text in summary["notes"]), summary["caution"]]
    terminal.tell_remarks("resolution", notes)
    for note in notes:
        console.print(escape(f"- {note}"), soft_wrap=True)
    console.print(escape(f"Finished: {out}"), soft_wrap=True)


def _cell(point: Mapping[str, Any] | None) -> str:
    if point is None:
        return "-"
    bar = "" if point["spread_A"] is None else f" +- {point['spread_A']:.2f}"
    return f"{point['resolution_A']:.2f}{bar} A"


def _bfactor(line: Mapping[str, Any] | None) -> str:
    if line is None or line["bfactor_A2"] is None:
        return "none"
    return f"{line['bfactor_A2']:.0f} +- {line['bfactor_error_A2']:.0f} A^2"


def _more(more: Mapping[str, Any] | None) -> str:
    if more is None:
        return "-"
    return f"{more['times']:.3g} x as many for {more['resolution_A']:.2f} A (extrapolated)"


def _comparison_sentence(row: Mapping[str, Any]) -> str:
    """A row of `_compared` as a sentence."""
    few = {"": "", "<": "fewer than ", ">": "more than "}[row["bound"]]
    return (f"{row['higher']} reaches the {row['resolution_A']:.2f} A of {row['lower']} with {few}"
            f"{row['particles']:,.0f} of its {row['of']:,} particles")
