"""What a solve holds in memory, beside what is planned for it before a refinement begins.

python benchmarks/claims/memory.py [--box 160] [--padding 2] [--sums disk] [--symmetry C1] [--threads 1] [--only NAME]

For each regulariser a process of its own reconstructs and regularises both half sets from synthetic sums of four
quarter sets up to the Nyquist frequency: a phantom with hardly any noise, so that every band is worked on. Memory is
what no file backs (RssAnon), looked at every few milliseconds, less what the process holds once everything is loaded.
Prints a table and writes benchmarks/results/memory.json (or --result).
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: idle threads must not spin

import argparse
import gc
import json
import math
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from evidence import RESULTS, circumstances, write_record
from judge import shown
from nonuniform_speed import phantom

from halfmap import kernels
from halfmap.fourier.transform import half_volume
from halfmap.geometry.symmetry import symmetry_group
from halfmap.maps.masks import solvent_mask
from halfmap.reconstruction.statistics import Backprojection, Place, in_memory, sums_put
from halfmap.refinement.memory_plan import STATE_MAPS, Demand, kept_within, solve_stages
from halfmap.regularisation.declaration import Need
from halfmap.regularisation.protocol import HalfSets
from halfmap.runtime.memory import resident
from halfmap.runtime.scratch import Scratch
from halfmap.settings.regularisers import RegulariserOptions, need_of, regulariser_named
from halfmap.validation.fsc import FscCurves, corrected_fsc

NOISE = 0.1  # of the phantom's transform, in a quarter set
DIAMETER = 0.7  # of the particle, in boxes
WARM = 32  # box of a first solve, which loads libraries and kernels
OFTEN = 0.002  # seconds between two looks
# Freed arrays go back to the system, as they do in a large box, and a solve that repeats itself is short.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "200000", "MALLOC_TRIM_THRESHOLD_": "200000"}
METHODS: dict[str, dict[str, Any]] = {
    "uniform": {}, "nonuniform": {}, "cutoff": {}, "local-fsc": {}, "sidesplitter": {},
    **{f"sparse_smooth {mode}": {"steps": 2, "parameters": mode} for mode in
       ("fixed", "local", "cross-validated", "published-code")}}
STAGES = ("half maps", "regulariser")


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Memory of a solve, measured and planned.")
    parser.add_argument("--box", type=int, default=160)
    parser.add_argument("--padding", type=int, default=2, choices=(1, 2))
    parser.add_argument("--sums", default="disk", choices=("disk", "memory"))
    parser.add_argument("--symmetry", default="C1")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", choices=tuple(METHODS), help="this regulariser alone")
    parser.add_argument("--scratch", type=Path, help="folder for sums on disk")
    parser.add_argument("--measure", choices=tuple(METHODS), help=argparse.SUPPRESS)  # in a process of its own
    parser.add_argument("--result", type=Path, default=RESULTS / "memory.json", metavar="FILE.json")
    return parser.parse_args()


class Watch:
    """Looks at the process's memory all the time; peaks [bytes] by the name of what is under way."""

    def __init__(self) -> None:
        self.peaks: dict[str, int] = {}
        self.doing = ""
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        while True:
            doing, held = self.doing, resident()
            self.peaks[doing] = max(self.peaks.get(doing, 0), held)
            time.sleep(OFTEN)

    @contextmanager
    def during(self, name: str) -> Iterator[None]:
        """Within the block this is under way."""
        before, self.doing = self.doing, name
        try:
            yield
        finally:
            time.sleep(2 * OFTEN)
            self.doing = before


def quarter_sets(box: int, padding: int, place: Place) -> tuple[tuple[Backprojection, ...], ...]:
    """Sums of the phantom with noise of their own, up to the Nyquist frequency."""
    limit = math.ceil(box / 2) - 1
    random = torch.Generator().manual_seed(1)
    signal = half_volume(phantom(box, random), padding, limit)
    noise = NOISE * float(signal.abs().square().mean().sqrt())

    def quarter() -> Backprojection:
        empty = Backprojection.zeros(box, padding, limit, torch.zeros(()))
        empty.sums[..., 2] = 1.0
        for plane, values in zip(empty.sums, signal, strict=True):
            values = torch.view_as_real(values)
            plane[..., :2] = values + noise * torch.randn(values.shape, generator=random)
        empty.sums[:, :, 0] *= 0.5  # the fold adds the Friedel mates of this plane
        return Backprojection(place(empty.sums), box, padding, limit)

    return tuple(tuple(quarter() for _ in range(2)) for _ in range(2))


def solved(given: argparse.Namespace, box: int, method: str, watch: Watch, place: Place) -> None:
    """What an iteration does from the sums on, as in halfmap.refinement.refine."""
    name, options = method.split()[0], METHODS[method]
    quarters: Any = quarter_sets(box, given.padding, place)
    state = torch.zeros(STATE_MAPS, box, box, box).fill_(1.0)  # no page is there before it is written to
    masks = []

    def curves(first: torch.Tensor, second: torch.Tensor) -> FscCurves:
        masks.append(solvent_mask((first + second) / 2, 1.0, DIAMETER * box).to(first))
        random = torch.Generator().manual_seed(1)
        return corrected_fsc(first, second, masks[0], random, sphere_radius=DIAMETER / 2 * box)

    with sums_put(place):
        with watch.during("half maps"):
            halves = HalfSets.build(quarters, symmetry_group(given.symmetry), 1.0, curves)
        if not _need(name).quarters:
            halves = replace(halves, sums=())
        halves = replace(halves, window=masks[0])
        del quarters
        regulariser = regulariser_named(name, **options)
        with watch.during("regulariser"):
            memory = regulariser.solve(halves, masks[0], {}).memory
            if memory:  # what it keeps from one iteration to the next
                regulariser.solve(halves, masks[0], memory)
    del state


def measured(given: argparse.Namespace, name: str) -> dict[str, int]:
    """Bytes that the stages of a solve hold at most, in this process."""
    kernels.set_threads(given.threads)
    torch.set_num_threads(given.threads)
    watch = Watch()
    with tempfile.TemporaryDirectory(dir=given.scratch) as folder:
        place: Place = Scratch(Path(folder)).keep if given.sums == "disk" else in_memory
        solved(given, WARM, name, watch, place)
        gc.collect()
        program, watch.peaks = resident(), {}
        solved(given, given.box, name, watch, place)
    return {stage: watch.peaks[stage] - program for stage in STAGES}


def in_a_process(given: argparse.Namespace, name: str) -> dict[str, int]:
    """`measured` in a process of its own."""
    words = [sys.executable, __file__, "--measure", name, "--box", str(given.box), "--padding", str(given.padding),
             "--sums", given.sums, "--symmetry", given.symmetry, "--threads", str(given.threads)]
    words += [] if given.scratch is None else ["--scratch", str(given.scratch)]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True, env=os.environ | ALLOCATOR)
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return found


def _need(name: str) -> Need:
    """What a method needs by its declaration."""
    parameters = METHODS[name].get("parameters", "fixed")
    return need_of(RegulariserOptions(regulariser=name.split()[0], ss_parameters=parameters))


def planned(given: argparse.Namespace, name: str) -> dict[str, int]:
    """Bytes that are planned for the same."""
    symmetric = len(symmetry_group(given.symmetry)) > 1
    demand = Demand(given.box, given.padding, math.ceil(given.box / 2) - 1, given.box, 1, 0, 0, symmetric, name,
                    _need(name), kept=kept_within(DIAMETER * given.box, 1.0, given.box))
    stages = solve_stages(demand, given.sums == "disk")
    return {stage: stages[stage] for stage in STAGES}


def main() -> int:
    """Measure, print and write."""
    given = options()
    if given.measure is not None:
        print(json.dumps(measured(given, given.measure)))
        return 0
    record = circumstances()
    rows = {}
    for name in (given.only,) if given.only else tuple(METHODS):
        have, plan = in_a_process(given, name), planned(given, name)
        rows[name] = {stage: {"measured": have[stage], "planned": plan[stage]} for stage in STAGES}
        print(f"{name}: {rows[name]}", flush=True)
    volume = 4 * given.box**3
    columns = [f"{stage}, {what}" for stage in STAGES for what in ("measured", "planned")]
    shown([(name, [row[stage][what] / volume for stage in STAGES for what in ("measured", "planned")], ".1f")
           for name, row in rows.items()],
          columns, f"box {given.box}, padding {given.padding}, sums on {given.sums}, {given.symmetry}: memory in maps "
          f"of {volume / 1e6:.0f} MB")
    write_record(given.result, record | {
        "box": given.box, "padding": given.padding, "sums": given.sums, "symmetry": given.symmetry,
        "threads": given.threads, "map_bytes": volume, "bytes": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
