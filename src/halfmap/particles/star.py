"""RELION particle STAR files: the 3.0 and 3.1 layouts read into a ParticleTable, the 3.1 layout written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from halfmap.errors import InputError
from halfmap.geometry.rotations import euler_to_matrix, matrix_to_euler
from halfmap.imaging.ctf import Defocus
from halfmap.imaging.optics import UNDISTORTED, BeamTilt, CtfState, MagnificationMatrix, OpticsGroup
from halfmap.particles.ctf_states import LABELS, ctf_states
from halfmap.particles.given_optics import NONE_GIVEN, GivenOptics, remedy
from halfmap.particles.image_names import ImageNames, resolve_names, written_names
from halfmap.particles.stack import box_of
from halfmap.particles.star_text import StarTable, read_tables, write_tables
from halfmap.particles.star_upgrade import RelionTables, origins_in_angstrom, upgrade_table
from halfmap.particles.table import Column, Integers, ParticleTable, different
from halfmap.particles.text_column import TextColumn

Numbers = NDArray[np.float64] | Integers

ANGLES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
SCALARS = ("rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast", "rlnImagePixelSize")
ORIGINS = ("rlnOriginXAngst", "rlnOriginYAngst")
MAGNIFICATION = ("rlnMagMat00", "rlnMagMat01", "rlnMagMat10", "rlnMagMat11")
BEAM_TILT = ("rlnBeamTiltX", "rlnBeamTiltY")
ZERNIKE = ("rlnOddZernike", "rlnEvenZernike")


def read_star(
    path: Path | str, data_dir: Path | str | None = None, given: GivenOptics = NONE_GIVEN
) -> ParticleTable:
    """Read a particle STAR file of RELION 3.0, 3.1 or later; given: optics where the file lacks them.

    Image paths are looked up in the working folder, the file's folder, `data_dir`, and every folder above the file (one
    of them is the project), in that order. The box comes from rlnImageSize, or from the header of a stack. Half sets
    are kept where rlnRandomSubset holds both 1 and 2, orientations where all three angles are present. Raises
    InputError, naming file and row, for anything that is missing or makes no sense. The stacks themselves are checked
    by `check_stacks`.
    """
    path = Path(path)
    tables = _particles_and_optics(path, read_tables(path), given)
    optics = tables.optics
    lacking = next((label for label in SCALARS if label not in optics.columns), None)
    if lacking is not None:
        raise InputError(f"{path}: table data_optics has no column {lacking}; give {remedy(lacking)}, or the file "
                         "that has it")
    optics_index = _optics_index(tables.particles, optics)
    pixel_size = optics.numbers("rlnImagePixelSize")
    particles = origins_in_angstrom(tables.particles, pixel_size[optics_index])
    folders = [path.parent, *([Path(data_dir)] if data_dir is not None else []),
               *path.absolute().parents[1:]]
    images = resolve_names(particles.text("rlnImageName"), folders, particles.at)
    states = ctf_states(particles, optics, optics_index)
    boxes = _boxes(optics, optics_index, images, particles)
    micrograph, names = _ids(particles, "rlnMicrographName")
    group, group_names = _ids(particles, "rlnGroupName", "rlnGroupNumber")
    rotations = None
    if all(label in particles.columns for label in ANGLES):
        angles = np.stack([particles.numbers(label) for label in ANGLES], axis=1)
        rotations = euler_to_matrix(torch.from_numpy(angles))
    origins = np.stack([particles.numbers(label, 0.0) for label in ORIGINS], axis=1)
    return given.applied(ParticleTable(
        columns={label: column for label, column in particles.columns.items() if label not in LABELS.values()},
        optics=_optics_groups(optics, boxes, states), optics_index=optics_index,
        stacks=images.stacks, stack_index=images.stack_index, image_index=images.image_index,
        defocus=_defocus(particles), rotations=rotations, origins=torch.from_numpy(origins),
        half=_halves(particles), micrograph=micrograph, source=path,
        group=group if group_names else micrograph, group_names=group_names or names or ("all",),
        optics_columns=dict(optics.columns),
    ))


def write_star(path: Path | str, table: ParticleTable) -> None:
    """Write the table in the layout of RELION 3.1, with every column it came with.

    Columns that no longer agree with the table's fields (angles, origins, half sets, defocus, optics) are replaced;
    text that is still right is kept unchanged. Image names are kept where they are valid in the working folder;
    elsewhere they become absolute paths. The file appears complete or not at all. Raises InputError where it cannot be
    written.
    """
    columns = dict(table.columns)
    images = ImageNames(table.stacks, table.stack_index, table.image_index)
    names = columns.get("rlnImageName")
    columns["rlnImageName"] = written_names(names, images)
    defocus = table.defocus
    for label, values, absent in (
        ("rlnDefocusU", defocus.u, None),
        ("rlnDefocusV", defocus.v, None),
        ("rlnDefocusAngle", torch.rad2deg(defocus.angle.double()), None),
        ("rlnPhaseShift", torch.rad2deg(defocus.phase_shift.double()), 0.0),
        ("rlnCtfBfactor", defocus.bfactor, 0.0),
        ("rlnCtfScalefactor", defocus.scale, 1.0),
        (ORIGINS[0], table.origins[:, 0], 0.0),
        (ORIGINS[1], table.origins[:, 1], 0.0),
    ):
        _update(columns, label, values.double().cpu().numpy(), absent)
    _update_angles(columns, table.rotations)
    if table.half is not None:
        _update(columns, "rlnRandomSubset", table.half + 1)
    numbers = np.array([group.number for group in table.optics], np.int64)
    _update(columns, "rlnOpticsGroup", numbers[table.optics_index])
    write_tables(path, {"optics": _optics_columns(table), "particles": columns})


def _particles_and_optics(path: Path, tables: Sequence[StarTable], given: GivenOptics) -> RelionTables:
    """The tables of particles and optics in the 3.1 layout. Raises InputError for a file of another kind."""
    held = [table for table in tables if "rlnImageName" in table.columns and table.name != "optics"]
    if len(held) > 1:
        held = [table for table in held if table.name == "particles"]
    if len(held) != 1:
        listed = ", ".join(f"data_{table.name[:60]}" for table in tables[:6])
        raise InputError(f"{path}: no particle table with a column rlnImageName (the file holds {listed}); "
                         f"give a particle STAR file, such as RELION's run_data.star")
    particles = held[0]
    if not len(particles):
        raise InputError(f"{path}: table data_{particles.name[:60]} has no rows; give a file with particles")
    optics = [table for table in tables if table.name == "optics"]
    if not optics:
        return upgrade_table(given.completed(particles))
    if len(optics) > 1 or not len(optics[0]):
        raise InputError(f"{path}: expected one table data_optics with at least one row; correct the file")
    return RelionTables(particles, given.completed(optics[0]))


def _group_numbers(optics: StarTable) -> Integers:
    """rlnOpticsGroup of each row of the optics table; 1, 2, .. where it has none."""
    if "rlnOpticsGroup" in optics.columns:
        return optics.integers("rlnOpticsGroup")
    return np.arange(1, len(optics) + 1)


def _optics_index(particles: StarTable, optics: StarTable) -> Integers:
    """The row[b] of the optics table that each particle belongs to."""
    numbers = _group_numbers(optics)
    rows = {int(number): row for row, number in enumerate(numbers)}
    if len(rows) < len(numbers):
        raise InputError(f"{optics.source}: table data_optics gives an rlnOpticsGroup twice; "
                         f"number the groups apart")
    if "rlnOpticsGroup" not in particles.columns and len(rows) == 1:
        return np.zeros(len(particles), np.int64)
    member = particles.integers("rlnOpticsGroup")
    absent = ~np.isin(member, numbers)
    if absent.any():
        row = int(np.argmax(absent))
        raise InputError(f"{particles.at(row)}: optics group {member[row]} is not in table data_optics; "
                         f"add it there or remove the row")
    order = np.argsort(numbers, kind="stable")
    return np.asarray(order[np.searchsorted(numbers[order], member)], np.int64)


def _boxes(optics: StarTable, optics_index: Integers, images: ImageNames, particles: StarTable) -> list[int]:
    """The box of each optics group in pixels, from the table or else from the group's first stack."""
    if "rlnImageSize" in optics.columns:
        return [int(box) for box in optics.integers("rlnImageSize")]
    groups, rows = np.unique(optics_index, return_index=True)
    boxes: dict[int, int] = {}
    for group, row in zip(groups.tolist(), rows.tolist(), strict=True):
        boxes[group] = box_of(images.stacks[images.stack_index[row]], particles.at(row), "rlnImageSize")
    # A group without particles has no images, so its box does not matter.
    return [boxes.get(group, next(iter(boxes.values()))) for group in range(len(optics))]


def _optics_groups(optics: StarTable, boxes: list[int], states: list[CtfState]) -> tuple[OpticsGroup, ...]:
    """The optics groups of the table data_optics."""
    for label, wanted, meaning in (("rlnImageDimensionality", 2, "particles are not 2D images"),
                                   ("rlnCtfDataAreCtfCorrected", 0, "images are corrected for the CTF already")):
        if label in optics.columns and np.any(optics.integers(label) != wanted):
            raise InputError(f"{optics.source}: {label} in table data_optics says that {meaning}, which is "
                             f"not supported; extract the particles again without")
    numbers = _group_numbers(optics)
    names = optics.columns.get("rlnOpticsGroupName", [f"opticsGroup{number}" for number in numbers])
    voltage, aberration, contrast, pixel_size = (optics.numbers(label).tolist() for label in SCALARS)
    tilt = np.stack([optics.numbers(label, 0.0) for label in BEAM_TILT], axis=1)
    matrix = np.stack([optics.numbers(label, default)
                       for label, default in zip(MAGNIFICATION, UNDISTORTED, strict=True)], axis=1)
    odd, even = (_vectors(optics, label) for label in ZERNIKE)
    try:
        return tuple(
            OpticsGroup(names[g], voltage[g], aberration[g], contrast[g], pixel_size[g], boxes[g],
                        beam_tilt=BeamTilt(*tilt[g].tolist()),
                        odd_zernike=odd[g], even_zernike=even[g],
                        magnification=MagnificationMatrix(*matrix[g].tolist()),
                        number=int(numbers[g]), ctf_state=states[g])
            for g in range(len(optics)))
    except InputError as error:
        raise InputError(f"{optics.source}: {error}") from error


def _vectors(optics: StarTable, label: str) -> list[tuple[float, ...]]:
    """A column of vectors written as "[a,b,..]"; empty vectors where the column is missing."""
    if label not in optics.columns:
        return [()] * len(optics)
    vectors = []
    for row, text in enumerate(optics.columns[label]):
        parts = [part for part in text.strip("[]").split(",") if part.strip()]
        try:
            vectors.append(tuple(float(part) for part in parts))
        except ValueError:
            raise InputError(f"{optics.at(row)}: {label} is '{text[:60]}', not a vector such as [0.1,0.2]; "
                             f"correct it") from None
    return vectors


def _defocus(particles: StarTable) -> Defocus:
    """The CTF values of the images, in float64."""
    def column(label: str, default: float | None = None) -> Tensor:
        return torch.from_numpy(particles.numbers(label, default))

    return Defocus(u=column("rlnDefocusU"), v=column("rlnDefocusV"),
                   angle=torch.deg2rad(column("rlnDefocusAngle")),
                   phase_shift=torch.deg2rad(column("rlnPhaseShift", 0.0)),
                   bfactor=column("rlnCtfBfactor", 0.0), scale=column("rlnCtfScalefactor", 1.0))


def _halves(particles: StarTable) -> Integers | None:
    """The half[b] of each image where rlnRandomSubset divides the file in two; None where it does not."""
    if "rlnRandomSubset" not in particles.columns:
        return None
    subset = particles.integers("rlnRandomSubset")
    odd = (subset < 0) | (subset > 2) | ((subset == 0) & bool(subset.any()))
    if odd.any():
        raise InputError(f"{particles.at(int(np.argmax(odd)))}: rlnRandomSubset is {subset[np.argmax(odd)]}; "
                         f"it must be 1 or 2 in every row, or 0 in every row")
    return subset - 1 if {1, 2} <= set(np.unique(subset).tolist()) else None


def _ids(particles: StarTable, *labels: str) -> tuple[Integers, tuple[str, ...]]:
    """Ids[b] from 0 in the order of appearance, and their names, from the first of these columns that the table has."""
    for label in labels:
        if label in particles.columns:
            return different(particles.columns[label])
    return np.zeros(len(particles), np.int64), ()


def _update(columns: dict[str, Column], label: str, values: Numbers, absent: float | None = None) -> None:
    """Make a column hold `values`. A missing column stays missing where all values are `absent`, which is what absence
    means."""
    if label not in columns:
        if absent is None or np.any(values != absent):
            columns[label] = values
        return
    held = _floats(columns[label])
    if held.shape != values.shape or np.any(np.abs(held - values) > 1e-7 * np.maximum(1.0, np.abs(held))):
        columns[label] = values


def _floats(column: Column) -> NDArray[np.float64]:
    """A column as numbers, which may be text."""
    return column.numbers() if isinstance(column, TextColumn) else np.fromiter(map(float, column), np.float64,
                                                                                len(column))


def _update_angles(columns: dict[str, Column], rotations: Tensor | None) -> None:
    """Make the angles agree with `rotations`. Angles that mean the same rotations already are kept unchanged."""
    if rotations is None:
        return
    if all(label in columns for label in ANGLES):
        held = np.stack([_floats(columns[label]) for label in ANGLES], axis=1)
        if bool(((euler_to_matrix(torch.from_numpy(held)) - rotations.cpu()).abs() < 1e-9).all()):
            return
    for label, values in zip(ANGLES, matrix_to_euler(rotations.cpu()).T, strict=True):
        columns[label] = values.numpy()


def _optics_columns(table: ParticleTable) -> dict[str, Column]:
    """The columns of the table data_optics, made to agree with the optics groups."""
    groups, columns = table.optics, dict(table.optics_columns)
    _update(columns, "rlnOpticsGroup", np.array([group.number for group in groups]))
    columns["rlnOpticsGroupName"] = [group.name for group in groups]
    for label, values, absent in (
        ("rlnVoltage", [group.voltage for group in groups], None),
        ("rlnSphericalAberration", [group.spherical_aberration for group in groups], None),
        ("rlnAmplitudeContrast", [group.amplitude_contrast for group in groups], None),
        ("rlnImagePixelSize", [group.pixel_size for group in groups], None),
        ("rlnImageSize", [group.box for group in groups], None),
        ("rlnImageDimensionality", [2 for _ in groups], None),
        *((label, [group.beam_tilt[i] for group in groups], 0.0) for i, label in enumerate(BEAM_TILT)),
        *((label, [int(group.ctf_state is state) for group in groups], 0.0) for state, label in LABELS.items()),
    ):
        _update(columns, label, np.array(values), absent)
    if any(group.has_distortion for group in groups) or any(label in columns for label in MAGNIFICATION):
        for i, label in enumerate(MAGNIFICATION):
            _update(columns, label, np.array([group.magnification[i] for group in groups]))
    for label, vectors in zip(ZERNIKE, ([group.odd_zernike for group in groups],
                                        [group.even_zernike for group in groups]), strict=True):
        if (any(vectors) or label in columns) and _differs(table, label, vectors):
            columns[label] = ["[" + ",".join(f"{value:.9g}" for value in vector) + "]" for vector in vectors]
    return columns


def _differs(table: ParticleTable, label: str, vectors: list[tuple[float, ...]]) -> bool:
    """Whether the optics column of vectors is missing or holds other values."""
    text = [str(value) for value in table.optics_columns.get(label, [])]
    held = StarTable(table.source, "optics", {label: text})
    return len(text) != len(vectors) or any(
        len(a) != len(b) or not all(math.isclose(x, y, rel_tol=1e-7) for x, y in zip(a, b, strict=True))
        for a, b in zip(_vectors(held, label), vectors, strict=True))
