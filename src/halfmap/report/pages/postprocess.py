"""The page of `halfmap postprocess`: the mean of two half maps before and after sharpening."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from halfmap.finding import Finding
from halfmap.report.pages import findings
from halfmap.report.pages.findings import Headline, Tile, figure
from halfmap.report.pages.methods import RANDOMISED, THRESHOLD, Citation
from halfmap.report.pages.page import now, write_page
from halfmap.report.pictures.charts import Drawing
from halfmap.report.pictures.chimerax import Scene, palette, write_chimerax
from halfmap.report.pictures.guinier_plot import guinier_chart
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
from halfmap.report.pictures.viewer import viewer
from halfmap.report.record_values import Array, Record, curve, number, plain_value

SHARPENING = replace(THRESHOLD, role="B factor, FSC weighting and resolution at FSC 0.143")


@dataclass(frozen=True)
class PostprocessedMaps:
    """The contents of the page.

    record: box, pixel size and FSC curves under their names in an iteration's record; summary: the content of
    postprocess.json; raw, map: mean of the half maps as given, and sharpened [z,y,x]; mask: [z,y,x]; local: the
    sharpened map, locally filtered [z,y,x], or None; theta: the cut-off of that filter in A [z,y,x], or None. settings,
    version and command as in `Snapshot`.
    """

    record: Record
    summary: Record
    raw: Array
    map: Array
    mask: Array
    local: Array | None = None
    theta: Array | None = None
    verdict: Sequence[Finding] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    version: str = ""
    command: str = ""


def write_postprocess_report(folder: Path, shown: PostprocessedMaps) -> Path:
    """Write FOLDER/postprocess.html, complete in itself, and return its path. InputError if it cannot be written."""
    pixel_size = number(shown.record, "pixel_size")
    cutoff = local_cutoff(shown.theta, shown.mask, pixel_size)
    final = shown.map if shown.local is None else shown.local
    drawn = viewer(final, shown.mask, pixel_size, shown.theta, cutoff)
    if drawn is not None:
        _script(folder, shown, drawn.level, cutoff)
    contents = {
        "name": _name(folder.resolve()),
        "shown": shown,
        "written": now(),
        "headline": _headline(shown),
        "checks": findings.verdict_checks(shown.verdict),
        "readings": findings.readings(shown.verdict),
        "fsc": _fsc_chart(shown),
        "guinier": guinier_chart(shown.summary),
        "fit": _fit_text(shown.summary),
        "rows": _rows(shown, cutoff),
        "bar": scale_bar(window_around(shown.mask, shown.mask.shape[0]), pixel_size),
        "cutoff": cutoff,
        "surface_view": drawn,
        "numbers": _numbers(shown.summary),
        "settings": findings.setting_rows(shown.settings),
        "methods": _methods(shown),
        "citations": _citations(shown),
    }
    return write_page(folder, "postprocess.html", contents, "postprocess.html")


def _script(folder: Path, shown: PostprocessedMaps, level: float, cutoff: LocalCutoff | None) -> None:
    """Write the ChimeraX script: the sharpened map, coloured by the cut-off of its local filter if it has one."""
    run = plain_value(shown.settings, "run")
    theta = folder / "theta.mrc"
    if run and not theta.is_file():
        theta = Path(str(run)) / "theta.mrc"
    name = "map_sharpened.mrc" if shown.local is None else "map_sharpened_local.mrc"
    scene = Scene(folder / name, level, None if shown.local is None else theta, palette(cutoff), [folder / "mask.mrc"])
    write_chimerax(folder / "map_sharpened.cxc", scene)


def _name(folder: Path) -> str:
    """The name of the folder, with that of the run before it if its own name says nothing."""
    return f"{folder.parent.name}/{folder.name}" if folder.name == "postprocess" else folder.name


def _fsc_chart(shown: PostprocessedMaps) -> Drawing | None:
    """The five FSC curves, with the resolution marked on the unmasked one."""
    found = shown.summary["resolution_A"]
    marked = {"resolution_A": found["unmasked"]["0.143"], "resolution_05_A": found["unmasked"]["0.5"]}
    return fsc_chart([{**shown.record, **marked}])


def _headline(shown: PostprocessedMaps) -> Headline:
    summary = shown.summary
    found = summary["resolution_A"]
    nyquist = 2 * summary["pixel_size_A"]
    corrected = found["corrected"]["0.143"]
    hero = Tile("Resolution", figure(corrected or nyquist), "Å",
                "within the mask, corrected, FSC 0.143" + ("" if corrected else ": limited by Nyquist"))
    fit = summary["guinier_fit"]
    spread = f"fitted, ± {fit['standard_error_A2']:.0f}" if fit and summary["bfactor_from"] != "--bfactor" else ""
    origin = "as given" if summary["bfactor_from"] == "--bfactor" else spread or "none fitted"
    lowpass = summary["lowpass_A"]
    volume = summary["mask_volume_A3"] / (summary["box"] * summary["pixel_size_A"]) ** 3
    mask = "made from the maps" if summary["mask"] == "automatic" else Path(summary["mask"]).name
    tiles = [
        Tile("B factor applied", figure(summary["bfactor_A2"], 0), "Å²", origin),
        Tile("Unmasked", figure(found["unmasked"]["0.143"]), "Å" if found["unmasked"]["0.143"] else "", "FSC 0.143"),
        Tile("At FSC 0.5", figure(found["corrected"]["0.5"]), "Å" if found["corrected"]["0.5"] else "",
             "masked, corrected"),
        Tile("Low-pass", figure(lowpass) if lowpass else "none", "Å" if lowpass else "", "of the sharpened map"),
        Tile("Mask", f"{100 * volume:.1f}", "%", f"of the box, {mask}"),
        Tile("Box", f"{summary['box']:.0f}", "px", f"of {summary['pixel_size_A']:.4g} Å"),
    ]  # fmt: skip
    return Headline(hero, tiles)


def _rows(shown: PostprocessedMaps, cutoff: LocalCutoff | None) -> list[list[Picture]]:
    """A row for each central slice: the mean of the half maps, the sharpened map within its mask and, if there is one,
    the locally filtered map; and a row of the local cut-off, if there is one."""
    window = window_around(shown.mask, shown.mask.shape[0])
    volumes = {"mean of half maps": shown.raw, "sharpened": shown.map * shown.mask}
    if shown.local is not None:
        volumes["locally filtered"] = shown.local * shown.mask
    greys = [central_greys(volume, window) for volume in volumes.values()]
    rows = []
    for i, plane in enumerate(PLANES):
        edge = outline(central(shown.mask, plane.axis), window)
        rows.append([slice_picture(title, plane, grey[i], edge) for title, grey in zip(volumes, greys, strict=True)])
    if cutoff:
        rows.append(cutoff.slices)
    return rows


def _fit_text(summary: Record) -> str:
    fit = summary["guinier_fit"]
    if fit is None:
        return "No line could be fitted: too few shells lie in its range."
    inside = summary["guinier_fit_masked"]
    masked = f" Within the mask it says {figure(inside['bfactor_A2'], 1)} ± {inside['standard_error_A2']:.1f} Å²."
    used = "" if summary["bfactor_from"] == "the Guinier plot" else " It was not used: a B factor was given."
    return (
        f"The line through {fit['shells']} shells from {fit['from_A']:.1f} to {fit['to_A']:.2f} Å says a B factor "
        f"of {figure(fit['bfactor_A2'], 1)} ± {fit['standard_error_A2']:.1f} Å² "
        f"(correlation {figure(fit['correlation'])}).{masked}{used}"
    )


@dataclass(frozen=True)
class ResolutionRow:
    """A row of the table of resolutions (A): the name of an FSC curve, and where it falls to 0.143 and to 0.5."""

    curve: str
    gold: str
    half: str


def _numbers(summary: Record) -> list[ResolutionRow]:
    nyquist = f"< {2 * summary['pixel_size_A']:.2f}"
    rows = []
    for name in ("unmasked", "spherical", "masked", "corrected"):
        at = summary["resolution_A"][name]
        gold, half = (nyquist if at[t] is None else f"{at[t]:.2f}" for t in ("0.143", "0.5"))
        rows.append(ResolutionRow(name, gold, half))
    return rows


def _methods(shown: PostprocessedMaps) -> str:
    summary = shown.summary
    corrected = summary["resolution_A"]["corrected"]["0.143"]
    fit = summary["guinier_fit"]
    line = f", from a Guinier plot between {fit['from_A']:.1f} and {fit['to_A']:.1f} Å" if fit else ""
    line = line if summary["bfactor_from"] == "the Guinier plot" else ""
    steps = [f"sharpened by a B factor of {figure(summary['bfactor_A2'], 0)} Å²{line}"]
    if summary["mtf"]:
        steps.insert(0, "divided by the MTF of the detector")
    if summary["fsc_weighted"]:
        steps.append("weighted by √(2 FSC / (1 + FSC))")
    if summary["lowpass_A"]:
        steps.append(f"low-pass filtered at {summary['lowpass_A']:.2f} Å")
    found = f"{corrected:.2f} Å" if corrected else f"the Nyquist limit, {2 * summary['pixel_size_A']:.2f} Å"
    local = summary["local_filter"]
    also = f" A second map was sharpened by the same B factor and filtered locally: {local}." if local else ""
    name = f"Halfmap {shown.version}".strip()
    return (
        f"The mean of the two half maps was {', '.join(steps)} with {name}. The resolution, at "
        f" FSC 0.143 within a soft mask and corrected by phase randomisation, is {found}.{also}"
    )


def _citations(shown: PostprocessedMaps) -> list[Citation]:
    version = shown.version or "version not recorded"
    title = "open cryo-EM refinement with a choice of regularisers,"
    program = Citation("Postprocessing", "Halfmap", title, version, "")
    return [program, SHARPENING, *([RANDOMISED] if curve(shown.record, "fsc_randomised") else [])]
