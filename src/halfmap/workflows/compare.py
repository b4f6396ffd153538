"""`halfmap compare`: put two or more refinements of the same particles side by side."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from halfmap.errors import InputError
from halfmap.maps.levels import level_for_volume
from halfmap.maps.mrc import replaced_atomically, write_map
from halfmap.runtime import terminal
from halfmap.settings.compare import CompareSettings, compare_command
from halfmap.workflows.compare_maps import (
    Frame,
    Measured,
    common_bfactor,
    common_mask,
    common_window,
    compared_poses,
    corrected,
    curves_of,
    enclosed_volume,
    filtered_map,
    frame_between,
    group_of,
    guinier_line,
    local_resolution_map,
    truth_curve,
)
from halfmap.workflows.compare_runs import Run, differing_settings, read_runs
from halfmap.workflows.compare_words import histogram_ends, mask_text, notes, run_summary, verdict

Report = Callable[..., Any]


@dataclass(frozen=True)
class Comparison:
    """What was measured of each run, the mask [z,y,x] in the first run's frame, and the content of compare.json."""

    found: list[Measured]
    mask: Tensor
    summary: dict[str, Any]


def compare(settings: CompareSettings, report: Report | None = None) -> Comparison:
    """Compare runs and write the results into settings.out.

    Writes compare.json, mask.mrc, and for each run its sharpened map and its local resolution. All maps are in the
    frame of the first run. settings: as `validated_compare` returns them. report: writes the page, and is
    called with the page's fields. Raises InputError where a run cannot be read, runs differ in box or pixel size, mask
    or truth do not fit them, or a file cannot be written.
    """
    assert settings.out is not None  # named by validated_compare
    console = terminal.console()
    with console.status("reading the runs"):
        runs = read_runs(settings.runs)
    with console.status("comparing poses and maps"):
        done = _measured(runs, settings, compare_command(settings))
    written = _write(settings.out, done)
    if report is not None:
        report(summary=done.summary, mask=done.mask.numpy(), runs=[_shown(one) for one in done.found])
        written += ["compare.svg", "compare.html"]
    _print(console, done.summary, settings.out, written)
    return done


def _measured(runs: list[Run], settings: CompareSettings, command: str) -> Comparison:
    """Measure all runs within one mask. command: what repeats the comparison, for compare.json."""
    first, pixel_size = runs[0], runs[0].pixel_size
    group = group_of(runs)
    against = [None, *(compared_poses(first, run, group) for run in runs[1:])]
    frames = [Frame.same(), *(frame_between(first, run, poses)
                                   for run, poses in zip(runs[1:], against[1:], strict=True))]
    mask, mask_name = common_mask(runs, frames, settings.mask)
    pairs = [curves_of(run, frame.to_other(mask, pixel_size, 1).clamp(0, 1), mask_name)
             for run, frame in zip(runs, frames, strict=True)]
    fits = [guinier_line(pair, max(corrected(one) for one in pairs)) for pair in pairs]
    bfactor = common_bfactor(fits) if settings.bfactor is None else settings.bfactor
    window = common_window(pairs)
    found = []
    for run, frame, poses, pair, fit in zip(runs, frames, against, pairs, fits, strict=True):
        truth = None if settings.truth is None else truth_curve(settings.truth, pair)
        local = frame.to_first(local_resolution_map(pair, window), pixel_size, 1)
        theta = None if run.theta is None else frame.to_first(run.theta, pixel_size, 1)
        shown = frame.to_first(filtered_map(pair, bfactor), pixel_size)
        found.append(Measured(run, frame, poses, pair, fit, truth, shown, local, theta))
    volume = enclosed_volume(settings, [one.map for one in found], mask, pixel_size)
    levels = [level_for_volume(one.map * mask, volume, pixel_size) for one in found]
    ends = histogram_ends(against)
    summaries = [run_summary(one, level, ends) for one, level in zip(found, levels, strict=True)]
    summary = {
        "command": command, "box": mask.shape[-1], "pixel_size_A": pixel_size, "mask": mask_text(pairs[0], mask_name),
        "truth": None if settings.truth is None else str(settings.truth),
        "bfactor_applied_A2": bfactor, "enclosed_volume_A3": volume, "window_A": window.width * pixel_size,
        "verdict": verdict(summaries, mask.shape[-1] * pixel_size), "notes": notes(found),
        "runs": summaries,
        "settings": [{"name": row.name, "meaning": row.meaning, "values": row.values}
                     for row in differing_settings(runs)],
    }  # fmt: skip
    return Comparison(found, mask, summary)


def _shown(one: Measured) -> dict[str, Any]:
    """The maps of a run that the page shows."""
    theta = None if one.theta is None else one.theta.numpy()
    return {"map": one.map.numpy(), "local": one.local.numpy(), "theta": theta}


def _write(out: Path, done: Comparison) -> list[str]:
    """Write everything but the page. Returns the names of the files."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {out}: cannot make this folder: {error.strerror}; choose another") from error
    pixel_size, names = done.found[0].run.pixel_size, []
    for i, one in enumerate(done.found, start=1):
        label = f"{i}_{one.run.name.replace('/', '_')}"
        for kind, values in (("sharpened", one.map), ("local_resolution", one.local)):
            names.append(f"{label}_{kind}.mrc")
            write_map(out / names[-1], values, pixel_size)
    write_map(out / "mask.mrc", done.mask, pixel_size)
    with replaced_atomically(out / "compare.json") as stream:
        stream.write((json.dumps(done.summary, indent=1) + "\n").encode())
    return [*names, "mask.mrc", "compare.json"]


def _print(console: Console, summary: dict[str, Any], out: Path, written: list[str]) -> None:
    runs, nyquist = summary["runs"], f"< {2 * summary['pixel_size_A']:.2f}"
    table = Table(title="Resolution, FSC 0.143 / 0.5 [A]", title_justify="left")
    for column in ("", *(escape(run["name"]) for run in runs)):
        table.add_column(column, justify="right" if column else "left")
    for name in ("unmasked", "masked", "corrected"):
        found = (run["resolution_A"][name].values() for run in runs)
        table.add_row(name, *(" / ".join(nyquist if v is None else f"{v:.2f}" for v in values) for values in found))
    if summary["truth"]:
        table.add_row("against the truth, 0.5", *(nyquist if (v := run["truth_resolution_A"]) is None else f"{v:.2f}"
                                                  for run in runs))
    console.print(table)
    console.print(escape(f"mask: {summary['mask']}; B factor {summary['bfactor_applied_A2']:.0f} A^2 for all"),
                  soft_wrap=True)
    remarks = [*summary["verdict"], *(f"{note['run']}: {note['text']}" for note in summary["notes"])]
    terminal.tell_remarks("runs", remarks)
    for sentence in remarks:
        console.print(escape(f"- {sentence}"), soft_wrap=True)
    console.print(escape(f"written: {', '.join(written)}"), soft_wrap=True)
    console.print(escape(f"Finished: {out}"), soft_wrap=True)
