"""`halfmap tune-ssri`: search the parameters of sparse_smooth, one after the other, on a subset of a run's particles.

The search is that of Luo et al. (2021) PNAS 118, e2013756118: alpha, then beta, gamma and eps', each over a few values
while the others are held. A trial is a whole refinement. It is judged by its plain half maps: by the area under their
unmasked and their corrected FSC beyond the starting resolution, which fluctuates less than the resolution at FSC 0.143.
Among values within one standard error of the best trial the weakest is taken (Breiman et al. 1984, Classification and
Regression Trees).
"""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from halfmap import kernels
from halfmap.maps.mrc import read_map, replaced_atomically
from halfmap.options import to_command
from halfmap.runtime import terminal
from halfmap.settings.commands import command_line
from halfmap.settings.refine import RefineSettings
from halfmap.settings.regularisers import RegulariserOptions
from halfmap.settings.tune import LISTS, TuneSsriSettings
from halfmap.validation.fsc import GOLD_STANDARD, fsc
from halfmap.validation.fsc_area import fsc_area
from halfmap.workflows.fixed_poses import finished_records, random_orders
from halfmap.workflows.half_map_pair import read_half_maps, require_same_grid
from halfmap.workflows.refined_subsets import (
    RefinedRun,
    kept_particles,
    read_refined_run,
    refined_to_end,
    selected,
    subset_settings,
)

METHOD = "sparse_smooth"
MEASURES = ("unmasked", "corrected")
PUBLISHED = {"alpha": (0.4, 0.8), "beta": (0.5, 4.0), "gamma": (0.05, 0.2), "eps_gradient": (1 / 3, 2.0)}
SIGNS = {"alpha": "alpha", "beta": "beta", "gamma": "gamma", "eps_gradient": "eps'"}
CRITERION = "mean of the unmasked and the corrected half-map FSC over all shells from {:g} A, the start's, to Nyquist"

Values = Mapping[str, float]  # of alpha, beta, gamma and eps_gradient


@dataclass(frozen=True)
class Trial:
    """A refinement with certain values, and how it is judged.

    judged, error: the criterion and its standard error; areas, resolutions: mean FSC and resolution in A (None where
    the half maps agree to Nyquist) by measure; truth: mean FSC with the true map, None where there is none.
    """

    values: Values
    folder: Path
    judged: float
    error: float
    areas: Mapping[str, float]
    resolutions: Mapping[str, float | None]
    truth: float | None
    cpu_seconds: float


@dataclass(frozen=True)
class Sweep:
    """The search of one parameter: trials by ascending value, and the one taken (chosen).

    level: the criterion at which a trial counts as good as the best so far.
    """

    parameter: str
    trials: tuple[Trial, ...]
    chosen: Trial
    level: float

    @property
    def undecided(self) -> bool:
        """Whether all values are within one standard error of the best."""
        return all(trial.judged >= self.level for trial in self.trials)


def searched(lists: Mapping[str, tuple[float, ...]], start: Values, trial: Callable[[Values], Trial]) -> list[Sweep]:
    """Search one parameter after the other; the others have the values chosen before, or else those of the start.

    A list of one value sets the parameter without a search. Of each parameter a smaller value is a weaker
    regularisation. Values are compared with the best of all trials so far, so that ties of several parameters do not
    add up.
    """
    now = {**start, **{name: values[0] for name, values in lists.items() if len(values) == 1}}
    sweeps: list[Sweep] = []
    best: Trial | None = None
    for name, values in lists.items():
        if len(values) == 1:
            continue
        trials = tuple(trial({**now, name: value}) for value in sorted(values))
        best = max((*trials, *([best] if best else [])), key=lambda one: one.judged)
        level = best.judged - best.error
        chosen = next((one for one in trials if one.judged >= level), max(trials, key=lambda one: one.judged))
        now[name] = chosen.values[name]
        sweeps.append(Sweep(name, trials, chosen, level))
    return sweeps


@dataclass(frozen=True)
class Subset:
    """The particles of a run that all trials refine: their STAR file and number, the folder of the trials (out), and
    the threads to refine with."""

    run: RefinedRun
    star: Path
    count: int
    out: Path
    threads: int

    def folder(self, values: Values) -> Path:
        """The folder of the trial with these values."""
        return self.out / "_".join(f"{name}{value:.6g}" for name, value in values.items())

    def settings(self, values: Values) -> RefineSettings:
        """The settings of the trial with these values."""
        own = subset_settings(self.run.settings, METHOD, self.star, self.folder(values), self.threads)
        return dataclasses.replace(own, ss_parameters="fixed", **_fields(values))


def tune_ssri(
    settings: TuneSsriSettings, report: Callable[..., Any] | None = None,
    finish: Callable[[Path], object] = lambda folder: None,
) -> dict[str, Any]:
    """Search the parameters, and write tune_ssri.json into settings.out.

    Finished trials are not repeated, and interrupted ones are resumed. settings: as `validated_tune` returns them.
    report: writes the page, and is called with the summary, which is also returned. finish: called with the folder of
    each refinement done here. Raises InputError where the run cannot be used.
    """
    kernels.set_threads(settings.threads)
    torch.set_num_threads(kernels.thread_count())
    console = terminal.console()
    run = read_refined_run(settings.run)
    measure = _measuring(settings, run)
    subset = _drawn(settings, run)
    lists = settings.values
    most = sum(len(values) for values in lists.values() if len(values) > 1)
    tried: dict[tuple[float, ...], Trial] = {}

    def trial(values: Values) -> Trial:
        key = tuple(values.values())
        if key not in tried:
            console.print(escape(f"Trial {len(tried) + 1} of at most {most}: {_named(values)}"), soft_wrap=True)
            refined_to_end(subset.settings(values), finish)
            tried[key] = measure(values, subset.folder(values))
            console.print(f"  judged {tried[key].judged:.4f} +- {tried[key].error:.4f}")
        return tried[key]

    sweeps = searched(lists, {name: getattr(run.settings, f"ss_{name}") for name in LISTS}, trial)
    summary = _summary(settings, subset, sweeps, list(tried.values()))
    with replaced_atomically(subset.out / "tune_ssri.json") as stream:
        stream.write((json.dumps(summary, indent=1) + "\n").encode())
    if report is not None:
        report(summary=summary)
    _print(console, summary, subset.out)
    return summary


def _drawn(settings: TuneSsriSettings, run: RefinedRun) -> Subset:
    """Draw the same share of both half sets at random, and write their STAR file."""
    assert settings.out is not None  # named by validated_tune
    share = min(1.0, settings.particles / len(run.table))
    orders = random_orders(run.table, settings.seed)
    chosen = selected(run.table, [order[: max(1, round(share * len(order)))] for order in orders])
    star = kept_particles(settings.out, chosen, "--seed and --particles")
    return Subset(run, star, len(chosen), settings.out, settings.threads)


def _measuring(settings: TuneSsriSettings, run: RefinedRun) -> Callable[[Values, Path], Trial]:
    """Return the function that measures a finished trial.

    Raises InputError where mask or truth are not on the run's grid.
    """
    own, other = ("half1_unfil.mrc", "half2_unfil.mrc")
    mask, diameter = settings.mask or run.folder / "mask.mrc", run.settings.diameter
    read_half_maps(run.folder / own, run.folder / other, mask, diameter)
    truth = read_map(settings.truth) if settings.truth is not None else None
    if truth is not None and settings.truth is not None:
        require_same_grid(read_map(run.folder / own), truth, run.folder / own, settings.truth)

    def measured(values: Values, folder: Path) -> Trial:
        pair = read_half_maps(folder / own, folder / other, mask, diameter)
        beyond = pair.box * pair.pixel_size / run.settings.ini_high
        areas = {"unmasked": fsc_area(pair.curves.unmasked, beyond),
                 "corrected": fsc_area(pair.curves.corrected, beyond, pair.mask)}
        found = None
        if truth is not None:
            mean = (pair.half1 + pair.half2) / 2
            found = fsc_area(fsc(mean * pair.mask, truth.data * pair.mask), beyond).mean
        cpu = sum(float(record.get("cpu_seconds") or 0.0) for record in finished_records(folder))
        return Trial(
            values, folder, statistics.fmean(area.mean for area in areas.values()),
            statistics.fmean(area.sd for area in areas.values()),  # noise moves both curves together
            {name: area.mean for name, area in areas.items()},
            {name: pair.resolution(name, GOLD_STANDARD) for name in MEASURES}, found, cpu,
        )  # fmt: skip

    return measured


def _fields(values: Values) -> dict[str, Any]:
    """The values under the names of a refinement's settings."""
    return {f"ss_{name}": value for name, value in values.items()}


def _options_text(values: Values) -> str:
    """The options of ``halfmap refine`` for these values, defaults included."""
    words = [f"--ss-{name.replace('_', '-')} {value:.10g}" for name, value in values.items()]
    return " ".join([f"--regulariser {METHOD}", *words])


def _refine_command(run: RefinedRun, best: Values) -> str:
    """The command that refines all particles of the run with these values."""
    own = run.settings
    out = run.folder.with_name(f"{run.folder.name}_ssri")
    plain: dict[str, Any] = {f.name: f.default for f in dataclasses.fields(RegulariserOptions)
                             if f.name in ("regulariser", "ss_parameters", *_fields(best))}
    wanted = dataclasses.replace(
        subset_settings(own, METHOD, own.particles, out, own.threads), data_dir=own.data_dir,
        passthrough=own.passthrough, strip_prefix=own.strip_prefix, resplit=own.resplit,
        invert_contrast=own.invert_contrast, **plain)  # fmt: skip
    return f"{command_line(wanted)} {_options_text(best)}"


def _summary(settings: TuneSsriSettings, subset: Subset, sweeps: list[Sweep], trials: list[Trial]) -> dict[str, Any]:
    """Everything measured as plain JSON values."""
    best, run = sweeps[-1].chosen, subset.run
    return {
        "command": to_command(settings, "halfmap tune-ssri"), "criterion": CRITERION.format(run.settings.ini_high),
        "threshold": GOLD_STANDARD, "particles": subset.count,
        "particles_of_run": len(run.table), "run": str(run.folder), "best": _plain(best),
        "options": _options_text(best.values), "refine_command": _refine_command(run, best.values),
        "sweeps": [{
            "parameter": sweep.parameter, "published": PUBLISHED[sweep.parameter], "level": sweep.level,
            "chosen": sweep.chosen.values[sweep.parameter], "undecided": sweep.undecided,
            "trials": [_plain(trial) for trial in sweep.trials],
        } for sweep in sweeps],
        "trials": [_plain(trial) for trial in trials],
        "cpu_seconds": round(sum(trial.cpu_seconds for trial in trials), 1),
        "notes": [(SIGNS[sweep.parameter], text) for sweep in sweeps for text in _notes(sweep)],
        "caution": _caution(sweeps, subset.count, len(run.table)),
    }  # fmt: skip


def _plain(trial: Trial) -> dict[str, Any]:
    return {
        "values": dict(trial.values), "folder": trial.folder.name, "judged": trial.judged, "error": trial.error,
        "areas": dict(trial.areas), "resolutions_A": dict(trial.resolutions), "truth": trial.truth,
        "cpu_seconds": round(trial.cpu_seconds, 1),
    }  # fmt: skip


def _notes(sweep: Sweep) -> list[str]:
    """Remarks on the choice of one parameter, each a sentence."""
    values = [trial.values[sweep.parameter] for trial in sweep.trials]
    chosen, said = sweep.chosen.values[sweep.parameter], []
    if sweep.undecided:
        return ["all values are within a standard error of the best: the half maps do not decide, and the weakest was "
                "taken"]
    if chosen == values[-1]:
        said.append("the largest value tried was taken: go on with larger ones (finished trials are kept)")
    if chosen == values[0] and chosen > 0:
        said.append("the smallest value tried was taken: go on with smaller ones (finished trials are kept)")
    return said


def _caution(sweeps: list[Sweep], count: int, total: int) -> list[str]:
    bits = sum(math.log2(len(sweep.trials)) for sweep in sweeps)
    some = [] if count == total else [
        f"trials were refinements of {count} of the run's {total} particles: with all of them another strength may be "
        "best"]
    return [
        f"the FSC between the half maps chose, so up to {bits:.1f} bits about the best values cross between half sets, "
        "and the half-map FSC of a refinement of these particles with them is a little hopeful; --ss-parameters "
        "cross-validated chooses the strength within each half set and needs no search", *some,
        "the error of a trial is what other noise in the images would do to it at the same poses; trials share their "
        "images, so their differences are rather surer than that, but two refinements also find other poses",
    ]  # fmt: skip


def _named(values: Values) -> str:
    return ", ".join(f"{SIGNS[name]} {value:.3g}" for name, value in values.items())


def _print(console: Console, summary: dict[str, Any], out: Path) -> None:
    for sweep in summary["sweeps"]:
        low, high = sweep["published"]
        table = Table(title=f"{SIGNS[sweep['parameter']]} (published {low:.3g} to {high:.3g})", title_justify="left")
        for label in ("value", "judged", *MEASURES):
            table.add_column(label, justify="right")
        for trial in sweep["trials"]:
            value = trial["values"][sweep["parameter"]]
            table.add_row(
                f"{value:.3g}", f"{trial['judged']:.4f} +- {trial['error']:.4f}",
                *(_resolution(trial["resolutions_A"][name]) for name in MEASURES),
                style="bold" if value == sweep["chosen"] else None)  # fmt: skip
        console.print(table)
    console.print(escape(f"Judged by: {summary['criterion']}."), soft_wrap=True)
    notes = [*(f"{sign}: {text}" for sign, text in summary["notes"]), *summary["caution"]]
    terminal.tell_remarks("parameters", notes)
    for text in notes:
        console.print(escape(f"- {text}"), soft_wrap=True)
    console.print(f"{len(summary['trials'])} trials, {summary['cpu_seconds']:.0f} CPU seconds. Refine with")
    console.print(escape(f"    {summary['refine_command']}"), soft_wrap=True)
    console.print(escape(f"Finished: {out}"), soft_wrap=True)


def _resolution(value: float | None) -> str:
    return "beyond Nyquist" if value is None else f"{value:.2f} A"
