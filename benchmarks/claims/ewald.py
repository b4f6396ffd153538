"""The curvature of the Ewald sphere: a large particle at 100 kV, and a small one at 300 kV where it does not matter.

python benchmarks/claims/ewald.py --out FOLDER [--cases large small] [--threads 1] [--result FILE.json]

A shell of beads with the symmetry of a capsid is imaged so that every bead has the defocus of its own height, which is
what curvature is (to first order in the scattering). Images are exact up to rounding: the phase of the height,
exp(i pi lambda f^2 z), is expanded in powers of z, and the beads' projections weighted with each power are summed. They
are then refined at their true poses, flat and with either sign, and the maps compared with the beads' density.
Prints a table and writes benchmarks/results/ewald.json (or --result).
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from evidence import RESULTS, CommandFailed, circumstances, write_record
from halfmap_run import refine
from judge import against_map, shown
from torch import Tensor

from halfmap.errors import InputError
from halfmap.fourier.transform import image_coefficients
from halfmap.geometry.rotations import matrix_to_euler, random_rotations
from halfmap.geometry.symmetry import symmetry_group
from halfmap.imaging.ctf import Defocus, ctf
from halfmap.imaging.curvature import CurvedImages, depth_resolution
from halfmap.imaging.delocalisation import ProjectedPower
from halfmap.imaging.density import Cloud, Placed, density_map, project
from halfmap.imaging.forward import BandImages, Geometries
from halfmap.imaging.optics import OpticsGroup
from halfmap.kernels.poses import Samples
from halfmap.maps.filters import lowpass
from halfmap.maps.masks import spherical_mask
from halfmap.maps.mrc import StackWriter, read_map, write_map
from halfmap.reconstruction.statistics import Backprojection

FALL = 45.0  # A^2, B factor of the beads
WAYS = ("off", "positive", "negative")
SIGN = 1  # of the images' curvature: positive
ORDERS = 16  # powers of the height; the phase is less than 3 radians, and 3^16 / 16! = 2e-6
ROWS = [
    ("map to truth, FSC 0.5, A", "truth_mean_05", ".2f"),
    ("map to truth, FSC 0.143, A", "truth_mean_0143", ".2f"),
    ("map to truth, mean beyond 12 A", "truth_mean_average", ".4f"),
    ("half maps, FSC 0.143, A", "half_0143", ".2f"),
    ("CPU seconds", "cpu_seconds", ",.0f"),
]


@dataclass(frozen=True)
class Case:
    """Images to be made: beads between two radii (A), under a point group."""

    voltage: float
    inner: float
    outer: float
    symmetry: str
    beads: int
    box: int
    pixel_size: float
    images: int
    signal: float

    @property
    def optics(self) -> OpticsGroup:
        return OpticsGroup("beads", self.voltage, 2.7, 0.1, self.pixel_size, self.box)


CASES = {
    "large": Case(100.0, 90.0, 145.0, "I1", 60, 256, 1.25, 160, 0.04),
    "small": Case(300.0, 10.0, 50.0, "O", 20, 96, 1.25, 300, 0.04),
}


def cloud_of(case: Case) -> Cloud:
    """The beads, all mates of them."""
    random = np.random.default_rng(4)
    way = random.normal(size=(case.beads, 3))
    radius = random.uniform(case.inner**3, case.outer**3, case.beads) ** (1 / 3)
    own = torch.from_numpy(way / np.linalg.norm(way, axis=1)[:, None] * radius[:, None])
    every = torch.einsum("gij,aj->gai", symmetry_group(case.symmetry), own).reshape(-1, 3)
    return Cloud(every, torch.ones(len(every), 1), torch.full((len(every), 1), 4 * math.pi**2 / FALL))


def image(case: Case, cloud: Cloud, rotation: Tensor, defocus: Defocus) -> Tensor:
    """One image [y, x] of beads that each have a defocus of their own, on a grid half as wide again as the box."""
    optics, wide = case.optics, 3 * case.box // 2
    height = (cloud.xyz @ rotation[2]) / case.outer
    kxy = image_coefficients(wide).flatten(0, 1)
    wider = OpticsGroup("wide", optics.voltage, optics.spherical_aberration, optics.amplitude_contrast,
                        optics.pixel_size, wide)
    quarter = Defocus(defocus.u, defocus.v, defocus.angle, defocus.phase_shift + math.pi / 2, defocus.bfactor,
                      defocus.scale)
    size = (1, wide, wide // 2 + 1)
    transfer, slope = (ctf(kxy, wider, one).view(size)[0].double() for one in (defocus, quarter))  # -sin, cos
    phase = SIGN * math.pi * optics.wavelength * case.outer * (kxy.double() / wider.box_length).square().sum(1)
    power, phase = torch.ones(size[1:], dtype=torch.float64), phase.view(size[1:])
    total = torch.zeros(size[1:], dtype=torch.complex128)
    for order in range(ORDERS):
        weighted = Cloud(cloud.xyz, cloud.weight * height[:, None] ** order, cloud.exponent)
        moment = project([[Placed(weighted, rotation, torch.zeros(2))]], wide, optics.pixel_size, 2)[0]
        # -sin(gamma + p) = -sin(gamma) cos(p) - cos(gamma) sin(p), p = phase * height
        part = transfer if order % 2 == 0 else -slope
        total += torch.fft.rfft2(moment.double()) * (part * power * (-1) ** (order // 2))
        power = power * phase / (order + 1)
    start = wide // 2 - case.box // 2
    return torch.fft.irfft2(total, s=(wide, wide))[start : start + case.box, start : start + case.box]


def simulated(case: Case, folder: Path) -> Path:
    """particles.star with true poses, and truth.mrc, made if they are not there."""
    path = folder / "particles.star"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    cloud, generator = cloud_of(case), torch.Generator().manual_seed(7)
    rotations = random_rotations(case.images, generator).double()
    u = 3000 + 5000 * torch.rand(case.images, generator=generator).double()
    truth = density_map([cloud], case.box, case.pixel_size, 2)
    zero = torch.zeros(1, dtype=torch.float64)
    defoci = [Defocus(d[None], d[None] - 150, zero + 0.6, zero, zero, zero + 1) for d in u]
    first = torch.stack([image(case, cloud, rotations[i], defoci[i]) for i in range(4)])
    gain = (case.signal / float(first.var())) ** 0.5
    with StackWriter(folder / "particles.mrcs", case.images, case.box, case.pixel_size, "float32") as writer:
        for i in range(case.images):
            signal = first[i] if i < 4 else image(case, cloud, rotations[i], defoci[i])
            noise = torch.randn(case.box, case.box, generator=generator)
            writer.write((gain * signal + noise).float()[None])
    write_map(folder / "truth.mrc", gain * truth, case.pixel_size)
    write_map(folder / "initial.mrc", lowpass(gain * truth, case.pixel_size, 15.0), case.pixel_size)
    angles = matrix_to_euler(rotations).numpy()
    optics = case.optics
    lines = ["# version 30001", "", "data_optics", "", "loop_"]
    lines += [f"_rln{name}" for name in ("OpticsGroup", "OpticsGroupName", "Voltage", "SphericalAberration",
                                        "AmplitudeContrast", "ImagePixelSize", "ImageSize", "ImageDimensionality")]
    lines += [f"1 beads {optics.voltage:g} 2.7 0.1 {case.pixel_size} {case.box} 2", "", "# version 30001", "",
              "data_particles", "", "loop_"]
    lines += [f"_rln{name}" for name in ("ImageName", "OpticsGroup", "AngleRot", "AngleTilt", "AnglePsi",
                                        "OriginXAngst", "OriginYAngst", "DefocusU", "DefocusV", "DefocusAngle",
                                        "RandomSubset")]
    lines += [f"{i + 1:06d}@particles.mrcs 1 {' '.join(f'{a:.4f}' for a in angles[i])} 0 0 {float(u[i]):.2f} "
              f"{float(u[i]) - 150:.2f} {math.degrees(0.6):.4f} {i % 2 + 1}" for i in range(case.images)]
    path.write_text("\n".join([*lines, ""]), encoding="utf-8")
    return path


def judged(case: Case, run: Path, truth: Path) -> dict[str, Any]:
    """The mean of the half maps against the truth, within a sphere around the beads."""
    halves = [read_map(run / f"half{h}_unfil.mrc").data for h in (1, 2)]
    expected = read_map(truth).data
    mask = spherical_mask(case.box, (case.outer + 8) / case.pixel_size, 4.0)
    found = against_map((halves[0] + halves[1]) / 2, expected, mask, case.pixel_size, "truth_mean")
    between = against_map(halves[0], halves[1], mask, case.pixel_size, "half")
    last = json.loads((run / "iterations.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    said = [finding["text"] for finding in last["findings"] if finding["name"].startswith("curvature of")]
    return found | {"half_0143": between["half_0143"], "said": said}


def insertion_cost(case: Case) -> dict[str, float]:
    """CPU seconds of the insertion of 50 images on flat and on curved slices, in turn, the least of five."""
    optics = case.optics
    geometry = Geometries(case.box, case.pixel_size, case.box, torch.device("cpu")).of(optics)
    u = torch.linspace(3000, 8000, 50, dtype=torch.float64)
    zero = torch.zeros_like(u)
    defocus, point = Defocus(u, u, zero, zero, zero, zero + 1), torch.ones(1, dtype=torch.float64)
    k, band = len(geometry.band), geometry.band
    y = torch.complex(torch.randn(50, k), torch.randn(50, k))
    samples = Samples(torch.arange(50), random_rotations(50, torch.Generator().manual_seed(1)),
                      torch.zeros(50, 2).double(), torch.ones(50))
    curved = CurvedImages.of(band, optics, defocus, SIGN, optics.box_length, ProjectedPower(100 * point, point))
    found = {"flat": math.inf, "curved": math.inf}
    for _ in range(6):
        for name, sides in (("flat", None), ("curved", curved)):
            batch = BandImages(geometry, y, y, ctf(band.kxy, optics, defocus), torch.ones(k), torch.ones(50),
                               curved=sides)
            sums = Backprojection.zeros(case.box, 1, band.limit, torch.zeros(()))
            started = time.process_time()
            for side in batch.spread():
                sums.insert_(side.values, side.weights, geometry.coords, band, samples, side.curvature)
            found[name] = min(found[name], time.process_time() - started)
    return found


def main() -> int:
    """Simulate, refine, judge, print and write."""
    parser = argparse.ArgumentParser(description="Flat maps and maps corrected for the curvature of the Ewald sphere.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cases", nargs="+", choices=tuple(CASES), default=list(CASES))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--padding", type=int, default=2, choices=(1, 2))
    parser.add_argument("--result", type=Path, default=RESULTS / "ewald.json", metavar="FILE.json")
    given = parser.parse_args()
    record, results = circumstances(), dict[str, Any]()
    try:
        for name in given.cases:
            case, folder = CASES[name], given.out / name
            particles = simulated(case, folder)
            ways = dict[str, Any]()
            for way in WAYS:
                run = folder / f"ewald_{way}"
                cost = refine([particles, "--map", folder / "initial.mrc", "--diameter", 2 * case.outer + 20,
                               "--ini-high", 15, "--symmetry", case.symmetry, "--search", "fixed", "--regulariser",
                               "uniform", "--ewald", way, "--threads", given.threads, "--padding", given.padding], run)
                ways[way] = {**judged(case, run, folder / "truth.mrc"), "command": cost.command,
                             "cpu_seconds": cost.cpu_seconds, "peak_rss_mb": cost.peak_rss_mb}
            shown([(label, [one[key] for one in ways.values()], style) for label, key, style in ROWS], list(ways),
                  f"{name}: {case.voltage:g} kV, {2 * case.outer:g} A, a quarter turn at "
                  f"{depth_resolution(case.optics.wavelength, 2 * case.outer):.2f} A")
            results[name] = {"case": case, "insertion_cpu_seconds": insertion_cost(case), "ways": ways}
            print("insertion", results[name]["insertion_cpu_seconds"])
    except (InputError, CommandFailed) as error:
        print(f"ewald: error: {error}", file=sys.stderr)
        return 2
    write_record(given.result, record | {"cases": results})
    return 0


if __name__ == "__main__":
    sys.exit(main())
