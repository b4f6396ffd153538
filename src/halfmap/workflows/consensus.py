"""A finished refinement of the whole particle, as what is known of it when a part is subtracted from its images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from halfmap.errors import InputError
from halfmap.maps.grid import Grid
from halfmap.maps.mrc import MapFile, read_map
from halfmap.particles.same_images import image_numbers
from halfmap.particles.stack import check_stacks
from halfmap.particles.star import read_star
from halfmap.particles.table import ParticleTable
from halfmap.regularisation.protocol import MapPair, shell_ratio
from halfmap.regularisation.wiener import Uniform
from halfmap.settings.refine import from_toml
from halfmap.settings.subtract import SubtractSettings
from halfmap.workflows.fixed_poses import finished_records
from halfmap.workflows.half_map_pair import read_half_maps, read_mask

LEAST_OUTSIDE = 1e-4  # of the map's power; with less left out by the mask there is nothing to subtract


@dataclass(frozen=True)
class Consensus:
    """What the run knows of the particle.

    outside [h]: the filtered half map of each half set without what is kept; radius: of what it holds, in A; share: of
    the map's power in it; limit: its last shell. keep: the mask; volume: the run's map. All maps are [z, y, x] on grid.
    """

    grid: Grid
    outside: tuple[Tensor, ...]
    radius: float
    share: float
    limit: int
    keep: Tensor
    volume: Tensor
    diameter: float


def read_consensus(settings: SubtractSettings) -> Consensus:
    """Read the maps of the run. Raises InputError where a file is missing or damaged or the run has not finished."""
    run = settings.run
    chosen = from_toml(run / "settings.toml")
    finished_records(run)
    own = read_half_maps(run / "half1_unfil.mrc", run / "half2_unfil.mrc", run / "mask.mrc", chosen.diameter)
    keep = read_mask(settings.mask, MapFile(own.half1, own.pixel_size), run / "half1_unfil.mrc").data
    filtered = Uniform().filter_pair(MapPair(own.half1, own.half2, own.curves, own.pixel_size), own.mask)
    whole = [half * own.mask for half in filtered.maps]
    outside = tuple(half * (1 - keep) for half in whole)
    share = float(outside[0].double().square().sum() / whole[0].double().square().sum().clamp_min(1e-30))
    if share < LEAST_OUTSIDE:
        raise InputError(f"--mask {settings.mask}: holds all that {run / 'mask.mrc'} does, which is what the run's map "
                         "is known within: nothing is left to subtract; name what is to be kept, or give a run of the "
                         "whole particle")
    if share > 1 - LEAST_OUTSIDE:
        raise InputError(f"--mask {settings.mask}: holds nothing of the run's map; give a mask of what is to be kept")
    above = torch.nonzero(shell_ratio(own.curves.corrected, False))
    limit = min(int(above.max()) if len(above) else 0, math.ceil(own.box / 2) - 1)
    if limit < 2:
        raise InputError(f"{run}: its half maps do not agree on anything, so there is nothing to subtract")
    held = torch.nonzero(own.mask * (1 - keep) > 0).double() - own.box // 2
    radius = float(held.norm(dim=1).max()) * own.pixel_size
    return Consensus(Grid(own.box, own.pixel_size), outside, radius, share, limit, keep,
                     read_map(run / "map.mrc").data, chosen.diameter)


def read_own_particles(settings: SubtractSettings) -> ParticleTable:
    """The particles. Raises InputError where they lack poses or half sets, or have other half sets than the run's."""
    star = settings.particles or settings.run / "particles.star"
    data_dir = settings.data_dir or from_toml(settings.run / "settings.toml").data_dir
    table = read_star(star, data_dir)
    if table.rotations is None or table.half is None:
        what = "angles (rlnAngleRot, rlnAngleTilt, rlnAnglePsi)" if table.rotations is None else "half sets"
        raise InputError(f"{star}: has no {what}; give particles as the run wrote them")
    check_stacks(table)
    if settings.particles is not None:
        _check_own(table, read_star(settings.run / "particles.star", data_dir), settings.run)
    return table


def _check_own(table: ParticleTable, own: ParticleTable, run: Path) -> None:
    """Raise InputError for a particle that is not among a run's own, or in another half set than there."""
    assert own.half is not None and table.half is not None
    known, asked = image_numbers(own, table)
    half = dict(zip(known.tolist(), own.half.tolist(), strict=True))
    for row, (image, side) in enumerate(zip(asked.tolist(), table.half.tolist(), strict=True)):
        if half.get(image) != side:
            fault = "is not among the particles of" if image not in half else "is in the other half set of"
            raise InputError(f"{table.name(row)}: the image {fault} {run}; give particles of this run, in its half "
                             "sets")
