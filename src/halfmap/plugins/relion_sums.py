"""Read what RELION hands to an external reconstruction, as statistics in this program's units.

For every half set and iteration ``relion_refine --external_reconstruct`` (3.1, 4.0, 5.0) writes the back-projected data
and weight as three float32 MRC volumes [z, y, x] of padding x box points: transforms in FFTW's order, x >= 0, with the
phase origin at the box centre, and zero beyond the resolution used. A STAR file names these volumes and the map that
RELION expects back, and holds the prior tau2 by shell. The sums are already folded, symmetrised and joined at low
resolution. RELION divides an image's transform by box^2, and its sigma2 is the variance of the real part alone, half
the noise power. So its numerators are 2 box^2 and its weights 2 box^4 times those of `Backprojection`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from halfmap.errors import InputError
from halfmap.fourier.transform import half_volume_extent
from halfmap.maps.mrc import read_header, read_map
from halfmap.maps.mrc_header import Shape
from halfmap.particles.star_text import StarTable, read_tables
from halfmap.reconstruction.statistics import Backprojection

_NAMED = re.compile(r"(?P<root>.*?)(?P<continued>_ct\d+)?_it(?P<iteration>\d+)(_half(?P<half>[12]))?"
                    r"_(?P<part>(class|body)\d+)_external_reconstruct\.mrc")


@dataclass(frozen=True)
class SumFiles:
    """RELION's volumes of one call: real and imaginary part of the back-projected data, and the weight."""

    real: Path
    imaginary: Path
    weight: Path


@dataclass(frozen=True)
class Call:
    """One call by RELION: the STAR file, what it says, and whose map is wanted.

    result: where the map is to be written; volumes: files of the sums; limit: highest shell that holds data; tau2 [s]:
    the prior's variance, which fudge multiplies; root: the run's path and name, which its files begin with; half: 1 or
    2, or None for all images (the last reconstruction, and classes); part: such as class001; pixel_size in A, None
    where RELION does not give it.
    """

    star: Path
    result: Path
    volumes: SumFiles
    box: int
    padding: int
    limit: int
    fudge: float
    tau2: NDArray[np.float64]
    root: Path
    iteration: int
    half: int | None
    part: str
    pixel_size: float | None

    @property
    def log(self) -> Path:
        """The log beside RELION's files, with a line for each call."""
        return self.root.with_name(self.root.name + "_halfmap.log")

    def maps_of(self, iteration: int) -> list[Path]:
        """The maps that RELION kept of an iteration: that of the same half set or class.

        Where all images are reconstructed together after half sets were refined, the maps of both half sets. Where a
        run was continued and an iteration has several maps, the newest.
        """
        own = [self._kept(iteration, self.half)]
        if self.half is None and own == [None]:
            own = [self._kept(iteration, half) for half in (1, 2)]
        return [path for path in own if path is not None]

    def _kept(self, iteration: int, half: int | None) -> Path | None:
        ending = f"_it{iteration:03d}" + (f"_half{half}" if half else "") + f"_{self.part}.mrc"
        own = re.compile(re.escape(self.root.name) + r"(_ct\d+)?" + re.escape(ending))
        there = [path for path in self.root.parent.glob(f"*{ending}") if own.fullmatch(path.name)]
        return max(there, key=lambda path: path.stat().st_mtime, default=None)

    def previous(self) -> Tensor | None:
        """The last iteration's map [z, y, x] of the same images, which RELION keeps with its solvent cleared.

        None in the first iteration, because the starting map may have another grey scale than the images.
        """
        found = [read_map(path).data for path in self.maps_of(self.iteration - 1)] if self.iteration > 1 else []
        if not found or any(len(map_) != self.box for map_ in found):
            return None
        return torch.stack(found).mean(dim=0)

    def pixel(self) -> float:
        """Pixel size in A: from the STAR file (RELION 4 and later), or else from the last iteration's map.

        Raises InputError where neither gives it.
        """
        if self.pixel_size is not None:
            return self.pixel_size
        kept = [read_map(path) for path in self.maps_of(self.iteration - 1)[:1]]
        if not kept:
            raise InputError(f"{self.star}: gives no pixel size, and no map of iteration {self.iteration - 1} lies "
                             "beside it; give it with --pixel-size")
        return kept[0].pixel_size


def read_call(star: Path) -> Call:
    """Read RELION's STAR file. Raises InputError where it is not one of a call, or asks for 2D classes."""
    tables = {table.name: table for table in read_tables(star)}
    general, prior = (_table(star, tables, name) for name in ("general", "tau2"))
    values = {label: float(general.numbers(label)[0]) for label in (
        "rlnTau2FudgeFactor", "rlnPaddingFactor", "rlnReferenceDimensionality", "rlnOriginalImageSize",
        "rlnCurrentImageSize")}
    if values["rlnReferenceDimensionality"] != 3:
        raise InputError(f"{star}: asks for 2D classes, and this program makes 3D maps; use it in 3D refinement only")
    padding = round(values["rlnPaddingFactor"])
    if padding not in (1, 2) or padding != values["rlnPaddingFactor"]:
        raise InputError(f"{star}: padding {values['rlnPaddingFactor']:g}; run RELION with --pad 1 or --pad 2")
    result = Path(general.text("rlnExtReconsResult")[0])
    named = _NAMED.fullmatch(result.name)
    if named is None:
        raise InputError(f"{star}: {result} does not look like RELION's name of a map in an iteration; leave the name "
                         "of the STAR file's rlnExtReconsResult as RELION gave it")
    real, imaginary, weight = (Path(general.text(f"rlnExtRecons{name}")[0])
                               for name in ("DataReal", "DataImag", "Weight"))
    given = general.numbers("rlnPixelSize", 0.0)[0]
    return Call(
        star, result, SumFiles(real, imaginary, weight), round(values["rlnOriginalImageSize"]), padding,
        round(values["rlnCurrentImageSize"]) // 2, values["rlnTau2FudgeFactor"], prior.numbers("rlnReferenceTau2"),
        result.with_name(named["root"]), int(named["iteration"]),
        int(named["half"]) if named["half"] else None, named["part"], float(given) if given > 0 else None,
    )  # fmt: skip


def _table(star: Path, tables: dict[str, StarTable], name: str) -> StarTable:
    name = f"external_reconstruct_{name}"
    if name not in tables or not len(tables[name]):
        raise InputError(f"{star}: holds no table data_{name}; give the STAR file that relion_refine "
                         "--external_reconstruct writes")
    return tables[name]


def read_sums(call: Call) -> Backprojection:
    """Read the complete sums of a call.

    Raises InputError where a volume is missing, truncated, of another size or not finite.
    """
    m = half_volume_extent(call.padding, call.limit)
    size = call.padding * call.box
    reach = min(m, (size - 1) // 2)
    place, inside = np.arange(-reach, reach + 1) % size, slice(m - reach, m + reach + 1)
    sums = torch.zeros((2 * m + 1, 2 * m + 1, m + 1, 3))
    files, of_data, of_weight = call.volumes, call.box**-2 / 2, call.box**-4 / 2
    scaled = ((files.real, of_data), (files.imaginary, of_data), (files.weight, of_weight))
    for i, (path, scale) in enumerate(scaled):
        volume = _volume(path, Shape(size, size, size // 2 + 1))
        part = volume[:, :, : reach + 1][place][:, place]
        if not np.isfinite(part).all():
            raise InputError(f"{path}: holds NaN or Inf; look at the images and groups of this iteration")
        sums[inside, inside, : reach + 1, i] = torch.from_numpy(part.astype(np.float32)) * scale
    return Backprojection(sums, call.box, call.padding, call.limit, folded=True)


def _volume(path: Path, shape: Shape) -> NDArray[np.float32]:
    """Map a volume [z, y, x] into memory. Raises InputError where it has another shape or is truncated."""
    header = read_header(path)
    if header.shape != shape:
        raise InputError(f"{path}: {tuple(header.shape)} values, and its STAR file speaks of {tuple(shape)}; the "
                         "files are not of one call: run the iteration again")
    if path.stat().st_size < header.offset + int(np.prod(shape)) * header.dtype.itemsize:
        raise InputError(f"{path}: truncated; run the iteration again")
    return np.memmap(path, header.dtype, "r", header.offset, shape)
