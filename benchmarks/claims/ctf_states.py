"""Images that were phase-flipped or multiplied by their CTF are refined as well as untouched ones.

python benchmarks/claims/ctf_states.py --out FOLDER [--n 400] [--threads 1] [--result FILE.json]

The demo's molecule is simulated in a box of 96 pixels, of which 64 are kept. The same images are stored in five ways:
untouched; phase-flipped, said so in the STAR file or not; multiplied by their CTF; multiplied in the large box and then
cut, which keeps signal that the CTF moves out of the small one. The CTFs that they are treated with are made here, by
numpy. Each set is refined from the same start. Prints a table and writes benchmarks/results/ctf_states.json.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
from evidence import RESULTS, CommandFailed, circumstances, write_record
from halfmap_run import refine, simulate
from judge import Truth, judge, rigid_part, shown

from halfmap.errors import InputError
from halfmap.imaging.optics import CtfState
from halfmap.particles.model import write_pdb
from halfmap.particles.star import read_star, write_star
from halfmap.particles.table import ParticleTable
from halfmap.simulation.demo_molecule import demo_molecule

WIDE, BOX, PIXEL, DIAMETER = 96, 64, 2.8, 156
ROWS = [
    ("poses: median error, deg", "pose_median", ".2f"),
    ("half maps, FSC 0.143, A", "half_0143_unmasked", ".2f"),
    ("mean map to truth, FSC 0.5, A", "truth_mean_05", ".2f"),
    ("half map to truth, FSC 0.5, A", "truth_half1_05", ".2f"),
    ("CPU seconds", "cpu_seconds", ",.0f"),
]
Numbers = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Way:
    """How images are stored: what their transform is multiplied by, given the CTF; in which box; and what the STAR file
    says of it."""

    factor: Callable[[Numbers], Numbers]
    box: int
    told: CtfState


WAYS = {
    "untouched": Way(np.ones_like, BOX, CtfState.UNTOUCHED),
    "flipped": Way(np.sign, BOX, CtfState.PHASE_FLIPPED),
    "flipped, not said": Way(np.sign, BOX, CtfState.UNTOUCHED),
    "multiplied": Way(np.array, BOX, CtfState.PREMULTIPLIED),
    "multiplied, then cut": Way(np.array, WIDE, CtfState.PREMULTIPLIED),
}


def transfer(table: ParticleTable, row: int, box: int) -> Numbers:
    """The CTF [y, x // 2 + 1] of an image of this box."""
    optics, defocus = table.optics[0], table.defocus
    fy, fx = np.meshgrid(np.fft.fftfreq(box, PIXEL), np.fft.rfftfreq(box, PIXEL), indexing="ij")
    u, v, angle = float(defocus.u[row]), float(defocus.v[row]), float(defocus.angle[row])
    local = (u + v) / 2 + (u - v) / 2 * np.cos(2 * (np.arctan2(fy, fx) - angle))
    volts, square = 1e3 * optics.voltage, fx**2 + fy**2
    wavelength = 12.2643247 / math.sqrt(volts * (1 + volts * 0.978466e-6))
    chi = math.pi * wavelength * local * square
    chi -= math.pi / 2 * 1e7 * optics.spherical_aberration * wavelength**3 * square**2
    return np.asarray(np.sin(chi + math.asin(optics.amplitude_contrast)))


def cut(images: Numbers, box: int) -> Numbers:
    """The middle of images [b, y, x]."""
    first = images.shape[-1] // 2 - box // 2
    return images[:, first : first + box, first : first + box]


def stored(source: Path, way: Way, folder: Path) -> Path:
    """The images of a simulation stored in this way; the STAR file."""
    table = read_star(source / "particles.star")
    with mrcfile.open(source / "particles.mrcs") as stack:
        images = cut(np.array(stack.data, np.float64), way.box)
    for i in range(len(images)):
        spectrum = np.fft.rfft2(np.fft.ifftshift(images[i])) * way.factor(transfer(table, i, way.box))
        images[i] = np.fft.fftshift(np.fft.irfft2(spectrum, s=(way.box, way.box)))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "particles.mrcs"
    mrcfile.write(path, cut(images, BOX).astype(np.float32), voxel_size=PIXEL, overwrite=True)
    optics = tuple(replace(group, box=BOX, ctf_state=way.told) for group in table.optics)
    write_star(folder / "particles.star", replace(table, optics=optics, stacks=(path,)))
    return folder / "particles.star"


def main() -> int:
    """Simulate, store, refine, judge, print and write."""
    parser = argparse.ArgumentParser(description="Refinements of the same images, stored in several ways.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--n", type=int, default=400, help="number of images")
    parser.add_argument("--snr", type=float, default=0.05, help="over the large box")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--result", type=Path, default=RESULTS / "ctf_states.json", metavar="FILE.json")
    given = parser.parse_args()
    record, results = circumstances(), {}
    source, model = given.out / f"images_{given.n}_{given.snr:g}", given.out / "molecule.pdb"
    try:
        if not (source / "particles.star").exists():
            given.out.mkdir(parents=True, exist_ok=True)
            write_pdb(model, demo_molecule())
            simulate([model, "--n", given.n, "--box", WIDE, "--apix", PIXEL, "--snr", given.snr, "--seed", 1], source)
        truth = Truth(read_star(source / "particles_truth.star"), "C1", rigid_part(model))
        for name, way in WAYS.items():
            folder = given.out / name.replace(",", "").replace(" ", "_")
            run = folder / "run"
            cost = refine([stored(source, way, folder), "--map", source / "initial.mrc", "--diameter", DIAMETER,
                           "--threads", given.threads], run)
            found = judge(read_star(run / "particles.star"), run / "half1_unfil.mrc", run / "half2_unfil.mrc", truth)
            results[name] = {**found, "command": cost.command, "cpu_seconds": cost.cpu_seconds}
    except (InputError, CommandFailed) as error:
        print(f"ctf_states: error: {error}", file=sys.stderr)
        return 2
    shown([(label, [result[key] for result in results.values()], style) for label, key, style in ROWS],
          list(results), f"{given.n} images of {BOX} px")
    write_record(given.result, record | {"images": given.n, "snr": given.snr, "box": BOX, "ways": results})
    print(json.dumps({name: result["pose_median"] for name, result in results.items()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
