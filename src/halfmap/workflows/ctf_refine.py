"""`halfmap ctf-refine`: what the images say about the optics that they were recorded with, at their poses.

One pass over the images counts what they say (`refinement.optics_pass`), each against the map of its own half set; the
fits (`ctf_refinement`) make values of it and say which are significant. Where the effect of a value is far from linear
its fit asks for another pass, which begins at what the first one found.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.markup import escape

from halfmap import __version__, kernels
from halfmap.ctf_refinement.fit import Fitted, PhaseMap
from halfmap.ctf_refinement.input_checks import check_particles
from halfmap.ctf_refinement.parameters import PARAMETERS
from halfmap.ctf_refinement.products import Range
from halfmap.ctf_refinement.registry import Choices, continued, fits_for
from halfmap.ctf_refinement.sensitivity import no_coma, usual_error
from halfmap.finding import Finding
from halfmap.imaging.forward import Geometries
from halfmap.maps.mrc import replaced_atomically
from halfmap.particles.star import write_star
from halfmap.particles.table import ParticleTable
from halfmap.refinement.optics_pass import count_images
from halfmap.refinement.outputs import made_folder
from halfmap.runtime import terminal
from halfmap.runtime.progress import counted
from halfmap.settings.ctf_refine import ALL, CtfRefineSettings
from halfmap.settings.particle_sets import run_setting
from halfmap.workflows.ctf_refine_words import found_lines, record_of
from halfmap.workflows.posed_particles import PosedParticles, range_of, read_posed
from halfmap.workflows.specimen_tilt import Places, SpecimenTilt, places_of, specimen_tilt

Report = Callable[..., Any]
MOST_PASSES = 3  # over the images
HEIGHTS = {"defocus", "astigmatism-particle", "defocus-micrograph"}  # what says how the specimen lies
COARSE = "too coarse for "  # beginning of the name of a finding; the parameter's name ends it
NO_COMA = "no coma of a tilted beam"


@dataclass(frozen=True)
class CtfRefined:
    """What was found.

    before, after: the particles. fitted: the values, in the order of `PARAMETERS`. maps: phase errors of optics groups.
    coarsest, finest: resolutions in A that images and maps were compared between. noise: where the noise spectra come
    from. places, tilt: of the specimen, where the file says where particles lie. findings: what a reader should know.
    all_applied: whether values were applied without a test. after_this: the command to go on with.
    """

    before: ParticleTable
    after: ParticleTable
    fitted: tuple[Fitted, ...]
    maps: tuple[PhaseMap, ...]
    coarsest: float
    finest: float
    noise: str
    places: Places | None
    tilt: SpecimenTilt | None
    findings: tuple[Finding, ...]
    all_applied: bool
    after_this: str


@dataclass(frozen=True)
class _Values:
    """A table with the values of all passes, the values, and the phase maps of the first pass of each kind."""

    table: ParticleTable
    fitted: tuple[Fitted, ...]
    maps: tuple[PhaseMap, ...]


def ctf_refine(settings: CtfRefineSettings, report: Report | None = None) -> CtfRefined:
    """Write particles.star with the values that were found, and ctf_refine.json, into settings.out.

    settings: as `validated_ctf_refine` returns them. report: writes the page, and is called with its fields. Nothing is
    written before all is known. Raises InputError where a file cannot be used, and where particles cannot tell a
    parameter.
    """
    kernels.set_threads(settings.threads)
    console = terminal.console()
    with console.status("reading particles and maps"):
        posed = read_posed(settings)
        used = range_of(posed.pair, settings.coarsest, settings.finest)
    check_particles("--fit", settings.names, posed.table)
    length = posed.pair.box * posed.pair.pixel_size
    coarsest, finest = length / used.first, length / used.last
    console.print(escape(f"{posed.table.source}: {len(posed.table):,} particles, compared with the half maps from "
                         f"{coarsest:.1f} to {finest:.2f} A; noise {posed.noise}"), soft_wrap=True)
    findings = [*posed.pair.verdict(), *_too_coarse(settings.names, posed, finest)]
    terminal.tell_findings(*findings)
    for finding in findings:
        console.print(escape(f"{'note' if finding.level == 'note' else 'WARNING'}: {finding.text}"), soft_wrap=True)
    choices = Choices(settings.prior_defocus, settings.apply == ALL)
    values = _fitted(posed, settings.names, used, choices)
    findings = [_stands(finding, values.fitted) for finding in findings]
    several = len(np.unique(values.table.micrograph)) < len(values.table)
    places = places_of(values.table) if several and set(settings.names) & HEIGHTS else None
    found = CtfRefined(
        posed.table, values.table, values.fitted, values.maps, coarsest, finest, posed.noise, places,
        None if places is None else specimen_tilt(values.table, places), tuple(findings), choices.insignificant,
        _after_this(settings, posed),
    )  # fmt: skip
    _write(settings, found, report)
    for line in found_lines(found.fitted, found.after.optics):
        console.print(escape(line), soft_wrap=True)
    tilt = found.tilt
    if tilt is not None and tilt.significant:
        console.print(f"the specimen is tilted by {tilt.angle:.1f} +- {tilt.error:.1f} degrees, as defocus over the "
                      f"micrographs says; it increases towards {tilt.azimuth:.0f} degrees from x", soft_wrap=True)
    console.print(escape(f"Finished: {settings.out}; look at ctf_refine.html, and go on with: {found.after_this}"),
                  soft_wrap=True)
    return found


def _fitted(posed: PosedParticles, names: tuple[str, ...], used: Range, choices: Choices) -> _Values:
    """Fit these parameters, and those that ask for it in further passes."""
    found = _Values(posed.table, (), ())
    now, number = names, 0
    while now and number < MOST_PASSES:
        here = _about(posed, found.table)
        geometries = Geometries(here.model.box, here.model.pixel_size, used.last, here.state.references[0].device)
        moved = tuple(int(group) for one in found.fitted if one.name == "magnification"
                      for group in one.number[one.applied])
        fits = fits_for(now, found.table, geometries, used, replace(choices, moved=moved))
        title = "comparing images and maps" + (f", {', '.join(now)} again" if number else "")
        with counted(title, len(found.table)) as advance:
            count_images(here.state, here.source, here.model, used, fits, advance=advance, made=posed.table)
        new, again = list[Fitted](), list[str]()
        table, maps = found.table, found.maps
        for fit in fits:
            solved = fit.solved(table)
            table, new = solved.table, [*new, *solved.fitted]
            again += names if solved.all_again else [one.name for one in solved.fitted if solved.again]
            known = {(one.kind, one.group) for one in found.maps}
            maps += tuple(one for one in solved.maps if (one.kind, one.group) not in known)
        found = _Values(table, continued(found.fitted, new) if number else tuple(new), maps)
        now, number = tuple(name for name in names if name in again), number + 1
    order = list(PARAMETERS)
    return replace(found, fitted=tuple(sorted(found.fitted, key=lambda one: order.index(one.name))))


def _about(posed: PosedParticles, table: ParticleTable) -> PosedParticles:
    """The same images about the values of a table. Fits of odd phases move the origins too."""
    poses = posed.state.poses.clone()
    poses.shifts[:, 0] = (-table.origins / table.pixel_size[:, None]).float()
    return replace(posed, source=replace(posed.source, table=table), state=replace(posed.state, poses=poses))


def _too_coarse(names: tuple[str, ...], posed: PosedParticles, finest: float) -> list[Finding]:
    """Which parameters the resolution hardly shows. The significance of what is found decides in the end."""
    found = []
    for name in names:
        errors = [usual_error(name, optics, posed.source.diameter) for optics in posed.table.optics]
        error = max(errors, key=lambda one: one.at(finest))
        corrected = [optics for optics in posed.table.optics if no_coma(optics)]
        if name == "tilt" and corrected:
            text = (f"{corrected[0].name} has a spherical aberration of {corrected[0].spherical_aberration:g} mm, with "
                    "which a tilted beam makes no coma: coma of any origin is fitted, and its mrad are no tilt of the "
                    "beam. If no corrector was in use, give the particle file the true spherical aberration")
            found.append(Finding(NO_COMA, text, "optics", "note"))
        if error.at(finest) < error.least:
            does = "lowers amplitudes by a share of" if name == "bfactor" else "changes phases by"
            unit = "" if name == "bfactor" else " rad"
            text = (f"{finest:.2f} A is coarse for {name}: a usual error of {error.size:g} {error.unit} {does} "
                    f"{error.at(finest):.2f}{unit} there, and {error.needed:.1f} A would show it")
            found.append(Finding(COARSE + name, text, "resolution", "note"))
    return found


def _stands(finding: Finding, fitted: tuple[Fitted, ...]) -> Finding:
    """A note that the resolution is coarse becomes a warning where nothing significant was found of the parameter, and
    one on what mrad mean where there are some."""
    warned = [COARSE + one.name for one in fitted if not bool(one.applied.any())]
    warned += [NO_COMA for one in fitted if one.name == "tilt" and bool(one.applied.any())]
    return replace(finding, level="warning") if finding.name in warned else finding


def _write(settings: CtfRefineSettings, found: CtfRefined, report: Report | None) -> None:
    """The results, each file whole or not at all; the STAR file, which others go on from, comes last."""
    out = made_folder(settings.out)
    record = {
        "halfmap": __version__, "particles": len(found.after), "from_A": found.coarsest, "to_A": found.finest,
        "noise": found.noise, **record_of(found.fitted, found.after),
        "specimen_tilt": None if found.tilt is None else dataclasses.asdict(found.tilt),
        "findings": [dataclasses.asdict(finding) for finding in found.findings], "next": found.after_this,
        "settings": {name: str(value) if isinstance(value, Path) else value
                     for name, value in dataclasses.asdict(settings).items()},
    }  # fmt: skip
    with replaced_atomically(out / "ctf_refine.json") as stream:
        stream.write((json.dumps(record, indent=1) + "\n").encode())
    if report is not None:
        report(found=found)
    write_star(out / "particles.star", found.after)


def _after_this(settings: CtfRefineSettings, posed: PosedParticles) -> str:
    """The refinement to go on with."""
    run, start = settings.run, ".."
    symmetry = None if run is None else run_setting(run, "symmetry")
    if run is not None:
        start = str(run / "map.mrc")
    group = f" --symmetry {symmetry}" if symmetry not in (None, "C1") else ""
    return (f"halfmap refine {settings.out / 'particles.star'} --map {start} --search local --diameter "
            f"{posed.source.diameter:g}{group} --out ..")
