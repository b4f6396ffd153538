"""Random subsets of a run's particles, each refined anew from the run's starting map with the run's settings."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from halfmap.errors import InputError
from halfmap.particles.star import read_star, write_star
from halfmap.particles.table import ParticleTable
from halfmap.refinement.outputs import made_folder
from halfmap.refinement.preflight import read_particles
from halfmap.refinement.problem import particle_input
from halfmap.refinement.refine import refine
from halfmap.refinement.resume import resume
from halfmap.settings.refine import RefineSettings, from_toml, validated
from halfmap.settings.regularisers import with_regulariser
from halfmap.settings.resume import ResumeSettings, finished
from halfmap.validation.reslog import drawn
from halfmap.workflows.fixed_poses import finished_records, random_orders

STAR = "particles.star"


@dataclass(frozen=True)
class RefinedRun:
    """A finished run whose subsets are refined anew.

    table: the particles that it began with, in its half sets and with the poses (if any) that it began with.
    """

    folder: Path
    settings: RefineSettings
    table: ParticleTable


def read_refined_run(folder: Path) -> RefinedRun:
    """Read the settings and particles of a run. Raises InputError where it is not finished or they changed."""
    settings = from_toml(folder / "settings.toml")
    finished_records(folder)
    return RefinedRun(folder, settings, read_particles(particle_input(settings)).table)


@dataclass(frozen=True)
class Place:
    """A subset by its level, draw and the number of draws, and the folder of its particles and refinements."""

    level: int
    draw: int
    draws: int
    folder: Path


def places(run: RefinedRun, levels: int, draws: int, out: Path) -> list[Place]:
    """All subsets, small ones first. A folder is named by the number of particles, and from the second draw on by the
    draw too."""
    found = []
    sizes = [len(order) for order in random_orders(run.table, 0)]
    for level in range(levels, -1, -1):
        count = sum(len(range(size)[drawn(size, level, 0, draws)]) for size in sizes)
        for draw in range(min(draws, 2**level)):
            found.append(Place(level, draw, draws, out / (f"{count}_{draw + 1}" if draw else f"{count}")))
    return found


@dataclass(frozen=True)
class RefinedSubset:
    """A subset that was refined: its number of particles, and the folder of the run."""

    count: int
    folder: Path


def refined(
    run: RefinedRun, place: Place, regulariser: str, finish: Callable[[Path], object], *, seed: int, threads: int
) -> RefinedSubset:
    """Refine one subset with one regulariser, unless that is done.

    The run itself is what all particles give with its own regulariser. A refinement that was interrupted goes on.
    finish: called with the folder after a refinement; seed: of the subsets. Raises InputError where the folder holds
    other particles, or a run with other settings.
    """
    if place.level == 0 and regulariser == run.settings.regulariser:
        return RefinedSubset(len(run.table), run.folder)
    orders = random_orders(run.table, seed)
    chosen = selected(run.table, [order[drawn(len(order), place.level, place.draw, place.draws)] for order in orders])
    star = kept_particles(place.folder, chosen, "--seed, --repeats and --smallest")
    folder = place.folder / regulariser
    refined_to_end(subset_settings(run.settings, regulariser, star, folder, threads), finish)
    return RefinedSubset(len(chosen), folder)


def selected(table: ParticleTable, members: Sequence[torch.Tensor]) -> ParticleTable:
    """The named particles of both half sets, in the order of the table."""
    return table.select(torch.cat(list(members)).sort().values.numpy())


def kept_particles(folder: Path, chosen: ParticleTable, options: str) -> Path:
    """The file of a subset, written unless it is there.

    Raises InputError, which names the options, where it holds other particles.
    """
    star = made_folder(folder) / STAR
    if star.exists():
        _require_same(star, chosen, options)
    else:
        write_star(star, chosen)
    return star


def refined_to_end(wanted: RefineSettings, finish: Callable[[Path], object]) -> None:
    """Refine, unless that is done, and then call ``finish`` with the folder. An interrupted refinement goes on.

    Raises InputError where the folder holds a run with other settings.
    """
    if not finished(wanted.out):
        _refine(wanted)
        finish(wanted.out)
    _require_settings(wanted.out, wanted)


def subset_settings(base: RefineSettings, regulariser: str, star: Path, out: Path, threads: int) -> RefineSettings:
    """The run's settings for other particles, and perhaps another regulariser, whose options are those of the run.

    The file of a subset says itself where its images have inverted contrast.
    """
    return dataclasses.replace(
        with_regulariser(base, regulariser), particles=star, out=out, data_dir=None, passthrough=None,
        strip_prefix=None, resplit=False, threads=threads, processes=0, keep_iterations=False, invert_contrast=False,
    )  # fmt: skip


def _refine(wanted: RefineSettings) -> None:
    """Refine, or go on where the same refinement was interrupted."""
    if (wanted.out / "checkpoint" / "state").exists():
        _require_settings(wanted.out, wanted)
        resume(ResumeSettings(wanted.out, wanted.threads))
        return
    if (wanted.out / "settings.toml").exists():  # stopped in its first iteration: nothing is lost
        _require_settings(wanted.out, wanted)
        shutil.rmtree(wanted.out)
    refine(validated(wanted))


def _require_settings(folder: Path, wanted: RefineSettings) -> None:
    """Raise InputError where a folder holds a run with other settings."""
    path = folder / "settings.toml"
    if path.exists() and dataclasses.replace(from_toml(path), threads=wanted.threads) != wanted:
        raise InputError(f"{folder}: was refined with other settings; name another --out, or remove it")


def _require_same(star: Path, chosen: ParticleTable, options: str) -> None:
    """Raise InputError where the particles in a file are not those drawn."""
    found = read_star(star)
    names = [[(t.stacks[s].resolve(), int(i)) for s, i in zip(t.stack_index, t.image_index, strict=True)]
             for t in (found, chosen)]
    if names[0] != names[1] or found.half is None or not np.array_equal(found.half, np.asarray(chosen.half)):
        raise InputError(f"{star}: holds other particles than those drawn now; take the {options} of before, or name "
                         "another --out")
