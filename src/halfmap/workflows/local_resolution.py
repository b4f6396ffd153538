"""`halfmap local-resolution`: the local resolution of two half maps, as a map to colour a surface by."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from halfmap.errors import InputError
from halfmap.finding import Finding
from halfmap.maps.filters import lowpass
from halfmap.maps.mrc import replaced_atomically, write_map
from halfmap.runtime import terminal
from halfmap.settings.analysis import LocalResolutionSettings
from halfmap.validation.fsc import GOLD_STANDARD, resolution
from halfmap.validation.local_resolution import COARSEST_SHELL, Window, local_resolution
from halfmap.workflows.half_map_pair import HalfMaps, read_half_maps

# Bsoft recommends for blocres a kernel of 5 to 7 times the resolution. In a smaller one too few shells lie below the
# crossing to locate it; a larger one reaches beyond a domain. The soft window here has a full width at half maximum of
# 5 times the resolution and lies in a cube of 7.5 times the resolution. A window below 20 A, the size of a bundle of
# four helices, holds too few atoms to have a resolution of its own.
WINDOW_RESOLUTIONS, LEAST_WINDOW = 5.0, 20.0
LEAST_VOXELS = 8.0  # across the window, so that its transform has six shells
PERCENTILES = (5, 25, 50, 75, 95)
MANY_COARSEST = 0.2  # share of the mask without a measurable resolution above which mask and window deserve a look

Report = Callable[..., Any]


@dataclass(frozen=True)
class LocalResolution:
    """Local resolution in A [z,y,x], and how it was measured: the half maps, the window, the distance of neighbouring
    windows (step) in voxels, and the number of windows (count)."""

    map: Tensor
    pair: HalfMaps
    window: Window
    step: int
    count: int

    @property
    def coarsest(self) -> float:
        """The value (A) of the map where the half maps do not agree in any shell, and outside the mask."""
        return self.window.box * self.pair.pixel_size / COARSEST_SHELL

    @property
    def share_at_coarsest(self) -> float:
        """Share of the mask where the half maps do not agree in any shell."""
        return float((self.map[self.pair.mask > 0.5] > 0.999 * self.coarsest).double().mean())

    def verdict(self) -> list[Finding]:
        """What is to be said of the half maps' curves, the mask and the window."""
        found, share = self.pair.verdict(), self.share_at_coarsest
        if share > MANY_COARSEST:
            text = (f"the half maps agree on nothing in {100 * share:.0f} % of the mask: it holds solvent or "
                    "disordered parts, or the window is too small for their resolution; try a larger --window")
            found.append(Finding("nothing measurable in the mask", text, "mask"))
        return found

    def summary(self, threshold: float) -> dict[str, Any]:
        """Everything but the maps as plain JSON values. threshold: of the FSC."""
        inside = self.map[self.pair.mask > 0.5].double().numpy()
        pixel_size = self.pair.pixel_size
        return {
            "box": self.pair.box, "pixel_size_A": pixel_size, "mask": self.pair.mask_name, "threshold": threshold,
            "window_A": self.window.width * pixel_size, "step_A": self.step * pixel_size, "windows": self.count,
            "global_resolution_A": {
                "unmasked": resolution(self.pair.curves.unmasked, self.pair.box, pixel_size),
                "corrected": resolution(self.pair.curves.corrected, self.pair.box, pixel_size)},
            "percentiles_A": {str(p): float(v) for p, v in zip(PERCENTILES, np.percentile(inside, PERCENTILES),
                                                               strict=True)},
            "coarsest_A": self.coarsest,
            "share_at_coarsest": self.share_at_coarsest, "verdict": [finding.text for finding in self.verdict()],
        }  # fmt: skip


def run(settings: LocalResolutionSettings, report: Report | None = None) -> LocalResolution:
    """Measure the local resolution of two half maps and write it into settings.out.

    Writes local_resolution.mrc (A at every voxel; the coarsest value outside the mask), mask.mrc and
    local_resolution.json. settings: as `validated_local_resolution` returns them. report: writes the page, and is
    called with the page's fields. Raises InputError where maps and mask are not on one grid, the mask is empty, the
    window does not fit the maps, or a file cannot be read or written.
    """
    assert settings.half1 and settings.half2 and settings.out  # named by validated_local_resolution
    console = terminal.console()
    with console.status("reading and comparing the half maps"):
        pair = read_half_maps(settings.half1, settings.half2, settings.mask, None)
        if not bool((pair.mask > 0.5).any()):
            raise InputError(f"{settings.mask}: the mask is nowhere above one half; give one that holds the molecule")
        window, step = _window(settings, pair)
    with console.status("looking through windows"):
        voxels, count = local_resolution(pair.half1, pair.half2, pair.mask, window, threshold=settings.threshold,
                                         step=step)
    found = LocalResolution(voxels * pair.pixel_size, pair, window, step, count)
    summary = found.summary(settings.threshold)
    terminal.tell_findings(*found.verdict())
    written = _write(settings.out, found, summary)
    if report is not None:
        report(
            record=pair.record(), summary=summary, verdict=found.verdict(), resolution=found.map.numpy(),
            mask=pair.mask.numpy(), mean=_seen(pair).numpy(),
        )  # fmt: skip
        written += [name for name in ("local_resolution.cxc", "local_resolution.html")
                    if (settings.out / name).is_file()]
    _print(console, summary, settings.out, written)
    return found


def _window(settings: LocalResolutionSettings, pair: HalfMaps) -> tuple[Window, int]:
    """The window, and the distance of neighbouring windows in voxels."""
    pixel_size, box = pair.pixel_size, pair.box
    widest = box * pixel_size / 1.5  # so that the window's cube is no larger than the map
    if settings.window is None:
        found = WINDOW_RESOLUTIONS * resolution(pair.curves.corrected, box, pixel_size, GOLD_STANDARD)
        width = max(min(max(found, LEAST_WINDOW), widest), LEAST_VOXELS * pixel_size)
    else:
        width = settings.window
        if not LEAST_VOXELS * pixel_size <= width <= widest:
            raise InputError(f"--window {width:g}: must lie between {LEAST_VOXELS * pixel_size:.4g} A (8 voxels) and "
                             f"{widest:.4g} A (two thirds of the box)")
    window = Window(width / pixel_size)
    if settings.step is None:
        return window, window.usual_step
    if settings.step > width:
        raise InputError(f"--step {settings.step:g}: must not be more than the window's width, {width:.4g} A")
    return window, max(1, round(settings.step / pixel_size))


def _seen(pair: HalfMaps) -> Tensor:
    """The mean of the half maps [z,y,x], low-passed at its resolution, for the page."""
    finest = resolution(pair.curves.corrected, pair.box, pair.pixel_size, GOLD_STANDARD)
    return lowpass((pair.half1 + pair.half2) / 2, pair.pixel_size, finest)


def _write(out: Path, found: LocalResolution, summary: dict[str, Any]) -> list[str]:
    """Write everything but the page. Returns the names of the files."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {out}: cannot make this folder: {error.strerror}; choose another") from error
    pair = found.pair
    write_map(out / "local_resolution.mrc", found.map, pair.pixel_size, placement=pair.placement)
    write_map(out / "mask.mrc", pair.mask, pair.pixel_size, placement=pair.placement)
    with replaced_atomically(out / "local_resolution.json") as stream:
        stream.write((json.dumps(summary, indent=1) + "\n").encode())
    return ["local_resolution.mrc", "mask.mrc", "local_resolution.json"]


def _print(console: Console, summary: dict[str, Any], out: Path, written: list[str]) -> None:
    table = Table(show_header=False)
    found = summary["percentiles_A"]
    overall = summary["global_resolution_A"]
    table.add_row("global, FSC 0.143", f"{overall['unmasked']:.2f} A unmasked, {overall['corrected']:.2f} A corrected")
    table.add_row(f"local, FSC {summary['threshold']:g}", " / ".join(f"{value:.2f}" for value in found.values()) + " A")
    table.add_row("percent of the mask", " / ".join(found))
    table.add_row("window, step", f"{summary['window_A']:.1f} A, {summary['step_A']:.1f} A: "
                  f"{summary['windows']} windows")
    table.add_row("nothing measurable", f"{100 * summary['share_at_coarsest']:.1f} % of the mask, given "
                  f"{summary['coarsest_A']:.1f} A, as all outside it")
    table.add_row("written", ", ".join(written))
    console.print(table)
    console.print(escape(f"mask: {summary['mask']}"), soft_wrap=True)
    for sentence in summary["verdict"]:
        console.print(escape(f"- {sentence}"), soft_wrap=True)
    console.print(escape(f"Finished: {out}"), soft_wrap=True)
