"""What is checked before long work starts: files, sizes, images, half sets, the starting map and mask."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from halfmap.errors import InputError
from halfmap.finding import Finding
from halfmap.fourier.band import Band, band_limit
from halfmap.fourier.transform import crop_volume, pad_volume
from halfmap.imaging.ctf import ctf
from halfmap.imaging.optics import CtfState
from halfmap.maps.grid import Grid
from halfmap.maps.mrc import read_map
from halfmap.particles.ctf_states import with_ctf_state
from halfmap.particles.given_optics import GivenOptics
from halfmap.particles.half_sets import TUBE, Division, SplitBy, assign_halves, divided_by
from halfmap.particles.outliers import ABSURD, DOUBTFUL, TRAITS, Odd, constant, odd_ones, traits
from halfmap.particles.particle_file import read_particle_file
from halfmap.particles.same_images import PATTERNS, first_alike, first_named, signatures
from halfmap.particles.sanity import header_notes, table_notes
from halfmap.particles.source import ParticleSource
from halfmap.particles.stack import check_stacks, looked_at
from halfmap.particles.stack_files import StackFiles
from halfmap.particles.table import Integers, ParticleTable
from halfmap.refinement.tally import noise_sources, shared
from halfmap.runtime.device import CPU
from halfmap.runtime.distributed import ALONE, Ranks
from halfmap.validation.halfset_leaks import leaks

PIXEL_TOLERANCE = 1e-3  # relative; RELION's 1.05 against 1.06 after a rounded header is an error here
MASK_TOLERANCE = 0.1  # overshoot of a resampled mask beyond 0 and 1
REJECTED_MOST = 0.1  # share of faulty images beyond which something is wrong with the data, not with an image
FEWEST = 8  # particles in a half set
CTF_SAMPLE, LEAST_CTF = 256, 1e-3  # images whose mean CTF^2 is that of all, about, and the least that is divided by


@dataclass(frozen=True)
class Inspected:
    """Sound particles, and what their images are like.

    source: of the sound particles. rejected: the faulty particles, if there are any; the column halfmapRejected says
    why. power[g]: mean power of whole images by shell [0..box//2]. findings: what is odd in table, headers, images and
    half sets.
    """

    source: ParticleSource
    rejected: ParticleTable | None
    power: tuple[Tensor, ...]
    findings: list[Finding] = field(default_factory=list)


@dataclass(frozen=True)
class ParticleInput:
    """Which particles are read, and how their half sets come about.

    path: a STAR file, or a cryoSPARC file by its suffix. data_dir: where image paths start from. passthrough,
    strip_prefix: belong to a cryoSPARC file. resplit: whether half sets in the file are ignored; division: how they
    are drawn then, or where the file has none. optics: where the file lacks them. ctf_state: what was done to the
    images about their CTF, where the file does not say it.
    """

    path: Path
    data_dir: Path | None = None
    passthrough: Path | None = None
    strip_prefix: str | None = None
    resplit: bool = False
    division: Division = field(default_factory=Division)
    optics: GivenOptics = field(default_factory=GivenOptics)
    ctf_state: CtfState | None = None


@dataclass(frozen=True)
class Divided:
    """Particles in half sets. drawn: how these were drawn, None for those of the file; findings: what to know of it."""

    table: ParticleTable
    drawn: Division | None
    findings: list[Finding] = field(default_factory=list)


def read_particles(wanted: ParticleInput, files: StackFiles | None = None) -> Divided:
    """The particle table with half sets: those of the file if they are a real split, else drawn. Stacks stay open in
    ``files``.

    Raises InputError for a file that cannot be used, a stack that is missing, short or of another size, and for too few
    particles.
    """
    table = read_particle_file(
        wanted.path, wanted.data_dir, wanted.passthrough, wanted.strip_prefix, wanted.optics
    )
    table = with_ctf_state(table, wanted.ctf_state)
    check_stacks(table, files)
    drawn, findings = None, list[Finding]()
    if table.half is None or wanted.resplit:
        drawn = replace(wanted.division, by=divided_by(table, wanted.division.by))
        findings = _how_drawn(table, drawn.by)
        table = assign_halves(table, drawn)
    sizes = _half_sizes(table)
    if sizes.min() < FEWEST:
        raise InputError(
            f"{wanted.path}: half sets of {sizes[0]} and {sizes[1]} particles: the smaller is too small to refine (at "
            f"least {FEWEST} are needed); give more particles, or divide them anew with --resplit"
        )
    return Divided(table, drawn, findings)


def _how_drawn(table: ParticleTable, by: SplitBy) -> list[Finding]:
    """What is not usual in half sets that will be drawn for this table."""
    said = []
    if table.half is None and "rlnRandomSubset" in table.columns:
        said.append(f"rlnRandomSubset is {table.columns['rlnRandomSubset'][0]} in all rows and divides nothing")
    if by == "filament":
        said.append(f"filaments ({TUBE}) stay whole")
    images = len(np.unique(first_named(table)))
    if images < len(table):
        said.append(f"the {len(table)} rows name {images} different images, and rows of one image stay together")
    text = f"half sets were drawn at random: {'; '.join(said)}"
    return [Finding("half sets were drawn", text, "half sets", "note")] if said else []


def _half_sizes(table: ParticleTable) -> Integers:
    assert table.half is not None
    return np.bincount(table.half, minlength=2)


def inspect_images(
    source: ParticleSource, advance: Callable[[int], None] = lambda n: None, ranks: Ranks = ALONE,
    drawn: Division | None = None,
) -> Inspected:  # fmt: skip
    """Read every image once, in one of the processes. Set faulty ones aside and measure the power spectra.

    An image is faulty if it holds NaN or Inf, if its background is constant, or if it is beyond all measure unlike the
    others of its stack. Images that merely stand out are counted. What is odd in the table and in the headers of its
    stacks is noted, and images that are there more than once, whatever they are called. Where half sets were ``drawn``,
    copies that they divide are brought together by another draw. Raises InputError, which names the first, where more
    than a tenth are faulty.
    """
    table, reader = source.table, replace(source, device=CPU)
    mine = source.share(torch.arange(len(table)), ranks.rank, ranks.world)
    sound, seen = np.zeros(len(table), dtype=bool), torch.zeros(len(table), 3, dtype=torch.float64)
    patterns = torch.zeros(len(table), PATTERNS)
    bands = {box: Band.to_shell(box, band_limit(box)) for box in {group.box for group in table.optics}}
    spectra: list[_Spectrum] = []
    for batch in reader.stream(mine):
        sound[batch.index.numpy()] = batch.sound.numpy()
        seen[batch.index] = traits(batch.stored, batch.images)
        patterns[batch.index] = signatures(batch.images)
        spectra += [_Spectrum(part.group, part.index, _power(bands, part.images[part.sound])) for part in batch.apart()]
        advance(len(batch))
    fine = torch.from_numpy(sound).double()
    ranks.add_([fine, seen, patterns])
    sound = fine.numpy() > 0
    odd = odd_ones(table, seen, sound)
    absurd = odd.deviation > ABSURD
    fine = torch.from_numpy(sound & ~absurd)
    for place, spectrum in enumerate(spectra):
        if absurd[spectrum.index.numpy()].any():  # one image may outweigh all others
            (batch,) = reader.stream(spectrum.index)
            spectra[place] = replace(spectrum, power=_power(bands, batch.images[fine[batch.index]]))
    power = _mean_power(table, bands, spectra, fine, ranks)
    flat = np.where(constant(seen), "constant", "constant background")
    why = np.where(sound, np.where(absurd, "outlier", ""), np.where(seen.isfinite().all(dim=1), flat, "NaN"))
    rejected, kept = _set_aside(table, why)
    found = [_rejection(rejected)] if rejected is not None else []
    first = _first_copies(kept, patterns[torch.from_numpy(why == "")], ranks)
    together = _together(kept, first, drawn)
    found += together.findings
    kept = together.table
    found += leaks(kept, source.diameter, first) + table_notes(table)
    found += header_notes(table, looked_at(table, source.files))
    return Inspected(replace(source, table=kept), rejected, power, found + _doubtful(table, odd))


def _first_copies(table: ParticleTable, patterns: Tensor, ranks: Ranks) -> Integers:
    """The first row[b] that shows the same image, found by the first process from the signatures [b, p] of all."""
    first = torch.arange(len(table))
    if ranks.first:
        first = torch.from_numpy(first_alike(patterns, table))
    ranks.hand_out_([first])
    return first.numpy()


def _together(table: ParticleTable, first: Integers, drawn: Division | None) -> Divided:
    """The table with copies of an image (first[b]: its first row) in one half set, if these were drawn and can be."""
    across = table.half is not None and bool((table.half != table.half[first]).any())
    if drawn is None or not across or len(np.unique(first)) < 2 * FEWEST:
        return Divided(table, drawn)
    again = assign_halves(table, drawn, first)
    if _half_sizes(again).min() < FEWEST:
        return Divided(table, drawn)
    repeated = len(np.unique(first[first != np.arange(len(table))]))
    text = (f"{repeated} images are there more than once, also under different names; half sets were drawn so that all "
            "copies of an image are in the same one")
    return Divided(again, drawn, [Finding("copies kept in one half set", text, "half sets", "note")])


def _power(bands: dict[int, Band], images: Tensor) -> Tensor:
    """Summed power of images [b, y, x] by shell [s], float64. bands: by box."""
    band = bands[images.shape[-1]]
    if not len(images):  # a whole batch may be faulty, and a transform of nothing is an error
        return band.shell_sum(torch.zeros(len(band), dtype=torch.float64))
    values = band.transform(images)
    return band.shell_sum((values.real**2 + values.imag**2).double().sum(dim=0))


@dataclass(frozen=True)
class _Spectrum:
    """Summed power [s] of particles ``index`` [b] of an optics group, without those whose images are faulty."""

    group: int
    index: Tensor
    power: Tensor


def _mean_power(
    table: ParticleTable, bands: dict[int, Band], summed: list[_Spectrum], fine: Tensor, ranks: Ranks
) -> tuple[Tensor, ...]:
    """Mean power of each optics group by shell [0..box//2], over the images of all processes that are fine [b]; groups
    of few images share theirs (`noise_sources`).

    Of images that are multiplied by their CTF it is the power that they had before.
    """
    power = [torch.zeros(group.box // 2 + 1, dtype=torch.float64) for group in table.optics]
    images_of = torch.zeros(len(table.optics), dtype=torch.float64)
    for spectrum in summed:
        power[spectrum.group][: len(spectrum.power)] += spectrum.power
        images_of[spectrum.group] += int(fine[spectrum.index].sum())
    ranks.add_([*power, images_of])
    sources = noise_sources(table.optics, [int(count) for count in images_of])
    power, images_of = shared(power, sources), torch.stack(shared(list(images_of), sources))
    for group, optics in enumerate(table.optics):
        band = bands[optics.box]
        ones = band.shell_sum(torch.ones(len(band), dtype=torch.float64)).clamp_min(1)
        mean = power[group][: len(ones)] / (ones * max(1, int(images_of[group])))
        if optics.ctf_state is CtfState.PREMULTIPLIED and int(images_of[group]):
            members = torch.nonzero((torch.from_numpy(table.optics_index) == group) & fine)[:, 0]
            members = members[:: len(members) // CTF_SAMPLE + 1]
            power_of_ctf = ctf(band.kxy, optics, table.defocus[members]).square().double().mean(dim=0)
            mean = mean / (band.shell_sum(power_of_ctf) / ones).clamp_min(LEAST_CTF)
        mean[0] = mean[1]
        power[group] = torch.cat([mean, mean[-1:].repeat(len(power[group]) - len(mean))])
    return tuple(power)


def _set_aside(table: ParticleTable, why: np.ndarray) -> tuple[ParticleTable | None, ParticleTable]:
    """The particles with a reason ``why`` [b] to be rejected (None if there are none), and the others."""
    faulty = np.flatnonzero(why != "")
    if not len(faulty):
        return None, table
    if len(faulty) > REJECTED_MOST * len(table):
        named = ", ".join(_image_name(table, int(i)) for i in faulty[:3])
        raise InputError(
            f"{table.source}: {len(faulty)} of {len(table)} images hold NaN, Inf or a constant background, or are "
            f"outliers (first: {named}); check how the stack was written"
        )
    rejected = table.select(faulty)
    rejected = replace(rejected, columns=rejected.columns | {"halfmapRejected": why[faulty].tolist()})
    return rejected, table.select(np.flatnonzero(why == ""))


def _rejection(rejected: ParticleTable) -> Finding:
    """A finding about particles that were set aside: how many, why, and the first of them."""
    reasons = set(rejected.columns["halfmapRejected"])
    why = ["hold NaN, Inf or a constant background"] if reasons & {"NaN", "constant"} else []
    why += ["are outliers of their stack"] if "outlier" in reasons else []
    names = ", ".join(
        f"{rejected.image_index[i] + 1}@{rejected.stacks[rejected.stack_index[i]].name}"
        for i in range(min(5, len(rejected)))
    )
    more = "" if len(rejected) <= 5 else f" and {len(rejected) - 5} more"
    text = f"{len(rejected)} images {' or '.join(why)} and were set aside in rejected.star: {names}{more}"
    return Finding("images set aside", text, "images")


def _doubtful(table: ParticleTable, odd: Odd) -> list[Finding]:
    """A note on images that stand out but are kept. It names the worst."""
    doubtful = np.flatnonzero((odd.deviation > DOUBTFUL) & (odd.deviation <= ABSURD))
    if not len(doubtful):
        return []
    worst = doubtful[np.argsort(-odd.deviation[doubtful], kind="stable")[:3]]
    named = ", ".join(f"{_image_name(table, int(i))} ({TRAITS[odd.trait[i]]})" for i in worst)
    text = (f"{len(doubtful)} of {len(table)} images stand out from their stack by more than {DOUBTFUL:g} robust "
            f"standard deviations and are kept; the farthest: {named}")
    return [Finding("images that stand out", text, "images", "note")]


def _image_name(table: ParticleTable, index: int) -> str:
    return f"{table.image_index[index] + 1}@{table.stacks[table.stack_index[index]].name}"


@dataclass(frozen=True)
class Reference:
    """A map [z, y, x] on the grid of the refinement, with a note if it was changed to fit."""

    map: Tensor
    grid: Grid
    note: str = ""


def check_fits(diameter: float, grid: Grid) -> None:
    """Raise InputError where a particle of this diameter (A) does not fit into the box of its images."""
    if diameter > grid.length:
        raise InputError(f"--diameter {diameter:g}: larger than the images ({grid.box} px of {grid.pixel_size:g} A, "
                         f"{grid.length:.0f} A); give the diameter of the particle")


def read_reference(path: Path, table: ParticleTable, diameter: float, what: str = "map") -> Reference:
    """The starting map (or mask) on the grid of the largest optics group.

    The particles are the authority. A map of another box or that is no cube is padded or cropped, and a note says so.
    Where its header places it does not count. Raises InputError where the pixel size differs by more than 0.1 %, or
    the particle does not fit the box.
    """
    largest = int(np.bincount(table.optics_index, minlength=len(table.optics)).argmax())
    optics = table.optics[largest]
    read = read_map(path, None if what == "map" else 0.0)
    if abs(read.pixel_size / optics.pixel_size - 1) > PIXEL_TOLERANCE:
        raise InputError(
            f"{path}: pixel size {read.pixel_size:.4f} A, but the particles ({optics.name} of {table.source.name}) "
            f"have {optics.pixel_size:.4f} A; resample the {what} or correct its header"
        )
    check_fits(diameter, Grid(optics.box, optics.pixel_size))
    box = read.data.shape[-1]
    data, notes = read.data, [read.padding(path)] if read.shape else []
    if box != optics.box:
        data = pad_volume(data, optics.box) if box < optics.box else crop_volume(data, optics.box)
        verb = "padded" if box < optics.box else "cropped"
        notes.append(f"{path.name}: box {box} {verb} to the particles' {optics.box}")
    low, high = float(data.min()), float(data.max())
    if low == high and (what == "map" or low == 0):
        raise InputError(f"{path}: the {what} is {low:g} everywhere; give one with density")
    if what != "map" and (low < -MASK_TOLERANCE or high > 1 + MASK_TOLERANCE):
        raise InputError(f"{path}: the {what} has values from {low:g} to {high:g}; it must be 1 inside and 0 outside")
    return Reference(data, Grid(optics.box, optics.pixel_size), "; ".join(notes))
