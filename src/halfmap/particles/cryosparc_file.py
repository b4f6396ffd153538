"""The bytes of cryoSPARC datasets: .cs files (numpy structured arrays), .csg files that name them, and joining by uid.

Nothing in a file is trusted. No pickle is ever loaded, and what a header promises is compared with the length of the
file before memory is allocated.
"""

from __future__ import annotations

import ast
import re
import struct
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from halfmap.errors import InputError
from halfmap.particles.table import Integers

MAGIC = b"\x93NUMPY"
STREAM = b"CSDAT"  # after one byte: begins the compressed stream that some cryoSPARC versions write
LONGEST_HEADER = 1 << 22  # bytes; numpy itself stops at 10,000 characters, which wide tables exceed
LENGTHS = {1: "<H", 2: "<I", 3: "<I"}  # version of the format -> how the length of the header is stored
SUFFIXES = (".cs", ".csg")

Fields = NDArray[Any]

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True)
class CsDataset:
    """The fields of a dataset by name, all with one row per particle.

    source: the file, for messages; rows: number of particles; joined: whether fields of another file were added.
    """

    source: Path
    fields: dict[str, Fields]
    rows: int
    joined: bool = False

    def __len__(self) -> int:
        return self.rows

    def __contains__(self, name: str) -> bool:
        return name in self.fields

    def at(self, row: int) -> str:
        """Names a row (from 0) in a message."""
        return f"{self.source}: row {row + 1}"

    def numbers(self, name: str, width: int = 0, default: float | None = None) -> NDArray[np.float64]:
        """A field as finite float64 [b], or [b, width]; `default`, where given, replaces a missing field.

        Raises InputError where the field is missing, of another shape or type, or not finite, naming the row.
        """
        shape = (self.rows, width) if width else (self.rows,)
        if default is not None and name not in self.fields:
            return np.full(shape, default)
        field = self._field(name, "fiu", "numbers")
        if field.shape != shape:
            raise InputError(f"{self.source}: field {name} has {field.shape[1:]} values to a particle, expected "
                             f"{shape[1:]}; export the particles again")
        with np.errstate(invalid="ignore"):  # a signalling NaN would raise a warning
            values = field.astype(np.float64)
        finite = np.isfinite(values).reshape(self.rows, -1).all(axis=1)
        if not finite.all():
            row = int(np.argmin(finite))
            raise InputError(f"{self.at(row)}: {name} is {field[row]}, not a finite number; remove the particle")
        return values

    def integers(self, name: str, default: int | None = None) -> Integers:
        """A field of whole numbers: int64 [b]."""
        values = self.numbers(name, default=default)
        odd = (values != np.rint(values)) | (np.abs(values) > 2**53)
        if odd.any():
            row = int(np.argmax(odd))
            raise InputError(f"{self.at(row)}: {name} is {self.fields[name][row]}, not a whole number; "
                             "remove the particle")
        return values.astype(np.int64)

    def text(self, name: str) -> Fields:
        """A field of text as bytes [b]; numpy's unicode, which other programs write, becomes UTF-8."""
        field = self._field(name, "SU", "text")
        if field.dtype.kind == "U":
            try:
                field = np.char.encode(field, "utf-8", "surrogateescape")
            except ValueError:  # a damaged file may hold numbers that stand for no character
                raise InputError(f"{self.source}: field {name} holds no text; export the particles again") from None
        if field.ndim != 1:
            raise InputError(f"{self.source}: field {name} has several texts to a particle; export the particles again")
        return field

    def distinct_text(self, name: str) -> tuple[list[str], Integers]:
        """The different texts of a field, and for each particle the index[b] of its own."""
        values, inverse = distinct(self.text(name))
        texts = [value.decode("utf-8", "surrogateescape") for value in values.tolist()]
        odd = next((place for place, text in enumerate(texts) if _CONTROL.search(text)), None)
        if odd is not None:
            raise InputError(f"{self.at(int(np.argmax(inverse == odd)))}: {name} is {texts[odd][:80]!r}, which is no "
                             "file name; remove the particle")
        return texts, inverse

    def tidy(self, name: str, row: int) -> float:
        """One number with no more digits than its type holds: 1.1 and not the float32's 1.10000002384."""
        return float(str(self.fields[name][row]))

    def _field(self, name: str, kinds: str, meaning: str) -> Fields:
        if name not in self.fields:
            raise self.lacks(name)
        field = self.fields[name]
        if field.dtype.kind not in kinds:
            raise InputError(f"{self.source}: field {name} holds {field.dtype}, not {meaning}; "
                             "export the particles again")
        return field

    def lacks(self, name: str, otherwise: str = "") -> InputError:
        """The error about a field that is missing; otherwise: how its value could be given instead."""
        other = f", or {otherwise}" if otherwise else ""
        return InputError(f"{self.source}: no field {name}; {self._where()}{other}")

    def _where(self) -> str:
        """Where a missing field may be, as advice to the user."""
        if self.joined:
            return "export the particles again with this field"
        beside = sorted(path.name for path in self.source.parent.glob("*passthrough*.cs") if path != self.source)
        hint = f", such as {beside[0]}" if beside else ""
        return f"give the job's passthrough file{hint} with --passthrough, or its .csg file"


def distinct(values: Fields) -> tuple[Fields, Integers]:
    """The different values in ascending order, and for each row the index of its own; fast where all are equal."""
    if len(values) and (values == values[0]).all():
        return values[:1], np.zeros(len(values), np.int64)
    found, inverse = np.unique(values, return_inverse=True)
    return found, inverse.astype(np.int64)


def load_dataset(path: Path | str, passthrough: Path | str | None = None) -> CsDataset:
    """The dataset of a .cs file, or of the files that a .csg file names, with the fields of `passthrough` added.

    Files are joined by uid. Where several have a field, that of the first file is taken. Raises InputError for a file
    that is not a dataset, for a uid that occurs twice, and where a file lacks particles of the first.
    """
    path = Path(path)
    first, *others = _named_by(path) if path.suffix.lower() == ".csg" else [path]
    dataset = read_cs(first)
    if not len(dataset):
        raise InputError(f"{first}: holds no particles; give a file with particles")
    for other in [*others, *([Path(passthrough)] if passthrough is not None else [])]:
        dataset = _joined(dataset, read_cs(other))
    if "uid" in dataset:
        _check_unique(dataset)
    return dataset


def read_cs(path: Path) -> CsDataset:
    """The fields of one .cs file: a one-dimensional structured array in numpy's format, version 1, 2 or 3.

    Raises InputError for anything else, and for a file shorter than its header says, before memory is allocated.
    """
    try:
        size = path.stat().st_size
        with open(path, "rb") as stream:
            dtype, rows = _parse_header(path, stream, size)
            raw = stream.read(rows * dtype.itemsize)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}; check the path") from error
    if len(raw) < rows * dtype.itemsize:
        raise InputError(f"{path}: ends early; copy it again")
    array = np.frombuffer(raw, dtype, rows)
    assert dtype.names is not None  # _parse_header has checked it
    return CsDataset(path, {name: array[name] for name in dtype.names}, rows)


def _parse_header(path: Path, stream: BinaryIO, size: int) -> tuple[np.dtype[Any], int]:
    """The type of a row and the number of rows. The stream is left at the first row."""
    start = stream.read(8)
    if start[1:6] == STREAM:
        raise InputError(f"{path}: is in cryoSPARC's compressed stream format; save it in numpy format, with "
                         "cryosparc-tools: Dataset.load(name).save(new_name)")
    if start[:6] != MAGIC or len(start) < 8 or start[6] not in LENGTHS:
        raise InputError(f"{path}: not a cryoSPARC dataset (a numpy file); give the particles' .cs or .csg file")
    packed = stream.read(struct.calcsize(LENGTHS[start[6]]))
    length = int.from_bytes(packed, "little")
    if len(packed) < struct.calcsize(LENGTHS[start[6]]) or not 0 < length <= min(size, LONGEST_HEADER):
        raise InputError(f"{path}: the header is damaged: it claims {length} bytes; copy the file again")
    text = stream.read(length).decode("utf-8" if start[6] == 3 else "latin-1", "replace")
    descr, shape = _described(path, text)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dtype = np.lib.format.descr_to_dtype(descr)
    except Exception as error:  # numpy raises many kinds of exception for a description that makes no sense
        raise InputError(f"{path}: the header is damaged: its fields cannot be understood; copy the file again"
                         ) from error
    if dtype.hasobject:
        raise InputError(f"{path}: holds Python objects, which are never loaded; export the particles again from "
                         "cryoSPARC, or save them with cryosparc-tools, which writes plain text fields")
    if not dtype.names or len(shape) != 1 or dtype.itemsize < 1:
        raise InputError(f"{path}: a numpy array, but not a table of particles; give the particles' .cs or .csg file")
    room = (size - stream.tell()) // dtype.itemsize
    if not 0 <= shape[0] <= room:
        raise InputError(f"{path}: the header promises {shape[0]} particles, the file has room for {room}; copy it "
                         "again")
    return dtype, shape[0]


def _described(path: Path, text: str) -> tuple[Any, tuple[int, ...]]:
    """The description of the fields and the shape, from the text of a header."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            header = ast.literal_eval(text.strip())
        descr, shape = header["descr"], header["shape"]
        if not isinstance(shape, tuple) or not all(type(length) is int for length in shape):
            raise ValueError("the shape is not a tuple of whole numbers")
    except (ValueError, TypeError, SyntaxError, KeyError, IndexError, MemoryError, RecursionError) as error:
        raise InputError(f"{path}: the header is damaged: it is not numpy's; copy the file again") from error
    return descr, shape


def _joined(dataset: CsDataset, other: CsDataset) -> CsDataset:
    """The dataset with the fields that only `other` has, whose rows are found by uid.

    Raises InputError where one of them has no uids or a uid twice, or where `other` lacks particles.
    """
    ids = []
    for each in (dataset, other):
        _check_unique(each)
        ids.append(each.fields["uid"].astype(np.uint64))
    order = np.argsort(ids[1], kind="stable")
    place = np.searchsorted(ids[1], ids[0], sorter=order)
    rows = order[np.minimum(place, max(0, len(order) - 1))] if len(order) else np.zeros(len(dataset), np.int64)
    lacking = np.flatnonzero(ids[1][rows] != ids[0]) if len(order) else np.arange(len(dataset))
    if len(lacking):
        raise InputError(f"{other.source}: lacks {len(lacking)} of the {len(dataset)} particles of {dataset.source} "
                         f"(first: uid {ids[0][lacking[0]]}, row {lacking[0] + 1}); give the passthrough file of the "
                         "same job")
    new = {name: field[rows] for name, field in other.fields.items() if name not in dataset}
    return CsDataset(dataset.source, dataset.fields | new, dataset.rows, joined=True)


def _check_unique(dataset: CsDataset) -> None:
    """Raise InputError where the dataset has no uids, or a uid twice, naming both rows."""
    field = dataset.fields.get("uid")
    if field is None or field.dtype.kind not in "iu" or field.ndim != 1:
        raise InputError(f"{dataset.source}: no field uid of whole numbers, by which files are joined; export the "
                         "particles again")
    order = np.argsort(field, kind="stable")
    twice = np.flatnonzero(np.diff(field[order]) == 0)
    if len(twice):
        first, second = sorted((int(order[twice[0]]), int(order[twice[0] + 1])))
        raise InputError(f"{dataset.source}: uid {field[first]} is there twice, in rows {first + 1} and {second + 1}; "
                         "remove one of them")


def _named_by(path: Path) -> list[Path]:
    """The .cs files that a .csg file names. The one with the alignments, or else with the images, comes first.

    The file is YAML as cryoSPARC writes it, in block or flow style. Under `results` each slot has a metafile. A leading
    ">" means the folder of the .csg file; other paths begin in the project folder, which is one of the folders above.
    """
    try:
        text = path.read_bytes().decode("utf-8", "replace")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}; check the path") from error
    results = re.search(r"^results:(.*?)(?=^\S|\Z)", text, re.MULTILINE | re.DOTALL)
    slots = re.findall(r"""^\s+([\w.-]+):\s*\{?[^{}]*?\bmetafile:\s*('[^']*'|"[^"]*"|[^\s,}]+)""",
                       results[1] if results else "", re.MULTILINE)
    if not slots:
        raise InputError(f"{path}: names no .cs files under results; give cryoSPARC's .csg file, or the .cs file")
    named: dict[str, str] = {}
    for slot, metafile in slots:
        named.setdefault(" ".join(metafile.strip("'\"").split()), slot)
    ranks = {"alignments3D": 0, "blob": 1}
    ordered = sorted(named, key=lambda metafile: min(
        ranks.get(slot, 2) for slot, other in slots if " ".join(other.strip("'\"").split()) == metafile))
    return [_beside(path, metafile) for metafile in ordered]


def _beside(path: Path, metafile: str) -> Path:
    """The file that a .csg file calls `metafile`."""
    name = metafile.removeprefix(">")
    folders: Iterable[Path] = [path.parent] if metafile.startswith(">") else path.absolute().parents
    found = next((folder / name for folder in folders if (folder / name).is_file()), None)
    if found is None:
        raise InputError(f"{path}: names {name}, which is not there; copy it beside the .csg file, or give a .cs "
                         "file")
    return found
