"""What a run will write, and whether there is room for it, before it begins."""

from __future__ import annotations

import shutil
from pathlib import Path

from halfmap.errors import InputError
from halfmap.particles.table import ParticleTable
from halfmap.refinement.memory_plan import MemoryPlan, gigabytes

RESULT_MAPS = 6  # both half maps, map, mask, local cut-off, and one while it takes the place of the last
KEPT_MAPS = 3  # of an iteration that is kept
STATE_MAPS = 8  # references, mask and the regulariser's memory, twice while the file is replaced
PARTICLE = 800  # bytes in the STAR file, and in the poses of the checkpoint
PAGE = 60_000_000  # the report, twice


def check_disk(plan: MemoryPlan, table: ParticleTable, out: Path, scratch: Path | None, kept: int) -> list[str]:
    """Notes where space is short for what a run can do without. Raises InputError where it is short for the results.

    scratch: folder for sums on disk (None: in ``out``); kept: iterations whose maps and poses are kept at most.
    """
    volume = 4 * plan.demand.box**3
    row = PARTICLE + (_size(table.source) // max(1, len(table)) if table.source.suffix == ".star" else 0)
    results = (RESULT_MAPS + STATE_MAPS) * volume + 3 * row * len(table) + PAGE
    results += kept * (KEPT_MAPS * volume + row * len(table))
    free = check_room(out, results, "the run")
    scratch = scratch or out
    shared = _existing(scratch).stat().st_dev == _existing(out).stat().st_dev
    room = max(0, _free_space(scratch) - (results if shared else 0))
    if plan.scratch > room:
        raise InputError(f"{scratch}: the sums of the map need {gigabytes(plan.scratch)} GB on disk, and "
                         f"{gigabytes(room)} GB are free there; name a folder on another disk with --scratch, or take "
                         "--padding 1")
    if results + plan.scratch + 8 * plan.sums > free:
        return [f"{gigabytes(free)} GB are free in {_existing(out)}: enough for the results, not for the sums "
                f"within long iterations ({gigabytes(8 * plan.sums)} GB); a run stopped within one repeats it"]
    return []


def check_room(out: Path, results: int, what: str) -> int:
    """Free bytes in the folder. Raises InputError where ``what`` will write more (results) than that."""
    free = _free_space(out)
    if results > free:
        raise InputError(f"--out {out}: {what} will write up to {gigabytes(results)} GB, and "
                         f"{gigabytes(free)} GB are free there; make room, or name a folder on another disk")
    return free


def _free_space(folder: Path) -> int:
    """Free bytes where the folder is, or will be."""
    return shutil.disk_usage(_existing(folder)).free


def _existing(folder: Path) -> Path:
    """The folder, or the first one above it that exists."""
    while not folder.exists():
        folder = folder.parent
    return folder


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
