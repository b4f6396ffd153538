"""Everything that is looked at before long work starts: files, sizes, images, half sets, the starting map and mask."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from halfmap.errors import InputError
from halfmap.fourier.band import Band, band_limit
from halfmap.fourier.transform import crop_volume, image_fft, pad_volume
from halfmap.maps.mrc import read_map
from halfmap.particles.source import ParticleSource
from halfmap.particles.stack import check_stacks
from halfmap.particles.star import read_star
from halfmap.particles.table import ParticleTable, assign_halves

PIXEL_TOLERANCE = 1e-3  # relative; RELION's 1.05 against 1.06 after a rounded header is an error here
MASK_TOLERANCE = 0.1  # overshoot of a resampled mask beyond 0 and 1
REJECTED_MOST = 0.1  # share of faulty images beyond which something is wrong with the data, not with an image
FEWEST = 8  # particles in a half set


@dataclass(frozen=True)
class Inspected:
    """Sound particles and what their images are like.

    source; rejected: the faulty particles, or None; power[g]: mean power of whole images by shell [0..box//2].
    """

    source: ParticleSource
    rejected: ParticleTable | None
    power: tuple[Tensor, ...]


def read_particles(star: Path, data_dir: Path | None, *, resplit: bool, split_by: str, seed: int) -> ParticleTable:
    """The particle table with half sets: those of the file if they are a real split, else drawn from ``seed``.

    Raises InputError for a file that cannot be used, a stack that is missing, short or of another size, and for too
    few particles.
    """
    table = read_star(star, data_dir)
    check_stacks(table)
    if table.half is None or resplit:
        table = assign_halves(table, seed, "micrograph" if split_by == "micrograph" else "particle")
    assert table.half is not None
    smallest = int(np.bincount(table.half, minlength=2).min())
    if smallest < FEWEST:
        raise InputError(
            f"{star}: a half set of {smallest} particles is too small to refine (at least {FEWEST} are needed); "
            "give more particles, or divide them anew with --resplit"
        )
    return table


def inspect_images(
    table: ParticleTable, diameter: float, batch: int, advance: Callable[[int], None] = lambda n: None
) -> Inspected:
    """Read every image once: set faulty ones aside (NaN, Inf, constant background) and measure the power spectra.

    Raises InputError, naming the first faulty images, where more than a tenth of them are faulty.
    """
    source = ParticleSource(table, diameter, batch)
    power = [torch.zeros(group.box // 2 + 1, dtype=torch.float64) for group in table.optics]
    images_of = [0] * len(table.optics)
    sound = np.ones(len(table), dtype=bool)
    bands = {g: Band.to_shell(group.box, band_limit(group.box)) for g, group in enumerate(table.optics)}
    for group, index, images, fine in source.stream(torch.arange(len(table))):
        sound[index.numpy()] = fine.numpy()
        band = bands[group]
        values = band.gather(image_fft(images[fine]))
        shells = band.shell_sum((values.real**2 + values.imag**2).double().sum(dim=0))
        power[group][: len(shells)] += shells
        images_of[group] += int(fine.sum())
        advance(len(index))
    for group, band in bands.items():
        ones = band.shell_sum(torch.ones(len(band), dtype=torch.float64)).clamp_min(1)
        mean = power[group][: len(ones)] / (ones * max(1, images_of[group]))
        mean[0] = mean[1]
        power[group] = torch.cat([mean, mean[-1:].repeat(len(power[group]) - len(mean))])
    if bool(sound.all()):
        return Inspected(source, None, tuple(power))
    faulty = np.flatnonzero(~sound)
    named = ", ".join(_image_name(table, int(i)) for i in faulty[:3])
    if len(faulty) > REJECTED_MOST * len(table):
        raise InputError(
            f"{table.source}: {len(faulty)} of {len(table)} images hold NaN, Inf or a constant background "
            f"(first: {named}); check how the stack was written"
        )
    kept = table.select(np.flatnonzero(sound))
    return Inspected(ParticleSource(kept, diameter, batch), table.select(faulty), tuple(power))


def _image_name(table: ParticleTable, index: int) -> str:
    return f"{table.image_index[index] + 1}@{table.stacks[table.stack_index[index]].name}"


@dataclass(frozen=True)
class Reference:
    """A map [z, y, x] on the grid of the refinement, with a note where it was changed to fit."""

    map: Tensor
    note: str = ""


def read_reference(
    path: Path, table: ParticleTable, diameter: float, what: str = "map"
) -> tuple[Reference, int, float]:
    """The starting map (or mask) on the grid of the largest optics group: (reference, box, pixel size).

    The particles are the authority. A map of another box is padded or cropped, and the note says so; raises
    InputError where the pixel size differs by more than 0.1 % or the particle does not fit the box.
    """
    largest = int(np.bincount(table.optics_index, minlength=len(table.optics)).argmax())
    optics = table.optics[largest]
    read = read_map(path)
    if abs(read.pixel_size / optics.pixel_size - 1) > PIXEL_TOLERANCE:
        raise InputError(
            f"{path}: pixel size {read.pixel_size:.4f} A, but the particles ({optics.name} of {table.source.name}) "
            f"have {optics.pixel_size:.4f} A; resample the {what} or correct its header"
        )
    if diameter > optics.box * optics.pixel_size:
        raise InputError(
            f"--diameter {diameter:g}: larger than the images ({optics.box} px of {optics.pixel_size:g} A, "
            f"{optics.box * optics.pixel_size:.0f} A); give the diameter of the particle"
        )
    box = read.data.shape[-1]
    data, note = read.data, ""
    if box != optics.box:
        data = pad_volume(data, optics.box) if box < optics.box else crop_volume(data, optics.box)
        verb = "padded" if box < optics.box else "cropped"
        note = f"{path.name}: box {box} {verb} to the particles' {optics.box}"
    low, high = float(data.min()), float(data.max())
    if low == high and (what == "map" or low == 0):
        raise InputError(f"{path}: the {what} is {low:g} everywhere; give one with density")
    if what != "map" and (low < -MASK_TOLERANCE or high > 1 + MASK_TOLERANCE):
        raise InputError(f"{path}: the {what} has values from {low:g} to {high:g}; it must be 1 inside and 0 outside")
    return Reference(data, note), optics.box, optics.pixel_size
