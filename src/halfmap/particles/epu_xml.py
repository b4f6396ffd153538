"""Beam shifts of micrographs, from the XML files that EPU writes beside its movies.

An EPU file is a MicroscopeImage whose microscopeData/optics/BeamShift holds _x and _y. Their unit does not matter here.
Programs that write such files for SerialEM and Leginon give them the name of the movie too.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path, PurePath

import numpy as np

from halfmap.errors import InputError
from halfmap.particles.table import ParticleTable, different

LABELS = ("halfmapBeamShiftX", "halfmapBeamShiftY")
_EXPOSURE = re.compile(r"FoilHole_\d+_Data_\d+_\d+_\d{8}_\d+")
_SHIFT = re.compile(rb"<(?:\w+:)?BeamShift\b[^>]*>\s*<(?:\w+:)?_x>([^<]*)</(?:\w+:)?_x>\s*<(?:\w+:)?_y>([^<]*)</")


def with_beam_shifts(table: ParticleTable, folder: Path) -> ParticleTable:
    """The table with the columns `LABELS`: the beam shift of each particle's micrograph.

    The file of a micrograph has its name, or the first part of it up to an underscore or a point; of an EPU name, the
    part from FoilHole to the time. It may lie in any folder below ``folder``. Raises InputError where the micrographs
    have no names, or one of them no file or no beam shift.
    """
    if "rlnMicrographName" not in table.columns:
        raise InputError(f"{table.source}: has no column rlnMicrographName, by which --xml finds the files; give the "
                         "shifts as columns")
    files = {_exposure(path.stem): path for path in sorted(folder.rglob("*.xml"))}
    number, names = different(table.columns["rlnMicrographName"])
    found = [_file_of(PurePath(name).name, files) for name in names]
    absent = np.array([path is None for path in found])[number]
    if absent.any():
        row = int(np.argmax(absent))
        raise InputError(f"{table.name(row)}: {names[number[row]][:200]} has no XML file of its name in {folder} "
                         f"({len(files):,} files; {int(absent.sum()):,} of {len(table):,} rows have none)")
    shifts = np.array([_shift_in(path) for path in found if path is not None])[number]
    return replace(table, columns=table.columns | dict(zip(LABELS, shifts.T, strict=True)))


def _exposure(stem: str) -> str:
    """The part of a name that is common to all files of an exposure; all of it, where it is not one of EPU's."""
    match = _EXPOSURE.search(stem)
    return match[0] if match else stem


def _file_of(name: str, files: dict[str, Path]) -> Path | None:
    """The file of a micrograph: that of its exposure, or the one whose name is the longest first part of its own."""
    exposure = _exposure(name)
    if exposure in files:
        return files[exposure]
    ends = [match.start() for match in re.finditer(r"[_.]", name)]
    return next((files[name[:end]] for end in reversed(ends) if name[:end] in files), None)


def _shift_in(path: Path) -> tuple[float, float]:
    """The beam shift (x, y) that a file holds."""
    try:
        match = _SHIFT.search(path.read_bytes())
        x, y = (float(part) for part in match.groups()) if match else (np.nan, np.nan)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    except ValueError:
        x = y = np.nan
    if not np.isfinite([x, y]).all():
        raise InputError(f"{path}: holds no beam shift of two numbers (BeamShift with _x and _y); remove it, or give "
                         "the shifts as columns")
    return x, y
