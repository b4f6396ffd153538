"""`halfmap model-fsc`: the FSC of a map with an atomic model, and where the model fits the map."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from halfmap.errors import InputError
from halfmap.finding import Finding
from halfmap.maps.grid import AT_ZERO, Placement
from halfmap.maps.mrc import MapFile, read_map, replaced_atomically, write_map
from halfmap.particles.model import Atoms, read_model, scattering
from halfmap.runtime import terminal
from halfmap.settings.analysis import ModelFscSettings
from halfmap.validation.fsc import GOLD_STANDARD, fsc
from halfmap.validation.model_map import (
    COARSEST,
    FIT_RESOLUTION,
    coarse_correlation,
    density_mask,
    fitted_pose,
    model_resolution,
    moved_map,
)
from halfmap.workflows.half_map_pair import file_notes, read_mask, require_same_voxels

THRESHOLDS = (0.5, GOLD_STANDARD)
FEW_ATOMS = 0.02  # share of a model's atoms that may lie outside the map without a remark
MISPLACED = 0.3  # correlation at 10 A below which a model hardly overlaps the map


@dataclass(frozen=True)
class ModelPose:
    """Where the model lies: at rotation[3,3] @ x + shift[3] (A), x being its own coordinates, where its file puts the
    map.

    start: in words, where the fit began; outside: share of the atoms outside the map; correlation: with the map at
    10 A.
    """

    rotation: Tensor
    shift: Tensor
    start: str
    outside: float
    correlation: float

    @property
    def angle(self) -> float:
        """Angle of the rotation in degrees."""
        return math.degrees(math.acos(min(1.0, max(-1.0, 0.5 * (float(torch.trace(self.rotation)) - 1)))))

    def matrix(self) -> list[list[float]]:
        """Rows of the rotation, each followed by its shift, as ChimeraX writes a model's position."""
        return [[*row.tolist(), float(t)] for row, t in zip(self.rotation, self.shift, strict=True)]


@dataclass(frozen=True)
class ModelFsc:
    """The model's map (expected) and the mask [z,y,x], where the model lies, and the FSC curves [s] by name.

    Curves are map (within the mask), unmasked, and half1 and half2 where these maps were given. placement: where the
    maps lie; notes: on the files.
    """

    expected: Tensor
    mask: Tensor
    pose: ModelPose
    curves: dict[str, Tensor]
    pixel_size: float
    placement: Placement = AT_ZERO
    notes: tuple[Finding, ...] = ()

    def resolution(self, name: str, threshold: float) -> float | None:
        """Resolution in A at which the named curve falls below the threshold; None if it never does."""
        return model_resolution(self.curves[name], self.expected.shape[-1], self.pixel_size, threshold)


def run(settings: ModelFscSettings) -> ModelFsc:
    """Compare a map with an atomic model, print a table, and write the results into settings.out if it is given.

    Writes model_fsc.csv, model_fsc.json, model_map.mrc (the model's density at its final place) and mask.mrc.
    settings: as `validated_model_fsc` returns them. Raises InputError where a map, mask or model cannot be read, maps
    are not on one grid, the model lies outside the map, or a file cannot be written.
    """
    console = terminal.console()
    file = read_map(settings.map)
    if file.data.min() == file.data.max():
        raise InputError(f"{settings.map}: the map is {float(file.data.min()):g} everywhere; give one with density")
    halves = {name: path for name, path in (("half1", settings.half1), ("half2", settings.half2)) if path is not None}
    files = {settings.map: file} | {path: _on_grid(path, file, settings.map) for path in halves.values()}
    atoms = read_model(settings.model, settings.assembly)
    if settings.mask is not None:
        files[settings.mask] = read_mask(settings.mask, file, settings.map)
    with console.status("placing the model" if settings.fit else "making the model's map"):
        expected, pose = _placed(settings, atoms, file)
        mask = density_mask(expected, file.pixel_size) if settings.mask is None else files[settings.mask].data
    curves = {name: fsc(files[path].data * mask, expected * mask)
              for name, path in ({"map": settings.map} | halves).items()}
    curves["unmasked"] = fsc(file.data, expected)
    found = ModelFsc(expected, mask, pose, curves, file.pixel_size, file.placement, file_notes(files))
    summary = model_fsc_summary(settings, found)
    _print(console, settings, found, summary)
    if settings.out is not None:
        _write(settings.out, found, summary)
        console.print(escape(f"Finished: {settings.out}"), soft_wrap=True)
    return found


def _on_grid(path: Path, like: MapFile, like_path: Path) -> MapFile:
    other = read_map(path)
    require_same_voxels(like, other, like_path, path)
    return other


def _starts(settings: ModelFscSettings, atoms: Atoms, file: MapFile) -> dict[str, Tensor]:
    """What may lie in the box centre, in the model's coordinates [3] (A), by where the fit begins in words.

    A model built into a map has the coordinates that the map's file gives it. Where start indices and origin of the
    file contradict each other, the program that the model was built with took one of them. With settings.fit further
    starts are tried, because programs that simulate or refine know only the box.
    """
    pixel_size, place = file.pixel_size, file.placement
    middle = torch.full((3,), float(file.data.shape[-1] // 2) * pixel_size, dtype=torch.float64)
    starts = {"where its file says": middle + place.corner(pixel_size)}
    if place.contradictory(pixel_size):
        starts = {"where its file and the map's origin say": middle + place.corner(pixel_size),
                  "where its file and the map's start indices say": middle + place.start_corner(pixel_size)}
    if settings.fit:
        starts |= {"voxel 0 at 0 A": middle} if bool(place.corner(pixel_size).any()) else {}
        starts |= {"the file's origin in the box centre": torch.zeros(3, dtype=torch.float64),
                   "its middle in the box centre": atoms.xyz.mean(0)}
    return starts


def _placed(settings: ModelFscSettings, atoms: Atoms, file: MapFile) -> tuple[Tensor, ModelPose]:
    """The model's map [z,y,x], and where the model lies: from the start with the best correlation."""
    box, pixel_size = file.data.shape[-1], file.pixel_size
    centre = float(box // 2) * pixel_size + file.placement.corner(pixel_size)
    starts = _starts(settings, atoms, file)
    outside = {name: _outside(atoms.xyz - start, box, pixel_size) for name, start in starts.items()}
    if min(outside.values()) == 1:
        advice = "is it a model of this map?" if settings.fit else "--fit looks for its place"
        raise InputError(f"{settings.model}: no atom lies inside the map {settings.map}; {advice}")
    found = []
    for name, start in starts.items():
        if outside[name] > min(outside.values()) + FEW_ATOMS:
            continue  # too few atoms lie inside: they may match any density
        cloud = scattering(atoms.moved(atoms.xyz - start), settings.bfactor)
        rotation, shift = torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
        expected = moved_map(cloud, rotation, shift, box, pixel_size)
        if settings.fit:
            rotation, shift = fitted_pose(file.data, expected, pixel_size)
            expected = moved_map(cloud, rotation, shift, box, pixel_size)
        at = (atoms.xyz - start) @ rotation.T + shift
        found.append((expected, ModelPose(
            rotation, shift + centre - rotation @ start, name, _outside(at, box, pixel_size),
            coarse_correlation(file.data, expected, pixel_size))))
    return max(found, key=lambda pair: pair[1].correlation)


def _outside(xyz: Tensor, box: int, pixel_size: float) -> float:
    """Share of the positions xyz[a,3] (A from the box centre) that lie outside the map."""
    voxel = xyz / pixel_size + box // 2
    return float(((voxel < 0) | (voxel > box - 1)).any(dim=1).double().mean())


def model_fsc_summary(settings: ModelFscSettings, found: ModelFsc) -> dict[str, Any]:
    """Everything but the maps as plain JSON values. A resolution is null where the curve stays above the threshold."""
    pose = found.pose
    return {
        "map": str(settings.map), "model": str(settings.model), "box": found.expected.shape[-1],
        "pixel_size_A": found.pixel_size, "assembly": settings.assembly, "bfactor_added_A2": settings.bfactor,
        "mask": "drawn around the model" if settings.mask is None else str(settings.mask),
        "mask_volume_A3": float(found.mask.sum()) * found.pixel_size**3,
        "resolution_A": {name: {f"{t:g}": found.resolution(name, t) for t in THRESHOLDS} for name in found.curves},
        "crossings_beyond_A": COARSEST,
        "placement": {"fitted": settings.fit, "start": pose.start, "correlation_at_10_A": pose.correlation,
                      "share_outside": pose.outside, "angle_deg": pose.angle, "matrix": pose.matrix()},
        "notes": [note.text for note in found.notes],
        "fsc": {name: curve.tolist() for name, curve in found.curves.items()},
    }  # fmt: skip


def _print(console: Console, settings: ModelFscSettings, found: ModelFsc, summary: dict[str, Any]) -> None:
    names = {"map": "map", "half1": "half map 1 (work)", "half2": "half map 2 (free)", "unmasked": "map, unmasked"}
    table = Table(title=f"Resolution against {settings.model.name} [A]", title_justify="left")
    for column in ("", *(f"FSC {t:g}" for t in THRESHOLDS)):
        table.add_column(column, justify="right" if column else "left")
    for name, text in names.items():
        if name in found.curves:
            values = summary["resolution_A"][name].values()
            table.add_row(text, *(f"< {2 * found.pixel_size:.2f}" if v is None else f"{v:.2f}" for v in values))
    console.print(table)
    share = 100 * float(found.mask.mean(dtype=torch.float64))
    console.print(escape(f"mask: {summary['mask']}, {share:.1f} % of the box"), soft_wrap=True)
    terminal.tell_findings(*found.notes)
    for note in found.notes:
        console.print(escape(f"- {note.text}"), soft_wrap=True)
    pose = found.pose
    console.print(f"model: {pose.start}; correlation with the map at {FIT_RESOLUTION:g} A: "
                  f"{pose.correlation:.3f}", soft_wrap=True)
    if settings.fit:
        rows = pose.matrix()
        console.print(f"fitted: turned by {pose.angle:.2f} degrees; x, y, z in the map are")
        for row in rows:
            console.print("  " + " ".join(f"{value:10.5f}" for value in row[:3]) + f" {row[3]:11.4f}")
        numbers = ",".join(f"{value:.6g}" for row in rows for value in row)
        console.print(f"in ChimeraX, the model being #2: view matrix models #2,{numbers}", soft_wrap=True)
    if pose.correlation < MISPLACED or pose.outside > FEW_ATOMS:
        advice = "another model, hand or contrast?" if settings.fit else "--fit looks for a better place"
        if pose.outside > FEW_ATOMS:
            console.print(f"- {100 * pose.outside:.0f} % of its atoms are outside the map")
        console.print(f"- the model hardly lies on the map; {advice}", soft_wrap=True)


def _write(out: Path, found: ModelFsc, summary: dict[str, Any]) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {out}: cannot make this folder: {error.strerror}; choose another") from error
    length = found.expected.shape[-1] * found.pixel_size
    lines = ["shell,frequency_1/A," + ",".join(found.curves)]
    for s, values in enumerate(zip(*(curve.tolist() for curve in found.curves.values()), strict=True)):
        lines.append(f"{s},{s / length:.6f}," + ",".join(f"{value:.6f}" for value in values))
    with replaced_atomically(out / "model_fsc.csv") as stream:
        stream.write(("\n".join(lines) + "\n").encode())
    with replaced_atomically(out / "model_fsc.json") as stream:
        stream.write((json.dumps(summary, indent=1) + "\n").encode())
    for name, volume in (("model_map", found.expected), ("mask", found.mask)):
        write_map(out / f"{name}.mrc", volume, found.pixel_size, placement=found.placement)
