"""Sound particle sets, and what goes wrong with such sets in practice, done to them: for `conditions.py`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import mrcfile
import numpy as np
import torch
from numpy.typing import NDArray

from halfmap.fourier.transform import image_fft, image_ifft
from halfmap.geometry.rotations import euler_to_matrix
from halfmap.geometry.symmetry import symmetry_group
from halfmap.imaging.ctf import ctf
from halfmap.maps.masks import solvent_mask, spherical_mask
from halfmap.maps.mrc import read_map, write_map, write_stack
from halfmap.maps.rigid import moved
from halfmap.particles.star import read_star, write_star
from halfmap.particles.table import ParticleTable

Images = NDArray[np.float32]


@dataclass(frozen=True)
class Given:
    """What a refinement is given, and the truth that it is judged by. words: further options."""

    particles: Path
    truth: Path
    map: Path
    diameter: float
    symmetry: str
    words: tuple[str, ...] = ()

    def with_words(self, *words: object) -> Given:
        """The same with further options; of one that is given twice the last counts."""
        return replace(self, words=(*self.words, *map(str, words)))

    def table(self) -> ParticleTable:
        """The particles."""
        return read_star(self.particles)

    def images(self) -> Images:
        """Their images [b,y,x]; all lie in one stack."""
        with mrcfile.open(self.table().stacks[0], permissive=True) as stack:
            return np.array(stack.data, np.float32)

    def rewritten(self, folder: Path, rows: NDArray[np.int64] | None = None, images: Images | None = None,
                  change: Callable[[ParticleTable], ParticleTable] = lambda table: table) -> Given:
        """The set with these rows (an image may come twice: it is copied), these images, and a table so changed."""
        table, truth = self.table(), read_star(self.truth)
        rows = np.arange(len(table)) if rows is None else rows
        values = self.images()[rows] if images is None else images
        folder.mkdir(parents=True, exist_ok=True)
        stack = folder / "particles.mrcs"
        write_stack(stack, values, float(table.pixel_size[0]))
        written = []
        both = {"particles.star": change(table.select(rows)), "particles_truth.star": truth.select(rows)}
        for name, held in both.items():
            columns = {label: column for label, column in held.columns.items() if label != "rlnImageName"}
            zero = np.zeros(len(rows), np.int64)
            write_star(folder / name, replace(held, columns=columns, stacks=(stack,), stack_index=zero,
                                              image_index=np.arange(len(rows)), rows=np.arange(len(rows))))
            written.append(folder / name)
        return replace(self, particles=written[0], truth=written[1])

    def started_from(self, folder: Path, change: Callable[[torch.Tensor, float], torch.Tensor],
                     name: str = "start.mrc") -> Given:
        """The set with a start made of its own; change takes map [z,y,x] and pixel size (A)."""
        read = read_map(self.map)
        folder.mkdir(parents=True, exist_ok=True)
        write_map(folder / name, change(read.data, read.pixel_size), read.pixel_size)
        return replace(self, map=folder / name)


def copied(given: Given, folder: Path, share: float) -> Given:
    """A share of the images once more at the end of the stack, in the other half set."""
    count = len(given.table())
    again = np.arange(round(share * count))
    half = np.arange(count) % 2

    def divided(table: ParticleTable) -> ParticleTable:
        return replace(table, half=np.concatenate([half, 1 - half[again]]))

    return given.rewritten(folder, np.concatenate([np.arange(count), again]), change=divided)


def copied_in_other_greys(given: Given, folder: Path, share: float) -> Given:
    """A share of the images once more in the other half set, with other mean and contrast, as another normalisation
    leaves them."""
    count = len(given.table())
    again, half, images = np.arange(round(share * count)), np.arange(count) % 2, given.images()
    return given.rewritten(
        folder, np.concatenate([np.arange(count), again]), np.concatenate([images, 1.2 * images[again] + 0.3]),
        lambda table: replace(table, half=np.concatenate([half, 1 - half[again]])))


def identical(given: Given, folder: Path) -> Given:
    """One image in place of all."""
    images = given.images()
    images[:] = images[:1]
    return given.rewritten(folder, images=images)


def mixed_with_noise(given: Given, folder: Path, share: float) -> Given:
    """A share of the images replaced by white noise with the standard deviation of the images' corners."""
    images = given.images()
    empty = np.arange(round(share * len(images)))
    corner = np.concatenate([images[:, :8, :8].ravel(), images[:, -8:, -8:].ravel()])
    noise = np.random.default_rng(0).normal(corner.mean(), corner.std(), (len(empty), *images.shape[1:]))
    images[empty] = noise.astype(np.float32)
    done = given.rewritten(folder, images=images)
    truth = read_star(done.truth)
    kinds = np.where(np.arange(len(truth)) < len(empty), 2, 1)
    write_star(done.truth, replace(truth, columns=truth.columns | {"rlnClassNumber": kinds}))
    return done


def phase_flipped(given: Given, folder: Path) -> Given:
    """Every image with the phases turned where its CTF is negative."""
    table, images = given.table(), torch.from_numpy(given.images())
    box, group = images.shape[-1], table.optics[0]
    k = torch.fft.fftfreq(box, d=1 / box)
    kx = torch.fft.rfftfreq(box, d=1 / box)
    values = torch.stack(torch.meshgrid(k, kx, indexing="ij"), dim=-1).reshape(-1, 2)
    transfer = ctf(values.double(), group, table.defocus).reshape(len(images), box, len(kx))
    flipped = image_ifft(image_fft(images) * transfer.sign().to(images.dtype), box)
    return given.rewritten(folder, images=flipped.numpy().astype(np.float32))


def of_filaments(given: Given, folder: Path) -> Given:
    """Ten images at a time are segments of a filament, divided between the half sets."""
    def tubed(table: ParticleTable) -> ParticleTable:
        count = len(table)
        columns = table.columns | {"rlnHelicalTubeID": 1 + np.arange(count) // 10}
        return replace(table, columns=columns, micrograph=np.zeros(count, np.int64), half=np.arange(count) % 2)

    return given.rewritten(folder, change=tubed)


def uneven_halves(given: Given, folder: Path) -> Given:
    """Ten images in one half set, all others in the other."""
    first = (np.arange(len(given.table())) < 10).astype(np.int64)
    return given.rewritten(folder, change=lambda table: replace(table, half=first))


def off_axis(given: Given, folder: Path, axis: str, degrees: float) -> Given:
    """The start turned about y or z."""
    angles = torch.tensor([[0.0, degrees, 0.0] if axis == "y" else [degrees, 0.0, 0.0]], dtype=torch.float64)
    turn = euler_to_matrix(angles)[0]
    return given.started_from(folder, lambda v, apix: moved(v, turn, torch.zeros(3, dtype=torch.float64), apix))


def off_centre(given: Given, folder: Path, shift: float) -> Given:
    """The start moved along x (A)."""
    place = torch.tensor([shift, 0.0, 0.0], dtype=torch.float64)
    return given.started_from(folder, lambda v, apix: moved(v, torch.eye(3, dtype=torch.float64), place, apix))


def featureless(given: Given, folder: Path) -> Given:
    """A ball in place of the start."""
    return given.started_from(
        folder, lambda v, apix: spherical_mask(v.shape[-1], 0.3 * given.diameter / apix, 4.0).to(v))


def masked(given: Given, folder: Path, kind: str) -> Given:
    """A solvent mask that misses the molecule: `inverted`, or a `small` ball beside it."""
    read = read_map(given.map)
    box = read.data.shape[-1]
    right = solvent_mask(read.data, read.pixel_size, given.diameter)
    small = torch.roll(spherical_mask(box, 0.13 * box, 2.0), box // 4, dims=2)
    folder.mkdir(parents=True, exist_ok=True)
    write_map(folder / "mask.mrc", 1 - right if kind == "inverted" else small, read.pixel_size)
    return given.with_words("--mask", folder / "mask.mrc")


def focused(given: Given, folder: Path) -> Given:
    """True poses, and a mask around the upper half of the molecule, for a local search that looks at that only."""
    read = read_map(given.map)
    box = read.data.shape[-1]
    upper = ((torch.arange(box) - box // 2) / 4.0).sigmoid()[:, None, None]
    folder.mkdir(parents=True, exist_ok=True)
    write_map(folder / "mask.mrc", solvent_mask(read.data, read.pixel_size, given.diameter) * upper, read.pixel_size)
    return replace(given, particles=given.truth).with_words("--search", "local", "--mask", folder / "mask.mrc")


def expanded(given: Given, folder: Path, group: str) -> Given:
    """Every image at all poses that the group makes equal, drawn into half sets row by row."""
    truth = read_star(given.truth)
    operators = symmetry_group(group).double()
    count, order = len(truth), len(operators)
    rows = np.repeat(np.arange(count), order)
    assert truth.rotations is not None
    poses = (truth.rotations[:, None] @ operators[None]).reshape(-1, 3, 3)
    table = given.table().select(rows)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "expanded.star"
    half = np.random.default_rng(1).integers(0, 2, count * order)
    write_star(path, replace(table, rotations=poses, origins=truth.origins[torch.from_numpy(rows)], half=half))
    return replace(given, particles=path, symmetry="C1").with_words("--search", "local")


def with_wrong_optics(given: Given, folder: Path, defocus: float = 1.0, pixel: float = 1.0) -> Given:
    """Defocus multiplied by one factor, or the pixel size of particles and start by another."""
    def changed(table: ParticleTable) -> ParticleTable:
        optics = tuple(replace(group, pixel_size=group.pixel_size * pixel) for group in table.optics)
        seen = replace(table.defocus, u=table.defocus.u * defocus, v=table.defocus.v * defocus)
        return replace(table, optics=optics, defocus=seen)

    return given.rewritten(folder, change=changed)
