"""Image names of STAR files ("000012@stack.mrcs"): the file and image that they mean, and how they are written."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from halfmap.errors import InputError
from halfmap.particles.table import Integers

MOST_IMAGES = 2**31 - 1
SWAPPED = {".mrc": ".mrcs", ".mrcs": ".mrc"}


@dataclass(frozen=True)
class ImageNames:
    """The files behind image names: the stacks, stack_index[b] into them, and image_index[b], counted from 0."""

    stacks: tuple[Path, ...]
    stack_index: Integers
    image_index: Integers


def resolve_names(names: Sequence[str], folders: Sequence[Path], at: Callable[[int], str]) -> ImageNames:
    """Find the file of each image name.

    A relative path is looked up in the working folder, then in `folders`, in that order. Where none has it, the other
    of .mrc and .mrcs is tried. A file that is not found keeps its path as written, and `check_stacks` reports it. A
    leading ">" is dropped. `at` names a row, for the InputError about a name that makes no sense.
    """
    written: dict[str, int] = {}
    stack_index, image_index = np.empty(len(names), np.int64), np.empty(len(names), np.int64)
    for row, name in enumerate(names):
        image, path = split_name(name)
        if not 1 <= image <= MOST_IMAGES or not path:
            raise InputError(f"{at(row)}: rlnImageName '{name[:80]}' is not of the form 000001@stack.mrcs; "
                             f"images count from 1")
        stack_index[row] = written.setdefault(path, len(written))
        image_index[row] = image - 1
    found: dict[Path, int] = {}
    of_written = np.array([found.setdefault(_find(path, folders), len(found)) for path in written], np.int64)
    return ImageNames(tuple(found), of_written[stack_index], image_index)


class NameParts(NamedTuple):
    """The two parts of an image name: the number of the image, from 1, and the path of its stack."""

    number: int
    path: str


def split_name(name: str) -> NameParts:
    """The number and path of an image name. A name without a number means image 1; 0 stands for what is no number."""
    number, mark, path = name.partition("@")
    if not mark:
        number, path = "1", name
    try:
        return NameParts(int(number), path.removeprefix(">"))
    except ValueError:
        return NameParts(0, path)


def written_names(names: Sequence[str] | None, images: ImageNames) -> list[str]:
    """Image names that are valid in the working folder. Valid names are kept, others get an absolute path."""
    valid: dict[tuple[str, int], bool] = {}
    absolute = [os.path.abspath(stack) for stack in images.stacks]
    result = []
    places = zip(images.stack_index.tolist(), images.image_index.tolist(), strict=True)
    for row, (stack, image) in enumerate(places):
        name = names[row] if names is not None else ""
        number, path = split_name(name)
        key = (path, stack)
        if key not in valid:
            valid[key] = _same_file(path, images.stacks[stack]) or not images.stacks[stack].exists()
        if not (name and valid[key] and number == image + 1):
            path = path if name and valid[key] else absolute[stack]
            name = f"{image + 1:06d}@{path}" if "@" in name or not name or image else path
        result.append(name.replace("@>", "@"))
    return result


def _same_file(path: str, stack: Path) -> bool:
    return os.path.isfile(path) and os.path.samefile(path, stack)


def _find(written: str, folders: Sequence[Path]) -> Path:
    """The first existing file among the places where `written` may be, or `written` itself."""
    path = Path(written.removesuffix(":mrcs"))
    candidates = [path] + [folder / path for folder in folders]
    if path.suffix in SWAPPED:
        candidates += [candidate.with_suffix(SWAPPED[path.suffix]) for candidate in candidates]
    return next((candidate for candidate in candidates if os.path.isfile(candidate)), path)
