"""The run folder: what a refinement leaves behind after every iteration, each file whole or not at all."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from numpy.typing import ArrayLike

from halfmap.errors import InputError
from halfmap.maps.mrc import replaced_atomically, write_map
from halfmap.particles.star import write_star
from halfmap.particles.table import ParticleTable, with_poses
from halfmap.refinement.state import State
from halfmap.regularisation.protocol import HalfSets, Solution
from halfmap.runtime.background import Background
from halfmap.validation.fsc import write_fsc_xml

Record = dict[str, Any]
PROBABILITY = "halfmapParticleProbability"  # the column of particle files
CONTRAST = "halfmapContrast"  # of an image relative to the reference, both in units of the image's own background


@dataclass(frozen=True)
class RunFolder:
    """Paths and writers of one run. behind: writes what takes long while the next iteration runs."""

    path: Path
    pixel_size: float
    keep_iterations: bool = False
    behind: Background = field(default_factory=Background)

    def write_maps(self, halves: HalfSets, solution: Solution, state: State) -> None:
        """map.mrc (joined, regularised), half1_unfil.mrc and half2_unfil.mrc (raw, unmasked), mask.mrc."""
        named = {
            "half1_unfil.mrc": halves.raw[0], "half2_unfil.mrc": halves.raw[1],
            "map.mrc": solution.joined, "mask.mrc": state.mask,
        }  # fmt: skip
        for name, values in (named | {f"{key}.mrc": v for key, v in solution.arrays.items()}).items():
            write_map(self.path / name, values.cpu(), self.pixel_size)
        if self.keep_iterations:
            for name in ("half1_unfil.mrc", "half2_unfil.mrc", "map.mrc"):
                write_map(self._iterations() / f"it{state.iteration:03d}_{name}", named[name].cpu(), self.pixel_size)

    def write_particles(
        self, table: ParticleTable, state: State, scale_group: torch.Tensor,
        columns: Mapping[str, ArrayLike] | None = None,
    ) -> ParticleTable:  # fmt: skip
        """particles.star: poses of the best mode, half sets, how sure each pose is, and the contrast of the image.

        scale_group [b]: the entry of State.scale that each particle uses. columns: more of them, or others, by name.

        The file is written while the program goes on, and a fault is raised by the next call, or where ``behind`` is
        joined. The checkpoint does not wait for it: of a run that is killed meanwhile the next iteration writes it.
        Files of iterations are never written again, and so they are waited for.
        """
        poses = state.poses
        pixel = table.pixel_size
        extra: dict[str, ArrayLike] = {
            "rlnMaxValueProbDistribution": poses.weight[:, 0].numpy(),
            "rlnLogLikeliContribution": poses.gain.numpy(),
            "halfmapAngleSd": poses.angle_sd.numpy(),
            "halfmapShiftSd": (poses.shift_sd.double() * pixel).numpy(),
            PROBABILITY: poses.present.numpy(),
            CONTRAST: state.scale[scale_group].numpy(),
        } | dict(columns or {})
        origins = -poses.shifts[:, 0].double() * pixel[:, None]
        refined = with_poses(table, poses.rotations[:, 0].double(), origins, poses.half.numpy(), extra)
        paths = [self.path / "particles.star"]
        if self.keep_iterations:
            paths.append(self._iterations() / f"it{state.iteration:03d}_particles.star")

        def write() -> None:
            for path in paths:
                write_star(path, refined)

        self.behind.start(write)
        if self.keep_iterations:
            self.behind.join()
        return refined

    def _iterations(self) -> Path:
        return made_folder(self.path / "iterations")

    def write_fsc(self, halves: HalfSets) -> None:
        """fsc.xml: the masked and corrected curve."""
        box = halves.raw[0].shape[-1]
        write_fsc_xml(self.path / "fsc.xml", halves.curves.corrected.cpu(), box, self.pixel_size)

    def write_records(self, records: list[Record]) -> None:
        """iterations.jsonl: one JSON object per iteration."""
        text = "".join(json.dumps(_plain(record)) + "\n" for record in records)
        self.write_text("iterations.jsonl", text)

    def write_text(self, name: str, text: str) -> None:
        """A small text file."""
        with replaced_atomically(self.path / name) as stream:
            stream.write(text.encode())


def read_records(path: Path, cut_short: bool = False) -> list[Record]:
    """What `RunFolder.write_records` wrote, in the order of the file. A file that is missing holds no records.

    cut_short: whether a last line that broke off is left out. Raises InputError, which names the line, for any other
    damaged one.
    """
    if not path.is_file():
        return []
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the run's folder") from None
    records: list[Record] = []
    for row, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line.decode())
        except ValueError:
            if cut_short and row == len(lines):
                break
            record = None
        if not isinstance(record, dict):
            raise InputError(f"{path}: line {row} is not the record of an iteration; mend or remove the line")
        records.append(record)
    return records


def made_folder(path: Path) -> Path:
    """The folder, made with those above it if it is absent. Raises InputError where the file system refuses."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be made: {error.strerror or error}; check that the folder above is writable "
                         "and has space") from error
    return path


def _plain(value: Any) -> Any:
    """The value as JSON, which knows neither NaN nor tensors."""
    if isinstance(value, torch.Tensor):
        return _plain(value.tolist())
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value
