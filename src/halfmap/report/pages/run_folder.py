"""The page of `halfmap report`: that of a refinement, rebuilt from its run folder alone."""

import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from halfmap.errors import InputError
from halfmap.maps.mrc import read_map
from halfmap.particles.star import read_star
from halfmap.particles.table import ParticleTable
from halfmap.refinement import outputs
from halfmap.report.pages.classify import ClassesPage, write_classes_page
from halfmap.report.pages.refine import write_report
from halfmap.report.pages.snapshot import Snapshot
from halfmap.report.record_values import Array, number, plain_value
from halfmap.runtime.log import LogHeader, read_header

Read = TypeVar("Read")
GIVEN = re.compile(r"(\w+) = ")
UNSET = re.compile(r"# (\w+) = +# (.+)")
UNIT = re.compile(r" \[([^\]]+)\]")


def report_from_run(run: Path, citing: str = "") -> Path:
    """Write RUN/report.html from iterations.jsonl, settings.toml, the maps, particles.star and log.txt.

    Returns its path. citing: as in `Snapshot`. If a map or STAR file is missing or cannot be read, its section says so.
    Raises InputError if the folder is not that of a refinement, or if settings.toml or a line of iterations.jsonl
    before the last is damaged.
    """
    run = Path(run)
    if not run.is_dir():
        raise InputError(f"{run}: no such folder; give the folder that `halfmap refine --out` wrote")
    if not any((run / name).is_file() for name in ("iterations.jsonl", "settings.toml")):
        raise InputError(f"{run}: has neither iterations.jsonl nor settings.toml; give the folder of a run")
    records = read_records(run / "iterations.jsonl")
    settings = read_settings(run / "settings.toml")
    if "half1" in settings:
        raise InputError(f"{run}: holds what `halfmap regularise` wrote, and its report needs the half maps it came "
                         "from; run that command again, with --settings and a new --out")
    header = read_header(run / "log.txt")
    if "classes" in settings:
        return _classes_from_run(run, records, settings, header)
    particles = _optional(read_star, run / "particles.star")
    finished = header.finished or bool(records and records[-1].get("search") == "final")
    snapshot = Snapshot(
        records=records,
        settings=settings,
        map=_map(run / "map.mrc"),
        half1=_map(run / "half1_unfil.mrc"),
        half2=_map(run / "half2_unfil.mrc"),
        mask=_map(run / "mask.mrc"),
        theta=_map(run / "theta.mrc"),
        directions=_directions(particles),
        particles=particles,
        symmetry=str(plain_value(settings, "symmetry") or "C1"),
        finished=finished,
        started=header.started,
        version=header.version,
        command=header.command,
        memory=header.memory,
        citing=citing,
    )
    return write_report(run, snapshot)


def _classes_from_run(run: Path, records: list[outputs.Record], settings: dict[str, Any], header: LogHeader) -> Path:
    """The page of a classification. Raises InputError where it has done no iteration, or its mask is missing."""
    mask = _map(run / "mask.mrc")
    if not records or mask is None:
        raise InputError(f"{run}: has no mask.mrc and no records of iterations; give a run that has done an iteration")
    names = [f"class{number:03d}" for number in range(1, len(records[-1]["classes"]) + 1)]
    halves = [[_map(run / f"{name}_half{half}.mrc") for half in (1, 2)] for name in names]
    return write_classes_page(run, ClassesPage(
        records=records, maps=[_map(run / f"{name}.mrc") for name in names],
        halves=[[v for v in pair if v is not None] if all(v is not None for v in pair) else None for pair in halves],
        mask=mask, finished=header.finished or records[-1].get("search") == "final", started=header.started,
        settings=settings, version=header.version, command=header.command,
    ))  # fmt: skip


def read_records(path: Path) -> list[outputs.Record]:
    """Iteration records in order. Of several records of one iteration the last counts (a resumed run repeats some).

    A last line that a crash cut short is left out. Raises InputError for a damaged line before it.
    """
    kept: dict[float, outputs.Record] = {}
    for row, record in enumerate(outputs.read_records(path, cut_short=True), start=1):
        iteration = number(record, "iteration")
        kept[-row if iteration is None else iteration] = record
    return sorted(kept.values(), key=lambda record: number(record, "iteration") or 0.0)


def read_settings(path: Path) -> dict[str, Any]:
    """Settings as name -> (value, unit, meaning), with unit and meaning from the comment above each line.

    A setting without a value is a comment in the file, `# name =   # what holds instead`. It is read as the text of
    what holds instead. Raises InputError for a file that is not TOML.
    """
    if not path.is_file():
        return {}
    try:
        text = path.read_text(encoding="utf-8")
        values = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: {error}; mend the file or remove it") from error
    settings: dict[str, Any] = {}
    remark = ""
    for line in text.splitlines():
        unset, given = UNSET.match(line), GIVEN.match(line)
        name = unset[1] if unset else given[1] if given else ""
        if name and (unset or name in values):
            unit = UNIT.search(remark)
            value = unset[2] if unset else values[name]
            settings[name] = (value, unit[1] if unit and not unset else "", UNIT.sub("", remark))
        remark = line[2:] if line.startswith("# ") and not name else ""
    return {**settings, **{name: value for name, value in values.items() if name not in settings}}


def _map(path: Path) -> Array | None:
    found = _optional(read_map, path)
    return None if found is None else found.data.numpy()


def _directions(table: ParticleTable | None) -> NDArray[np.float64] | None:
    """View directions [b,3], the third rows of the rotations; None without a table or without poses."""
    return None if table is None or table.rotations is None else np.asarray(table.rotations)[:, 2, :]


def _optional(read: Callable[[Path], Read], path: Path) -> Read | None:
    """Read a file, or return None if it is missing or damaged. Its section then says what it lacks."""
    if not path.is_file():
        return None
    try:
        return read(path)
    except InputError:
        return None
