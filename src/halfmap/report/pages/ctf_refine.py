"""The page of `halfmap ctf-refine`: what was fitted, how sure it is, and what it looks like."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from halfmap.ctf_refinement.fit import Fitted
from halfmap.ctf_refinement.parameters import PARAMETERS, Per
from halfmap.report.pages import findings
from halfmap.report.pages.findings import Headline, Tile, figure, grouped, significant
from halfmap.report.pages.methods import THRESHOLD, Citation
from halfmap.report.pages.page import now, write_page
from halfmap.report.pictures import ctf_charts as charts
from halfmap.report.pictures.charts import Drawing
from halfmap.report.pictures.signed import signed_gradient
from halfmap.workflows.ctf_refine import CtfRefined
from halfmap.workflows.ctf_refine_words import as_given, rounded

MOST_MAPS, MOST_ROWS = 4, 20  # phase maps of each kind, and lines of a table of optics groups

DEFOCUS = Citation(
    "Defocus of particles and beam tilt from images",
    "Zivanov J, Nakane T, Forsberg BO, Kimanius D, Hagen WJH, Lindahl E, Scheres SHW.",
    "New tools for automated high-resolution cryo-EM structure determination in RELION-3.",
    "eLife 7, e42166 (2018).",
    "10.7554/eLife.42166",
)
ABERRATIONS = Citation(
    "Higher-order aberrations and anisotropic magnification",
    "Zivanov J, Nakane T, Scheres SHW.",
    "Estimation of high-order aberrations and anisotropic magnification from cryo-EM data sets in RELION-3.1.",
    "IUCrJ 7, 253–267 (2020).",
    "10.1107/S2052252520000081",
)


@dataclass(frozen=True)
class CtfRefinePage:
    """The contents of the page. settings, version and command as in `Snapshot`."""

    found: CtfRefined
    settings: Mapping[str, Any] = field(default_factory=dict)
    version: str = ""
    command: str = ""


@dataclass(frozen=True)
class GroupRow:
    """The values of an optics group: its name, a text for each component, what the change wins, and what became of
    it."""

    name: str
    values: list[str]
    gain: str
    done: str


@dataclass(frozen=True)
class Kind:
    """All that the page shows of one kind of values.

    counted: how many were changed; rows: of optics groups, strongest first; hidden: how many rows are left out;
    drawings: histograms of particles, or charts by micrograph or, of many, by optics group.
    """

    name: str
    meaning: str
    counted: str
    verdict: str
    heads: list[str]
    rows: list[GroupRow]
    hidden: int
    drawings: list[Drawing]


def write_ctf_refine_page(folder: Path, shown: CtfRefinePage) -> Path:
    """Write FOLDER/ctf_refine.html, complete in itself, and return its path."""
    found = shown.found
    contents = {
        "name": folder.resolve().name, "shown": shown, "found": found, "written": now(), "headline": _headline(found),
        "checks": findings.verdict_checks(found.findings), "kinds": [_kind(one, found) for one in found.fitted],
        "phases": charts.phase_pictures(found.maps, found.after.optics, MOST_MAPS), "gradient": signed_gradient(),
        "hidden_maps": max(0, len(found.maps) - 2 * MOST_MAPS), "places": _places(found), "figure": figure,
        "settings": findings.setting_rows(shown.settings), "methods": _methods(shown),
        "citations": [DEFOCUS, ABERRATIONS, THRESHOLD],
    }  # fmt: skip
    return write_page(folder, "ctf_refine.html", contents, "ctf_refine.html")


def _headline(found: CtfRefined) -> Headline:
    changed = [one for one in found.fitted if bool(one.applied.any())]
    names = ", ".join(one.name for one in changed) or "nothing is significant, and all stays as it was"
    hero = Tile("Changed", f"{len(changed)}", f"of {len(found.fitted)}", names)
    tiles = [_tile(one) for one in found.fitted]
    tiles.append(Tile("Compared", f"{found.coarsest:.1f} to {found.finest:.2f}", "Å",
                      f"{grouped(len(found.after))} particles; noise {found.noise}"))
    return Headline(hero, tiles)


def _tile(one: Fitted) -> Tile:
    """How far one kind of values moved."""
    note = f"{_counted(one)}; error {_errors(one)}"
    change = one.change[one.applied].double()
    if not len(change):
        return Tile(one.name, "as it was", "", note)
    size = change.square().mean(dim=0).sqrt()
    if len(set(one.units)) == 1 and one.per is Per.GROUP:
        size = size.norm()[None]
    return Tile(one.name, significant(float(size[0])), charts.shown_unit(one.units[0]), note)


def _errors(one: Fitted) -> str:
    known = one.error.double().masked_fill(one.error.isinf(), math.nan)  # without those that nothing was fitted to
    middle = [None if math.isnan(value) else value for value in known.nanmedian(dim=0).values.tolist()]
    return ", ".join(f"{significant(value, 2)} {charts.shown_unit(unit)}".strip()
                     for value, unit in zip(middle, one.units, strict=True))


def _counted(one: Fitted) -> str:
    halves = " of half sets" if one.per is Per.MICROGRAPH else ""
    return f"{grouped(int(one.applied.sum()))} of {grouped(len(one.number))} {one.per.value}s{halves} changed"


def _kind(one: Fitted, found: CtfRefined) -> Kind:
    meaning, heads, rows, drawings = PARAMETERS[one.name].meaning, list[str](), list[GroupRow](), list[Drawing | None]()
    components = range(len(one.components))
    if one.per is Per.GROUP:
        heads = [f"{name} ({charts.shown_unit(unit)})" if unit else name
                 for name, unit in zip(one.components, one.units, strict=True)]
        rows = [_row(one, i, found) for i in one.gain.argsort(descending=True)[:MOST_ROWS].tolist()]
        if len(one.number) > charts.MANY:
            drawings = [charts.group_chart(one, found.after.optics, i) for i in components]
    else:
        drawings = [drawing for i in components for drawing in _drawings(one, i, found)]
    return Kind(one.name, findings.sentence(meaning), _counted(one), findings.sentence(one.verdict), heads, rows,
                max(0, len(one.number) - MOST_ROWS) if rows else 0, [one for one in drawings if one is not None])


def _drawings(one: Fitted, component: int, found: CtfRefined) -> list[Drawing | None]:
    """A histogram of the particles' changes, and the changes by micrograph where the file names these."""
    drawings: list[Drawing | None] = []
    if one.per is Per.PARTICLE:
        drawings.append(charts.change_histogram(one, component))
    micrographs = found.after.micrographs
    if micrographs is not None and len(one.number) and 1 < len(micrographs) < len(found.after):
        drawings.append(charts.micrograph_chart(one, component, found.after.micrograph))
    return drawings


def _row(one: Fitted, row: int, found: CtfRefined) -> GroupRow:
    """The values of one optics group, as they were, as they were found, and their errors."""
    texts = [
        f"{as_given(before, error)} → {rounded(before + change, error)} ± {rounded(error, error)}".replace("-", "−")
        for before, change, error in zip(one.before[row].tolist(), one.change[row].tolist(), one.error[row].tolist(),
                                         strict=True)
    ]
    return GroupRow(found.after.optics[int(one.number[row])].name, texts, figure(float(one.gain[row]), 1),
                    "applied" if bool(one.applied[row]) else "left as it was")


def _places(found: CtfRefined) -> list[charts.PlacePicture]:
    """How defocus, and what was changed of it, depend on the place in the micrograph."""
    if found.places is None:
        return []
    before, after = (0.5 * (table.defocus.u + table.defocus.v) for table in (found.before, found.after))
    if not bool((after != before).any()):
        return []
    micrograph = torch.from_numpy(found.after.micrograph)
    counts = torch.bincount(micrograph).clamp_min(1)
    level = after - (torch.bincount(micrograph, after) / counts)[micrograph]
    pictures = [charts.place_picture(found.places, np.asarray(values), title) for values, title in (
        (after - before, "change of defocus"), (level, "defocus, less the mean of the micrograph"))]
    return [one for one in pictures if one is not None]


def _methods(shown: CtfRefinePage) -> str:
    found, name = shown.found, f"Halfmap {shown.version}".strip()
    fitted = ", ".join(PARAMETERS[one.name].meaning for one in found.fitted)
    tilt = found.tilt
    plane = (f" The specimen is tilted by {tilt.angle:.1f} ± {max(tilt.error, 0.1):.1f}°."
             if tilt is not None and tilt.significant and math.isfinite(tilt.error) else "")
    kept = ("All values were applied." if found.all_applied
            else "Values were changed where a likelihood-ratio test found that significant.")
    return (f"With {name}, the following were fitted to {grouped(len(found.after))} particle images at their poses by "
            f"maximum likelihood (after Zivanov et al. 2018 and 2020), between {found.coarsest:.1f} and "
            f"{found.finest:.2f} Å: {fitted}. Images were compared with the map of {_whose(found)}. {kept}{plane}")


def _whose(found: CtfRefined) -> str:
    """The half set whose map images were compared with, for the values that were fitted."""
    own = "their own half set, less what they find of their own noise in it"
    kinds = {one.per is Per.GROUP for one in found.fitted}
    if len(kinds) == 1:
        return "the other half set" if kinds.pop() else own
    return f"{own}, and for values of optics groups with that of the other half set"
