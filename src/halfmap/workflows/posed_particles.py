"""Particles at given poses, and the half maps that their images are compared with: those of a run, or other files.

Each half set has its own raw half map, filtered by the FSC (`Uniform`) within the mask. Noise spectra and contrast are
those of the run's last iteration. Where there is no run they are estimated from a sample of the images at their poses,
and the maps are brought to the images' grey scale, as a refinement at fixed poses does with its starting map.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from halfmap.ctf_refinement.products import Range
from halfmap.errors import InputError
from halfmap.expectation.posterior import Poses
from halfmap.expectation.search import Reference, Sampling
from halfmap.fourier.transform import half_volume
from halfmap.imaging.delocalisation import ProjectedPower
from halfmap.imaging.forward import Geometries
from halfmap.particles.ctf_states import chosen_state, with_ctf_state
from halfmap.particles.given_optics import GivenOptics
from halfmap.particles.particle_file import read_particle_file
from halfmap.particles.source import ParticleSource
from halfmap.particles.stack import check_stacks
from halfmap.particles.stack_files import StackFiles
from halfmap.particles.star import read_star
from halfmap.particles.star_text import numbers_of
from halfmap.particles.table import ParticleTable
from halfmap.refinement.grey_scale import on_grey_scale
from halfmap.refinement.half_search import HALVES
from halfmap.refinement.imaging_model import ImagingModel, band_batch
from halfmap.refinement.outputs import CONTRAST, PROBABILITY
from halfmap.refinement.schedule import Plan
from halfmap.refinement.state import PoseTable, State
from halfmap.refinement.tally import Residuals, Tally, noise_sources, shared, updated_noise
from halfmap.regularisation.protocol import MapPair
from halfmap.regularisation.wiener import Uniform
from halfmap.runtime.device import device_named
from halfmap.settings.ctf_refine import CtfRefineSettings
from halfmap.settings.refine import from_toml
from halfmap.validation.fsc import GOLD_STANDARD, crossing_shell
from halfmap.workflows.fixed_poses import finished_records
from halfmap.workflows.half_map_pair import HalfMaps, read_half_maps

SAMPLE, LEAST_OF_GROUP = 500, 4  # images that noise is estimated from, and of each optics group at least
SIZE_TOLERANCE = 1e-3  # relative, of pixel size and box length
FEWEST_SHELLS = 3  # that images and maps are compared in


@dataclass(frozen=True)
class PosedParticles:
    """Images at their poses, as `refinement.optics_pass` counts them.

    pair: the raw half maps with their FSC; noise: where the noise spectra come from, in words.
    """

    source: ParticleSource
    model: ImagingModel
    state: State
    pair: HalfMaps
    noise: str

    @property
    def table(self) -> ParticleTable:
        """The particles."""
        return self.source.table


def read_posed(settings: CtfRefineSettings) -> PosedParticles:
    """Read particles and maps. settings: as `validated_ctf_refine` returns them.

    Raises InputError where a file is missing or damaged, a run has not finished, particles lack poses or half sets,
    images were changed by their CTF, or maps and images do not belong together.
    """
    files, device = StackFiles(), device_named(settings.device, settings.deterministic)
    if settings.run is None:
        assert settings.half1 is not None and settings.half2 is not None and settings.diameter is not None
        table = _usable(read_particle_file(
            settings.particles, settings.data_dir, settings.passthrough, settings.strip_prefix,
            GivenOptics(settings.optics, settings.invert_contrast)), files)
        table = with_ctf_state(table, chosen_state(settings.phase_flipped, settings.ctf_premultiplied))
        pair = read_half_maps(settings.half1, settings.half2, settings.mask, settings.diameter)
        _check_grid(pair, table, settings.half1)
        source, grey = ParticleSource(table, settings.diameter, files=files), settings.half1
        return _estimated(_posed(source, pair, 2, (), device), grey)
    run = settings.run
    chosen = from_toml(run / "settings.toml")
    records = finished_records(run)
    pair = read_half_maps(run / "half1_unfil.mrc", run / "half2_unfil.mrc", settings.mask or run / "mask.mrc",
                          chosen.diameter)
    table = _usable(read_star(run / "particles.star", settings.data_dir or chosen.data_dir), files)
    spectra = records[-1].get("sigma2")
    if not isinstance(spectra, list) or len(spectra) != len(table.optics):
        raise InputError(f"{run / 'iterations.jsonl'}: no noise spectrum for each optics group of particles.star; run "
                         "again")
    noise = tuple(torch.tensor(s, dtype=torch.float64) for s in spectra)
    return _posed(ParticleSource(table, chosen.diameter, chosen.batch, files), pair, chosen.padding, noise, device)


def _usable(table: ParticleTable, files: StackFiles) -> ParticleTable:
    """The table. Raises InputError where nothing can be learnt from its particles about the optics."""
    if table.rotations is None:
        raise InputError(f"{table.source}: no angles (rlnAngleRot, rlnAngleTilt, rlnAnglePsi, or alignments3D/pose); "
                         "refine the particles first")
    if table.half is None:
        raise InputError(f"{table.source}: no half sets (rlnRandomSubset 1 and 2, or alignments3D/split), so no image "
                         "has a map that is not made from it; give the particle file of a refinement with half sets")
    check_stacks(table, files)
    return table


def _check_grid(pair: HalfMaps, table: ParticleTable, path: Path) -> None:
    """Raise InputError where maps have neither the pixel size nor the side of the images of an optics group."""
    length = pair.box * pair.pixel_size
    if not any(abs(pair.pixel_size / group.pixel_size - 1) < SIZE_TOLERANCE
               or abs(length / group.box_length - 1) < SIZE_TOLERANCE for group in table.optics):
        group = table.optics[0]
        raise InputError(f"{path}: {pair.box} voxels of {pair.pixel_size:.4g} A, but the images ({group.name} of "
                         f"{table.source.name}) have {group.box} pixels of {group.pixel_size:.4g} A; give the half "
                         "maps of these images, or correct the header")


def _posed(
    source: ParticleSource, pair: HalfMaps, padding: int, noise: tuple[Tensor, ...], device: torch.device
) -> PosedParticles:
    """Poses of the table, and references within the mask on a device, in units that the images' contrasts refer to."""
    table = source.table
    assert table.rotations is not None
    poses = PoseTable.empty(torch.from_numpy(table.half), 1)
    poses.rotations[:, 0] = table.rotations.float()
    poses.shifts[:, 0] = (-table.origins / table.pixel_size[:, None]).float()
    poses.weight[:, 0] = 1.0
    if PROBABILITY in table.columns:
        poses.present[:] = torch.from_numpy(numbers_of(table.columns[PROBABILITY])).float()
    filtered = Uniform().filter_pair(MapPair(pair.half1, pair.half2, pair.curves, pair.pixel_size), pair.mask)
    references = tuple((half * pair.mask).float().to(device) for half in filtered.maps)
    own = CONTRAST in table.columns
    groups = torch.arange(len(table)) if own else torch.from_numpy(table.optics_index)
    scale = torch.from_numpy(numbers_of(table.columns[CONTRAST]).copy()) if own else torch.ones(len(table.optics))
    state = State(0, references, noise, scale.double(), 1.0, poses, pair.mask.to(device))
    model = ImagingModel(pair.box, pair.pixel_size, torch.eye(3, dtype=torch.float64, device=device)[None], groups,
                         padding, update_scale=not own)
    return PosedParticles(source, model, state, pair, "as the run found it")


def range_of(pair: HalfMaps, coarsest: float, finest: float | None) -> Range:
    """The shells of the maps that images are compared in: from ``coarsest`` to ``finest`` (A; None: where the corrected
    FSC falls to 0.143).

    Raises InputError where there are hardly any.
    """
    length, last = pair.box * pair.pixel_size, math.ceil(pair.box / 2) - 1
    end = crossing_shell(pair.curves.corrected, GOLD_STANDARD)
    agreed = last if end is None else min(last, math.floor(end))
    wanted = agreed if finest is None else min(last, math.floor(length / finest))
    used = Range(max(1, math.ceil(length / coarsest)), wanted)
    if min(used.last, agreed) < used.first + FEWEST_SHELLS:
        reached = f"half maps agree to {length / max(agreed, 1):.1f} A only"
        why = reached if agreed <= wanted else f"--finest {finest:g} leaves too little"
        raise InputError(f"{why}, and images are compared from {coarsest:g} A on: too few shells to see the optics in; "
                         "give better maps, or another --coarsest or --finest")
    return used


def _estimated(posed: PosedParticles, path: Path) -> PosedParticles:
    """With noise, contrast of optics groups and grey scale of the maps from a sample of the images. path: of a map."""
    table, state = posed.table, posed.state
    sample = _sample(table)
    limit = math.ceil(posed.model.box / 2) - 1
    flat = tuple(torch.ones(group.box // 2 + 1, dtype=torch.float64) for group in table.optics)
    # Of images from which nothing is subtracted the residual is all their power: the noise, to begin with.
    empty = replace(state, sigma2=flat, scale=torch.zeros_like(state.scale))
    state = replace(state, sigma2=_noise(posed, empty, sample, limit))
    plan = Plan("final", Sampling("fixed", _agreed(posed.pair)), limit, "best")
    state, _ = on_grey_scale(path, state, posed.source, posed.model, plan)
    state = replace(state, sigma2=_noise(posed, state, sample, limit))
    return replace(posed, state=state, noise=f"estimated from {len(sample):,} images")


def _agreed(pair: HalfMaps) -> int:
    """The last shell of the maps that half maps agree on, for their grey scale."""
    end = crossing_shell(pair.curves.corrected, GOLD_STANDARD)
    return max(1, math.ceil(pair.box / 2) - 1 if end is None else math.floor(end))


def _sample(table: ParticleTable) -> Tensor:
    """Particles spread evenly over those of each optics group, in file order."""
    wanted = max(LEAST_OF_GROUP, SAMPLE // len(table.optics))
    chosen = []
    for group in range(len(table.optics)):
        members = np.flatnonzero(table.optics_index == group)
        chosen.append(members[:: math.ceil(len(members) / wanted)] if len(members) else members)
    return torch.from_numpy(np.sort(np.concatenate(chosen)))


def _noise(posed: PosedParticles, state: State, sample: Tensor, limit: int) -> tuple[Tensor, ...]:
    """Noise power by shell of each optics group, from the residuals of a sample at its poses under the state's model.

    limit: last shell of the maps that is measured; finer ones have the last value.
    """
    table, model, tally = posed.table, posed.model, Tally.zeros(state)
    for half in range(HALVES):
        members = sample[state.poses.half[sample] == half]
        reference = Reference(half_volume(state.references[half], model.padding, limit + 1), model.padding)
        power = ProjectedPower.of(state.references[half], model.pixel_size)
        geometries = Geometries(model.box, model.pixel_size, limit, reference.volume.device)
        for batch in posed.source.stream(members):
            index = batch.index
            rotations, shifts = state.poses.rotations[index].double(), state.poses.shifts[index].double()
            centres = shifts[:, 0].round().long()
            images = band_batch(state, posed.source, model, geometries, batch, centres, limit, power)
            device = reference.volume.device
            at = Poses(rotations.to(device), shifts.to(device), torch.zeros(len(index), 1),
                       torch.zeros(len(index), 1, 5, 5))
            present = (state.poses.present[index] * batch.sound).to(device)
            residuals = Residuals.of(images, at, present, batch.groups, reference, limit)
            tally.add_(residuals, model.scale_group[index])
    images = np.bincount(table.optics_index[sample.numpy()], minlength=len(table.optics)).tolist()
    sources = noise_sources(table.optics, images)
    return tuple(_carried_on(noise, count) for noise, count in
                 zip(updated_noise(state, tally, sources), shared(tally.count, sources), strict=True))


def _carried_on(noise: Tensor, count: Tensor) -> Tensor:
    """Noise [s] whose shells beyond the last measured one have its value, and shell 0 that of shell 1."""
    measured = torch.nonzero(count > 0)
    last = int(measured.max()) if len(measured) else len(noise) - 1
    noise = noise.clone()
    noise[last + 1 :] = noise[last]
    noise[0] = noise[1]
    return noise
