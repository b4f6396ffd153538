"""The page of a refinement (`halfmap refine`), RUN/report.html."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from halfmap.report.pages import findings
from halfmap.report.pages.examples import example_pictures
from halfmap.report.pages.findings import TABLE
from halfmap.report.pages.gallery import gallery
from halfmap.report.pages.methods import citations, methods_text
from halfmap.report.pages.optics import optics_rows
from halfmap.report.pages.page import now, write_page
from halfmap.report.pages.snapshot import Snapshot
from halfmap.report.pictures import run_charts as charts
from halfmap.report.pictures.chimerax import Scene, palette, write_chimerax
from halfmap.report.pictures.local_cutoff import LocalCutoff, local_cutoff
from halfmap.report.pictures.sphere import Sphere, view_sphere
from halfmap.report.pictures.viewer import Viewer, viewer
from halfmap.report.record_values import number


def write_report(run: Path, snapshot: Snapshot) -> Path:
    """Write RUN/report.html, and RUN/map.cxc once the run is finished; return the path of the page.

    The page is complete in itself: style, script and pictures are inside, and nothing is fetched. It replaces the old
    one in a single step, so that a browser never sees half a page. Raises InputError if it cannot be written.
    """
    run = Path(run)
    contents = _contents(run, snapshot)
    drawn, cutoff = contents["surface_view"], contents["cutoff"]
    if drawn is not None and (run / "map.mrc").is_file():
        hidden = [run / name for name in ("half1_unfil.mrc", "half2_unfil.mrc", "mask.mrc")]
        write_chimerax(run / "map.cxc", Scene(run / "map.mrc", drawn.level, run / "theta.mrc", palette(cutoff), hidden))
    return write_page(run, "refine.html", contents)


def _contents(run: Path, snapshot: Snapshot) -> dict[str, Any]:
    """Everything that the template shows. A part that cannot be drawn is None."""
    records = snapshot.records
    last = records[-1] if records else {}
    noise, groups = charts.noise_chart(last)
    sphere = _sphere(snapshot)
    pixel_size = number(last, "pixel_size")
    particles = charts.particle_charts(records) if records and findings.asked_for_particles(snapshot) else None
    cutoff = local_cutoff(snapshot.theta, snapshot.mask, pixel_size)
    return {
        "name": run.resolve().name,
        "snapshot": _without_arrays(snapshot),
        "filtered_locally": snapshot.theta is not None,
        "written": now(),
        "headline": findings.headline(snapshot),
        "warnings": findings.warnings(records),
        "readings": findings.notes_on_curves(last),
        "notes": findings.other_notes(last),
        "fsc": charts.fsc_chart(records) if records else None,
        "resolution": charts.resolution_chart(records) if records else None,
        "poses": charts.pose_charts(records) if records else [],
        "optics": optics_rows(records),
        "posterior": charts.posterior_charts(records) if records else [],
        "particles": particles,
        "examples": example_pictures(snapshot, pixel_size) if particles is not None and particles.none else None,
        "gallery": gallery(snapshot, pixel_size),
        "surface_view": _surface(snapshot, pixel_size, cutoff),
        "cutoff": cutoff,
        "sphere": sphere,
        "noise": noise,
        "noise_groups": groups,
        "time": charts.time_chart(records) if records else None,
        "columns": TABLE,
        "rows": findings.iteration_rows(records),
        "settings": findings.setting_rows(snapshot.settings),
        "methods": methods_text(snapshot),
        "citations": citations(
            snapshot.settings, snapshot.version, snapshot.citing, bool(last.get("fsc_randomised"))
        ),
        "grouped": findings.grouped,
        "latest": lambda key: findings.significant(number(last, key)),
    }


def _without_arrays(snapshot: Snapshot) -> Snapshot:
    """The snapshot without its arrays.

    After rendering, the contents of a template stand in cycles of references. A map among them would fill memory until
    the garbage collector runs.
    """
    return replace(snapshot, map=None, half1=None, half2=None, mask=None, reference=None, theta=None, directions=None,
                   weights=None, particles=None)


def _sphere(snapshot: Snapshot) -> Sphere | None:
    if snapshot.directions is None:
        return None
    directions = np.asarray(snapshot.directions)
    return view_sphere(directions, snapshot.weights, snapshot.symmetry)


def _surface(snapshot: Snapshot, pixel_size: float | None, cutoff: LocalCutoff | None) -> Viewer | None:
    """The surface of a finished map. While a run goes on, drawing it after every iteration would hold the run up."""
    if not snapshot.finished:
        return None
    return viewer(snapshot.map, snapshot.mask, pixel_size, snapshot.theta, cutoff)
