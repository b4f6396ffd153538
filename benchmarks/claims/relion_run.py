"""RELION's side of a comparison: its input from any STAR file, its refinement, and what that cost."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from evidence import Cost, run_measured

from halfmap.errors import InputError
from halfmap.maps.mrc import StackWriter, read_map, write_map
from halfmap.particles.preprocess import normalise
from halfmap.particles.stack import check_stacks
from halfmap.particles.stack_reader import StackReader
from halfmap.particles.star import read_star, write_star
from halfmap.particles.table import ParticleTable, with_poses

STACK, TABLE, REFERENCE, RECORD = "particles.mrcs", "particles.star", "initial.mrc", "relion_cost.json"
BATCH = 256
LEADER = 0


@dataclass(frozen=True)
class RelionCost:
    """Cost of a run under mpirun: all ranks together, and each rank on its own.

    The leader (rank 0) of a gold-standard refinement hands out work and waits for it in a loop that never
    sleeps: its CPU time is the time that it waited. `fair_cpu_seconds` leaves it out.
    """

    total: Cost
    ranks: list[dict[str, float]]
    version: str

    @property
    def fair_cpu_seconds(self) -> float:
        """CPU seconds of the ranks that refine, the waiting leader left out."""
        return sum(rank["cpu_seconds"] for i, rank in enumerate(self.ranks) if i != LEADER)

    @property
    def peak_rss_mb(self) -> float:
        """Peak memory of all ranks together, if each has its peak at the same time."""
        return sum(rank["peak_rss_mb"] for rank in self.ranks)


def prepare(table: ParticleTable, reference: Path, diameter: float, folder: Path) -> None:
    """Write what RELION reads into `folder`: the images as one float32 stack in the table's order, background
    mean 0 and sd 1 outside the particle's diameter (A), their STAR file, and the reference map.

    Raises InputError where images cannot be read, differ in size or hold no signal.
    """
    folder.mkdir(parents=True, exist_ok=True)
    check_stacks(table)
    sizes = {group.box for group in table.optics}
    if len(sizes) > 1:
        raise InputError(f"{table.source}: boxes of {sizes} pixels; one stack holds one size")
    box, pixel_size = sizes.pop(), table.optics[0].pixel_size
    with StackReader(table) as reader, StackWriter(folder / STACK, len(table), box, pixel_size) as writer:
        for index in np.split(np.arange(len(table)), range(BATCH, len(table), BATCH)):
            images, sound = normalise(torch.from_numpy(reader.read(index)), 0.5 * diameter / pixel_size)
            if not bool(sound.all()):
                row = int(index[int((~sound).nonzero()[0])])
                raise InputError(f"{table.name(row)}: the image holds no signal; remove the row")
            writer.write(images)
    columns = dict(table.columns)
    columns["rlnImageName"] = [f"{i + 1:06d}@{STACK}" for i in range(len(table))]
    write_star(folder / TABLE, replace(
        table, columns=columns, stacks=(Path(STACK),), stack_index=np.zeros(len(table), np.int64),
        image_index=np.arange(len(table))))
    start = read_map(reference)
    write_map(folder / REFERENCE, start.data, start.pixel_size)


def command(folder: Path, diameter: float, symmetry: str, ini_high: float, threads: int, seed: int) -> list[str]:
    """RELION's auto-refine as its graphical interface writes it by default, one leader and one rank per half
    set; paths are relative to `folder`. ini_high is the one value that is not its default (60 A)."""
    wrapped = [sys.executable, str(Path(__file__).with_name("rank_usage.py")), str(folder)]
    return [
        "mpirun", "--allow-run-as-root", "--oversubscribe", "-np", "3", *wrapped, "relion_refine_mpi",
        "--i", TABLE, "--ref", REFERENCE, "--o", "./run",
        "--auto_refine", "--split_random_halves", "--firstiter_cc", "--ini_high", f"{ini_high:g}",
        "--dont_combine_weights_via_disc", "--pool", "3", "--pad", "2", "--ctf",
        "--particle_diameter", f"{diameter:g}", "--flatten_solvent", "--zero_mask", "--oversampling", "1",
        "--healpix_order", "2", "--auto_local_healpix_order", "4", "--offset_range", "5", "--offset_step", "2",
        "--sym", symmetry, "--low_resol_join_halves", "40", "--norm", "--scale", "--j", str(threads),
        "--random_seed", str(seed),
    ]


def refine(folder: Path, words: list[str]) -> RelionCost:
    """Run RELION in a prepared folder and keep what it cost in relion_cost.json."""
    folder = folder.resolve()
    for old in folder.glob("rank*.json"):
        old.unlink()
    (folder / RECORD).unlink(missing_ok=True)
    total = run_measured(words, folder / "run.log", cwd=folder)
    (folder / RECORD).write_text(json.dumps({"total": total.__dict__, "version": version()}, indent=1) + "\n")
    return cost(folder)


def cost(folder: Path) -> RelionCost:
    """What the finished run in `folder` cost. Raises InputError where it has not finished."""
    if not (folder / RECORD).exists():
        done = sorted(folder.glob("run_it*_data.star"))
        state = f"{done[-1].name} is its last iteration" if done else "no iteration is done"
        raise InputError(f"{folder}: no {RECORD}: RELION has not finished there ({state})")
    record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    files = sorted(folder.glob("rank*.json"), key=lambda path: int(re.sub(r"\D", "", path.stem)))
    ranks = [json.loads(path.read_text(encoding="utf-8")) for path in files]
    return RelionCost(Cost(**record["total"]), ranks, record["version"])


def refined_table(folder: Path, table: ParticleTable) -> ParticleTable:
    """The particles of `table` with the poses that RELION gave them (it keeps the names in its stack, not the
    order of the rows)."""
    found = read_star(folder / "run_data.star", data_dir=folder)
    if found.rotations is None:
        raise InputError(f"{found.source}: has no angles")
    return with_poses(table.select(found.image_index), found.rotations, found.origins, found.half)


def available() -> bool:
    """True where RELION and mpirun are installed."""
    return shutil.which("relion_refine_mpi") is not None and shutil.which("mpirun") is not None


def version() -> str:
    """RELION's version and precision, in one line."""
    told = subprocess.run(["relion_refine", "--version"], capture_output=True, text=True)
    return " ".join((told.stdout + told.stderr).split())
