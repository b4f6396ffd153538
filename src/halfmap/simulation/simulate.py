"""``halfmap simulate``: make particle images of an atomic model, and keep the truth beside them.

An image is

    y = contrast * crop(CTF * gain * P) + noise,

where P is the exact projection of the particle's atoms (see `halfmap.imaging.density`). The CTF acts on a grid twice as
wide, so that signal which it delocalises does not wrap around. The noise has variance 1. The signal-to-noise ratio is
var(signal) / var(noise) over the whole box, averaged over the particles.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, cast

import numpy as np
import torch
from torch import Tensor

from halfmap import __version__
from halfmap.errors import InputError
from halfmap.fourier.real_transforms import irfft2, rfft2
from halfmap.geometry.rotations import euler_to_matrix
from halfmap.geometry.symmetry import symmetry_group
from halfmap.imaging.ctf import Defocus, ctf
from halfmap.imaging.density import Cloud, Placed, density_map, oversampling_for, project
from halfmap.imaging.optics import OpticsGroup
from halfmap.maps.filters import lowpass
from halfmap.maps.mrc import StackWriter, write_map
from halfmap.options import check_declared
from halfmap.particles.model import Atoms, read_model
from halfmap.particles.star import write_star
from halfmap.particles.table import Column, ParticleTable, with_poses
from halfmap.settings.simulate import SimulateSettings
from halfmap.simulation.specimen import BeltShape, Specimen, prepare

BATCH = 64  # images made at once
CALIBRATION = 256  # most particles whose signal sets the grey scale
GREY_LEVELS = 20.0  # grey levels for one standard deviation of the noise, in signed bytes
WITHIN_MICROGRAPH = 100.0  # A: standard deviation of the particles' heights in the ice
INTACT, EMPTY, BROKEN = 1, 2, 3  # kinds of particle, rlnClassNumber in the truth


@dataclass(frozen=True)
class Draw:
    """What was drawn for each particle: rotations[b,3,3], shifts[b,2] (x, y; A), kind[b] (INTACT, EMPTY or BROKEN),
    micrograph[b] (a number from 0), defocus, and contrast[b] (log-normal about 1)."""

    rotations: Tensor
    shifts: Tensor
    kind: Tensor
    micrograph: Tensor
    defocus: Defocus
    contrast: Tensor


def simulate(settings: SimulateSettings) -> Path:
    """Simulate images of a model, write them into settings.out, and return the path of particles.star.

    Writes particles.mrcs, particles.star (no poses), particles_truth.star, truth.mrc (the rigid part; its sum along z
    is the image without CTF and noise), initial.mrc (the average particle with its belt, low-passed) and
    simulation.json. In particles_truth.star, rlnClassNumber is 1 for a particle, 2 for an empty image and 3 for a
    broken particle; halfmapContrast stands there where contrast varies. Raises InputError where settings and model do
    not fit together.
    """
    _check(settings)
    atoms = read_model(settings.model, settings.assembly)
    shape = BeltShape(settings.micelle_radius, settings.micelle_thickness, settings.micelle_centre,
                      settings.micelle_contrast)
    specimen = prepare(atoms, settings.bfactor, settings.hinge, shape if settings.micelle else None)
    _check_specimen(settings, specimen)
    draw = draw_particles(settings)
    gain = grey_scale(settings, specimen, draw)

    settings.out.mkdir(parents=True, exist_ok=True)
    levels = GREY_LEVELS if settings.dtype == "int8" else 1.0
    dtype = cast(Literal["float32", "float16", "int8"], settings.dtype)
    stack = settings.out / "particles.mrcs"
    power, count = 0.0, 0
    with StackWriter(stack, settings.n, settings.box, settings.apix, dtype) as writer:
        for index in _batches(settings.n):
            signal = gain * signal_images(settings, specimen, draw, index)
            writer.write(levels * (signal + noise_images(settings, index)))
            intact = draw.kind[index] == INTACT
            power += float(signal.var(dim=(1, 2), correction=0)[intact].double().sum())
            count += int(intact.sum())
    table = _table(settings, draw, Path(stack.name))
    write_star(settings.out / "particles.star", table)
    known = {"rlnClassNumber": draw.kind.numpy()}
    if settings.contrast_sd:
        known["halfmapContrast"] = draw.contrast.numpy()
    write_star(settings.out / "particles_truth.star", with_poses(table, draw.rotations, -draw.shifts, None, known))
    write_map(settings.out / "truth.mrc", gain * _map_of(settings, [specimen.rigid]), settings.apix)
    average = gain * _map_of(settings, specimen.average())
    initial = lowpass(average, settings.apix, settings.initial_resolution)
    write_map(settings.out / "initial.mrc", initial, settings.apix)
    _write_record(settings, atoms, specimen, {
        "gain": gain, "measured_snr": power / max(count, 1),
        "intact": int((draw.kind == INTACT).sum())})
    return settings.out / "particles.star"


def draw_particles(settings: SimulateSettings) -> Draw:
    """Draw poses, kinds and defocus of all particles. The same seed gives the same values."""
    n, random = settings.n, np.random.default_rng([settings.seed, 0])
    angles = np.stack([random.uniform(-180, 180, n), _tilts(settings.preferred_orientation, random.random(n)),
                       random.uniform(-180, 180, n)], 1)
    shifts = random.normal(0.0, settings.offset, (n, 2))
    kind = np.where(random.random(n) < settings.junk, random.integers(EMPTY, BROKEN + 1, n), INTACT)
    if settings.noise_only:
        kind = np.full(n, EMPTY)
    micrograph = np.arange(n) * settings.micrographs // n
    mean = 1e4 * random.uniform(settings.defocus_min, settings.defocus_max, settings.micrographs)[micrograph]
    mean += random.normal(0.0, WITHIN_MICROGRAPH, n)
    half = random.uniform(0.0, settings.astigmatism, settings.micrographs)[micrograph]
    azimuth = random.uniform(0.0, math.pi, settings.micrographs)[micrograph]
    zero = torch.zeros(n, dtype=torch.float64)
    defocus = Defocus(torch.from_numpy(mean + half), torch.from_numpy(mean - half), torch.from_numpy(azimuth),
                      zero, zero, zero + 1)
    # By a generator of its own: the same seed draws the same poses, whether contrast varies or not.
    contrast = np.exp(settings.contrast_sd * np.random.default_rng([settings.seed, 3]).standard_normal(n))
    return Draw(euler_to_matrix(torch.from_numpy(angles)), torch.from_numpy(shifts), torch.from_numpy(kind),
                torch.from_numpy(micrograph), defocus, torch.from_numpy(contrast))


def signal_images(settings: SimulateSettings, specimen: Specimen, draw: Draw, index: Tensor) -> Tensor:
    """Images [b,y,x] of the particles index[b] with CTF and without noise, in scattering length per square A."""
    scenes = [_scene(settings, specimen, draw, int(i)) for i in index]
    if not any(scenes):
        return torch.zeros(len(index), settings.box, settings.box)
    images = project(scenes, settings.box, settings.apix, oversampling_for([specimen.rigid], settings.apix))
    seen = _through_microscope(images, _optics_of(settings), draw.defocus[index])
    return seen * draw.contrast[index].to(seen)[:, None, None]


def _scene(settings: SimulateSettings, specimen: Specimen, draw: Draw, i: int) -> list[Placed]:
    random = np.random.default_rng([settings.seed, 1, i])
    kind = int(draw.kind[i])
    if kind == EMPTY:
        return []
    place = specimen.place if kind == INTACT else specimen.fragment
    return place(draw.rotations[i], draw.shifts[i], random)


def _through_microscope(images: Tensor, optics: OpticsGroup, defocus: Defocus) -> Tensor:
    """Apply the CTF to images [b,y,x]. They are padded with zeros to twice the box before, and cropped after."""
    box, size = images.shape[-1], 2 * images.shape[-1]
    before = size // 2 - box // 2
    padded = torch.nn.functional.pad(images, (before, size - box - before) * 2)
    ky = torch.fft.fftfreq(size, 1 / size).round().long()
    kxy = torch.stack(torch.meshgrid(torch.arange(box + 1), ky, indexing="xy"), -1).reshape(-1, 2)
    wide = OpticsGroup(optics.name, optics.voltage, optics.spherical_aberration, optics.amplitude_contrast,
                       optics.pixel_size, size)
    transfer = ctf(kxy, wide, defocus).reshape(-1, size, box + 1)
    seen = irfft2(rfft2(padded) * transfer, size)
    return seen[:, before:before + box, before:before + box]


def noise_images(settings: SimulateSettings, index: Tensor) -> Tensor:
    """Noise [b,y,x] of variance 1 for the particles index[b].

    It is white, or cut from a wider field whose power spectrum falls with settings.noise_slope.
    """
    box = settings.box
    size = box if settings.noise_slope == 0 else 2 * box
    fields = [np.random.default_rng([settings.seed, 2, int(i)]).standard_normal((size, size), np.float32)
              for i in index]
    white = torch.from_numpy(np.stack(fields))
    if settings.noise_slope == 0:
        return white
    k = torch.fft.fftfreq(size, 1 / size)
    # The spectrum is flat below one cycle per box: a power law would have no finite variance there.
    power = torch.hypot(k[:, None], k).clamp(min=size / box) ** -settings.noise_slope
    amplitude = (power / power.mean()).sqrt()[:, :size // 2 + 1]
    return irfft2(rfft2(white) * amplitude, size)[:, :box, :box]


def grey_scale(settings: SimulateSettings, specimen: Specimen, draw: Draw) -> float:
    """The grey value of one scattering length per square A.

    It gives the particles the wanted signal-to-noise ratio against noise of variance 1. It is measured on up to 256
    particles, all taken as intact.
    """
    intact = replace(draw, kind=torch.full_like(draw.kind, INTACT))
    sample = torch.linspace(0, settings.n - 1, min(settings.n, CALIBRATION)).long()
    variance = [signal_images(settings, specimen, intact, index).var(dim=(1, 2), correction=0)
                for index in sample.split(BATCH)]
    return math.sqrt(settings.snr / float(torch.cat(variance).double().mean()))


def _map_of(settings: SimulateSettings, clouds: list[Cloud]) -> Tensor:
    return density_map(clouds, settings.box, settings.apix, oversampling_for(clouds[:1], settings.apix))


def _optics_of(settings: SimulateSettings) -> OpticsGroup:
    """The one optics group of the images."""
    return OpticsGroup("opticsGroup1", settings.voltage, settings.cs, settings.amplitude_contrast,
                       settings.apix, settings.box)


def _batches(n: int) -> Iterator[Tensor]:
    yield from torch.arange(n).split(BATCH)


def _tilts(strength: float, uniform: np.ndarray) -> np.ndarray:
    """Tilt angles (degrees) whose cosine c has the density exp(strength c^2), from uniform numbers in [0, 1)."""
    c = np.linspace(-1.0, 1.0, 4001)
    density = np.exp(strength * c * c - max(strength, 0.0))
    cumulative = np.concatenate([[0.0], np.cumsum(0.5 * (density[1:] + density[:-1]))])
    return np.degrees(np.arccos(np.interp(uniform * cumulative[-1], cumulative, c)))


def _check(settings: SimulateSettings) -> None:
    check_declared(settings)
    if settings.defocus_min > settings.defocus_max:
        raise InputError(f"--defocus-min {settings.defocus_min:g}: exceeds --defocus-max "
                         f"{settings.defocus_max:g} um; swap them")
    if settings.junk >= 1:
        raise InputError(f"--junk {settings.junk:g}: must be less than 1; for noise alone use --noise-only")
    _optics_of(settings)


def _check_specimen(settings: SimulateSettings, specimen: Specimen) -> None:
    """Raise InputError where the particle does not fit into the box or lacks its symmetry."""
    half = 0.5 * settings.box * settings.apix
    if specimen.radius > 1.05 * half:  # a side chain in a corner may stick out and is cut off
        enough = 2 * math.ceil(1.1 * specimen.radius / settings.apix)
        raise InputError(f"{settings.model}: reaches {specimen.radius:.0f} A from its centre, the box only "
                         f"{half:.0f} A; use --box {enough} or more")
    from scipy.spatial import cKDTree

    xyz = specimen.rigid.xyz.double()
    for g in symmetry_group(settings.symmetry)[1:]:
        distance = cKDTree(xyz.numpy()).query((xyz @ g.T).numpy())[0]
        if np.quantile(distance, 0.95) > 1.0:
            raise InputError(f"--symmetry {settings.symmetry}: {settings.model} does not have it around its "
                             "centre in this orientation; turn the model or leave the option out")


def _table(settings: SimulateSettings, draw: Draw, stack: Path) -> ParticleTable:
    """The particles without poses. The stack's name is relative to the STAR file, so that the folder can move."""
    n = settings.n
    columns: dict[str, Column] = {
        "rlnImageName": [f"{i + 1:06d}@{stack.name}" for i in range(n)],
        "rlnMicrographName": [f"micrograph{int(m) + 1:04d}.mrc" for m in draw.micrograph],
        "rlnDefocusU": draw.defocus.u.numpy(), "rlnDefocusV": draw.defocus.v.numpy(),
        "rlnDefocusAngle": np.degrees(draw.defocus.angle.numpy()),
        "rlnOpticsGroup": np.ones(n, dtype=np.int64)}
    zeros = np.zeros(n, dtype=np.int64)
    return ParticleTable(columns=columns, optics=(_optics_of(settings),), optics_index=zeros, stacks=(stack,),
                         stack_index=zeros, image_index=np.arange(n), defocus=draw.defocus, rotations=None,
                         origins=torch.zeros(n, 2, dtype=torch.float64), half=None,
                         micrograph=draw.micrograph.numpy(), source=settings.out / "particles.star")


def _write_record(settings: SimulateSettings, atoms: Atoms, specimen: Specimen,
                  measured: dict[str, float]) -> None:
    record = {"halfmap": __version__, "settings": {k: str(v) if isinstance(v, Path) else v
                                                   for k, v in asdict(settings).items()},
              "atoms": len(atoms), "mass_kDa": round(atoms.mass / 1e3, 1),
              "diameter_A": round(2 * specimen.radius, 1), **measured}
    (settings.out / "simulation.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
