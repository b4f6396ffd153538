"""Optics that are right stay as they are, however much of the signal boxes and masks cut off.

python benchmarks/claims/cut_signal.py --out FOLDER [--count 400] [--seeds 21,22] [--result FILE.json]

The transporter without its nanodisc, in boxes of 128 px of 1.5 A, with true optics and at true poses.
1. Images without noise, compared with the true map: what a fit of the spherical aberration, or of the amplitude
   contrast, finds beside the mean defocus, with the standard error of the mean over images. The CTF is applied in a box
   of 384 px that nothing leaves: whole; masked as a refinement masks images; and cut to 128 px. Or in the box of 128 px
   itself, whose edges it wraps around. Without and with the turn of the CTF's phase (imaging.cut_signal).
2. Images with noise (halfmap simulate, 1,000 of SNR 0.25), refined at their true poses; then halfmap ctf-refine.
Prints both and writes benchmarks/results/cut_signal.json (or --result). Runs that are finished are kept.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from evidence import RESULTS, CommandFailed, circumstances, write_record
from halfmap_run import ctf_refine, refine, simulate
from judge import shown
from molecules import MOLECULES
from torch import Tensor

from halfmap.ctf_refinement.products import PosedImages, Range
from halfmap.ctf_refinement.signal_power import signal_power
from halfmap.errors import InputError
from halfmap.expectation.search import Reference
from halfmap.fourier.transform import half_volume, image_coefficients
from halfmap.imaging.ctf import ctf
from halfmap.imaging.delocalisation import ProjectedPower
from halfmap.imaging.density import Placed, density_map, oversampling_for, project
from halfmap.imaging.forward import Geometries, band_images
from halfmap.imaging.optics import OpticsGroup
from halfmap.maps.grid import Grid
from halfmap.particles.model import read_model
from halfmap.particles.preprocess import soft_circles
from halfmap.refinement.imaging_model import MASK_EDGE, ImagingModel, fine_mask, signal_left, turned_by_masks
from halfmap.settings.simulate import SimulateSettings
from halfmap.simulation.simulate import Draw, draw_particles
from halfmap.simulation.simulate import _optics_of as optics_of
from halfmap.simulation.specimen import prepare

BOX, PIXEL, DIAMETER, FINEST, B_FACTOR, AT_ONCE = 128, 1.5, 150.0, 3.4, 30.0, 25
USED = Range(7, int(BOX * PIXEL / FINEST))
FITS = ("cs", "bfactor,phase-shift", "amplitude-contrast")


@dataclass(frozen=True)
class Case:
    """The box in which the CTF is applied, the one that is cut out of it, and whether images are masked."""

    field: int
    box: int
    masked: bool


CASES = {"whole": Case(384, 384, False), "masked": Case(384, 384, True), "cut to the box": Case(384, BOX, True),
         "wraps in the box": Case(BOX, BOX, True)}  # fmt: skip


@dataclass(frozen=True)
class Specimen:
    """True map [z, y, x]; projections [b, y, x] at what was drawn for each image."""

    density: Tensor
    projections: Tensor
    draw: Draw
    optics: OpticsGroup


def specimen_of(model: Path, out: Path, count: int) -> Specimen:
    """The molecule, and its projections."""
    settings = SimulateSettings(model, out, n=count, box=BOX, apix=PIXEL, bfactor=B_FACTOR, micrographs=10, seed=1001)
    rigid = prepare(read_model(model, False), B_FACTOR, None, None).rigid
    draw, sampling = draw_particles(settings), oversampling_for([rigid], PIXEL)
    seen = torch.cat([
        project([[Placed(rigid, draw.rotations[i], draw.shifts[i])] for i in some.tolist()], BOX, PIXEL, sampling)
        for some in torch.arange(count).split(AT_ONCE)])
    size = 1.0 / float(seen.std())
    return Specimen(size * density_map([rigid], BOX, PIXEL, sampling), size * seen, draw, optics_of(settings))


def posed(case: Case, specimen: Specimen, index: Tensor, turned: bool) -> PosedImages:
    """Some images of a case as the fits see them."""
    size, optics = case.field, replace(specimen.optics, box=case.box)
    before = size // 2 - BOX // 2
    defocus, shifts = specimen.draw.defocus[index], specimen.draw.shifts[index] / PIXEL
    padded = torch.nn.functional.pad(specimen.projections[index], (before, size - BOX - before) * 2)
    transfer = ctf(image_coefficients(size).reshape(-1, 2), replace(optics, box=size), defocus)
    seen = torch.fft.irfft2(torch.fft.rfft2(padded) * transfer.reshape(-1, size, size // 2 + 1), s=(size, size))
    start = size // 2 - case.box // 2
    seen = seen[:, start : start + case.box, start : start + case.box]
    geometry = Geometries(BOX, PIXEL, USED.last, torch.device("cpu")).of(optics)
    power, radius, centres = ProjectedPower.of(specimen.density, PIXEL), 0.5 * DIAMETER / PIXEL, shifts.round().long()
    mask, fine = torch.ones(1, case.box, case.box), None
    if case.masked:
        mask = soft_circles(case.box, torch.full((len(index),), radius).double(), MASK_EDGE, centres)
        fine = fine_mask(geometry, defocus, Grid(BOX, PIXEL), radius, centres, USED.last)
    noise = torch.full((case.box // 2 + 1,), float(case.box**2))  # white; its size does not matter
    images = band_images(seen, mask, geometry, defocus, noise, torch.ones(len(index)), fine)
    turn = None
    if case.masked:
        images = replace(images, left=signal_left(power, geometry, defocus, radius, fine))
    if turned:
        model = ImagingModel(BOX, PIXEL, torch.eye(3, dtype=torch.float64)[None], torch.zeros(1).long())
        turn = turned_by_masks(power, signal_power(specimen.density, specimen.density), geometry, defocus, model,
                               DIAMETER, USED.last)
    reference = Reference(half_volume(specimen.density.float(), 2, USED.last + 1), 2)
    return PosedImages(index, 0, images, reference, reference, specimen.draw.rotations[index], shifts,
                       torch.ones(len(index)), defocus, turn=turn)


def biases(case: Case, specimen: Specimen, turned: bool) -> dict[str, float]:
    """What a step of Fisher scoring from the true optics finds: each value beside the mean defocus, and its standard
    error over images."""
    scores: dict[str, list[Tensor]] = {"cs": [], "amplitude_contrast": []}
    information = {name: torch.zeros(2, 2, dtype=torch.float64) for name in scores}
    for index in torch.arange(len(specimen.projections)).split(AT_ONCE):
        products = posed(case, specimen, index, turned).products(USED)
        at, squared = products.quadratures(slice(None)), products.frequencies.square().sum(dim=1)
        sine, cosine = at.sine.double(), at.cosine.double()
        slope = 2.0 * cosine * (products.norm * sine - products.cross.real)
        weight = (2.0 * products.norm * cosine.square()).sum(dim=0)
        wavelength = products.optics.wavelength
        focus = -math.pi * wavelength * squared
        for name, phase in (("cs", 0.5e7 * math.pi * wavelength**3 * squared.square()),
                            ("amplitude_contrast", -torch.ones_like(squared))):
            basis = torch.stack([phase, focus], dim=1)
            scores[name].append(slope @ basis)
            information[name] += basis.T @ (weight[:, None] * basis)
    found = {}
    for name, each in scores.items():
        steps = torch.cat(each) @ torch.linalg.inv(information[name])
        found[name] = float(steps[:, 0].sum())
        found[f"{name}_error"] = float(steps[:, 0].std()) * math.sqrt(len(steps))
    return found


def with_noise(model: Path, out: Path, seed: int) -> dict[str, Any]:
    """What halfmap ctf-refine says of images with noise whose optics are right."""
    images, run = out / f"images_{seed}", out / f"run_{seed}"
    if not (images / "particles_truth.star").exists():
        simulate([model, "--n", 1000, "--box", BOX, "--apix", PIXEL, "--snr", 0.25, "--bfactor", B_FACTOR,
                  "--micrographs", 20, "--seed", seed], images)
    if not (run / "report.html").exists():
        refine([images / "particles_truth.star", "--map", images / "initial.mrc", "--search", "fixed", "--diameter",
                DIAMETER, "--regulariser", "uniform", "--threads", 1], run)
    found: dict[str, Any] = {}
    for names in FITS:
        place = out / f"fitted_{seed}_{names.replace(',', '_')}"
        if not (place / "ctf_refine.json").exists():
            ctf_refine([run, "--fit", names, "--threads", 1], place)
        for one in json.loads((place / "ctf_refine.json").read_text(encoding="utf-8"))["parameters"]:
            kept = ("verdict", "of", "applied", "components", "units", "error_median", "change_rms",
                    *(["values"] if one["one_value_per"] == "optics group" else []))
            found[one["name"]] = {key: one[key] for key in kept}
    return found


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description="True optics where boxes and masks cut off signal.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=400, help="images without noise")
    parser.add_argument("--seeds", default="21,22", help="of the images with noise")
    parser.add_argument("--result", type=Path, default=RESULTS / "cut_signal.json", metavar="FILE.json")
    given = parser.parse_args()
    torch.set_num_threads(1)
    model = given.out / "transporter.pdb"
    MOLECULES["transporter"].write(model)
    specimen = specimen_of(model, given.out, given.count)
    found: dict[str, dict[str, float]] = {}
    for name, case in CASES.items():
        for turned in (False, True) if case.masked else (False,):
            found[f"{name}{', turned' if turned else ''}"] = biases(case, specimen, turned)
    record = {**circumstances(), "images": given.count, "without_noise": found, "with_noise": {}}
    write_record(given.result, record)
    shown([(label, [one[key] for one in found.values()], style) for label, key, style in (
        ("Cs found too large, mm", "cs", ".4f"), ("+-", "cs_error", ".4f"),
        ("amplitude contrast found too large", "amplitude_contrast", ".4f"), ("+-", "amplitude_contrast_error", ".4f"),
    )], list(found), f"{given.count} images without noise")  # fmt: skip
    for seed in given.seeds.split(","):
        record["with_noise"][seed] = with_noise(model, given.out, int(seed))
        write_record(given.result, record)
        for name, one in record["with_noise"][seed].items():
            print(f"seed {seed}: {name}: {one['verdict']}")


if __name__ == "__main__":
    try:
        main()
    except (CommandFailed, InputError) as error:
        sys.exit(f"cut_signal: {error}")
