"""The alignments of a cryoSPARC dataset: to one map, to several maps (alignments3D_multi), or to 2D classes.

Poses are rotation vectors of the transpose of RELION's matrix, and of a 2D class the in-plane angle psi in radians.
Shifts are in pixels of psize_A, with RELION's sign. Split 0 and 1 are half sets 1 and 2. Of several maps that of the
most probable class counts. For the sign of psi, which cryoSPARC does not document, see csparc2star.py.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from halfmap.errors import InputError
from halfmap.geometry.rotations import rotation_vector_to_matrix
from halfmap.particles.cryosparc_file import CsDataset
from halfmap.particles.table import Integers

ONE_MAP, SEVERAL_MAPS, FLAT = "alignments3D", "alignments3D_multi", "alignments2D"
POSE, SHIFT, SHIFT_PIXEL, SPLIT, CLASS = "pose", "shift", "psize_A", "split", "class"
POSTERIOR = "class_posterior"


@dataclass(frozen=True)
class Alignments:
    """What a dataset says about poses.

    rotations[b,3,3]: reference to image frame, as RELION's, or None; psi[b] in degrees, of 2D classes, or None;
    origins[b,2]: RELION's, in A; half[b]: None where the particles are not divided; classes[b]: counted from 1, or
    None; read: the fields that say it; note: a sentence on what they are, empty for those of one map.
    """

    rotations: Tensor | None
    psi: NDArray[np.float64] | None
    origins: Tensor
    half: Integers | None
    classes: Integers | None
    read: frozenset[str]
    note: str = ""


def read_alignments(dataset: CsDataset) -> Alignments:
    """The alignments of a dataset: those of one map where it has them, else of several, else of 2D classes.

    Raises InputError, naming field and row, for values that make no sense.
    """
    held = [kind for kind in (ONE_MAP, SEVERAL_MAPS, FLAT) if f"{kind}/{POSE}" in dataset]
    kind = held[0] if held else ONE_MAP
    # A 2D classification makes no independent halves, but its particles may have come with some.
    split = f"{ONE_MAP if kind == FLAT else kind}/{SPLIT}"
    read = frozenset({split, *(f"{kind}/{name}" for name in (POSE, SHIFT, SHIFT_PIXEL, CLASS))})
    note = ""
    if kind == SEVERAL_MAPS:
        dataset, classes = _of_the_most_probable(dataset)
        note = (f"poses are those in the most probable of {classes} classes (alignments3D_multi); the maps of classes "
                "need not lie in one frame")
    if kind == FLAT:
        note = "poses are those of a 2D classification (alignments2D): in-plane angles and shifts"
    pose = f"{kind}/{POSE}"
    rotations, psi = None, None
    if kind == FLAT:
        psi = np.degrees(dataset.numbers(pose))
    elif pose in dataset:
        rotations = rotation_vector_to_matrix(torch.from_numpy(-dataset.numbers(pose, 3)))
    name = f"{kind}/{CLASS}"
    return Alignments(rotations, psi, _origins(dataset, kind), _halves(dataset, split),
                      dataset.integers(name) + 1 if name in dataset else None, read, note)


def _of_the_most_probable(dataset: CsDataset) -> tuple[CsDataset, int]:
    """The dataset with the values of each particle's most probable class in place of those of all, and their number."""
    poses = dataset.fields[f"{SEVERAL_MAPS}/{POSE}"]
    count = poses.shape[1] if poses.ndim == 3 else 1
    if count < 1:
        raise InputError(f"{dataset.source}: field {SEVERAL_MAPS}/{POSE} holds no class; export the particles again")
    best = np.zeros(len(dataset), np.int64)
    if count > 1:
        best = dataset.numbers(f"{SEVERAL_MAPS}/{POSTERIOR}", count).argmax(axis=1)
    chosen = {}
    for name in (POSE, SHIFT, SHIFT_PIXEL, SPLIT, CLASS):
        field = dataset.fields.get(f"{SEVERAL_MAPS}/{name}")
        if field is not None:
            of_class = field.ndim == (3 if name in (POSE, SHIFT) else 2) and field.shape[1] == count
            chosen[f"{SEVERAL_MAPS}/{name}"] = field[np.arange(len(dataset)), best] if of_class else field
    chosen[f"{SEVERAL_MAPS}/{CLASS}"] = best
    return replace(dataset, fields=dataset.fields | chosen), count


def _origins(dataset: CsDataset, kind: str) -> Tensor:
    """RELION's origins [b,2] in A."""
    shift, pixel = f"{kind}/{SHIFT}", f"{kind}/{SHIFT_PIXEL}"
    if shift not in dataset:
        return torch.zeros(len(dataset), 2, dtype=torch.float64)
    # Images may have been binned for the alignment. Shifts are in its pixels, not in those of the images.
    size = dataset.numbers(pixel if pixel in dataset else "blob/psize_A")
    return torch.from_numpy(dataset.numbers(shift, 2) * size[:, None])


def _halves(dataset: CsDataset, name: str) -> Integers | None:
    """The half[b] of each image where the split divides the particles in two; None where it does not."""
    if name not in dataset:
        return None
    split = dataset.integers(name)
    odd = (split != 0) & (split != 1)
    if odd.any():
        row = int(np.argmax(odd))
        raise InputError(f"{dataset.at(row)}: {name} is {split[row]}; it must be 0 or 1")
    return split if 0 < int(split.sum()) < len(split) else None
