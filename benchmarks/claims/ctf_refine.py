"""What fitting the optics wins back: images with aberrations that their file does not know, refined with and without.

python benchmarks/claims/ctf_refine.py --out FOLDER [--count 4000] [--seed 1] [--box 192] [--apix 1.2]
    [--fit defocus,tilt,trefoil,magnification] [--result FILE.json]

Images of a simulated transporter are made here, atom by atom, with beam tilt, trefoil, anisotropic magnification and
defocus values of their own. Three STAR files describe them: true.star knows all, wrong.star has defocus values that are
off by --defocus-sd and no aberrations. Refined:
    true            true.star, from a 30 A map
    wrong           wrong.star, from a 30 A map
    wrong, inside   `wrong` refined further, locally, with --ctf-refine
    wrong, after    what halfmap ctf-refine makes of `wrong`, refined locally
    true, inside    `true` refined further with --ctf-refine: nothing was wrong, and nothing should be lost
Prints errors of optics and poses and the maps' FSC with the truth, and writes benchmarks/results/ctf_refine.json (or
--result). Runs that are finished are kept.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from evidence import RESULTS, CommandFailed, circumstances, write_record
from halfmap_run import ctf_refine, refine
from judge import Truth, judge, rigid_part, shown
from molecules import MOLECULES
from torch import Tensor

from halfmap.errors import InputError
from halfmap.imaging.ctf import ctf
from halfmap.imaging.density import density_map, oversampling_for, project
from halfmap.imaging.optics import BeamTilt, MagnificationMatrix
from halfmap.maps.filters import lowpass
from halfmap.maps.mrc import StackWriter, write_map
from halfmap.particles.model import read_model
from halfmap.particles.star import read_star, write_star
from halfmap.particles.table import ParticleTable, with_poses
from halfmap.settings.simulate import SimulateSettings
from halfmap.simulation.simulate import BATCH, draw_particles, grey_scale, noise_images
from halfmap.simulation.simulate import _optics_of as optics_of
from halfmap.simulation.simulate import _table as table_of
from halfmap.simulation.specimen import BeltShape, prepare

DIAMETER = 160.0  # A: the transporter with its fragment, and the spread of its place
ROWS = [
    ("CPU seconds", "cpu_seconds", ",.0f"),
    ("defocus error, sd, A", "defocus_sd", ".0f"),
    ("beam tilt error, mrad", "tilt", ".3f"),
    ("trefoil error, rad at 3 A", "trefoil", ".3f"),
    ("magnification error, %", "magnification", ".3f"),
    ("pose error, median, deg", "pose_median", ".3f"),
    ("shift error, median, A", "pose_shift_median", ".3f"),
    ("half maps, FSC 0.143 in the rigid part, A", "half_0143_rigid", ".2f"),
    ("mean map against truth, FSC 0.5, A", "truth_mean_05", ".2f"),
    ("mean map against truth, FSC 0.143, A", "truth_mean_0143", ".2f"),
    ("mean map against truth, average FSC beyond 12 A", "truth_mean_average", ".4f"),
]


@dataclass(frozen=True)
class Microscope:
    """What is wrong with it. tilt in mrad along x and y; trefoil: of odd_zernike, in radians A^3, the terms sin 3 and
    cos 3; stretch: of the magnification along the axis at ``axis`` degrees, and the opposite across it."""

    tilt_x: float = 0.25
    tilt_y: float = -0.17
    trefoil_sin: float = 6.0
    trefoil_cos: float = -4.0
    stretch: float = 0.0035
    axis: float = 20.0

    @property
    def matrix(self) -> np.ndarray:
        """The magnification matrix: from frequencies of the image to those of the specimen."""
        a = math.radians(self.axis)
        axes = np.array([[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]])
        return np.asarray(axes @ np.diag([1 + self.stretch, 1 - self.stretch]) @ axes.T)

    def phases(self, f: np.ndarray, spherical: float, wavelength: float) -> np.ndarray:
        """The odd phases at frequencies f [..., 2] of the specimen; spherical, wavelength in A."""
        square, angle = (f**2).sum(-1), np.arctan2(f[..., 1], f[..., 0])
        tilt = 1e-3 * (f[..., 0] * self.tilt_x + f[..., 1] * self.tilt_y)
        three = self.trefoil_sin * np.sin(3 * angle) + self.trefoil_cos * np.cos(3 * angle)
        return np.asarray(square**1.5 * three - 2 * math.pi * spherical * wavelength**2 * square * tilt)


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="What fitting the optics wins back.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--box", type=int, default=192)
    parser.add_argument("--apix", type=float, default=1.2)
    parser.add_argument("--snr", type=float, default=0.05)
    parser.add_argument("--defocus-sd", type=float, default=300.0)
    parser.add_argument("--fit", default="defocus,tilt,trefoil,magnification")
    parser.add_argument("--regulariser", default="nonuniform")
    parser.add_argument("--result", type=Path, default=RESULTS / "ctf_refine.json", metavar="FILE.json")
    return parser.parse_args()


def images_of(given: argparse.Namespace, microscope: Microscope) -> Path:
    """Make the images and their files, unless that was done before; the folder."""
    folder: Path = given.out / f"images_seed{given.seed}"
    words = f"{given.count} {given.box} {given.apix} {given.snr} {given.defocus_sd} {microscope}\n"
    note = folder / "made.txt"
    if note.exists():
        if note.read_text(encoding="utf-8") != words:
            raise InputError(f"{folder}: its images were made with other options; name another --out")
        return folder
    molecule, model = MOLECULES["transporter"], given.out / "transporter.pdb"
    molecule.write(model)
    folder.mkdir(parents=True, exist_ok=True)
    settings = SimulateSettings(
        model, folder, n=given.count, box=given.box, apix=given.apix, snr=given.snr, micelle=True, micelle_radius=50.0,
        micelle_thickness=46.0, micelle_contrast=0.9, bfactor=30.0, micrographs=max(10, given.count // 100),
        seed=1000 + given.seed,
    )  # fmt: skip
    belt = BeltShape(50.0, 46.0, 0.0, 0.9)
    specimen = prepare(read_model(model, False), settings.bfactor, None, belt)
    draw = draw_particles(settings)
    gain = grey_scale(settings, specimen, draw)
    optics, sampling = optics_of(settings), oversampling_for([specimen.rigid], given.apix)
    turn = torch.eye(3, dtype=torch.float64)
    turn[:2, :2] = torch.from_numpy(microscope.matrix.T)
    f = _plane(given.box, given.apix)
    specimen_f = f @ microscope.matrix.T
    phase = microscope.phases(specimen_f, optics.spherical_aberration * 1e7, optics.wavelength)
    wide = replace(optics, box=2 * given.box, magnification=MagnificationMatrix(*microscope.matrix.ravel().tolist()))
    kxy = torch.from_numpy(np.rint(f * 2 * given.box * given.apix)).reshape(-1, 2)
    odd = torch.polar(torch.ones(phase.size), torch.from_numpy(phase).float().reshape(-1))
    with StackWriter(folder / "particles.mrcs", given.count, given.box, given.apix, "float32") as writer:
        for index in torch.arange(given.count).split(BATCH):
            scenes = []
            for i in index.tolist():
                random = np.random.default_rng([settings.seed, 1, i])
                scenes.append([replace(part, rotation=turn @ part.rotation.double())
                               for part in specimen.place(draw.rotations[i], draw.shifts[i], random)])
            transfer = ctf(kxy, wide, draw.defocus[index]) * odd
            seen = _seen(project(scenes, given.box, given.apix, sampling), transfer)
            writer.write(gain * seen + noise_images(settings, index))
    table = with_poses(table_of(settings, draw, Path("particles.mrcs")), draw.rotations, -draw.shifts)
    known = replace(
        optics, beam_tilt=BeamTilt(microscope.tilt_x, microscope.tilt_y), magnification=wide.magnification,
        odd_zernike=(0.0, 0.0, microscope.trefoil_sin, 0.0, 0.0, microscope.trefoil_cos),
    )  # fmt: skip
    write_star(folder / "true.star", replace(table, optics=(known,)))
    off = torch.from_numpy(np.random.default_rng([given.seed, 9]).normal(0.0, given.defocus_sd, given.count))
    wrong = replace(table.defocus, u=table.defocus.u + off, v=table.defocus.v + off)
    write_star(folder / "wrong.star", replace(table, defocus=wrong))
    average = gain * density_map(specimen.average(), given.box, given.apix, sampling)
    write_map(folder / "initial.mrc", lowpass(average, given.apix, 30.0), given.apix)
    note.write_text(words, encoding="utf-8")
    return folder


def _plane(box: int, pixel_size: float) -> np.ndarray:
    """Frequencies [y, x, 2] in 1/A of the half plane of a box twice as wide."""
    fx, fy = np.fft.rfftfreq(2 * box, pixel_size), np.fft.fftfreq(2 * box, pixel_size)
    return np.stack(np.broadcast_arrays(fx[None], fy[:, None]), -1)


def _seen(images: Tensor, transfer: Tensor) -> Tensor:
    """Images [b, y, x] through a transfer function [b, k] of a box twice as wide."""
    box = images.shape[-1]
    before, size = box - box // 2, 2 * box
    padded = torch.nn.functional.pad(images, (before, size - box - before) * 2)
    seen = torch.fft.irfft2(torch.fft.rfft2(padded) * transfer.reshape(-1, size, box + 1), s=(size, size))
    return seen[:, before : before + box, before : before + box]


def errors(found: ParticleTable, truth: ParticleTable, microscope: Microscope) -> dict[str, float]:
    """How far optics are from the truth: standard deviation of the mean defocus, and the rest as ROWS name it."""
    order = np.argsort(found.image_index)
    mean = [0.5 * (table.defocus.u + table.defocus.v).numpy() for table in (found, truth)]
    optics, wanted = found.optics[0], truth.optics[0]
    odd = np.zeros(6)
    odd[: len(optics.odd_zernike)] = optics.odd_zernike[:6]
    three = np.hypot(odd[2] - microscope.trefoil_sin, odd[5] - microscope.trefoil_cos)
    matrix = np.array(optics.magnification).reshape(2, 2) @ np.linalg.inv(microscope.matrix)
    deviation = 0.5 * (matrix + matrix.T) - np.eye(2) * np.trace(matrix) / 2  # a turn and a scale are not seen
    return {
        "defocus_sd": float(np.std(mean[0][order] - mean[1])),
        "tilt": float(np.hypot(*(a - b for a, b in zip(optics.beam_tilt, wanted.beam_tilt, strict=True)))),
        "trefoil": float(three / 27), "magnification": float(100 * np.linalg.norm(deviation, 2)),
    }  # fmt: skip


def main() -> None:
    """Run the benchmark."""
    given, microscope = options(), Microscope()
    folder = images_of(given, microscope)
    truth = read_star(folder / "true.star")
    known = Truth(truth, "C1", rigid_part(given.out / "transporter.pdb", "", 30.0))
    runs = given.out / f"runs_seed{given.seed}"
    common = ["--diameter", f"{DIAMETER:g}", "--regulariser", given.regulariser, "--seed", given.seed, "--threads", 1]
    fresh = ["--map", folder / "initial.mrc", *common]
    inside = ["--ctf-refine", given.fit]
    results: dict[str, Any] = {}
    record: dict[str, Any] = {**circumstances(), "microscope": asdict(microscope), "count": given.count,
                              "fit": given.fit, "results": results}

    def look(name: str, place: Path, cpu: float) -> None:
        found = read_star(place / "particles.star")
        results[name] = {"cpu_seconds": cpu, **errors(found, truth, microscope),
                         **judge(found, place / "half1_unfil.mrc", place / "half2_unfil.mrc", known)}
        write_record(given.result, record)

    def run(name: str, words: list[object]) -> Path:
        place = runs / name.replace(", ", "_")
        kept = place.with_suffix(".json")
        if not kept.exists():
            kept.write_text(json.dumps(refine(words, place).cpu_seconds), encoding="utf-8")
        look(name, place, json.loads(kept.read_text(encoding="utf-8")))
        return place

    def further(run: Path, particles: Path | None = None) -> list[object]:
        return [particles or run / "particles.star", "--map", run / "map.mrc", "--search", "local", "--ini-high", 8,
                *common]

    true = run("true", [folder / "true.star", *fresh])
    wrong = run("wrong", [folder / "wrong.star", *fresh])
    run("wrong, inside", [*further(wrong), *inside])
    fitted = runs / "fitted"
    if not (fitted / "particles.star").exists():
        cost = ctf_refine([wrong, "--fit", given.fit], fitted)
        record["ctf_refine"] = asdict(cost)
    run("wrong, after", further(wrong, fitted / "particles.star"))
    run("true, inside", [*further(true), *inside])
    rows = [(title, [one.get(key) for one in results.values()], style) for title, key, style in ROWS]
    shown(rows, list(results), f"{given.count} images, seed {given.seed}")


if __name__ == "__main__":
    try:
        main()
    except (CommandFailed, InputError) as error:
        sys.exit(f"ctf_refine: {error}")
