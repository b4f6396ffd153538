"""Whether the curvature of the Ewald sphere matters to a refinement, and which sign of it the images have.

The sign follows from the hand of the images, which nobody knows beforehand. Before the final pass images are compared
with both: those of one half set with the other half's reference, so that no image meets its own noise. The likelihoods
of the two signs differ by what lies above and below the plane of a slice, and by nothing else.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from halfmap import kernels
from halfmap.errors import InputError
from halfmap.expectation.score import shift_phases
from halfmap.finding import Finding
from halfmap.fourier.transform import half_volume
from halfmap.imaging.curvature import CurvatureEvidence, depth_resolution
from halfmap.imaging.delocalisation import ProjectedPower
from halfmap.imaging.forward import BandImages, Geometries
from halfmap.imaging.optics import CtfState, names_of
from halfmap.maps.grid import Grid
from halfmap.particles.source import ParticleSource
from halfmap.particles.table import ParticleTable
from halfmap.refinement.imaging_model import ImagingModel, band_batch
from halfmap.refinement.state import State
from halfmap.runtime.distributed import ALONE, Ranks

SIGNS = {"off": 0, "positive": 1, "negative": -1, "auto": None}
NAMES = {1: "positive", -1: "negative"}
SAMPLE = 1000  # images of a half set, at most, that are asked for the sign


def ewald_sign(ewald: str, table: ParticleTable, grid: Grid) -> int | None:
    """+1, -1 or 0 for ``positive``, ``negative`` or ``off``, None for ``auto``. grid: of the reference.

    Raises InputError for images that cannot be used so.
    """
    if ewald == "off":
        return 0
    multiplied = [group for group in table.optics if group.ctf_state is CtfState.PREMULTIPLIED]
    if multiplied:
        raise InputError(f"--ewald {ewald}: images of optics group {names_of(multiplied)} are multiplied by their CTF, "
                         "and near its zeros nothing is left that tells the two sides of the Ewald sphere apart; "
                         "extract them without, or leave the option out")
    # Heights beyond this would leave the half volume, which has room for a shell more than the map.
    height = max(group.wavelength for group in table.optics) * (grid.box / 2) ** 2 / (2 * grid.length)
    if height**2 > grid.box / 2:
        raise InputError(f"--ewald {ewald}: electrons of {min(group.voltage for group in table.optics):g} kV are too "
                         f"slow for a pixel of {grid.pixel_size:g} A; check the voltage, or leave the option out")
    return SIGNS[ewald]


def with_sign(model: ImagingModel, state: State) -> ImagingModel:
    """The model with the sign that the images have, where it is theirs to decide."""
    if model.ewald is not None:
        return model
    return replace(model, ewald=0 if state.curvature is None else state.curvature.sign)


def asked(state: State, source: ParticleSource, model: ImagingModel, limit: int, ranks: Ranks = ALONE) -> State:
    """The state with the images' evidence, where curvature is corrected, or may matter.

    limit: last shell of the reference that is compared. Each process takes its share of the images.
    """
    if len(state.references) > 2 or any(group.ctf_state is CtfState.PREMULTIPLIED for group in source.table.optics):
        return state  # of several classes none has all images
    if model.ewald == 0 and not go_beyond(source.table, source.diameter):
        return state
    return replace(state, curvature=evidence(state, source, model, limit, ranks))


def evidence(
    state: State, source: ParticleSource, model: ImagingModel, limit: int, ranks: Ranks = ALONE
) -> CurvatureEvidence:
    """What images of each half set say about the sign, compared with the other half's reference at their best poses."""
    poses, model = state.poses, replace(model, ewald=1)
    sums = torch.zeros(3, dtype=torch.float64)
    for half in (0, 1):
        reference = state.references[1 - half]
        volume, power = half_volume(reference, model.padding, limit), ProjectedPower.of(reference, model.pixel_size)
        geometries = Geometries(model.box, model.pixel_size, limit, volume.device)
        members = torch.nonzero(poses.half == half)[:, 0]
        mine = source.share(members[:: max(1, math.ceil(len(members) / SAMPLE))], ranks.rank, ranks.world)
        mine = mine[poses.known[mine] & (poses.present[mine] >= 0.5)]  # a process knows the poses of its share
        for images in source.stream(mine):
            centres = poses.shifts[images.index, 0].round().long()
            batch = band_batch(state, source, model, geometries, images, centres, limit, power)
            rotations, shifts = (values[images.index, 0].double().to(volume.device)
                                 for values in (poses.rotations, poses.shifts))
            gain = _gain(batch, volume, model.padding, rotations, shifts).cpu()
            sums += torch.stack([gain.sum(), gain.square().sum(), torch.tensor(float(len(gain))).double()])
    ranks.add_([sums])
    total, square, count = sums.tolist()
    return CurvatureEvidence(total, math.sqrt(max(0.0, square - total**2 / max(count, 1.0))), int(count))


def _gain(batch: BandImages, volume: Tensor, padding: int, rotations: Tensor, shifts: Tensor) -> Tensor:
    """Log-likelihood [b] of images with positive curvature less that with negative, at these poses, float64."""
    geometry, curved = batch.geometry, batch.curved
    assert curved is not None
    band = geometry.band
    data = batch.scored * shift_phases(band.kxy, shifts, band.box)
    bent = curved.curvature / padding
    here, there = (kernels.project_slices(volume, geometry.coords * padding, rotations, side) for side in (bent, -bent))
    # With a = ctf + i q, the models differ by i q (here - there), and their sum is ctf (here + there).
    scale, left = batch.scale[:, None], batch.left_by_shell().index_select(1, band.shell)
    apart = 1j * (scale * curved.quadrature) * (here - there)
    both = (scale * batch.ctf) * (here + there)
    return (((2 * data - left * both).conj() * apart).real / batch.sigma2).double().sum(dim=1)


def _flat_to(table: ParticleTable, diameter: float) -> float:
    """Resolution in A to which flat slices do for a particle of this diameter (A)."""
    return depth_resolution(max(group.wavelength for group in table.optics), diameter)


def thickness(table: ParticleTable, diameter: float) -> str:
    """In words: to which resolution flat slices do for a particle of this diameter (A)."""
    slowest = min(table.optics, key=lambda group: group.voltage)
    return (f"at {slowest.voltage:g} kV flat slices of a particle of {diameter:.0f} A do to "
            f"{_flat_to(table, diameter):.1f} A (sqrt(lambda diameter): there its near and far sides are a quarter of "
            "a turn off)")


def go_beyond(table: ParticleTable, diameter: float) -> bool:
    """Whether images hold finer detail than flat slices of a particle of this diameter (A) do for."""
    return _nyquist(table) < _flat_to(table, diameter)


def _nyquist(table: ParticleTable) -> float:
    """The finest resolution of any of the images, in A."""
    return 2 * min(group.pixel_size for group in table.optics)


def thick_particle(model: ImagingModel, source: ParticleSource) -> list[Finding]:
    """A note where the images go beyond what flat slices do for, and curvature is not corrected."""
    table, diameter = source.table, source.diameter
    if model.ewald != 0 or not go_beyond(table, diameter):
        return []
    text = (f"{thickness(table, diameter)}, and the images go to {_nyquist(table):.1f} A; where the map does, "
            "--ewald auto corrects for the curvature of the Ewald sphere")
    return [Finding("thick for flat slices", text, "optics", "note")]


def curvature_findings(
    model: ImagingModel, state: State, table: ParticleTable, diameter: float, resolution: float
) -> list[Finding]:
    """What is to be said after the final pass, at the resolution (A) that was reached."""
    found = state.curvature
    if found is None or (model.ewald == 0 and resolution >= _flat_to(table, diameter)):
        return []
    favoured = f"the images have the {NAMES[found.sign]} sign" if found.sign else "the images do not tell its sign"
    favoured += (f" (log-likelihood of positive less negative: {found.errors:+.1f} standard errors, {found.images:,} "
                 "images)")
    if model.ewald == 0:
        remedy = f"--ewald {NAMES[found.sign]}" if found.sign else "--ewald positive or negative"
        text = (f"{thickness(table, diameter)}, and the map goes to {resolution:.1f} A; {remedy} corrects for the "
                f"curvature of the Ewald sphere; {favoured}")
        return [Finding("curvature of the Ewald sphere", text, "resolution")]
    used = found.sign if model.ewald is None else model.ewald
    if used and found.sign == -used:
        text = f"curvature of the Ewald sphere was corrected with the {NAMES[used]} sign, and {favoured}; take that"
        return [Finding("curvature of the wrong sign", text, "resolution")]
    done = f"was corrected with the {NAMES[used]} sign" if used else "was not corrected"
    return [Finding("curvature of the Ewald sphere", f"curvature of the Ewald sphere {done}: {favoured}", "resolution",
                    "note")]
