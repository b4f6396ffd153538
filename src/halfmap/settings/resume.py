"""What a user can choose when a run is resumed: how it works, but not what it computes."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path

from halfmap.errors import InputError
from halfmap.options import check_declared
from halfmap.settings.checks import absolute_paths


@dataclass(frozen=True)
class ResumeSettings:
    """Settings of ``halfmap resume``. All other settings are those that the run was begun with."""

    run: Path = field(metadata={
        "help": "folder of the run that was stopped", "short": "RUN", "positional": True})
    threads: int | None = field(default=None, metadata={
        "help": "CPU threads, 0 for all cores; the result is the same", "at_least": 0, "none": "as before",
        "aliases": ("--j",)})
    processes: int | None = field(default=None, metadata={
        "help": "processes on this machine, 0 for automatic; another number starts the iteration under way anew",
        "at_least": 0, "none": "as before"})
    data_dir: Path | None = field(default=None, metadata={
        "help": "folder that the image paths start from, if the images were moved", "short": "folder",
        "none": "as before"})
    max_memory: float | None = field(default=None, metadata={
        "help": "memory that the run may take; where it does not fit as before, batches are smaller or sums go to disk",
        "unit": "GB", "above": 0, "none": "as before"})
    scratch: Path | None = field(default=None, metadata={
        "help": "folder for sums on disk", "short": "folder", "none": "as before"})


def validated_resume(settings: ResumeSettings) -> ResumeSettings:
    """The settings with absolute paths. Raises InputError for a path that is no folder."""
    check_declared(settings)
    paths = absolute_paths(settings)
    if not paths["run"].is_dir():
        raise InputError(f"{paths['run']}: no such folder; give the one that `halfmap refine --out` wrote")
    if "data_dir" in paths and not paths["data_dir"].is_dir():
        raise InputError(f"--data-dir {paths['data_dir']}: no such folder")
    return dataclasses.replace(settings, **paths)


def finished(run: Path) -> bool:
    """Whether the run in this folder has finished: its last record is the final pass, and no checkpoint is left."""
    records = run / "iterations.jsonl"
    if (run / "checkpoint" / "state").exists() or not records.is_file():
        return False
    lines = records.read_text(encoding="utf-8", errors="replace").splitlines()
    try:
        return bool(lines) and json.loads(lines[-1])["search"] == "final"
    except (json.JSONDecodeError, KeyError, TypeError):
        return False
