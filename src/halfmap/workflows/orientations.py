"""`halfmap orientations`: how evenly the views of the particles are spread, and how that affects the map."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from halfmap.errors import InputError
from halfmap.geometry.rotations import view_directions
from halfmap.geometry.symmetry import canonical_name, symmetry_group
from halfmap.maps.mrc import replaced_atomically
from halfmap.particles.given_optics import GivenOptics
from halfmap.particles.star import read_star
from halfmap.runtime import terminal
from halfmap.settings.particle_sets import OrientationsSettings, run_folder, run_setting
from halfmap.validation.fsc import GOLD_STANDARD, resolution
from halfmap.validation.orientations import (
    LEAST_CFAR,
    SIDE_VIEWS,
    ConicalFsc,
    Sampling,
    conical_fsc,
    corrected_cones,
    fourier_sampling,
    healpix_pixel,
    verdict,
)
from halfmap.workflows.half_map_pair import HalfMaps, read_half_maps

Report = Callable[..., Any]
PERCENTILES = (5, 50, 95)


@dataclass(frozen=True)
class Orientations:
    """What was measured: views[b,3] and how they sample Fourier space, half maps and their FSC by direction.

    Values are None where the input for them was not given.
    """

    symmetry: str
    views: Tensor | None
    sampling: Sampling | None
    pair: HalfMaps | None
    cones: ConicalFsc | None

    def resolutions(self) -> Tensor:
        """Resolution (A) in each cone [d] at FSC 0.143."""
        assert self.cones and self.pair
        return self.pair.box * self.pair.pixel_size / self.cones.crossing

    def summary(self, half_angle: float) -> dict[str, Any]:
        """Everything but the views and maps as plain JSON values. half_angle: of the cones, in degrees."""
        notes = [] if self.pair is None else [note.text for note in self.pair.notes]
        told: dict[str, Any] = {"symmetry": self.symmetry, "verdict": verdict(self.sampling, self.cones) + notes}
        if self.sampling is not None and self.views is not None:
            seen = self.sampling
            worst = seen.directions[int(seen.relative.argmin())]
            told |= {
                "particles": len(self.views), "views_counted": seen.views, "equivalent_places": seen.copies,
                "scf_star": seen.scf_star, "scf_star_by_chance": seen.by_chance, "scf_star_side_views": SIDE_VIEWS,
                "fourier_space_sampled": seen.sampled, "least_sampled": float(seen.relative.min()),
                "least_sampled_at_deg": angles(worst),
            }  # fmt: skip
        if self.cones is not None and self.pair is not None:
            told |= self._conical(self.cones, self.pair, half_angle)
        return told

    def _conical(self, cones: ConicalFsc, pair: HalfMaps, half_angle: float) -> dict[str, Any]:
        best, worst, by_direction = int(cones.area.argmax()), int(cones.area.argmin()), self.resolutions()
        shares = [float(np.percentile(by_direction.numpy(), p)) for p in PERCENTILES]
        bands = np.percentile(cones.curves.numpy(), (0, *PERCENTILES, 100), axis=0)
        names = ("least", *(f"percentile_{p}" for p in PERCENTILES), "greatest")
        curves = {"whole_map": cones.whole.tolist(), "best": cones.curves[best].tolist(),
                  "worst": cones.curves[worst].tolist()} | {n: b.tolist() for n, b in zip(names, bands, strict=True)}
        return {
            "cfar": cones.cfar, "cfar_threshold": LEAST_CFAR, "cone_half_angle_deg": half_angle,
            "directions": len(cones.directions), "box": pair.box, "pixel_size_A": pair.pixel_size,
            "mask": pair.mask_name, "resolution_A": resolution(cones.whole, pair.box, pair.pixel_size),
            "resolution_by_direction_A": {
                "finest": float(by_direction.min()), "coarsest": float(by_direction.max()),
                **{f"percentile_{p}": share for p, share in zip(PERCENTILES, shares, strict=True)}},
            "best_at_deg": angles(cones.directions[best]), "worst_at_deg": angles(cones.directions[worst]),
            "best_resolution_A": float(by_direction[best]), "worst_resolution_A": float(by_direction[worst]),
            "fsc": curves,
        }  # fmt: skip


def run(settings: OrientationsSettings, report: Report | None = None) -> Orientations:
    """Measure how particles are oriented and how the FSC of half maps depends on direction.

    Writes orientations.json and directions.tsv into settings.out. settings: as `validated_orientations` returns them.
    report: writes the page, and is called with the page's fields. Raises InputError where particles have no angles,
    maps and mask are not on one grid, the mask is empty, or a file cannot be read or written.
    """
    assert settings.out is not None  # named by validated_orientations
    console = terminal.console()
    symmetry = _symmetry(settings)
    views = sampling = pair = cones = None
    if settings.particles is not None:
        with console.status("counting views"):
            views = _views(settings.particles, GivenOptics(settings.optics))
            sampling = fourier_sampling(views, symmetry_group(symmetry))
    if settings.half1 is not None and settings.half2 is not None:
        with console.status("comparing the half maps by direction"):
            pair, cones = _compared(settings, settings.half1, settings.half2)
    found = Orientations(symmetry, views, sampling, pair, cones)
    summary = found.summary(settings.cone)
    _write(settings.out, found, summary)
    written = ["orientations.json", "directions.tsv"]
    if report is not None:
        report(summary=summary, views=None if views is None else views.numpy(),
               directions=None if sampling is None else sampling.directions.numpy(),
               sampling=None if sampling is None else sampling.relative.numpy(),
               axes=None if cones is None else cones.directions.numpy(),
               resolution=None if cones is None else found.resolutions().numpy())
        written.append("orientations.html")
    _print(console, summary, settings.out, written)
    return found


def _symmetry(settings: OrientationsSettings) -> str:
    """The point group: the chosen one, else that of the run that the particles come from, else C1."""
    folder = run_folder(settings.particles)
    if settings.symmetry is None and folder is not None:
        return canonical_name(str(run_setting(folder, "symmetry") or "C1"))
    return canonical_name(settings.symmetry or "C1")


def _views(path: Path, given: GivenOptics) -> Tensor:
    """Read the viewing directions [b,3] of the particles in a STAR file; given: optics where it lacks them."""
    table = read_star(path, given=given)
    if table.rotations is None:
        raise InputError(f"{path}: no angles (rlnAngleRot, rlnAngleTilt, rlnAnglePsi); give the STAR file of a "
                         "refinement")
    return view_directions(table.rotations)


def _compared(settings: OrientationsSettings, half1: Path, half2: Path) -> tuple[HalfMaps, ConicalFsc]:
    """Read the half maps and compute their FSC by direction within the mask, corrected by phase randomisation."""
    pair = read_half_maps(half1, half2, settings.mask, None)
    if not bool((pair.mask > 0.5).any()):
        raise InputError(f"{settings.mask or half1}: the mask is nowhere above one half; give one that holds the "
                         "molecule")
    cones = conical_fsc(pair.half1 * pair.mask, pair.half2 * pair.mask, settings.cone)
    return pair, corrected_cones(cones, pair.curves.randomised, pair.curves.from_shell)


def angles(direction: Tensor | NDArray[np.floating]) -> list[float]:
    """rot and tilt in degrees of the view along direction[3]."""
    x, y, z = (float(value) for value in direction)
    return [math.degrees(math.atan2(y, x)), math.degrees(math.atan2(math.hypot(x, y), z))]


def _write(out: Path, found: Orientations, summary: dict[str, Any]) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {out}: cannot make this folder: {error.strerror}; choose another") from error
    with replaced_atomically(out / "orientations.json") as stream:
        stream.write((json.dumps(summary, indent=1) + "\n").encode())
    with replaced_atomically(out / "directions.tsv") as stream:
        stream.write(("\n".join(_rows(found)) + "\n").encode())


def _rows(found: Orientations) -> list[str]:
    """Tab-separated lines: a heading, then the direction of each grid axis and what was measured along it.

    Opposite directions count as one axis.
    """
    columns: dict[str, list[float]] = {}
    if found.cones is not None:
        axes = found.cones.directions
        columns["resolution_A"] = found.resolutions().tolist()
        columns["fsc_area_shells"] = found.cones.area.tolist()
    else:
        assert found.sampling is not None
        axes = found.sampling.directions[found.sampling.directions[:, 2] >= 0]
    if found.sampling is not None:
        order = round(math.log(len(found.sampling.directions) / 12, 4))
        columns["sampling"] = found.sampling.relative[healpix_pixel(axes, order)].tolist()
    lines = ["\t".join(["rot_deg", "tilt_deg", *columns])]
    for axis, *values in zip(axes, *columns.values(), strict=True):
        lines.append("\t".join(f"{value:.3f}" for value in [*angles(axis), *values]))
    return lines


def _print(console: Console, summary: dict[str, Any], out: Path, written: list[str]) -> None:
    table = Table(show_header=False)
    if "scf_star" in summary:
        table.add_row("particles", f"{summary['particles']}, symmetry {summary['symmetry']}")
        table.add_row("SCF*", f"{summary['scf_star']:.3f} (even views {summary['scf_star_by_chance']:.2f}, side views "
                      f"alone {SIDE_VIEWS:.2f})")
        rot, tilt = summary["least_sampled_at_deg"]
        table.add_row("least sampled", f"{summary['least_sampled']:.2f} of the mean, around rot {rot:.0f}, tilt "
                      f"{tilt:.0f}; {100 * (1 - summary['fourier_space_sampled']):.1f} % not sampled")
    if "cfar" in summary:
        told = summary["resolution_by_direction_A"]
        table.add_row("cFAR", f"{summary['cfar']:.3f} (below {LEAST_CFAR}: anisotropic)")
        table.add_row("resolution", f"{summary['resolution_A']:.2f} A within the mask, FSC {GOLD_STANDARD}")
        rot, tilt = summary["worst_at_deg"]
        table.add_row("by direction", f"{told['finest']:.2f} to {told['coarsest']:.2f} A, median "
                      f"{told['percentile_50']:.2f} A; worst around rot {rot:.0f}, tilt {tilt:.0f}")
    table.add_row("written", ", ".join(written))
    console.print(table)
    terminal.tell_remarks("orientations", summary["verdict"])
    for sentence in summary["verdict"] or ["nothing uneven in what was measured"]:
        console.print(escape(f"- {sentence}"), soft_wrap=True)
    console.print(escape(f"Finished: {out}"), soft_wrap=True)
