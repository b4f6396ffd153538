"""The modulation transfer function (MTF) of a detector, from a STAR table as RELION uses it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from halfmap.errors import InputError
from halfmap.fourier.shells import frequency_length
from halfmap.particles.star_text import read_tables

FREQUENCY, VALUE = "rlnResolutionInversePixel", "rlnMtfValue"


@dataclass(frozen=True)
class DetectorMtf:
    """The fraction of each amplitude that the detector keeps.

    value[i] at frequency[i], ascending, in cycles per pixel of the detector.
    """

    frequency: NDArray[np.float64]
    value: NDArray[np.float64]

    def on_grid(self, box: int, pixel_size: float, detector_pixel: float) -> Tensor:
        """The MTF at every coefficient of a map of `box` voxels of `pixel_size` A: float32 [z,y,x//2+1].

        detector_pixel: side of the detector's pixel at the specimen, in A. The MTF is linear between the table's rows,
        and has its first and last value beyond them.
        """
        at = frequency_length(box).double().numpy() * (detector_pixel / (box * pixel_size))
        return torch.from_numpy(np.interp(at, self.frequency, self.value)).float()


def read_mtf(path: Path) -> DetectorMtf:
    """Read the first table with the columns rlnResolutionInversePixel and rlnMtfValue.

    Raises InputError where the file cannot be read or has no such table, where frequencies do not ascend, and where a
    value is not above 0, because the map is divided by it.
    """
    tables = read_tables(path)
    table = next((t for t in tables if {FREQUENCY, VALUE} <= set(t.columns)), tables[0])
    frequency, value = table.numbers(FREQUENCY), table.numbers(VALUE)
    if len(frequency) < 2:
        raise InputError(f"{path}: an MTF of {len(frequency)} rows; give the detector's whole curve")
    back = np.flatnonzero(np.diff(frequency) <= 0)
    if len(back):
        raise InputError(f"{table.at(int(back[0]) + 1)}: {FREQUENCY} does not ascend; sort the table")
    low = np.flatnonzero(value <= 0)
    if len(low):
        raise InputError(f"{table.at(int(low[0]))}: {VALUE} is {value[low[0]]:g}, and the map is divided by it; "
                         f"values must be above 0")
    return DetectorMtf(frequency, value)
