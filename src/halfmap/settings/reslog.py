"""What a user can choose for ``halfmap reslog``."""

from __future__ import annotations

import dataclasses
import shlex
from dataclasses import dataclass, field
from pathlib import Path

from halfmap.errors import InputError
from halfmap.options import SettingRow, check_declared, table, to_command
from halfmap.settings.checks import absolute_paths, check_new_folder, check_readable
from halfmap.settings.regularisers import REGULARISERS

# What the folder of a finished refinement holds.
RUN_FILES = ("settings.toml", "iterations.jsonl", "particles.star", "mask.mrc", "half1_unfil.mrc", "half2_unfil.mrc")


@dataclass(frozen=True, kw_only=True)
class ResLogSettings:
    """Settings of ``halfmap reslog`` that have one value; runs and regularisers are in `ManyResLogSettings`."""

    refine: bool = field(default=False, metadata={
        "help": "refine every subset anew from the starting map; otherwise poses are kept from all particles, and the "
                "curve measures the data, not the method"})
    smallest: int = field(default=100, metadata={
        "help": "particles are halved until fewer than this would be left", "at_least": 16})
    repeats: int | None = field(default=None, metadata={
        "help": "subsets of each number, which share no particle, for error bars", "choices": (1, 2, 4, 8),
        "none": "4, or 1 with --refine"})
    fit_from: int = field(default=0, metadata={
        "help": "fewest particles of a point that the line is fitted to", "at_least": 0})
    mask: Path | None = field(default=None, metadata={
        "help": "mask for the masked and corrected FSC of all subsets, 1 inside and 0 outside", "short": "mask.mrc",
        "none": "that of each RUN", "aliases": ("--solvent_mask",)})
    threads: int = field(default=0, metadata={
        "help": "CPU threads, 0 for all cores", "at_least": 0, "aliases": ("--j",)})
    seed: int = field(default=0, metadata={
        "help": "seed of the random subsets", "at_least": 0, "aliases": ("--random_seed",)})
    out: Path | None = field(default=None, metadata={
        "help": "folder for the results; made if absent", "short": "folder", "aliases": ("--o",),
        "none": "reslog in RUN, or reslog_refined with --refine"})


@dataclass(frozen=True, kw_only=True)
class ManyResLogSettings(ResLogSettings):
    """All settings of ``halfmap reslog``, with those that may have several values."""

    runs: tuple[Path, ...] = field(default=(), metadata={
        "help": "folder of a finished refinement; several are drawn into one plot", "short": "RUN", "none": "none",
        "positional": True})
    regularisers: tuple[str, ...] = field(default=(), metadata={
        "help": "with --refine: regulariser to refine the subsets with, may be given several times",
        "choices": REGULARISERS, "none": "that of RUN"})

    @property
    def draws(self) -> int:
        """Number of subsets of each size."""
        return self.repeats or (1 if self.refine else 4)


def validated_reslog(settings: ManyResLogSettings) -> ManyResLogSettings:
    """Check the settings as far as is possible without reading data, and make their paths absolute.

    The output folder is filled in where it is not given. Raises InputError for the first choice that cannot work, and
    where results would overwrite other files.
    """
    check_declared(_single(settings))
    if not settings.runs:
        raise InputError("missing: RUN, the folder of a refinement; see halfmap reslog --help")
    runs = tuple(run.expanduser().absolute() for run in settings.runs)
    for run in runs:
        check_run(run)
    if len(set(runs)) < len(runs):
        raise InputError(f"{next(run for run in runs if runs.count(run) > 1)}: is named twice; name each run once")
    paths = absolute_paths(settings)
    if "mask" in paths:
        check_readable("mask", paths["mask"])
    if settings.refine and len(runs) > 1:
        raise InputError(f"{runs[1]}: --refine takes the settings of one run; give one")
    if settings.regularisers and not settings.refine:
        raise InputError(f"--regulariser {settings.regularisers[0]}: needs --refine; with fixed poses nothing is "
                         "regularised")
    if len(set(settings.regularisers)) < len(settings.regularisers):
        raise InputError("--regulariser: one is named twice; name each once")
    if "out" not in paths:
        if len(runs) > 1:
            raise InputError("missing: --out, the folder for the plot of several runs")
        paths["out"] = runs[0] / ("reslog_refined" if settings.refine else "reslog")
    if settings.refine:
        _check_resumed(paths["out"])
    else:
        check_new_folder(paths["out"])
    return dataclasses.replace(settings, runs=runs, **paths)


def check_run(run: Path) -> None:
    """Raise InputError for a folder that is not that of a finished refinement."""
    if not run.is_dir():
        raise InputError(f"{run}: no such folder; give that of a refinement")
    for name in RUN_FILES:
        if not (run / name).is_file():
            raise InputError(f"{run}: has no {name}; give the folder of a finished halfmap refine")


def _check_resumed(out: Path) -> None:
    """Raise InputError where the folder holds other results than refined subsets of an earlier start."""
    if any(path.name.isdigit() and path.is_dir() for path in out.glob("*")) and not (out / "settings.toml").exists():
        return
    if (out / "reslog.json").exists():
        raise InputError(f"--out {out}: holds curves at fixed poses; name another folder")
    check_new_folder(out)


def _single(settings: ManyResLogSettings) -> ResLogSettings:
    """The settings that have one value, without runs and regularisers."""
    names = [f.name for f in dataclasses.fields(ResLogSettings)]
    return ResLogSettings(**{name: getattr(settings, name) for name in names})


def reslog_command(settings: ManyResLogSettings) -> str:
    """The command with these settings, however they were given."""
    words = ["halfmap", "reslog", *map(str, settings.runs)]
    for name in settings.regularisers:
        words += ["--regulariser", name]
    return to_command(_single(settings), shlex.join(words))


def reslog_table(settings: ManyResLogSettings) -> dict[str, SettingRow]:
    """Every setting by name, as the page's table shows it."""
    about = {f.name: f.metadata for f in dataclasses.fields(ManyResLogSettings)}
    several = {name: SettingRow(", ".join(map(str, getattr(settings, name))) or about[name]["none"], "",
                                about[name]["help"]) for name in ("runs", "regularisers")}
    return several | table(_single(settings))
