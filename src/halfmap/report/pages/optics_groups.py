"""The page of `halfmap convert --group-by`: the optics groups that were made, and where their images were taken."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from markupsafe import Markup

from halfmap.report.pages import findings
from halfmap.report.pages.findings import Headline, Tile, Warned, figure, grouped, significant
from halfmap.report.pages.methods import Citation
from halfmap.report.pages.page import now, write_page
from halfmap.report.pictures.places import places_svg

SHIFT = Citation(
    "Beam-image shift and the beam tilt it brings",
    "Cheng A, Eng ET, Alink L, Rice WJ, Jordan KD, Kim LY, Potter CS, Carragher B.",
    "High resolution single particle cryo-electron microscopy using beam-image shift.",
    "J. Struct. Biol. 204, 270\u2013275 (2018).", "10.1016/j.jsb.2018.07.015",
)
ABERRATIONS = Citation(
    "Aberrations of optics groups",
    "Zivanov J, Nakane T, Scheres SHW.",
    "Estimation of high-order aberrations and anisotropic magnification from cryo-EM data sets in RELION-3.1.",
    "IUCrJ 7, 253\u2013267 (2020).", "10.1107/S2052252520000081",
)


@dataclass(frozen=True)
class OpticsGroupsPage:
    """The contents of the page.

    rule: as the user wrote it; old: number of groups before; groups: name, number, particles, micrographs and centre of
    each new one; places [i, 3]: positions and the number of their part, none where text decided; labels: columns of the
    positions; gap: the smallest distance between groups over the largest gap within one; notes: what is to be looked
    at; settings and version as in `Snapshot`.
    """

    rule: str
    old: int
    groups: Sequence[Mapping[str, Any]]
    places: Sequence[Sequence[float]]
    labels: Sequence[str]
    gap: float | None
    notes: Sequence[Sequence[str]]
    settings: Mapping[str, Any] = field(default_factory=dict)
    version: str = ""
    command: str = ""


def write_optics_groups_page(path: Path, shown: OpticsGroupsPage) -> Path:
    """Write the page, complete in itself; return its path. Raises InputError if it cannot be written."""
    contents = {
        "name": path.stem.removesuffix("_groups"), "shown": shown, "written": now(), "headline": _headline(shown),
        "checks": [Warned(findings.sentence(text), where) for where, text in shown.notes],
        "picture": Markup(places_svg(shown.places, shown.labels)) if len(shown.places) else None,
        "rows": _rows(shown), "settings": findings.setting_rows(shown.settings),
        "methods": _methods(shown), "citations": [SHIFT, ABERRATIONS],
    }  # fmt: skip
    return write_page(path.parent, "optics_groups.html", contents, path.name)


def _headline(shown: OpticsGroupsPage) -> Headline:
    sizes = sorted(group["particles"] for group in shown.groups)
    hero = Tile("Optics groups", grouped(len(sizes)), "", f"from {shown.old}, by {shown.rule}")
    tiles = [Tile("Particles", grouped(sum(sizes))),
             Tile("In a group", f"{grouped(sizes[0])} to {grouped(sizes[-1])}", "",
                  f"half of the groups have {grouped(sizes[len(sizes) // 2])} images or more")]
    if shown.gap is not None:
        tiles.append(Tile("Gap", figure(shown.gap, 1), "times", "smallest distance between groups over the largest gap "
                                                                 "within one"))
    return Headline(hero, tiles)


def _rows(shown: OpticsGroupsPage) -> list[dict[str, Any]]:
    """Rows of the table: number, name, images with their share of the largest group in percent, micrographs, centre."""
    most = max(group["particles"] for group in shown.groups)
    return [{
        "number": group["number"], "name": group["name"], "particles": grouped(group["particles"]),
        "percent": round(100 * group["particles"] / most, 1), "micrographs": grouped(group["micrographs"]),
        "centre": [significant(value) for value in group["centre"] or ()],
    } for group in shown.groups]


def _methods(shown: OpticsGroupsPage) -> str:
    how = (f"their micrographs' positions ({', '.join(shown.labels)}), which were clustered" if len(shown.places) else
           "the place within the foil hole that the file names of EPU tell" if shown.rule == "beam-shift" else
           f"file names or columns ({shown.rule})")
    return (f"Images were divided into {len(shown.groups)} optics groups by {how} with Halfmap {shown.version}, so "
            "that beam tilt and higher aberrations can be estimated for each.")
