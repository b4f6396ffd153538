"""A ParticleTable written as a cryoSPARC .cs file, with the fields that versions 2 to 4 give to aligned particles."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from halfmap.errors import InputError
from halfmap.geometry.rotations import matrix_to_rotation_vector
from halfmap.imaging.ctf import Defocus
from halfmap.imaging.optics import UNDISTORTED, CtfState, names_of
from halfmap.maps.mrc import read_header, replaced_atomically
from halfmap.particles.cryosparc import UID
from halfmap.particles.cryosparc_alignments import CLASS, FLAT, ONE_MAP, POSE, SHIFT, SHIFT_PIXEL, SPLIT
from halfmap.particles.cryosparc_optics import CryosparcTerms, cryosparc_terms, with_low_orders
from halfmap.particles.ctf_states import LABELS
from halfmap.particles.image_names import ImageNames, split_name, written_names
from halfmap.particles.table import Integers, ParticleTable

Floats = NDArray[np.float32]

# Columns whose content is in the fields of a ParticleTable, or has a field of its own in a .cs file.
HELD = {"rlnImageName", "rlnMicrographName", "rlnCoordinateX", "rlnCoordinateY", "rlnClassNumber", UID,
        "rlnOpticsGroup", "rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnOriginXAngst", "rlnOriginYAngst",
        "rlnRandomSubset", "rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle", "rlnPhaseShift", "rlnCtfBfactor",
        "rlnCtfScalefactor"}
HELD_OPTICS = {"rlnOpticsGroup", "rlnOpticsGroupName", "rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast",
               "rlnImagePixelSize", "rlnImageSize", "rlnImageDimensionality", "rlnBeamTiltX", "rlnBeamTiltY",
               "rlnOddZernike", "rlnEvenZernike", "rlnMagMat00", "rlnMagMat01", "rlnMagMat10", "rlnMagMat11",
               "rlnCtfDataAreCtfCorrected", *LABELS.values()}


def write_cryosparc(path: Path | str, table: ParticleTable) -> list[str]:
    """Write the table as a .cs file, and return what cannot be written, a phrase each.

    Image paths are kept where they are valid in the working folder; elsewhere they become absolute. Numbers are
    float32, as in cryoSPARC. Low orders of the Zernike coefficients go into defocus and phase shift. The file appears
    complete or not at all. Raises InputError where it cannot be written.
    """
    terms = [cryosparc_terms(group) for group in table.optics]
    fields = _blob(table) | _ctf(table, terms) | _alignments(table)
    location, dropped = _location(table)
    fields |= location
    described = [(name, value.dtype, value.shape[1:]) for name, value in fields.items()]
    records = np.empty(len(table), np.dtype(described))
    for name, value in fields.items():
        records[name] = value
    with replaced_atomically(path) as stream:
        np.lib.format.write_array(stream, records, allow_pickle=False)
    return dropped + _unwritten(table, terms)


def _blob(table: ParticleTable) -> dict[str, NDArray[Any]]:
    """The uid and the fields of the images."""
    held = table.columns.get("rlnImageName")
    names = list(written_names(held, ImageNames(table.stacks, table.stack_index, table.image_index)))
    boxes = np.array([group.box for group in table.optics], np.uint32)[table.optics_index]
    return {
        "uid": _uids(table, names),
        "blob/path": _bytes([split_name(name).path for name in names]),
        "blob/idx": table.image_index.astype(np.uint32),
        "blob/shape": np.stack([boxes, boxes], axis=1),
        "blob/psize_A": _floats(table.pixel_size),
        "blob/sign": np.where(table.defocus.scale.numpy() < 0, 1.0, -1.0).astype(np.float32),
        "blob/import_sig": np.zeros(len(table), np.uint64),
    }


def _ctf(table: ParticleTable, terms: list[CryosparcTerms]) -> dict[str, NDArray[Any]]:
    """The fields of the CTF."""
    defocus, index = _lowered(table, terms), table.optics_index

    def of_group(values: list[Any]) -> Floats:
        return np.array(values, np.float32)[index]

    matrices = [np.array(group.magnification) - UNDISTORTED for group in table.optics]
    numbers = _from_zero(np.array([group.number for group in table.optics], np.int64))
    return {
        "ctf/type": np.full(len(table), b"imported"),
        "ctf/exp_group_id": numbers[index],
        "ctf/accel_kv": of_group([group.voltage for group in table.optics]),
        "ctf/cs_mm": of_group([term.cs_mm for term in terms]),
        "ctf/amp_contrast": of_group([group.amplitude_contrast for group in table.optics]),
        "ctf/df1_A": _floats(defocus.u),
        "ctf/df2_A": _floats(defocus.v),
        "ctf/df_angle_rad": _floats(defocus.angle),
        "ctf/phase_shift_rad": _floats(defocus.phase_shift),
        "ctf/scale": _floats(defocus.scale.abs()),
        "ctf/scale_const": np.zeros(len(table), np.float32),
        "ctf/shift_A": of_group([term.lengths.shift for term in terms]),
        "ctf/tilt_A": of_group([term.lengths.tilt for term in terms]),
        "ctf/trefoil_A": of_group([term.lengths.trefoil for term in terms]),
        "ctf/tetra_A": of_group([term.lengths.tetra for term in terms]),
        "ctf/anisomag": of_group(matrices),
        "ctf/bfactor": _floats(defocus.bfactor),
    }


def _lowered(table: ParticleTable, terms: list[CryosparcTerms]) -> Defocus:
    """The defocus of all images, with the low orders of their groups' Zernike coefficients added."""
    result = table.defocus
    for number, (group, term) in enumerate(zip(table.optics, terms, strict=True)):
        changed = with_low_orders(table.defocus, term.low, group.voltage)
        if changed is not table.defocus:
            member = torch.from_numpy(table.optics_index == number)
            result = Defocus(*(torch.where(member, new, old) for new, old in (
                (getattr(changed, name), getattr(result, name)) for name in Defocus.__dataclass_fields__)))
    return result


def _alignments(table: ParticleTable) -> dict[str, NDArray[Any]]:
    """The fields of poses, half sets and classes. A table with psi alone has alignments to 2D classes, and one without
    any angle has none."""
    fields: dict[str, NDArray[Any]] = {}
    if table.half is not None:
        fields[f"{ONE_MAP}/{SPLIT}"] = table.half.astype(np.uint32)
    psi = _psi(table)
    if table.rotations is None and psi is None:
        return fields
    kind = FLAT if table.rotations is None else ONE_MAP
    fields[f"{kind}/{SHIFT}"] = _floats(table.origins / table.pixel_size[:, None])
    if table.rotations is not None:
        pose = _floats(matrix_to_rotation_vector(table.rotations.cpu().transpose(-1, -2)))
        fields[f"{kind}/{POSE}"] = pose
    elif psi is not None:
        fields[f"{kind}/{POSE}"] = np.radians(psi).astype(np.float32)
    fields[f"{kind}/{SHIFT_PIXEL}"] = _floats(table.pixel_size)
    numbers = _whole(table, "rlnClassNumber")
    if numbers is not None:
        fields[f"{kind}/{CLASS}"] = _from_zero(numbers)
    return fields


def _psi(table: ParticleTable) -> NDArray[np.float64] | None:
    """In-plane angles [b] in degrees; None where the table has none, or something else than numbers."""
    try:
        values = np.array(table.columns.get("rlnAnglePsi", ["-"]), np.float64)
    except ValueError:
        return None
    return values if np.isfinite(values).all() else None


def _location(table: ParticleTable) -> tuple[dict[str, NDArray[Any]], list[str]]:
    """The fields of places on micrographs, and what is lost. Fractions need the size of the micrograph."""
    held = table.columns.get("rlnMicrographName")
    if held is None:
        return {}, []
    names = [str(name) for name in held]
    fields: dict[str, NDArray[Any]] = {"location/micrograph_path": _bytes(names)}
    if not {"rlnCoordinateX", "rlnCoordinateY"} <= set(table.columns):
        return fields, []
    sizes: dict[str, tuple[int, int] | None] = {name: _size(Path(name)) for name in dict.fromkeys(names)}
    if None in sizes.values():
        absent = next(name for name, size in sizes.items() if size is None)
        return fields, [f"coordinates on micrographs: their size is not known, as {absent} cannot be read"]
    shape = np.array([sizes[name] for name in names], np.uint32)
    x, y = (np.array(table.columns[label], np.float64) for label in ("rlnCoordinateX", "rlnCoordinateY"))
    return fields | {
        "location/micrograph_shape": shape,
        "location/center_x_frac": (x / shape[:, 1]).astype(np.float32),
        "location/center_y_frac": (1.0 - y / shape[:, 0]).astype(np.float32),
    }, []


def _size(micrograph: Path) -> tuple[int, int] | None:
    """Rows and columns of a micrograph; None where it cannot be read."""
    if not micrograph.is_file():
        return None
    try:
        header = read_header(micrograph)
    except InputError:
        return None
    return header.shape.rows, header.shape.columns


def _unwritten(table: ParticleTable, terms: list[CryosparcTerms]) -> list[str]:
    """The other things that a .cs file has no place for, a phrase each."""
    lost = [f"columns {', '.join(columns)}" for columns in (
        [label for label in table.columns if label not in HELD],
        [label for label in table.optics_columns if label not in HELD_OPTICS]) if columns]
    touched = {group.ctf_state.value for group in table.optics if group.ctf_state is not CtfState.UNTOUCHED}
    if touched:
        lost.append(f"that images are {' or '.join(sorted(touched))}: cryoSPARC will take them for untouched ones")
    named = [group for group in table.optics if group.name != f"opticsGroup{group.number}"]
    if named:
        lost.append(f"names of optics groups: {names_of(named)}")
    if any(term.lost for term in terms):
        lost.append("Zernike coefficients beyond the fourth order")
    if table.rotations is None and _psi(table) is None and bool(table.origins.any()):
        lost.append("origins without angles")
    return lost


def _uids(table: ParticleTable, names: list[str]) -> NDArray[np.uint64]:
    """The uids that the particles came with, or else numbers made from their row and name, the same ones every time."""
    held = table.columns.get(UID)
    if held is not None:
        try:
            uids = np.array([int(value) for value in held], np.uint64)
            if len(np.unique(uids)) == len(uids):
                return uids
        except (ValueError, OverflowError):
            pass  # not uids of cryoSPARC: new ones are made
    return np.array([int.from_bytes(hashlib.blake2b(f"{row}:{name}".encode("utf-8", "surrogateescape"),
                                                    digest_size=8).digest(), "little")
                     for row, name in enumerate(names)], np.uint64)


def _from_zero(numbers: Integers) -> NDArray[np.uint32]:
    """Numbers that count from 1 as numbers that count from 0, all that differ apart.

    Where one is less than 1 or too large for the field, they are numbered anew in ascending order.
    """
    if len(numbers) and (int(numbers.min()) < 1 or int(numbers.max()) > np.iinfo(np.uint32).max):
        return np.unique(numbers, return_inverse=True)[1].astype(np.uint32)
    return (numbers - 1).astype(np.uint32)


def _whole(table: ParticleTable, label: str) -> Integers | None:
    """A column of whole numbers; None where it is missing or holds something else."""
    try:
        values = np.array(table.columns.get(label, ["-"]), np.float64)
    except ValueError:
        return None
    return values.astype(np.int64) if (np.isfinite(values) & (values == np.rint(values))).all() else None


def _floats(values: torch.Tensor) -> Floats:
    return values.detach().cpu().numpy().astype(np.float32)


def _bytes(texts: list[str]) -> NDArray[np.bytes_]:
    return np.array([text.encode("utf-8", "surrogateescape") for text in texts])
