"""Columns of text that are held as bytes, and long STAR loops read into them and written from them in one pass.

A million rows as Python's strings take 60 bytes a word beside the word, and seconds to make. Here a word takes as many
bytes as the longest of its column. What the fast pass does not understand is left to the reader that goes by lines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, overload

import numpy as np
from numpy.typing import DTypeLike, NDArray

Bytes = NDArray[np.bytes_]
ROWS_AT_ONCE = 1 << 11  # that are put together before they are written


class TextColumn(Sequence[str]):
    """A column [b] of ASCII text, held as bytes of one width. It cannot be changed."""

    def __init__(self, held: Bytes) -> None:
        self.held = held

    def __len__(self) -> int:
        return len(self.held)

    @overload
    def __getitem__(self, row: int) -> str: ...

    @overload
    def __getitem__(self, row: slice | NDArray[Any]) -> TextColumn: ...

    def __getitem__(self, row: int | slice | NDArray[Any]) -> str | TextColumn:
        if isinstance(row, slice | np.ndarray):
            return TextColumn(self.held[row])
        return bytes(self.held[row]).decode("ascii")

    def __iter__(self) -> Iterator[str]:
        return iter(b"\n".join(self.held.tolist()).decode("ascii").split("\n") if len(self) else ())

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        return self.held.astype(np.str_ if dtype is None else dtype)

    def numbers(self) -> NDArray[np.float64]:
        """The column as numbers. Raises ValueError where a word is none."""
        from halfmap.kernels import numba_text

        values = np.empty(len(self))
        if numba_text.read_numbers(_letters(self.held), values):
            for row in np.flatnonzero(np.isnan(values)).tolist():
                values[row] = float(self.held[row])
        return values

    def kinds(self) -> Kinds:
        """The different words, in the order of appearance, and which of them is in every row."""
        known: dict[bytes, int] = {}
        letters = _letters(self.held)
        first = np.flatnonzero(np.concatenate([[True], (letters[1:] != letters[:-1]).any(axis=1)]))  # of equal rows
        number = np.array([known.setdefault(word, len(known)) for word in self.held[first].tolist()], np.int64)
        length = np.diff(np.append(first, len(self)))
        return Kinds(tuple(word.decode("ascii") for word in known), number.repeat(length))


def _letters(held: Bytes) -> NDArray[np.uint8]:
    """Words [b] as bytes [b, w]."""
    return np.ascontiguousarray(held).view(np.uint8).reshape(len(held), held.dtype.itemsize)


@dataclass(frozen=True)
class Kinds:
    """Different words, and number [b]: which of them is in each row."""

    words: tuple[str, ...]
    number: NDArray[np.int64]


@dataclass(frozen=True)
class PlainRows:
    """Rows of a loop that were read in one pass: their columns, and the byte of the file that follows them."""

    columns: list[TextColumn]
    end: int


def plain_rows(raw: bytes, begin: int, columns: int) -> PlainRows | None:
    """The rows of a loop of so many columns, from a byte of the file to the next blank line.

    None where a row is odd in any way: another number of words, a quote, a comment, a letter beyond ASCII.
    """
    from halfmap.kernels import numba_text

    text = np.frombuffer(raw, np.uint8)
    widths, found = np.ones(columns, np.int64), np.zeros(2, np.int64)
    numba_text.measure_rows(text, begin, widths, found)
    rows, end = found.tolist()
    if rows < 1:
        return None
    bases = rows * (np.cumsum(widths) - widths)
    out = np.zeros(rows * int(widths.sum()), np.uint8)
    numba_text.fill_columns(text, begin, rows, widths, bases, out)
    places = zip(bases.tolist(), widths.tolist(), strict=True)
    # Each column is a copy, so that one that is dropped frees its memory.
    return PlainRows([TextColumn(out[base : base + rows * width].view(f"S{width}").copy()) for base, width in places],
                     end)


def written_decimals(values: NDArray[np.float64], other: Callable[[float], str]) -> Bytes:
    """Numbers [b] as text; ``other`` writes one that is very large, very small or not finite."""
    from halfmap.kernels import numba_text

    out = np.zeros((len(values), numba_text.WIDEST), np.uint8)
    values = np.ascontiguousarray(values, np.float64)
    left = numba_text.write_numbers(values, out)
    held: Bytes = out.view(f"S{numba_text.WIDEST}")[:, 0]
    if left:
        rows = np.flatnonzero(out[:, 0] == 0)
        words = np.array([other(value).encode() for value in values[rows].tolist()])
        held = held.astype(max(held.dtype, words.dtype, key=lambda kind: kind.itemsize))
        held[rows] = words
    return held


def write_rows(stream: BinaryIO, columns: Sequence[Bytes]) -> None:
    """Write rows of words, divided by a space."""
    from halfmap.kernels import numba_text

    widths = [column.dtype.itemsize for column in columns]
    for first in range(0, len(columns[0]), ROWS_AT_ONCE):
        rows = slice(first, first + ROWS_AT_ONCE)
        count = len(columns[0][rows])
        block, at = np.full((count, sum(widths) + len(widths)), 32, np.uint8), 0
        for column, width in zip(columns, widths, strict=True):
            block[:, at : at + width] = _letters(column[rows])
            at += width + 1
        block[:, -1] = 10
        out = np.empty(block.size, np.uint8)
        stream.write(out[: numba_text.squeeze(block.ravel(), out)].tobytes())
