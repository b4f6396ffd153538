"""The page of `halfmap regularise`: two half maps before and after a regulariser."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from halfmap.finding import Finding
from halfmap.report.pages import findings
from halfmap.report.pages.findings import Headline, Tile, figure, regulariser_name
from halfmap.report.pages.methods import citations, filtering_text
from halfmap.report.pages.page import now, write_page
from halfmap.report.pictures.local_cutoff import LocalCutoff, local_cutoff
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
from halfmap.report.record_values import Array, Record, crossing, curve, number


@dataclass(frozen=True)
class FilteredPair:
    """The contents of the page.

    record: grid, resolutions and FSC curves under their names in an iteration's record; raw, map: average of the half
    maps as given, and filtered [z,y,x]; mask: [z,y,x]; theta: local cut-off in A [z,y,x], or None; crosses: what
    crosses between half sets in a refinement with this method; note: what holds here instead; verdict: on the
    curves. settings, version, command and citing as in `Snapshot`.
    """

    record: Record
    raw: Array
    map: Array
    mask: Array
    theta: Array | None = None
    crosses: str = ""
    note: str = ""
    verdict: Sequence[Finding] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    version: str = ""
    command: str = ""
    citing: str = ""


def write_filtered_report(folder: Path, shown: FilteredPair) -> Path:
    """Write FOLDER/report.html, complete in itself, and return its path. InputError if it cannot be written."""
    pixel_size = number(shown.record, "pixel_size")
    cutoff = local_cutoff(shown.theta, shown.mask, pixel_size)
    window = window_around(shown.mask, shown.mask.shape[0])
    contents = {
        "name": folder.resolve().name,
        "shown": shown,
        "written": now(),
        "headline": _headline(shown, cutoff),
        "checks": findings.verdict_checks(shown.verdict),
        "readings": findings.readings(shown.verdict),
        "fsc": fsc_chart([shown.record]),
        "rows": _rows(shown, cutoff),
        "bar": scale_bar(window, pixel_size),
        "cutoff": cutoff,
        "settings": findings.setting_rows(shown.settings),
        "methods": filtering_text(shown.record, shown.settings, shown.version, shown.citing),
        "citations": citations(shown.settings, shown.version, shown.citing, True),
    }
    return write_page(folder, "regularise.html", contents)


def _rows(shown: FilteredPair, cutoff: LocalCutoff | None) -> list[list[Picture]]:
    """A row for each central slice: the raw average, the filtered one and, if there is one, the local cut-off."""
    window = window_around(shown.mask, shown.mask.shape[0])
    # Each map has one scale of grey for its three slices, because noise makes the range of the raw map wider.
    raw, filtered = (central_greys(volume, window) for volume in (shown.raw, shown.map))
    rows = []
    for i, plane in enumerate(PLANES):
        edge = outline(central(shown.mask, plane.axis), window)
        row = [slice_picture(title, plane, grey[i], edge) for title, grey in (("raw average", raw),
                                                                              ("filtered", filtered))]
        rows.append(row + ([cutoff.slices[i]] if cutoff else []))
    return rows


def _headline(shown: FilteredPair, cutoff: LocalCutoff | None) -> Headline:
    record = shown.record
    hero = Tile("Resolution", figure(number(record, "resolution_A")), "Å", "unmasked half maps, FSC 0.143")
    corrected = crossing(record, curve(record, "fsc_corrected"), 0.143)
    box, pixel = number(record, "box"), number(record, "pixel_size")
    tiles = [
        Tile("At FSC 0.5", figure(number(record, "resolution_05_A")), "Å", "unmasked half maps"),
        Tile("Masked, corrected", figure(corrected), "Å" if corrected else "", "FSC 0.143, phase-randomised"),
        Tile("Regulariser", regulariser_name(shown.settings) or "not recorded", "", "used as a filter"),
        Tile("Box", f"{box:.0f}" if box else "–", "px", f"of {pixel:.4g} Å" if pixel else ""),
    ]
    if cutoff:
        span = f"nine tenths between {cutoff.coarsest:.1f} and {cutoff.finest:.1f} Å"
        tiles.append(Tile("Local cut-off", f"{cutoff.median:.1f}", "Å", f"median inside the mask; {span}"))
    note = shown.note[:1].upper() + shown.note[1:] + "." if shown.note else ""
    tiles.append(Tile("Crosses between halves in refinement", shown.crosses, "", note))
    return Headline(hero, tiles)
