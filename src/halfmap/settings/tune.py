"""What a user can choose for ``halfmap tune-ssri``."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from halfmap.errors import InputError
from halfmap.options import check_declared
from halfmap.settings.checks import absolute_paths, check_new_folder, check_readable
from halfmap.settings.reslog import check_run

# Parameter of sparse_smooth -> the option that lists its values to try, in the order of the search.
LISTS = {"alpha": "alphas", "beta": "betas", "gamma": "gammas", "eps_gradient": "eps_gradients"}


@dataclass(frozen=True, kw_only=True)
class TuneSsriSettings:
    """Settings of ``halfmap tune-ssri``."""

    run: Path = field(metadata={
        "help": "folder of a finished refinement, with any regulariser: particles, starting map and settings come from "
                "it", "short": "RUN", "positional": True})
    alphas: str = field(default="0.15,0.3,0.6,0.8,1.2", metadata={
        "help": "values of --ss-alpha to try; one value is kept and not searched for", "short": "LIST"})
    betas: str = field(default="0.5,1,2,4", metadata={
        "help": "values of --ss-beta to try", "short": "LIST"})
    gammas: str = field(default="0,0.05,0.1,0.2", metadata={
        "help": "values of --ss-gamma to try", "short": "LIST"})
    eps_gradients: str = field(default="1/3,1,2", metadata={
        "help": "values of --ss-eps-gradient to try", "short": "LIST"})
    particles: int = field(default=1000, metadata={
        "help": "particles of every trial, drawn at random from both half sets; all if there are fewer",
        "at_least": 16})
    mask: Path | None = field(default=None, metadata={
        "help": "mask for the corrected FSC of all trials, 1 inside and 0 outside", "short": "mask.mrc",
        "none": "that of RUN", "aliases": ("--solvent_mask",)})
    truth: Path | None = field(default=None, metadata={
        "help": "map that simulated particles come from, on the run's grid: shown beside what the half maps say, and "
                "takes no part in the choice", "short": "map.mrc", "none": "none", "advanced": True})
    threads: int = field(default=0, metadata={
        "help": "CPU threads, 0 for all cores", "at_least": 0, "aliases": ("--j",)})
    seed: int = field(default=0, metadata={
        "help": "seed of the random subset", "at_least": 0, "aliases": ("--random_seed",)})
    out: Path | None = field(default=None, metadata={
        "help": "folder for trials and results; finished trials in it are not repeated", "short": "folder",
        "aliases": ("--o",), "none": "tune_ssri in RUN"})

    @property
    def values(self) -> dict[str, tuple[float, ...]]:
        """Parameter -> values to try, ascending. Raises InputError for text that is no list of values."""
        return {name: _values(name, getattr(self, option)) for name, option in LISTS.items()}


def _values(name: str, text: str) -> tuple[float, ...]:
    option = f"--{LISTS[name].replace('_', '-')} {text}"
    try:
        found = tuple(float(Fraction(word.strip())) for word in text.split(","))
    except (ValueError, ZeroDivisionError, OverflowError):
        raise InputError(f"{option}: give numbers with commas between them, such as 0.3,0.6 or 1/3,1") from None
    least = min(found)
    if least < 0 or (name == "eps_gradient" and least == 0) or not all(map(math.isfinite, found)):
        raise InputError(f"{option}: must be {'more than 0' if name == 'eps_gradient' else 'at least 0'}")
    if len(set(found)) < len(found):
        raise InputError(f"{option}: names a value twice; name each once")
    return tuple(sorted(found))


def validated_tune(settings: TuneSsriSettings) -> TuneSsriSettings:
    """Check the settings as far as is possible without reading data, and make their paths absolute.

    The output folder is filled in where it is not given. Raises InputError for the first choice that cannot work, and
    where results would overwrite other files.
    """
    check_declared(settings)
    if all(len(values) == 1 for values in settings.values.values()):
        raise InputError("--alphas, --betas, --gammas, --eps-gradients: one value each leaves nothing to choose; use "
                         "halfmap refine --regulariser sparse_smooth")
    paths = absolute_paths(settings)
    check_run(paths["run"])
    for name in ("mask", "truth"):
        if name in paths:
            check_readable(name, paths[name])
    out = paths.setdefault("out", paths["run"] / "tune_ssri")
    if (out / "settings.toml").exists() or not (out / "tune_ssri.html").exists():
        check_new_folder(out)
    return dataclasses.replace(settings, **paths)
