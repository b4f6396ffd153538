"""A run, finished or under way: its maps, curves, particles and records."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from halfmap.api.curves import Curves, curves_of_record
from halfmap.api.results import Results
from halfmap.errors import InputError
from halfmap.finding import Finding
from halfmap.settings.particle_sets import check_refinement

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Float32 = NDArray[np.float32]


class Iterations(Sequence[Mapping[str, Any]]):
    """The records of a run, one for each iteration: ``iterations[-1]["resolution_A"]``.

    ``iterations["resolution_A"]`` is one field of all of them as an array, NaN where a record has no such number.
    """

    def __init__(self, records: Sequence[Mapping[str, Any]]) -> None:
        self._records = tuple(records)

    @overload
    def __getitem__(self, which: int) -> Mapping[str, Any]: ...

    @overload
    def __getitem__(self, which: slice) -> tuple[Mapping[str, Any], ...]: ...

    @overload
    def __getitem__(self, which: str) -> NDArray[Any]: ...

    def __getitem__(self, which: int | slice | str) -> Any:
        if not isinstance(which, str):
            return self._records[which]
        import numpy as np

        if self._records and not any(which in record for record in self._records):
            raise KeyError(which)
        values = [record.get(which) for record in self._records]
        if any(isinstance(value, str) for value in values):
            return np.array(["" if value is None else str(value) for value in values])
        return np.array([np.nan if value is None else value for value in values])

    def __len__(self) -> int:
        return len(self._records)

    def __repr__(self) -> str:
        return f"Iterations({len(self)})"


class Run(Results):
    """A run in a folder, finished or under way: a refinement or a classification.

    Everything is read when it is first asked for and then kept: make a new Run of a folder that has changed. A map that
    the run has not is None; those of classes are in ``maps``. Raises InputError for a folder that is no run.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path)
        if self.folder is None or not any((self.folder / name).is_file() for name in ("settings.toml",
                                                                                        "iterations.jsonl")):
            raise InputError(f"{self.path}: has neither settings.toml nor iterations.jsonl; give the folder of a run")
        self._folder: Path = self.folder
        check_refinement(self._folder, classes_too=True)

    def _map(self, name: str) -> Float32 | None:
        return self.maps[name] if name in self.maps else None

    @property
    def map(self) -> Float32 | None:
        """The regularised map [z, y, x] of all particles."""
        return self._map("map")

    @property
    def half1(self) -> Float32 | None:
        """The raw half map [z, y, x] of half set 1, neither filtered nor masked."""
        return self._map("half1_unfil")

    @property
    def half2(self) -> Float32 | None:
        """The raw half map [z, y, x] of half set 2."""
        return self._map("half2_unfil")

    @property
    def mask(self) -> Float32 | None:
        """The solvent mask [z, y, x] of the last iteration, 1 inside and 0 outside."""
        return self._map("mask")

    @property
    def theta(self) -> Float32 | None:
        """The local cut-off [z, y, x] in A, of methods that have one."""
        return self._map("theta")

    @cached_property
    def iterations(self) -> Iterations:
        """The records, in order."""
        from halfmap.report.pages.run_folder import read_records

        return Iterations(read_records(self._folder / "iterations.jsonl"))

    @property
    def voxel_size(self) -> float | None:
        """Side of a voxel of all maps in A; None before the first iteration."""
        found = self.iterations[-1].get("pixel_size") if self.iterations else None
        return None if found is None else float(found)

    @property
    def resolution(self) -> float | None:
        """Where the FSC of the unmasked half maps falls below 0.143, in A, as the run tells it; None before the first
        iteration. Of a classification it is that of the largest class; ``iterations[-1]["classes"]`` has all."""
        found = self.iterations[-1].get("resolution_A") if self.iterations else None
        return None if found is None else float(found)

    @cached_property
    def curves(self) -> Curves | None:
        """The half-map FSC of the last iteration; None where there is none."""
        return curves_of_record(self.iterations[-1], self.findings) if self.iterations else None

    @cached_property
    def settings(self) -> Mapping[str, Any]:
        """What the run was begun with, by name, as settings.toml says it; what has no value there is left out."""
        from halfmap.options import toml_values

        return toml_values(self._folder / "settings.toml")

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What a reader should know of the data and the result, as the last iteration says."""
        from halfmap.refinement.told import findings_in

        return tuple(findings_in(self.iterations[-1])) if self.iterations else ()

    @property
    def finished(self) -> bool:
        """Whether the run came to its end. If not, and nothing works on it, ``halfmap.resume(run)`` goes on."""
        from halfmap.settings.resume import finished

        return finished(self._folder)

    @property
    def log(self) -> str:
        """The text of log.txt; empty where there is none."""
        path = self._folder / "log.txt"
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""

    def write_report(self) -> Path:
        """Write report.html anew, as ``halfmap report`` does, and return its path. Raises InputError as it does."""
        from halfmap.api.functions import listening
        from halfmap.commands.refine import report
        from halfmap.settings.demo import ReportSettings

        with listening("Run.write_report", {}, None, False):
            report(ReportSettings(self._folder))
        return self._folder / "report.html"

    def _repr_html_(self) -> str:
        from halfmap.api.notebook import run_html

        return run_html(self)
