"""Look at the images of a particle set: find faulty ones, and measure their power spectra and Thon rings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from halfmap.fourier.band import Band, band_limit
from halfmap.fourier.transform import image_coefficients, image_fft, image_ifft
from halfmap.imaging.ctf import ctf
from halfmap.imaging.optics import CtfState, OpticsGroup, names_of
from halfmap.maps.filters import butterworth_gain
from halfmap.particles.outliers import ABSURD, DOUBTFUL, TRAITS, constant, odd_ones, traits
from halfmap.particles.source import ParticleSource
from halfmap.particles.table import Integers, ParticleTable
from halfmap.validation.image_contrast import ImageContrast, image_skewness
from halfmap.validation.thon_rings import Rings, RingSums

SHOWN = 24  # images in the montage
LOWPASS = 20.0  # A: the eye sees a particle best so
MASKED = "without noise around the particle"
ALIKE = 0.25  # share of the images, nearest to the median defocus, whose rings are shown


@dataclass(frozen=True)
class GroupSpectra:
    """Spectra of the images of optics groups that are alike (`OpticsGroup.alike`).

    name: of the groups; rings, power, mean_ctf: Thon rings, mean power [s] and mean |CTF| [s] of all images; alike:
    rings of the images near the median defocus, which is given in A; pixel_size in A; with_ctf: whether the CTF is
    known and rings would tell of it: images that were multiplied by it have rings in their noise.
    """

    name: str
    box: int
    pixel_size: float
    rings: Rings
    power: Tensor
    alike: Rings
    defocus: float
    mean_ctf: Tensor
    with_ctf: bool


@dataclass(frozen=True)
class Looked:
    """What was seen in a sample of the images.

    count: images read; faulty: how many hold NaN or Inf, are constant or constant around the particle, or differ
    absurdly from the others; doubtful: how many stand out; worst: names of those that stand out most; spectra: one for
    all optics groups that are alike; raw, low [i, y, x]: some images, normalised, and low-passed; pixel_size: theirs in
    A; contrast: whether protein is bright.
    """

    count: int
    faulty: dict[str, int]
    doubtful: int
    worst: list[str]
    spectra: list[GroupSpectra]
    raw: NDArray[np.float32]
    low: NDArray[np.float32]
    pixel_size: float
    contrast: ImageContrast


def look(table: ParticleTable, diameter: float, most: int, with_ctf: bool = True) -> Looked:
    """Read up to ``most`` images (0: all), spread evenly over the table.

    diameter (A): beyond it an image is background. with_ctf: whether the table holds the CTF. Raises InputError where
    an image cannot be read.
    """
    rows = np.arange(len(table))
    if most and most < len(table):
        rows = np.unique(np.linspace(0, len(table) - 1, most).round().astype(np.int64))
    table = table.select(rows)
    shown = np.unique(np.linspace(0, len(table) - 1, SHOWN).round().astype(np.int64))
    # All images of the montage have one size: that of the first image.
    shown = shown[[table.optics[g].box == table.optics[table.optics_index[0]].box for g in table.optics_index[shown]]]
    source, seen = ParticleSource(table, diameter), torch.zeros(len(table), 3, dtype=torch.float64)
    sound, collected = np.ones(len(table), bool), _Collected(table, with_ctf)
    pictures: dict[int, Tensor] = {}
    everything = source.stream(torch.arange(len(table)))
    for batch in (part for whole in everything for part in whole.apart()):
        index, images, fine = batch.index, batch.images, batch.sound
        sound[index.numpy()] = fine.numpy()
        seen[index] = traits(batch.stored, images)
        # One image with a wild pixel would outweigh all others in the spectra.
        tame = fine & (seen[index, 2] < 10 * seen[index, 2][fine].median()) if bool(fine.any()) else fine
        if bool(tame.any()):
            collected.add(batch.group, index[tame], images[tame])
        pictures |= {int(i): images[j] for j, i in enumerate(index.tolist()) if i in shown}
    odd = odd_ones(table, seen, sound)
    absurd, finite, flat = odd.deviation > ABSURD, seen.isfinite().all(dim=1).numpy(), constant(seen)
    doubtful = np.flatnonzero((odd.deviation > DOUBTFUL) & ~absurd)
    worst = np.flatnonzero(odd.deviation > DOUBTFUL)
    worst = worst[np.argsort(-odd.deviation[worst], kind="stable")[:3]]
    raw = torch.stack([pictures[int(i)] for i in shown])
    optics = table.optics[table.optics_index[0]]
    return Looked(
        count=len(table), faulty={
            "NaN or Inf": int((~finite).sum()), "constant": int((~sound & finite & flat).sum()),
            MASKED: int((~sound & finite & ~flat).sum()), "outliers": int(absurd.sum())},
        doubtful=len(doubtful),
        worst=[f"{table.image_index[i] + 1}@{table.stacks[table.stack_index[i]].name} ({TRAITS[odd.trait[i]]})"
               for i in worst],
        spectra=collected.spectra(), raw=raw.numpy(), low=low_passed(raw, optics.pixel_size).numpy(),
        pixel_size=optics.pixel_size, contrast=ImageContrast.of(collected.skewness),
    )  # fmt: skip


def low_passed(images: Tensor, pixel_size: float) -> Tensor:
    """Images [b, y, x] without detail finer than LOWPASS A."""
    box = images.shape[-1]
    frequency = torch.hypot(*image_coefficients(box).double().unbind(-1))
    return image_ifft(image_fft(images) * butterworth_gain(frequency, box * pixel_size / LOWPASS).float(), box)


@dataclass(frozen=True)
class _GroupSums:
    """Sums over images of optics groups that are alike: for the rings of all and of those near the median defocus
    (alike), and of |CTF| [s] (absolute)."""

    band: Band
    all: RingSums
    alike: RingSums
    absolute: Tensor


class _Collected:
    """Collects the sums over the images of all optics groups that are alike, under the number of the first."""

    def __init__(self, table: ParticleTable, with_ctf: bool) -> None:
        self.table, self.with_ctf = table, with_ctf
        self.groups: dict[int, _GroupSums] = {}
        self.skewness = torch.full((len(table),), torch.nan)
        first: dict[OpticsGroup, int] = {}
        self.first = np.array([first.setdefault(group.alike, number) for number, group in enumerate(table.optics)])
        kind = self.first[table.optics_index]
        defocus = (0.5 * (table.defocus.u + table.defocus.v)).numpy()
        self.middle, self.alike = {}, np.zeros(len(table), bool)
        for group in np.unique(kind):
            members: Integers = np.flatnonzero(kind == group)
            self.middle[int(group)] = float(np.median(defocus[members]))
            distance = np.abs(defocus[members] - self.middle[int(group)])
            self.alike[members] = distance <= np.quantile(distance, ALIKE)

    def add(self, group: int, index: Tensor, images: Tensor) -> None:
        """Add normalised images [b, y, x] of a group, the rows index[b] of the table."""
        optics, group = self.table.optics[group], int(self.first[group])
        if group not in self.groups:
            band = Band.to_shell(optics.box, band_limit(optics.box))
            zeros = torch.zeros(band.limit + 1, dtype=torch.float64)
            self.groups[group] = _GroupSums(band, RingSums(band.shell), RingSums(band.shell), zeros)
        sums = self.groups[group]
        band = sums.band
        values = band.transform(images)
        power = (values.real.square() + values.imag.square()) / optics.box**2
        contrast = ctf(band.kxy, optics, self.table.defocus[index]) if self.with_ctf else torch.ones_like(power)
        near = torch.from_numpy(self.alike[index.numpy()])
        sums.all.add(power, contrast.square())
        sums.alike.add(power[near], contrast[near].square())
        sums.absolute.add_(band.shell_sum(contrast.abs().double().sum(dim=0)))
        if self.with_ctf:
            self.skewness[index] = image_skewness(images, optics, self.table.defocus[index])

    def spectra(self) -> list[GroupSpectra]:
        """The spectra of all groups, in the order in which their first images came."""
        found = []
        for group, sums in self.groups.items():
            optics, count = self.table.optics[group], sums.all.sums[0].clamp_min(1)
            members = [one for one, kind in zip(self.table.optics, self.first, strict=True) if kind == group]
            found.append(GroupSpectra(
                names_of(members), optics.box, optics.pixel_size, sums.all.rings(), sums.all.sums[1] / count,
                sums.alike.rings(), self.middle[group], sums.absolute / count,
                self.with_ctf and optics.ctf_state is not CtfState.PREMULTIPLIED,
            ))  # fmt: skip
        return found
