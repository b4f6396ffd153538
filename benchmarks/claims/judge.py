"""How good a refinement of particles with known poses is: pose errors, and correlation of its maps with the truth.

The truth map is made afresh from the atoms, placed by the one rotation and shift in which the refinement's frame
differs from the truth's. No map is interpolated, so that the numbers hold no error of a resampling.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from halfmap.errors import InputError
from halfmap.geometry.symmetry import symmetry_group
from halfmap.imaging.density import Cloud
from halfmap.maps.mrc import read_map
from halfmap.particles.model import centred, read_model, scattering
from halfmap.particles.star import read_star
from halfmap.particles.table import ParticleTable
from halfmap.simulation.simulate import INTACT
from halfmap.validation.fsc import fsc, resolution
from halfmap.validation.model_map import COARSEST, crossing, density_mask, first_shell, moved_map
from halfmap.validation.poses import PoseError, matching_rows, pose_error


@dataclass(frozen=True)
class Truth:
    """True poses, and the rigid part of the molecule as scatterers around the origin (None: maps not judged)."""

    table: ParticleTable
    symmetry: str
    rigid: Cloud | None = None


def add_known_truth(parser: argparse.ArgumentParser) -> None:
    """Give the parser the options that name particles with a known truth, their start, and a folder for runs."""
    parser.add_argument("particles", type=Path)
    parser.add_argument("--map", type=Path, required=True, help="initial map")
    parser.add_argument("--diameter", type=float, required=True, help="particle diameter [A]")
    add_truth(parser)
    parser.add_argument("--out", type=Path, required=True)


def add_truth(parser: argparse.ArgumentParser) -> None:
    """Give the parser the options that `known_truth` reads."""
    parser.add_argument("--symmetry", default="C1")
    parser.add_argument("--truth", type=Path, required=True, help="STAR file with the true poses")
    parser.add_argument("--model", type=Path, required=True, help="atomic model the images were made from")
    parser.add_argument("--rigid-out", default="", metavar="CHAINS", help="flexible chains, not compared")


def known_truth(given: argparse.Namespace) -> Truth:
    """The truth that these options name."""
    return Truth(read_star(given.truth), given.symmetry, rigid_part(given.model, given.rigid_out))


def rigid_part(model: Path, without: str = "", bfactor: float = 40.0, assembly: bool = False) -> Cloud:
    """The scatterers of a model, its centre (all chains) at the origin, without the chains named by the letters of
    `without`; bfactor (A^2) is added to every atom's own, as in the simulation."""
    atoms, _ = centred(read_model(model, assembly))
    for chain in without:
        if not bool(atoms.in_chain(chain).any()):
            raise InputError(f"{model}: has no chain {chain} to leave out")
    keep = torch.tensor([chain not in without for chain in atoms.chain], dtype=torch.bool)
    return scattering(atoms, bfactor).select(keep)


def judge(refined: ParticleTable, half1: Path, half2: Path, truth: Truth) -> dict[str, Any]:
    """Errors of refined poses and maps; half1 and half2 are unfiltered half maps.

    Resolutions in A; truth_* compare with the truth inside the rigid part: half map 1 and the mean of both. Poses of
    junk do not count.
    """
    poses = pose_error(refined.select(intact(refined, truth.table)), truth.table, symmetry_group(truth.symmetry))
    found: dict[str, Any] = {f"pose_{key}": value for key, value in poses.items()}
    first, second = read_map(half1), read_map(half2)
    box, pixel_size = first.data.shape[-1], first.pixel_size
    halves = fsc(first.data, second.data)
    found["half_fsc"] = halves.tolist()
    found["half_0143_unmasked"] = resolution(halves, box, pixel_size)
    if truth.rigid is None:
        return found
    expected = placed_map(truth.rigid, poses, box, pixel_size)
    mask = density_mask(expected, pixel_size)
    found["half_0143_rigid"] = crossing(fsc(first.data * mask, second.data * mask), box, pixel_size, 0.143)
    for name, data in (("half1", first.data), ("mean", (first.data + second.data) / 2)):
        found |= against_map(data, expected, mask, pixel_size, f"truth_{name}")
    return found


def intact(refined: ParticleTable, truth: ParticleTable) -> np.ndarray:
    """Rows of the refined table whose images show the whole molecule: what `halfmap simulate` writes as class 1 into
    the truth, or all of them where the truth has no classes."""
    if "rlnClassNumber" not in truth.columns:
        return np.arange(len(refined))
    kinds = np.asarray(truth.columns["rlnClassNumber"], np.float64)
    return np.flatnonzero(kinds[matching_rows(refined, truth).numpy()] == INTACT)


def placed_map(cloud: Cloud, poses: PoseError, box: int, pixel_size: float) -> Tensor:
    """The map [z,y,x] of scatterers carried into the refinement's frame."""
    return moved_map(cloud, torch.tensor(poses["frame"]), torch.tensor(poses["shift"]), box, pixel_size)


def against_map(data: Tensor, expected: Tensor, mask: Tensor, pixel_size: float, name: str,
                coarsest: float = COARSEST) -> dict[str, Any]:
    """Correlation of a map with the expected one inside a mask: `name`_05 and `name`_0143 in A, the mean of the
    positive correlations beyond 12 A, and the curve."""
    box = data.shape[-1]
    curve = fsc(data * mask, expected * mask)
    return {
        f"{name}_05": crossing(curve, box, pixel_size, 0.5, coarsest),
        f"{name}_0143": crossing(curve, box, pixel_size, 0.143, coarsest),
        f"{name}_average": float(curve[first_shell(box, pixel_size):].clamp(min=0).mean()),
        f"{name}_fsc": curve.tolist(),
    }


def shown(rows: Sequence[tuple[str, Sequence[float | None], str]], columns: Sequence[str], title: str,
          ratio: bool = False) -> None:
    """Print rows (name, values, format) as a table; with `ratio` a last column divides the first value by the
    second."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for i, name in enumerate(["", *columns, *(["ratio"] if ratio else [])]):
        table.add_column(name, justify="left" if i == 0 else "right")
    for name, values, style in rows:
        words = ["-" if value is None else format(value, style) for value in values]
        if ratio:
            both = len(values) == 2 and all(value is not None for value in values) and values[1]
            words.append(f"{values[0] / values[1]:.2f}" if both else "")  # type: ignore[operator]
        table.add_row(name, *words)
    Console(highlight=False, width=max(100, Console().width)).print(table)
