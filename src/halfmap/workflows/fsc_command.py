"""`halfmap fsc`: every correlation curve of two half maps, the resolutions, and what to make of them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from halfmap.errors import InputError
from halfmap.maps.masks import solvent_mask
from halfmap.maps.mrc import MapFile, read_map, replaced_atomically, write_map
from halfmap.validation.fsc import (
    GOLD_STANDARD,
    FscCurves,
    corrected_fsc,
    crossing_shell,
    mask_verdict,
    resolution,
    write_fsc_xml,
)

_SEED = 0  # of the random phases: the same maps give the same numbers
_CURVES = ("unmasked", "spherical", "masked", "randomised", "corrected")


@dataclass(frozen=True)
class _Comparison:
    """What `run` found: the curves, the grid they are on, the mask used, and the sentences about them."""

    curves: FscCurves
    box: int
    pixel_size: float
    mask: Tensor
    mask_name: str
    verdict: list[str]

    def summary(self) -> dict[str, Any]:
        """Everything but the mask as plain JSON values; a resolution is null if never crossed."""
        crossings = {
            name: {str(t): self._resolution(name, t) for t in (GOLD_STANDARD, 0.5)} for name in _CURVES
        }
        start = self.curves.from_shell
        return {
            "box": self.box,
            "pixel_size_A": self.pixel_size,
            "mask": self.mask_name,
            "mask_volume_A3": float(self.mask.sum()) * self.pixel_size**3,
            "randomised_from_A": self.box * self.pixel_size / start if start <= self.box // 2 else None,
            "resolution_A": crossings,
            "verdict": self.verdict,
            "fsc": {name: getattr(self.curves, name).tolist() for name in _CURVES},
        }

    def _resolution(self, name: str, threshold: float) -> float | None:
        curve = getattr(self.curves, name)
        if crossing_shell(curve, threshold) is None:
            return None
        return resolution(curve, self.box, self.pixel_size, threshold)


def run(
    half1: Path, half2: Path, mask: Path | None = None, out: Path | None = None, diameter: float | None = None
) -> dict[str, Any]:
    """Compare two half maps and print a table; write fsc.xml, fsc.csv, fsc.json and mask.mrc into the
    folder `out`.

    Without a mask file one is made from the mean of the half maps. `diameter` (A) is that of the spherical
    mask and bounds the automatic one. Returns the content of fsc.json. Raises InputError where maps are not
    on one grid, where the mask is no mask, or where a file cannot be read or written.
    """
    first, second = read_map(half1), read_map(half2)
    _require_same_grid(first, second, half1, half2)
    box, pixel_size = first.data.shape[-1], first.pixel_size
    if diameter is not None and not 0 < diameter <= box * pixel_size:
        raise InputError(
            f"--diameter {diameter:g}: must lie between 0 and the box length, {box * pixel_size:g} A"
        )
    if mask is None:
        weights = solvent_mask((first.data + second.data) / 2, pixel_size, diameter)
    else:
        weights = _read_mask(mask, first, half1)
    curves = corrected_fsc(
        first.data,
        second.data,
        weights,
        torch.Generator().manual_seed(_SEED),
        sphere_radius=None if diameter is None else diameter / (2 * pixel_size),
    )
    name = "automatic" if mask is None else str(mask)
    comparison = _Comparison(curves, box, pixel_size, weights, name, mask_verdict(curves, box, pixel_size))
    _print(comparison)
    if out is not None:
        _write(comparison, out)
    return comparison.summary()


def _require_same_grid(first: MapFile, other: MapFile, first_path: Path, other_path: Path) -> None:
    box, other_box = first.data.shape[-1], other.data.shape[-1]
    if box != other_box:
        raise InputError(
            f"{other_path}: box {other_box}, but {first_path} has box {box}; "
            "give maps of one reconstruction, or resample one of them"
        )
    if abs(first.pixel_size / other.pixel_size - 1) > 1e-3:
        raise InputError(
            f"{other_path}: pixel size {other.pixel_size:g} A, but {first_path} has {first.pixel_size:g} A; "
            "correct the pixel size in the header of the file that is wrong"
        )


def _read_mask(path: Path, first: MapFile, first_path: Path) -> Tensor:
    mask = read_map(path)
    _require_same_grid(first, mask, first_path, path)
    low, high = float(mask.data.min()), float(mask.data.max())
    if low < -1e-3 or high > 1 + 1e-3 or high <= 0:
        raise InputError(f"{path}: values from {low:g} to {high:g}, a mask has 0 to 1; threshold it first")
    return mask.data.clamp(0, 1)


def _print(comparison: _Comparison) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    summary = comparison.summary()
    table = Table(title="Resolution of the half maps [A]", title_justify="left")
    table.add_column("FSC")
    table.add_column(f"at {GOLD_STANDARD}", justify="right")
    table.add_column("at 0.5", justify="right")
    nyquist = f"< {2 * comparison.pixel_size:.2f}"
    for name in ("unmasked", "spherical", "masked", "corrected"):
        row = summary["resolution_A"][name].values()
        table.add_row(name, *(nyquist if value is None else f"{value:.2f}" for value in row))
    console = Console(highlight=False)
    console.print(table)
    share = 100 * summary["mask_volume_A3"] / (comparison.box * comparison.pixel_size) ** 3
    console.print(escape(f"mask: {comparison.mask_name}, {share:.1f} % of the box"), soft_wrap=True)
    if summary["randomised_from_A"] is not None:
        console.print(f"phases randomised beyond {summary['randomised_from_A']:.2f} A")
    for sentence in comparison.verdict or ["nothing unusual about the curves"]:
        console.print(escape(f"- {sentence}"), soft_wrap=True)


def _write(comparison: _Comparison, out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out}: cannot make this folder: {error.strerror}; choose another --out") from error
    curves, box, pixel_size = comparison.curves, comparison.box, comparison.pixel_size
    write_fsc_xml(out / "fsc.xml", curves.corrected, box, pixel_size)
    lines = ["shell,frequency_1/A," + ",".join(_CURVES)]
    for s in range(len(curves.unmasked)):
        values = (f"{float(getattr(curves, name)[s]):.6f}" for name in _CURVES)
        lines.append(f"{s},{s / (box * pixel_size):.6f}," + ",".join(values))
    with replaced_atomically(out / "fsc.csv") as stream:
        stream.write(("\n".join(lines) + "\n").encode())
    with replaced_atomically(out / "fsc.json") as stream:
        stream.write((json.dumps(comparison.summary(), indent=1) + "\n").encode())
    write_map(out / "mask.mrc", comparison.mask, pixel_size)
