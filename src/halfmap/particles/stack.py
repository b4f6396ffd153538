"""Particle stacks are checked once, before anything is read from them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import numpy as np

from halfmap.errors import InputError
from halfmap.maps.mrc import read_header
from halfmap.maps.mrc_header import MrcHeader
from halfmap.particles.stack_files import StackFiles
from halfmap.particles.table import ParticleTable

READERS = 8  # headers read at the same time, because each one takes a while on a network disk
ELSEWHERE = "run in the project's folder, or give the folder of the images with --data-dir"


def check_stacks(table: ParticleTable, files: StackFiles | None = None) -> None:
    """Check header and length of every stack in use, once. They stay open in `files`, as far as it allows.

    Raises InputError, naming the file and a row, for a stack that is missing, ends before an image in use, is not MRC
    or of a type that is not supported, lacks the image that a row names, or has images of another size than the optics
    group's box.
    """
    for seen in looked_at(table, files):
        if seen.fault:
            raise InputError(seen.fault)


def box_of(path: Path, at: str, lacks: str) -> int:
    """The side in pixels of the images of a stack, for the particle named `at`, whose file has no column `lacks`.

    Raises InputError where the stack cannot be read.
    """
    wanted = f"{at}: the box is to come from its stack, as the file has no {lacks}"
    if not path.is_file():
        raise InputError(f"{wanted}, and there is no image stack {path}; {ELSEWHERE}")
    try:
        return read_header(path).shape[2]
    except InputError as error:
        raise InputError(f"{wanted}: {error}") from error


class SeenStack(NamedTuple):
    """A stack as rows of one optics group use it.

    row: one such row; header: None where it cannot be read; fault: what is wrong, in a sentence, or empty.
    """

    row: int
    path: Path
    header: MrcHeader | None
    fault: str = ""


def looked_at(table: ParticleTable, files: StackFiles | None = None) -> Iterator[SeenStack]:
    """Every stack in use, by optics group, with what its header and length say. Several are read at the same time.

    They stay open in `files`, as far as it allows; without, they are closed.
    """
    pairs = table.stack_index * len(table.optics) + table.optics_index
    first = np.unique(pairs, return_index=True)[1]
    last = np.zeros(len(table.stacks), np.int64)
    np.maximum.at(last, table.stack_index, table.image_index)

    def look(row: int) -> SeenStack:
        number = int(table.stack_index[row])
        path = table.stacks[number]
        if not path.is_file():
            return SeenStack(row, path, None, f"{table.name(row)}: there is no image stack {path}; "
                             f"{ELSEWHERE}")
        try:
            with held.opened(path) as stack:
                header, size = stack.header, stack.version.size
        except InputError as error:
            return SeenStack(row, path, None, str(error))
        box = table.optics[table.optics_index[row]].box
        if header.shape[1:] != (box, box):
            return SeenStack(row, path, header, wrong_size(table, row, path, header))
        complete = max(0, size - header.offset) // header.image_bytes
        if last[number] < min(complete, header.shape.sections):
            return SeenStack(row, path, header)
        users = np.flatnonzero(table.stack_index == number)
        worst = int(users[np.argmax(table.image_index[users] >= min(complete, header.shape.sections))])
        return SeenStack(row, path, header, _too_short(table, worst, complete, header))

    with nullcontext(files) if files is not None else StackFiles(READERS) as held:
        with ThreadPoolExecutor(READERS) as pool:
            yield from pool.map(look, first.tolist())


def wrong_size(table: ParticleTable, row: int, path: Path, header: MrcHeader) -> str:
    """What is wrong with a stack whose images have another size than the particle at `row` wants."""
    group = table.optics[table.optics_index[row]]
    return (f"{table.name(row)}: images in {path} have {header.shape.columns} x {header.shape.rows} pixels, optics "
            f"group '{group.name}' says {group.box}; correct rlnImageSize or give the right stack")


def _too_short(table: ParticleTable, row: int, held: int, header: MrcHeader) -> str:
    path, wanted = table.stacks[table.stack_index[row]], table.image_index[row] + 1
    if held < header.shape.sections:
        return (f"{table.name(row)}: {path} is truncated: it should hold {header.shape.sections} images, holds "
                f"{held}, and image {wanted} is asked for; copy the stack again")
    return (f"{table.name(row)}: image {wanted} is asked for and {path} holds {header.shape.sections}; "
            f"correct rlnImageName or remove the row")
