"""The image stacks that cryoSPARC datasets name, by paths from the project folder, some changed by an import."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from halfmap.errors import InputError
from halfmap.particles.cryosparc_file import CsDataset
from halfmap.particles.image_names import MOST_IMAGES, ImageNames, resolve_names

# The number of up to 21 digits that "Import Particles" puts before the name of a linked stack.
IMPORTED = re.compile(r"^\d{5,21}_(?=.)")


def resolve_paths(dataset: CsDataset, data_dir: Path | None, strip_prefix: str | None) -> tuple[ImageNames, list[str]]:
    """The files behind blob/path and blob/idx, and the repaired path [b] of each particle as text.

    A leading ">" is dropped, and so is `strip_prefix` where a path begins with it. Paths are looked up in the working
    folder, in the file's folder and every folder above it (one of them is the project), and in `data_dir`. .mrc and
    .mrcs stand for each other. Last, the number that an import puts before a name is left out. A file that is not found
    keeps its path as written, and `check_stacks` reports it. Raises InputError for a path or index that makes no sense.
    """
    written, of_row = dataset.distinct_text("blob/path")
    index = dataset.integers("blob/idx")
    for wrong, what in (((index < 0) | (index >= MOST_IMAGES), "blob/idx is out of range"),
                        (np.array([not path.strip(">") for path in written])[of_row], "blob/path is empty")):
        if wrong.any():
            raise InputError(f"{dataset.at(int(np.argmax(wrong)))}: {what}; remove the particle")
    paths = _stripped([path.removeprefix(">") for path in written], strip_prefix, dataset.source)
    folders = list(dataset.source.absolute().parents) + ([data_dir] if data_dir is not None else [])
    found = _found(paths, folders)
    unfound = [place for place, stack in enumerate(found) if not stack.is_file()]
    originals = [str(Path(paths[place]).with_name(IMPORTED.sub("", Path(paths[place]).name))) for place in unfound]
    for place, stack in zip(unfound, _found(originals, folders), strict=True):
        if stack.is_file():
            found[place] = stack
    known: dict[Path, int] = {}
    number = np.array([known.setdefault(stack, len(known)) for stack in found], np.int64)
    return ImageNames(tuple(known), number[of_row], index), [paths[place] for place in of_row.tolist()]


def _found(paths: list[str], folders: list[Path]) -> list[Path]:
    """The stack of each path, looked up in the folders."""
    # The image number is arbitrary, because only the paths matter here.
    names = resolve_names([f"1@{path}" for path in paths], folders, str)
    return [names.stacks[stack] for stack in names.stack_index.tolist()]


def _stripped(paths: list[str], prefix: str | None, source: Path) -> list[str]:
    """The paths without a prefix. Raises InputError where none begins with it."""
    if prefix is None:
        return paths
    inside = [path.removeprefix(prefix).lstrip("/") if path.startswith(prefix) else path for path in paths]
    if inside == paths:
        raise InputError(f"--strip-prefix {prefix}: no image path in {source} begins so (the first is {paths[0]}); "
                         "give what paths begin with")
    if not all(inside):
        raise InputError(f"--strip-prefix {prefix}: nothing is left of a path in {source}; give less of it")
    return inside
