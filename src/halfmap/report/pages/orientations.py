"""The page of `halfmap orientations`: views on the sphere, and agreement of the half maps by direction."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from halfmap.report.pages import findings
from halfmap.report.pages.findings import Headline, Tile, Warned, figure, grouped
from halfmap.report.pages.methods import RANDOMISED, THRESHOLD, Citation
from halfmap.report.pages.page import now, write_page
from halfmap.report.pictures.orientation_charts import (
    SpherePicture,
    conical_chart,
    resolution_picture,
    sampling_picture,
)
from halfmap.report.pictures.sphere import view_sphere
from halfmap.report.record_values import Array, Record

SAMPLING = Citation(
    "Fourier sampling and SCF*",
    "Baldwin PR, Lyumkis D.",
    "Non-uniformity of projection distributions attenuates resolution in cryo-EM.",
    "Prog. Biophys. Mol. Biol. 150, 160–183 (2020).",
    "10.1016/j.pbiomolbio.2019.09.002",
)
TOOLS = Citation(
    "SCF* of sets with gaps",
    "Baldwin PR, Lyumkis D.",
    "Tools for visualizing and analyzing Fourier space sampling in cryo-EM.",
    "Prog. Biophys. Mol. Biol. 160, 53–65 (2021).",
    "10.1016/j.pbiomolbio.2020.06.003",
)
CONES = Citation(
    "FSC in cones",
    "Tan YZ, Baldwin PR, Davis JH, Williamson JR, Potter CS, Carragher B, Lyumkis D.",
    "Addressing preferred specimen orientation in single-particle cryo-EM through tilting.",
    "Nature Methods 14, 793–796 (2017).",
    "10.1038/nmeth.4347",
)


@dataclass(frozen=True)
class OrientationsPage:
    """The contents of the page.

    summary: the content of orientations.json; views: unit view directions [b,3]; sampling: slices [d] through
    directions [d,3] of Fourier space over their mean; resolution: in A [c] along axes [c,3], one of each opposite pair.
    A pair that was not measured is None. settings, version and command as in `Snapshot`.
    """

    summary: Mapping[str, Any]
    views: Array | None = None
    directions: Array | None = None
    sampling: Array | None = None
    axes: Array | None = None
    resolution: Array | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    version: str = ""
    command: str = ""


def write_orientations_page(folder: Path, shown: OrientationsPage) -> Path:
    """Write FOLDER/orientations.html, complete in itself, and return its path."""
    sphere = None if shown.views is None else view_sphere(shown.views, None, str(shown.summary["symmetry"]))
    contents = {
        "name": _name(folder.resolve()), "shown": shown, "summary": shown.summary, "written": now(),
        "headline": _headline(shown.summary), "sphere": sphere,
        "checks": [Warned(findings.sentence(text), "map" if "cFAR" in text else "views")
                   for text in shown.summary["verdict"]],
        "sampling": _sampling_picture(shown), "resolution": _resolution_picture(shown),
        "fsc": conical_chart(shown.summary) if "fsc" in shown.summary else None, "at": _at,
        "settings": findings.setting_rows(shown.settings), "methods": _methods(shown),
        "citations": [*([SAMPLING, TOOLS] if shown.views is not None else []),
                      *([CONES, THRESHOLD, RANDOMISED] if shown.axes is not None else [])],
    }  # fmt: skip
    return write_page(folder, "orientations.html", contents, "orientations.html")


def _name(folder: Path) -> str:
    """The name of the folder, with that of the run before it if its own name says nothing."""
    return f"{folder.parent.name}/{folder.name}" if folder.name == "orientations" else folder.name


def _sampling_picture(shown: OrientationsPage) -> SpherePicture | None:
    if shown.directions is None or shown.sampling is None:
        return None
    return sampling_picture(shown.directions, shown.sampling)


def _resolution_picture(shown: OrientationsPage) -> SpherePicture | None:
    if shown.axes is None or shown.resolution is None:
        return None
    return resolution_picture(shown.axes, shown.resolution)


def _headline(summary: Record) -> Headline:
    tiles = []
    if "scf_star" in summary:
        sampled = 100 * summary["fourier_space_sampled"]
        tiles += [
            Tile("SCF*", figure(summary["scf_star"]), "", f"1 for even views, {summary['scf_star_side_views']:.2f} for "
                 "side views alone, 0 with large gaps"),
            Tile("Fourier space sampled", figure(sampled, 1 if sampled < 99.95 else 0), "%", f"least: "
                 f"{summary['least_sampled']:.2f} of the mean, at {_at(summary['least_sampled_at_deg'])}"),
            Tile("Views", grouped(summary["particles"]), "", f"symmetry {summary['symmetry']}"),
        ]  # fmt: skip
    if "cfar" not in summary:
        return Headline(tiles[0], tiles[1:])
    told = summary["resolution_by_direction_A"]
    cones = Tile("cFAR", figure(summary["cfar"]), "", f"1 for an isotropic map; below {summary['cfar_threshold']:g} "
                 "it is anisotropic")
    tiles += [
        Tile("Resolution by direction", f"{told['percentile_95']:.2f} to {told['percentile_5']:.2f}", "Å",
             f"nine tenths of the directions; all {told['coarsest']:.2f} to {told['finest']:.2f} Å"),
        Tile("Whole map", figure(summary["resolution_A"]), "Å", "within the mask, corrected, FSC 0.143"),
        Tile("Worst direction", figure(summary["worst_resolution_A"]), "Å", _at(summary["worst_at_deg"])),
    ]  # fmt: skip
    return Headline(cones, tiles)


def _at(angles: Sequence[float]) -> str:
    """A direction, rot and tilt in degrees, in words."""
    return f"rot {angles[0]:.0f}°, tilt {angles[1]:.0f}°".replace("-", "\u2212")


def _methods(shown: OrientationsPage) -> str:
    summary, name, parts = shown.summary, f"Halfmap {shown.version}".strip(), []
    if "scf_star" in summary:
        parts.append(f"The sampling of Fourier space by {grouped(summary['views_counted'])} views in symmetry "
                     f"{summary['symmetry']} (Baldwin & Lyumkis 2020) has an SCF* of {summary['scf_star']:.2f}.")
    if "cfar" in summary:
        told = summary["resolution_by_direction_A"]
        parts.append(
            f"The FSC of the half maps within the mask was measured in double cones of half-angle "
            f"{summary['cone_half_angle_deg']:g}° about {summary['directions']} axes and corrected by phase "
            "randomisation; the ratio of the smallest to the largest area under these curves, up to the Nyquist "
            f"frequency (cFAR), is {summary['cfar']:.2f}, and the resolution at FSC 0.143 lies between "
            f"{told['finest']:.2f} and {told['coarsest']:.2f} Å.")
    return f"Orientations were examined with {name}. " + " ".join(parts)
