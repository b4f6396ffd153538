"""cryoSPARC particle datasets (.cs, .csg; versions 2 to 4) read into a ParticleTable.

Poses: `cryosparc_alignments.py`. blob/sign -1 means images with white protein, as everywhere in this
program. blob/sign +1 means dark protein; such images are read with a CTF of the opposite sign.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from halfmap.errors import InputError
from halfmap.imaging.ctf import Defocus
from halfmap.imaging.optics import MagnificationMatrix, OpticsGroup
from halfmap.particles.cryosparc_alignments import read_alignments
from halfmap.particles.cryosparc_file import CsDataset, Fields, distinct, load_dataset
from halfmap.particles.cryosparc_optics import Lengths, relion_terms
from halfmap.particles.cryosparc_paths import resolve_paths
from halfmap.particles.given_optics import NONE_GIVEN, GivenOptics, remedy
from halfmap.particles.image_names import ImageNames
from halfmap.particles.stack import box_of
from halfmap.particles.table import Column, Integers, ParticleTable

# The fields that make an optics group, and how many values each has (0: a scalar). All but the first four may be
# missing.
OPTICS = {"ctf/accel_kv": 0, "ctf/cs_mm": 0, "ctf/amp_contrast": 0, "blob/psize_A": 0, "ctf/exp_group_id": 0,
          "blob/shape": 2, "ctf/shift_A": 2, "ctf/tilt_A": 2, "ctf/trefoil_A": 2, "ctf/tetra_A": 4, "ctf/anisomag": 4}
CTF = ("ctf/df1_A", "ctf/df2_A", "ctf/df_angle_rad", "ctf/phase_shift_rad", "ctf/bfactor", "ctf/scale")
LOCATION = ("location/micrograph_path", "location/center_x_frac", "location/center_y_frac", "location/micrograph_shape")
READ = {"uid", "blob/path", "blob/idx", "blob/sign", *OPTICS, *CTF, *LOCATION}
# Fields that need no place in a table: constants, and what is the same for every particle or stands in another field.
IMPLIED = {"blob/import_sig", "ctf/type", "ctf/scale_const", "location/exp_group_id", "location/micrograph_uid"}
LARGEST_DISTORTION = 0.5
# The column in which a dataset's uids go through a STAR file, under the name that csparc2star.py gives it.
UID = "ucsfUid"


def read_cryosparc(path: Path | str, data_dir: Path | None = None, passthrough: Path | None = None,
                   strip_prefix: str | None = None, given: GivenOptics = NONE_GIVEN) -> ParticleTable:
    """Read the particles of a .cs or .csg file, with the fields of a passthrough file where one is given.

    given: optics where the file lacks them.

    Image paths: see `resolve_paths`. Raises InputError, naming file and row, for anything that is missing or makes no
    sense. The stacks themselves are checked by `check_stacks`.
    """
    return particle_table(load_dataset(path, passthrough), data_dir, strip_prefix, given)


def particle_table(dataset: CsDataset, data_dir: Path | None = None, strip_prefix: str | None = None,
                   given: GivenOptics = NONE_GIVEN) -> ParticleTable:
    """The table of a dataset, for which `read_cryosparc` holds too."""
    dataset = given.completed_dataset(dataset)
    images, paths = resolve_paths(dataset, data_dir, strip_prefix)
    optics, optics_index = _optics(dataset, images)
    columns: dict[str, Column] = {"rlnImageName": [
        f"{image + 1:06d}@{path}" for image, path in zip(images.image_index.tolist(), paths, strict=True)]}
    names, micrograph = _micrographs(dataset)
    if names:
        columns["rlnMicrographName"] = [names[number] for number in micrograph.tolist()]
    columns |= _coordinates(dataset)
    aligned = read_alignments(dataset)
    if aligned.psi is not None:
        columns["rlnAnglePsi"] = aligned.psi
    if aligned.classes is not None:
        columns["rlnClassNumber"] = aligned.classes
    if "uid" in dataset:
        columns[UID] = dataset.fields["uid"]
    return given.applied(ParticleTable(
        columns=columns, optics=optics, optics_index=optics_index, stacks=images.stacks,
        stack_index=images.stack_index, image_index=images.image_index, defocus=_defocus(dataset),
        rotations=aligned.rotations, origins=aligned.origins, half=aligned.half, micrograph=micrograph,
        source=dataset.source, group=micrograph, group_names=tuple(names) or ("all",),
    ))


def unread_fields(dataset: CsDataset) -> list[str]:
    """The fields of a dataset that a ParticleTable has no place for, in the order of the dataset."""
    return [name for name in dataset.fields if name not in READ | IMPLIED | read_alignments(dataset).read]


def _optics(dataset: CsDataset, images: ImageNames) -> tuple[tuple[OpticsGroup, ...], Integers]:
    """The optics groups, and the group[b] of each particle: one for each exposure group, more where its values vary."""
    for name, width in list(OPTICS.items())[:4]:
        if name not in dataset:
            raise dataset.lacks(name, remedy(name))
        dataset.numbers(name, width)
    code = np.zeros(len(dataset), np.int64)
    for name, width in OPTICS.items():
        if name not in dataset:
            continue
        values = dataset.numbers(name, width).reshape(len(dataset), -1)
        for column in values.T:
            found, inverse = distinct(column)
            code = distinct(code * len(found) + inverse)[1] if len(found) > 1 else code
    rows = np.unique(code, return_index=True)[1]
    order = np.argsort(rows, kind="stable")
    exposure = dataset.integers("ctf/exp_group_id", 0)[rows[order]]
    numbers: dict[int, None] = {}
    spare = max(0, int(exposure.max()) + 1)
    for wanted in exposure.tolist():
        if wanted + 1 in numbers or wanted < 0:
            spare += 1
            wanted = spare - 1
        numbers[wanted + 1] = None
    groups = tuple(_group(dataset, int(row), number, images)
                   for row, number in zip(rows[order].tolist(), numbers, strict=True))
    return groups, np.argsort(order)[code]


def _group(dataset: CsDataset, row: int, number: int, images: ImageNames) -> OpticsGroup:
    """The optics group of the particle in a row."""
    def vector(name: str) -> np.ndarray:
        width = OPTICS[name]
        return dataset.fields[name][row].astype(np.float64) if name in dataset else np.zeros(width)

    voltage, aberration, contrast, pixel_size = (dataset.tidy(name, row) for name in list(OPTICS)[:4])
    if "blob/shape" in dataset:
        rows, columns = (int(side) for side in dataset.fields["blob/shape"][row])
        if rows != columns:
            raise InputError(f"{dataset.at(row)}: blob/shape is {rows} x {columns}; images must be square")
    else:
        columns = box_of(images.stacks[images.stack_index[row]], dataset.at(row), "blob/shape")
    matrix = vector("ctf/anisomag")
    if np.abs(matrix).max() > LARGEST_DISTORTION:
        raise InputError(f"{dataset.at(row)}: ctf/anisomag is {matrix.tolist()}; expected the magnification matrix "
                         "less the identity, so small numbers; refine the CTF again")
    lengths = Lengths(*(vector(f"ctf/{name}_A") for name in ("shift", "tilt", "trefoil", "tetra")))
    try:
        # This group checks the plain values first, because the others are computed from them.
        group = OpticsGroup(f"opticsGroup{number}", voltage, aberration, contrast, pixel_size, columns, number=number)
        terms = relion_terms(lengths, voltage, aberration)
        return OpticsGroup(group.name, voltage, aberration, contrast, pixel_size, columns, beam_tilt=terms.beam_tilt,
                           odd_zernike=terms.odd_zernike, even_zernike=terms.even_zernike,
                           magnification=MagnificationMatrix(*(matrix + np.eye(2).ravel()).tolist()),
                           number=number)
    except InputError as error:
        raise InputError(f"{dataset.at(row)}: {error}") from error


def _defocus(dataset: CsDataset) -> Defocus:
    """The CTF values of the images in float64. A scale of 0 means that it was never set; dark images have a negative
    one."""
    def field(name: str, default: float | None = None) -> Tensor:
        return torch.from_numpy(dataset.numbers(name, default=default))

    scale = field("ctf/scale", 1.0)
    scale = torch.where(scale == 0.0, 1.0, scale)
    sign = field("blob/sign", -1.0)
    return Defocus(u=field("ctf/df1_A"), v=field("ctf/df2_A"), angle=field("ctf/df_angle_rad", 0.0),
                   phase_shift=field("ctf/phase_shift_rad", 0.0), bfactor=field("ctf/bfactor", 0.0),
                   scale=torch.where(sign > 0.0, -scale, scale))


def _micrographs(dataset: CsDataset) -> tuple[list[str], Integers]:
    """The names of the micrographs, and the micrograph[b] of each particle; no names where the dataset has none."""
    if "location/micrograph_path" in dataset:
        names, number = dataset.distinct_text("location/micrograph_path")
        return [name.removeprefix(">") or "none" for name in names], number
    uid: Fields | None = dataset.fields.get("location/micrograph_uid")
    if uid is None or uid.dtype.kind not in "iu" or uid.ndim != 1:
        return [], np.zeros(len(dataset), np.int64)
    ids, number = distinct(uid)
    return [str(each) for each in ids.tolist()], number


def _coordinates(dataset: CsDataset) -> dict[str, Column]:
    """RELION's coordinates in pixels, from the top left. cryoSPARC's are fractions, from the bottom left."""
    _, x, y, shape = LOCATION
    if not {x, y, shape} <= set(dataset.fields):
        return {}
    sides = dataset.numbers(shape, 2)
    return {"rlnCoordinateX": dataset.numbers(x) * sides[:, 1],
            "rlnCoordinateY": (1.0 - dataset.numbers(y)) * sides[:, 0]}
