"""Image names of STAR files ("000012@stack.mrcs"): the file and image that they mean, and how they are written."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from halfmap.errors import InputError
from halfmap.particles.table import Integers
from halfmap.particles.text_column import Kinds, TextColumn

MOST_IMAGES = 2**31 - 1
MOST_DIGITS = 9  # of the number in a plain name
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
    parts = _plain_names(names) if isinstance(names, TextColumn) else None
    if parts is not None:
        return _found(parts.paths.words, parts.paths.number, parts.number - 1, folders)
    written: dict[str, int] = {}
    stack_index, image_index = np.empty(len(names), np.int64), np.empty(len(names), np.int64)
    for row, name in enumerate(names):
        image, path = split_name(name)
        if not 1 <= image <= MOST_IMAGES or not path:
            raise InputError(f"{at(row)}: rlnImageName '{name[:80]}' is not of the form 000001@stack.mrcs; "
                             f"images count from 1")
        stack_index[row] = written.setdefault(path, len(written))
        image_index[row] = image - 1
    return _found(tuple(written), stack_index, image_index, folders)


def _found(written: Sequence[str], index: Integers, image_index: Integers, folders: Sequence[Path]) -> ImageNames:
    """The files of the different paths as written. index [b]: which of them an image is in."""
    found: dict[Path, int] = {}
    of_written = np.array([found.setdefault(_find(path, folders), len(found)) for path in written], np.int64)
    return ImageNames(tuple(found), of_written[index], image_index)


@dataclass(frozen=True)
class _PlainNames:
    """number int64 [b]: of the image, from 1; paths: of the stacks."""

    number: Integers
    paths: Kinds


def _plain_names(names: TextColumn) -> _PlainNames | None:
    """The parts of image names that all begin with as many digits and an @, as RELION writes them; None of others."""
    letters = names.held.view(np.uint8).reshape(len(names), -1)
    digits = names[0].find("@")
    if not 1 <= digits <= MOST_DIGITS or not bool((letters[:, digits] == ord("@")).all()):
        return None
    figures = letters[:, :digits].astype(np.int64) - ord("0")
    number = figures @ 10 ** np.arange(digits - 1, -1, -1)
    path = np.ascontiguousarray(letters[:, digits + 1 :])
    plain = (figures >= 0) & (figures <= 9)
    if not bool(plain.all()) or int(number.min()) < 1 or not path.shape[1] or bool(np.isin(path[:, 0], (0, 62)).any()):
        return None
    return _PlainNames(number, TextColumn(path.view(f"S{path.shape[1]}")[:, 0]).kinds())


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


def written_names(names: Iterable[object] | None, images: ImageNames) -> list[str] | TextColumn:
    """Image names that are valid in the working folder. Valid names are kept, others get an absolute path."""
    if isinstance(names, TextColumn):
        if _all_valid(names, images):
            return names
    held = None if names is None else [str(name) for name in names]
    valid: dict[tuple[str, int], bool] = {}
    absolute = [os.path.abspath(stack) for stack in images.stacks]
    result = []
    places = zip(images.stack_index.tolist(), images.image_index.tolist(), strict=True)
    for row, (stack, image) in enumerate(places):
        name = held[row] if held is not None else ""
        number, path = split_name(name)
        key = (path, stack)
        if key not in valid:
            valid[key] = _same_file(path, images.stacks[stack]) or not images.stacks[stack].exists()
        if not (name and valid[key] and number == image + 1):
            path = path if name and valid[key] else absolute[stack]
            name = f"{image + 1:06d}@{path}" if "@" in name or not name or image else path
        result.append(name.replace("@>", "@"))
    return result


def _all_valid(names: TextColumn, images: ImageNames) -> bool:
    """Whether plain names mean these images, and all stacks are there under their names."""
    parts = _plain_names(names)
    if parts is None or not np.array_equal(parts.number - 1, images.image_index):
        return False
    pairs = np.unique(parts.paths.number * len(images.stacks) + images.stack_index)
    return all(_same_file(parts.paths.words[path], images.stacks[stack]) or not images.stacks[stack].exists()
               for path, stack in (divmod(pair, len(images.stacks)) for pair in pairs.tolist()))


def _same_file(path: str, stack: Path) -> bool:
    return os.path.isfile(path) and os.path.samefile(path, stack)


def _find(written: str, folders: Sequence[Path]) -> Path:
    """The first existing file among the places where `written` may be, or `written` itself."""
    path = Path(written.removesuffix(":mrcs"))
    candidates = [path] + [folder / path for folder in folders]
    if path.suffix in SWAPPED:
        candidates += [candidate.with_suffix(SWAPPED[path.suffix]) for candidate in candidates]
    return next((candidate for candidate in candidates if os.path.isfile(candidate)), path)
