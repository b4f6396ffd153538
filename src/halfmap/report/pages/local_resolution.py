"""The page of `halfmap local-resolution`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from halfmap.finding import Finding
from halfmap.report.pages import findings
from halfmap.report.pages.findings import Headline, Tile, figure
from halfmap.report.pages.methods import LOCAL_RESOLUTION, RANDOMISED, THRESHOLD
from halfmap.report.pages.page import now, write_page
from halfmap.report.pictures.chimerax import Scene, level_of, palette, write_chimerax
from halfmap.report.pictures.local_cutoff import RESOLUTION, LocalCutoff, local_cutoff
from halfmap.report.pictures.run_charts import fsc_chart
from halfmap.report.pictures.slices import (
    PLANES,
    Picture,
    central,
    central_greys,
    outline,
    scale_bar,
    slice_picture,
    window_around,
)
from halfmap.report.pictures.viewer import viewer
from halfmap.report.record_values import Array, Record, number, plain_value


@dataclass(frozen=True)
class LocalResolutionPage:
    """The contents of the page.

    record: grid, resolutions and FSC curves under their names in an iteration's record; summary: the content of
    local_resolution.json; resolution: local resolution in A [z,y,x]; mean: the average of the half maps, filtered for
    display [z,y,x]; mask: [z,y,x]; verdict: on curves and mask. settings, version and command as in `Snapshot`.
    """

    record: Record
    summary: Mapping[str, Any]
    resolution: Array
    mean: Array
    mask: Array
    verdict: Sequence[Finding] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    version: str = ""
    command: str = ""


def write_local_resolution_page(folder: Path, shown: LocalResolutionPage) -> Path:
    """Write FOLDER/local_resolution.html, complete in itself, and return its path."""
    pixel_size = number(shown.record, "pixel_size")
    cutoff = local_cutoff(shown.resolution, shown.mask, pixel_size, RESOLUTION)
    window = window_around(shown.mask, shown.mask.shape[0])
    drawn = viewer(shown.mean, shown.mask, pixel_size, shown.resolution, cutoff)
    contents = {
        "name": folder.resolve().name, "shown": shown, "written": now(), "headline": _headline(shown, cutoff),
        "checks": findings.verdict_checks(shown.verdict), "readings": findings.readings(shown.verdict),
        "fsc": fsc_chart([shown.record]), "rows": _rows(shown, cutoff), "bar": scale_bar(window, pixel_size),
        "cutoff": cutoff, "surface_view": drawn,
        "settings": findings.setting_rows(shown.settings), "chimerax": palette(cutoff),
        "script": _script(folder, shown, cutoff), "methods": _methods(shown),
        "citations": [LOCAL_RESOLUTION, THRESHOLD, RANDOMISED],
    }  # fmt: skip
    return write_page(folder, "local_resolution.html", contents, "local_resolution.html")


def _rows(shown: LocalResolutionPage, cutoff: LocalCutoff | None) -> list[list[Picture]]:
    """A row of the three central slices of the map, and a row of those of local resolution in colour."""
    window = window_around(shown.mask, shown.mask.shape[0])
    grey = central_greys(shown.mean, window)
    first = [slice_picture("average of the half maps", plane, pixels, outline(central(shown.mask, plane.axis), window))
             for plane, pixels in zip(PLANES, grey, strict=True)]
    return [first, cutoff.slices] if cutoff else [first]


def _headline(shown: LocalResolutionPage, cutoff: LocalCutoff | None) -> Headline:
    summary = shown.summary
    hero = Tile("Median local resolution", figure(cutoff.median if cutoff else None), "Å",
                f"inside the mask, local FSC {summary['threshold']:g}")
    overall = summary["global_resolution_A"]
    tiles = [Tile("Nine tenths between", f"{cutoff.coarsest:.1f} and {cutoff.finest:.1f}", "Å", "of the volume inside "
                  "the mask")] if cutoff else []
    tiles += [
        Tile("Whole map", figure(overall["corrected"]), "Å", "masked, corrected, FSC 0.143"),
        Tile("Unmasked", figure(overall["unmasked"]), "Å", "FSC 0.143"),
        Tile("Not measurable", f"{100 * summary['share_at_coarsest']:.1f}", "%",
             f"of the mask: set to {summary['coarsest_A']:.1f} Å, as everything outside"),
        Tile("Window", f"{summary['window_A']:.1f}", "Å", f"wide at half its height, every {summary['step_A']:.1f} Å: "
             f"{findings.grouped(summary['windows'])} windows"),
    ]  # fmt: skip
    return Headline(hero, tiles)


def _script(folder: Path, shown: LocalResolutionPage, cutoff: LocalCutoff | None) -> str:
    """Write the ChimeraX script that colours a map by local resolution, and return its name.

    The map is the sharpened map of the run, else its map, else the first half map. Without any of them no script is
    written, and the name is empty.
    """
    given = {name: Path(str(path)) for name in ("run", "half1") if (path := plain_value(shown.settings, name))}
    run = given.get("run")
    maps = [run / "postprocess" / "map_sharpened.mrc", run / "map.mrc"] if run else []
    found = next((path for path in [*maps, *([given["half1"]] if "half1" in given else [])] if path.is_file()), None)
    if found is None or cutoff is None:
        return ""
    mask = folder / "mask.mrc"
    scene = Scene(found, level_of(found, mask), folder / "local_resolution.mrc", palette(cutoff), [mask])
    return write_chimerax(folder / "local_resolution.cxc", scene).name


def _methods(shown: LocalResolutionPage) -> str:
    summary, name = shown.summary, f"Halfmap {shown.version}".strip()
    return (
        f"Local resolution was measured with {name} as the FSC of the unfiltered half maps in soft spherical windows "
        f"{summary['window_A']:.1f} Å wide at half maximum (Cardone et al. 2013), at {summary['windows']} places "
        f"{summary['step_A']:.1f} Å apart, read where it falls below {summary['threshold']:g}; correlations within two "
        "standard deviations of those of noise do not count."
    )
