"""`halfmap subtract`: particle images less the signal of everything that a mask leaves out.

From each image y of a finished run the projection of what lies outside the mask is subtracted, at the image's pose and
under its CTF and aberrations (Bai et al. 2015, eLife 4, e11182). It comes from the raw half map of the image's own half
set, filtered by the FSC (`Uniform`), within the run's solvent mask. The model is in units of the image's background, as
in a refinement; it is subtracted from the image as stored, so that grey scale and noise stay what they were.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor

from halfmap import __version__, kernels
from halfmap.errors import InputError
from halfmap.fourier.band import Band, band_limit
from halfmap.fourier.transform import fft_size
from halfmap.imaging.delocalisation import delocalisation
from halfmap.maps.mrc import StackWriter, replaced_atomically, write_map
from halfmap.particles.source import ImageBatch, ParticleSource
from halfmap.particles.star import write_star
from halfmap.particles.star_text import numbers_of
from halfmap.particles.table import ParticleTable
from halfmap.refinement.disk_space import check_room
from halfmap.refinement.outputs import CONTRAST, PROBABILITY, made_folder
from halfmap.runtime import terminal
from halfmap.runtime.progress import counted
from halfmap.settings.subtract import SubtractSettings
from halfmap.workflows.consensus import Consensus, read_consensus, read_own_particles
from halfmap.workflows.projections import Projector
from halfmap.workflows.windows import Windows, new_names

RANGES = 8  # lines of the table of what was removed
UNFIT = 0.2  # deviation of the model's fit from 1 beyond which a remark is made
HALF_LARGEST = 65504.0  # grey value in float16
ROW = 1000  # bytes of a particle in the STAR file


@dataclass
class _Removed:
    """Sums over images by shell [s] of the map, in units of the background: of an image's power, of its product with
    the model, and of the model's power."""

    power: Tensor
    cross: Tensor
    norm: Tensor
    unsound: int = 0
    bands: dict[int, Band] = field(default_factory=dict)

    @staticmethod
    def zeros(limit: int) -> _Removed:
        power, cross, norm = torch.zeros(3, limit + 1, dtype=torch.float64)
        return _Removed(power, cross, norm)

    def add_(self, images: Tensor, model: Tensor, ratio: float) -> None:
        """Count images [b, y, x] and what is subtracted from them. ratio: shells of the images to one of the map."""
        box = images.shape[-1]
        band = self.bands.setdefault(box, Band.to_shell(box, min(band_limit(box), int((len(self.norm) - 1) * ratio))))
        y, m = (band.transform(values) for values in (images, model))
        shell = (torch.arange(band.limit + 1) / ratio).round().long()
        for total, product in ((self.power, y * y.conj()), (self.cross, y * m.conj()), (self.norm, m * m.conj())):
            total.index_add_(0, shell, band.shell_sum(product.real.double().sum(dim=0)))

    def ranges(self, length: float) -> list[dict[str, float]]:
        """For ranges of resolution (A): the part of the images' power that was removed, and how large the model is in
        the images (1: as large as it was taken to be). length: side of the map in A."""
        last = len(self.norm) - 1
        bounds = np.unique(np.geomspace(2, last + 1, RANGES + 1).round().astype(int))
        found = []
        for low, high in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
            power, cross, norm = (float(total[low:high].sum()) for total in (self.power, self.cross, self.norm))
            found.append({
                "from_A": length / low, "to_A": length / (high - 1),
                "removed_percent": 100 * (2 * cross - norm) / max(power, 1e-30), "fit": cross / max(norm, 1e-30),
            })  # fmt: skip
        return found

    @property
    def fit(self) -> float:
        """How large the model is in the images, over all shells."""
        return float(self.cross.sum() / self.norm.sum().clamp_min(1e-30))


def subtract(settings: SubtractSettings) -> None:
    """Write the subtracted images, their STAR file, and map and mask that belong to them, into settings.out.

    Writes particles.mrcs (particles_1.mrcs and so on where images have several sizes), particles.star, map.mrc (the
    run's map within the mask), mask.mrc and subtract.json. settings: as `validated_subtract` returns them. Raises
    InputError where a file cannot be used or written, and where the mask leaves nothing to subtract.
    """
    kernels.set_threads(settings.threads)
    torch.set_num_threads(kernels.thread_count())
    console = terminal.console()
    with console.status("reading the run"):
        consensus = read_consensus(settings)
        table = read_own_particles(settings)
    windows = Windows.of(table, consensus.grid, consensus.keep if settings.recentre else None, settings.box)
    _check_box(table, windows, settings)
    terminal.say_lines(_before(settings, consensus, table, windows), "images")
    made_folder(settings.out)
    removed = _Removed.zeros(consensus.limit)
    result = _write_images(settings, consensus, table, windows, removed)
    pixel_size = consensus.grid.pixel_size
    write_map(settings.out / "map.mrc", windows.map(consensus.volume * consensus.keep), pixel_size)
    write_map(settings.out / "mask.mrc", windows.map(consensus.keep), pixel_size)
    ranges = removed.ranges(consensus.grid.length)
    _write_record(settings, consensus, len(result), ranges)
    write_star(settings.out / "particles.star", result)
    terminal.say_lines(_after(settings, removed, ranges), "images")


def _check_box(table: ParticleTable, windows: Windows, settings: SubtractSettings) -> None:
    """Raise InputError where one box does not suit all images, or the results do not fit on the disk."""
    sizes = sorted({group.pixel_size for group in table.optics})
    if settings.box is not None and len(sizes) > 1:
        listed = ", ".join(f"{size:g}" for size in sizes)
        raise InputError(f"--box {settings.box}: the images have pixels of {listed} A, and boxes of so many pixels "
                         "would differ in size; leave it out")
    smallest = min(group.box for group in table.optics)
    if settings.box is not None and settings.box > smallest:
        raise InputError(f"--box {settings.box}: larger than the images ({smallest} pixels); give that or less")
    pixels = torch.tensor([windows.side(group.box) ** 2 for group in table.optics])[table.optics_index]
    width = 2 if settings.dtype == "float16" else 4
    check_room(settings.out, int(pixels.sum()) * width + ROW * len(table), "the images")


def _write_images(
    settings: SubtractSettings, consensus: Consensus, table: ParticleTable, windows: Windows, removed: _Removed
) -> ParticleTable:
    """Write the stacks, and return the table of the new images. Either all stacks appear or none."""
    result = windows.table(table, consensus.grid.pixel_size)
    sheets = sorted({(group.box, group.pixel_size) for group in result.optics})
    sheet_of = np.array([sheets.index((group.box, group.pixel_size)) for group in result.optics])[table.optics_index]
    used = np.unique(sheet_of).tolist()
    names = ["particles.mrcs"] if len(used) == 1 else [f"particles_{i + 1}.mrcs" for i in range(len(used))]
    sheet_of = np.searchsorted(used, sheet_of)
    place = np.zeros(len(table), np.int64)
    dtype = cast(Literal["float32", "float16"], settings.dtype)
    with ExitStack() as open_files:
        writers = []
        for i, name in enumerate(names):
            box, pixel_size = sheets[used[i]]
            count = int((sheet_of == i).sum())
            writers.append(open_files.enter_context(StackWriter(settings.out / name, count, box, pixel_size, dtype)))
        advance = open_files.enter_context(counted("subtracting", len(table)))
        for index, images in _subtracted(consensus, table, removed, advance):
            writer = writers[int(sheet_of[int(index[0])])]
            if settings.dtype == "float16" and not float(images.abs().max()) < HALF_LARGEST:
                raise InputError(f"{table.name(int(index[0]))}: grey values of its batch are too large for --dtype "
                                 "float16; take float32")
            place[index.numpy()] = np.arange(writer.written, writer.written + len(index))
            writer.write(windows.cut(images, index))
    stacks = tuple(settings.out / name for name in names)
    listed = [_from_here(stack) for stack in stacks]
    named = [f"{at + 1:06d}@{listed[sheet]}" for at, sheet in zip(place.tolist(), sheet_of.tolist(), strict=True)]
    return replace(result, stacks=stacks, stack_index=sheet_of.astype(np.int64), image_index=place,
                   columns=new_names(result, named))


def _subtracted(
    consensus: Consensus, table: ParticleTable, removed: _Removed, advance: Callable[[int], None]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Numbers [b] of particles of one optics group and their images [b, y, x], less what is outside the mask."""
    source = ParticleSource(table, consensus.diameter)
    contrast = torch.ones(len(table))
    if CONTRAST in table.columns:
        contrast = torch.from_numpy(numbers_of(table.columns[CONTRAST])).float()
    for half, outside in enumerate(consensus.outside):
        projector = Projector.of(outside, consensus.grid, consensus.limit)
        for batch in source.stream(torch.from_numpy(np.flatnonzero(table.half == half))):
            for part in batch.apart():
                optics = table.optics[part.group]
                model = _model(projector, consensus, table, part) * contrast[part.index, None, None]
                model[~part.sound] = 0.0
                removed.add_(part.images, model, optics.box_length / consensus.grid.length)
                removed.unsound += int((~part.sound).sum())
                yield part.index, part.stored - model * source.grey_unit(part)[:, None, None]
            advance(len(batch))


def _model(projector: Projector, consensus: Consensus, table: ParticleTable, part: ImageBatch) -> Tensor:
    """What is outside the mask in images [b, y, x] of one optics group, in units of their background.

    It is made in a box so wide that what the CTF moves out of the image does not come in on the other side.
    """
    optics = table.optics[part.group]
    finest = consensus.limit / consensus.grid.length
    reach = consensus.radius + float(table.origins[part.index].norm(dim=1).max())
    reach += float(delocalisation(optics, table.defocus[part.index], finest).max())
    wide = max(optics.box, min(2 * optics.box, fft_size(optics.box / 2 + reach / optics.pixel_size)))
    images = projector.images(table, part.index, part.group, wide)
    first = wide // 2 - optics.box // 2
    return images[:, first : first + optics.box, first : first + optics.box]


def _from_here(path: Path) -> str:
    """The path from the working folder, if it lies there, as RELION's projects have it."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def _before(
    settings: SubtractSettings, consensus: Consensus, table: ParticleTable, windows: Windows
) -> list[str]:
    """What is going to be done, each a line."""
    grid = consensus.grid
    lines = [
        f"{table.source}: {len(table):,} particles, each less its own half set's map, filtered by the FSC to "
        f"{grid.length / consensus.limit:.2f} A and within {settings.run.name}/mask.mrc",
        f"{settings.mask}: {100 * consensus.share:.0f} % of the power of that map lies outside and is subtracted",
    ]
    if settings.recentre:
        x, y, z = (windows.point * grid.pixel_size).tolist()
        lines.append(f"images are centred on the point {x:.1f}, {y:.1f}, {z:.1f} A off the centre of the map; map.mrc "
                     "and mask.mrc are centred on it too")
    beyond = windows.beyond(table)
    if beyond:
        lines.append(f"note: {beyond:,} new images reach beyond the old ones, which are mirrored at their edges; a "
                     "smaller --box avoids it")
    if CONTRAST not in table.columns:
        lines.append(f"note: no column {CONTRAST}, which runs of this version write; all images are taken to have the "
                     "contrast of the map")
    if PROBABILITY in table.columns:
        empty = int((numbers_of(table.columns[PROBABILITY]) < 0.5).sum())
        if empty:
            lines.append(f"note: {empty:,} images probably hold no particle, and get its negative; halfmap select "
                         "leaves them out")
    return lines


def _after(settings: SubtractSettings, removed: _Removed, ranges: list[dict[str, float]]) -> list[str]:
    """What was done, each a line."""
    lines = ["removed of the images' power, noise included, and the model's size in the images (1: as it was taken):"]
    lines += [f"{one['from_A']:8.1f} - {one['to_A']:5.1f} A {one['removed_percent']:8.3f} % {one['fit']:8.2f}"
              for one in ranges]
    if abs(removed.fit - 1) > UNFIT:
        lines.append(f"WARNING: the images hold {removed.fit:.2f} times what was subtracted: poses, contrast or CTF "
                     "are not those that the run's maps were made with")
    if removed.unsound:
        lines.append(f"note: {removed.unsound:,} images hold NaN, Inf or a constant background and stay as they are")
    start = f"halfmap refine {settings.out}/particles.star --map {settings.out}/map.mrc --mask {settings.out}/mask.mrc"
    lines.append(f"Finished: {settings.out}; go on with: {start} --search local --diameter .. --out ..")
    return lines


def _write_record(
    settings: SubtractSettings, consensus: Consensus, count: int, ranges: list[dict[str, float]]
) -> None:
    """Write subtract.json: the settings, and what was removed."""
    record: dict[str, Any] = {
        "halfmap": __version__, "particles": count, "share_outside": consensus.share,
        "filtered_to_A": consensus.grid.length / consensus.limit, "removed": ranges,
        "settings": {name: str(value) if isinstance(value, Path) else value
                     for name, value in dataclasses.asdict(settings).items()},
    }  # fmt: skip
    with replaced_atomically(settings.out / "subtract.json") as stream:
        stream.write((json.dumps(record, indent=2) + "\n").encode())
