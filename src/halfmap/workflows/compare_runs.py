"""Read finished runs for `halfmap compare`, and list the settings in which they differ."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from halfmap.errors import InputError
from halfmap.maps.mrc import MapFile, read_map
from halfmap.options import SettingRow, build, table
from halfmap.particles.star import read_star
from halfmap.particles.table import ParticleTable
from halfmap.refinement.outputs import Record, read_records
from halfmap.runtime.log import read_header
from halfmap.settings.refine import RefineSettings
from halfmap.settings.regularisers import prefixes_of_others
from halfmap.workflows.half_map_pair import require_same_grid

# Settings that say where and how a run was computed, not what it computed.
ELSEWHERE = ("out", "threads", "processes", "device", "batch", "keep_iterations", "data_dir")


@dataclass(frozen=True)
class Run:
    """A run as read from its folder.

    name: what the comparison calls it; half1, half2: raw half maps [z,y,x]; pixel_size in A; theta: the local cut-off
    [z,y,x] in A, and particles: both None where the run has none; settings by name; records: one for each iteration;
    finished: whether the run came to its end.
    """

    name: str
    folder: Path
    half1: Tensor
    half2: Tensor
    pixel_size: float
    theta: Tensor | None
    particles: ParticleTable | None
    settings: dict[str, SettingRow]
    records: list[Record]
    finished: bool

    @property
    def mean(self) -> Tensor:
        """Mean of the half maps [z,y,x]."""
        return (self.half1 + self.half2) / 2

    def setting(self, name: str) -> str:
        """The value of a setting as text; empty where it is not recorded."""
        return self.settings[name].value if name in self.settings else ""

    @property
    def cpu_seconds(self) -> float | None:
        """CPU seconds of all iterations together; None where they are not recorded."""
        times = [record.get("cpu_seconds") for record in self.records]
        known = [float(time) for time in times if isinstance(time, int | float)]
        return sum(known) if known else None

    def last(self, key: str) -> Any:
        """A field of the last iteration's record; None where it is not recorded."""
        return self.records[-1].get(key) if self.records else None


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Read the runs in these folders, in the order given.

    Raises InputError where a file is missing or damaged, and where the maps of two runs differ in box or pixel size.
    """
    runs = [_read_run(folder, name) for folder, name in zip(folders, names_apart(folders), strict=True)]
    first = runs[0]
    for run in runs[1:]:
        box, other = first.half1.shape[-1], run.half1.shape[-1]
        if box != other or abs(run.pixel_size / first.pixel_size - 1) > 1e-3:
            raise InputError(
                f"{run.folder}: box {other} of {run.pixel_size:g} A, but {first.folder} has box {box} of "
                f"{first.pixel_size:g} A; compare runs of the same images, or refine both from images of one size")
    return runs


def names_apart(folders: Sequence[Path]) -> list[str]:
    """A short name for each folder: the last parts of its path, as few as tell the folders apart."""
    for parts in range(1, max(len(folder.parts) for folder in folders)):
        names = ["/".join(folder.parts[-parts:]) for folder in folders]
        if len(set(names)) == len(names):
            return names
    return [str(folder) for folder in folders]


def _read_run(folder: Path, name: str) -> Run:
    paths = [folder / f"half{h}_unfil.mrc" for h in (1, 2)]
    first, second = (read_map(path) for path in paths)
    require_same_grid(first, second, *paths)
    for path, read in zip(paths, (first, second), strict=True):
        if read.data.min() == read.data.max():
            raise InputError(f"{path}: the map is {float(read.data.min()):g} everywhere; refine again")
    star = folder / "particles.star"
    return Run(
        name, folder, first.data, second.data, first.pixel_size, _theta(folder / "theta.mrc", first, paths[0]),
        read_star(star) if star.is_file() else None, _settings(folder / "settings.toml"),
        read_records(folder / "iterations.jsonl"), read_header(folder / "log.txt").finished,
    )  # fmt: skip


def _theta(path: Path, like: MapFile, like_path: Path) -> Tensor | None:
    if not path.is_file():
        return None
    read = read_map(path)
    require_same_grid(like, read, like_path, path)
    return read.data


def _settings(path: Path) -> dict[str, SettingRow]:
    """Read settings.toml. A setting that it leaves out has its default; one unknown to this version stays as it is."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the run's folder") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a TOML file ({error}); mend the file") from None
    known = {field.name for field in dataclasses.fields(RefineSettings)}
    try:
        settings = build(RefineSettings, {name: value for name, value in values.items() if name in known})
    except InputError as error:
        raise InputError(f"{path}: {error}; give the folder of a refinement") from None
    return table(settings) | {
        name: SettingRow(str(value), "", "") for name, value in values.items() if name not in known}


@dataclass(frozen=True)
class DifferingSetting:
    """A setting whose value is not the same in all runs: its name, what it means, and its value in each run."""

    name: str
    meaning: str
    values: list[str]


def differing_settings(runs: Sequence[Run]) -> list[DifferingSetting]:
    """List the settings in which the runs differ.

    Leaves out settings that say where a run was computed, and options of regularisers that no run used.
    """
    names = dict.fromkeys(name for run in runs for name in run.settings)
    used = {run.setting("regulariser") for run in runs}
    unused = prefixes_of_others(used)
    unknown = SettingRow("not recorded", "", "")
    rows = []
    for name in names:
        found = [run.settings.get(name, unknown) for run in runs]
        values = [f"{row.value} {row.unit}".strip() for row in found]
        if len(set(values)) > 1 and name not in ELSEWHERE and not name.startswith(unused):
            meaning = next(row.meaning for row in found if row is not unknown)
            rows.append(DifferingSetting(name, meaning.split(" (")[0], values))  # without the papers
    return rows
