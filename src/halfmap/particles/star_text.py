"""The text of STAR files: named tables of columns, without any knowledge of what the columns mean.

RELION's files have one row on one line, and this reader relies on that. It can therefore name the line of any fault,
and it accepts file names that begin with "data_" or hold "#" or letters beyond ASCII, where a reader of the full CIF
grammar stops.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from halfmap.errors import InputError
from halfmap.maps.mrc import replaced_atomically
from halfmap.particles.table import Column
from halfmap.particles.text_column import TextColumn, plain_rows, write_rows, written_decimals

Texts = list[str] | TextColumn

LONG = 1 << 20  # bytes of a loop from which on it is read and written in one pass
MANY = 10_000  # rows
FEWEST = 3  # columns of such a loop: a row of fewer may be read as the end of its table
PLACE = "\0"  # stands for rows that were read already; no text file holds it
_WORD = re.compile(r""""([^"]*)"(?=\s|$)|'([^']*)'(?=\s|$)|(\S+)""")


@dataclass
class StarTable:
    """One table of a STAR file: its name (after data_) and its columns of text by label (no underscore)."""

    source: Path
    name: str
    columns: dict[str, Texts]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def at(self, row: int) -> str:
        """Names a row (from 0) in a message: the file, the table and the row counted from 1."""
        return f"{self.source}: table data_{self.name[:60]}, row {row + 1}"

    def text(self, label: str) -> Texts:
        """A column as text. Raises InputError where it is missing."""
        if label not in self.columns:
            raise InputError(f"{self.source}: table data_{self.name[:60]} has no column {label}; "
                             f"add it, or give the file that has it")
        return self.columns[label]

    def numbers(self, label: str, default: float | None = None) -> NDArray[np.float64]:
        """A column as finite numbers: float64 [b]; `default`, where given, replaces a missing column."""
        if default is not None and label not in self.columns:
            return np.full(len(self), default)
        column = self.text(label)
        values = numbers_of(column)
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            raise InputError(f"{self.at(int(bad[0]))}: {label} is '{column[bad[0]][:60]}', not a finite number; "
                             f"correct or remove the row")
        return values

    def integers(self, label: str) -> NDArray[np.int64]:
        """A column as whole numbers: int64 [b]."""
        values = self.numbers(label)
        bad = np.flatnonzero((values != np.rint(values)) | (np.abs(values) > 1e15))
        if len(bad):
            raise InputError(f"{self.at(int(bad[0]))}: {label} is '{self.columns[label][bad[0]][:60]}', "
                             f"not a whole number; correct or remove the row")
        return values.astype(np.int64)


def read_tables(path: Path | str) -> list[StarTable]:
    """All tables of a STAR file in order, both loops and label-value pairs.

    Raises InputError, naming the line, for a file that cannot be read or is not STAR, a row with too few or too many
    values, and a label given twice.
    """
    path = Path(path)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}; check the path") from error
    if b"\0" in raw:
        raise InputError(f"{path}: not a text file; give a STAR file")
    cut = _without_long_loop(raw)
    if cut is not None:
        try:
            return _tables(path, cut.rest, cut.columns)
        except InputError:
            pass  # below it comes with the line that it is about
    return _tables(path, raw)


@dataclass(frozen=True)
class _Cut:
    """A file without the rows of its longest loop, which were read already."""

    rest: bytes
    columns: list[TextColumn]


def _without_long_loop(raw: bytes) -> _Cut | None:
    """The file without the rows of its first long loop, with PLACE in their place. None where it has no such loop, or
    the rows are not as plain as they usually are."""
    start = 0
    while len(raw) - start > LONG and (loop := raw.find(b"loop_", start)) >= 0:
        begin, labels = raw.find(b"\n", loop) + 1, 0
        while begin and raw[begin : begin + 1] == b"_":
            begin, labels = raw.find(b"\n", begin) + 1, labels + 1
        if not begin:
            return None
        reach = begin + LONG  # a blank line ends the loop before it, or it is long
        short = any(raw.find(blank, begin, reach) >= 0 for blank in (b"\n\n", b"\n\r\n", b"\n \n"))
        if labels >= FEWEST and reach < len(raw) and not short:
            rows = plain_rows(raw, begin, labels)
            if rows is None:
                return None
            return _Cut(raw[:begin] + PLACE.encode() + b"\n" + raw[rows.end :], rows.columns)
        start = begin
    return None


def _tables(path: Path, raw: bytes, long_loop: Sequence[TextColumn] = ()) -> list[StarTable]:
    """All tables of the text. long_loop: the columns that stand at PLACE."""
    lines = raw.decode("utf-8", "surrogateescape").removeprefix("\ufeff").split("\n")
    tables: list[StarTable] = []
    number = 0
    while number < len(lines):
        words = _words(lines[number])
        number += 1
        if not words:
            continue
        if words[0].startswith("data_"):
            tables.append(StarTable(path, words[0][5:], {}))
        elif not tables:
            raise InputError(f"{path}: line {number}: expected a table name such as data_particles; "
                             f"give a STAR file")
        elif words[0] == "loop_":
            number = _read_loop(tables[-1], lines, number, long_loop)
        elif words[0].startswith("_") and len(words) > 1:
            _add_label(tables[-1], words[0], number)
            tables[-1].columns[words[0][1:]] = [words[1]]
        else:
            raise InputError(f"{path}: line {number}: '{' '.join(words)[:60]}' is neither a label with its "
                             f"value nor a row of a table; correct the line")
    if not tables:
        raise InputError(f"{path}: holds no table; give a STAR file")
    for table in tables:
        if len({len(column) for column in table.columns.values()}) > 1:
            raise InputError(f"{path}: table data_{table.name[:60]} has columns of different lengths, because a loop "
                             f"and single values or another loop share it; give each a table of its own")
    return tables


def write_tables(path: Path | str, tables: Mapping[str, Mapping[str, Column]]) -> None:
    """Write tables (name -> columns by label) as loops, as RELION 3.1 does. The file appears complete or not at all."""
    with replaced_atomically(path) as raw:
        stream = TextIOWrapper(raw, encoding="utf-8", errors="surrogateescape", newline="\n")
        for name, columns in tables.items():
            stream.write(f"\n# version 30001\n\ndata_{name}\n\nloop_\n")
            stream.writelines(f"_{label} #{place}\n" for place, label in enumerate(columns, 1))
            if len(next(iter(columns.values()), ())) < MANY:
                rows = zip(*(format_column(column) for column in columns.values()), strict=True)
                stream.writelines(" ".join(row) + "\n" for row in rows)
            else:
                stream.flush()
                write_rows(raw, [_as_bytes(column) for column in columns.values()])
            stream.write("\n")
        stream.detach()


def format_column(column: Column) -> list[str]:
    """The values of a column as STAR text: floats to 1e-6 or better, text quoted only where it must be."""
    if isinstance(column, TextColumn):
        return list(column)
    if isinstance(column, list):
        together = " ".join(column)
        if '"' not in together and "'" not in together and "#" not in together and together.split() == column:
            return column
        return [_quoted(text) for text in column]
    if column.dtype.kind == "f":
        return [_decimal(value) for value in column.tolist()]
    if column.dtype.kind in "iub":
        return [str(int(value)) for value in column.tolist()]
    return [_quoted(str(value)) for value in column.tolist()]


def _as_bytes(column: Column) -> NDArray[np.bytes_]:
    """A column as bytes of one width, as `format_column` writes them."""
    if isinstance(column, TextColumn):
        return column.held
    if not isinstance(column, list) and column.dtype.kind == "f":
        return written_decimals(column.astype(np.float64), _decimal)
    if not isinstance(column, list) and column.dtype.kind in "iub":
        return column.astype(np.int64 if column.dtype.kind == "b" else column.dtype).astype(np.bytes_)
    return np.array([text.encode("utf-8", "surrogateescape") for text in format_column(column)])


def _read_loop(table: StarTable, lines: list[str], number: int, long_loop: Sequence[TextColumn]) -> int:
    """Read the loop whose first line is lines[number] into the table; returns the number of the line after it."""
    labels: list[str] = []
    while number < len(lines):
        words = _words(lines[number])
        if words and not words[0].startswith("_"):
            break
        number += 1
        if words:
            _add_label(table, words[0], number)
            labels.append(words[0][1:])
    rows: list[list[str]] = []
    width, blank = len(labels), False
    if long_loop and number < len(lines) and lines[number] == PLACE:
        table.columns.update(zip(labels, long_loop, strict=True))
        return number + 1
    while number < len(lines):
        line = lines[number]
        # Nearly every line of a long table needs only the fast split.
        words = _words(line, width) if '"' in line or "'" in line or "#" in line else line.split()
        if words and words[0][:1] in "_ld" and _ends_loop(words, width):
            break
        if words and blank and rows and not _goes_on(rows[-1], words):
            number = _next_table(lines, number)
            break
        number += 1
        blank = not line.strip()
        if words:
            if len(words) != width:
                raise InputError(f"{table.source}: line {number}: {len(words)} values for the {width} "
                                 f"columns of table data_{table.name[:60]}; correct or remove the line")
            rows.append(words)
    for label, column in zip(labels, zip(*rows, strict=True), strict=False):
        table.columns[label] = list(column)
    return number


def _ends_loop(words: list[str], width: int) -> bool:
    """Whether the line begins something new. A complete row may begin with the same letters."""
    first = words[0]
    if first[:1] == "_":
        return len(words) <= 2 != width
    return (first == "loop_" or first.startswith("data_")) and (len(words) == 1)


def _goes_on(row: list[str], words: list[str]) -> bool:
    """Whether a line behind a blank line is one more row like the last one, and not text below the table.

    A blank line ends a table for RELION, which reads no further. Rows behind it are kept all the same: to lose them
    would not be noticed.
    """
    return len(words) == len(row) and all(
        math.isnan(_number(held)) or not math.isnan(_number(word)) or word.lower() == "nan"
        for held, word in zip(row, words, strict=True))


def _next_table(lines: list[str], number: int) -> int:
    """The number of the next line that begins a table; that of the end where none does."""
    while number < len(lines):
        words = _words(lines[number])
        if len(words) == 1 and words[0].startswith("data_"):
            break
        number += 1
    return number


def _add_label(table: StarTable, word: str, number: int) -> None:
    """Add an empty column to the table. Raises InputError where it has one of that label."""
    if word[1:] in table.columns:
        raise InputError(f"{table.source}: line {number}: table data_{table.name[:60]} has the column {word[1:61]} "
                         f"twice; remove one")
    table.columns[word[1:]] = []


def _words(line: str, width: int = -1) -> list[str]:
    """The values on a line. A word that begins with # begins a comment where no value is expected."""
    if '"' in line or "'" in line:
        words = [first or second or third for first, second, third in _WORD.findall(line)]
    else:
        words = line.split()
    if "#" in line:
        if line.lstrip()[:1] == "#":
            return []
        for place in range(max(width, 1), len(words)):
            if words[place][:1] == "#":
                return words[:place]
    return words


def numbers_of(column: Column) -> NDArray[np.float64]:
    """A column [b] as numbers; NaN where a value is none."""
    if isinstance(column, TextColumn):
        try:
            return column.numbers()
        except ValueError:
            pass
    return np.fromiter(map(_number, column), np.float64, len(column))


def _number(text: str) -> float:
    """The number that a value stands for; NaN where it is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def _decimal(value: float) -> str:
    """Six decimals, or nine digits where six decimals would cost a small value its precision."""
    return f"{value:.6f}" if value == 0.0 or abs(value) >= 1.0 else f"{value:.9g}"


def _quoted(text: str) -> str:
    if text and not any(character.isspace() for character in text) and text[0] not in "\"'#":
        return text
    return f'"{text}"' if '"' not in text else f"'{text}'"
