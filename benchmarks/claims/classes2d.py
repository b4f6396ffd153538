"""Do two-dimensional classes part particles from what is none, at what cost?

python benchmarks/claims/classes2d.py MODEL.pdb --out FOLDER [--count 3000] [--classes 50] [--seeds 1] [--relion]
    [--micelles SHARE] [--result benchmarks/results/classes2d.json]

Images of a membrane protein in detergent are simulated, of which a part is none: noise alone, broken particles (the
protein on one side of a random plane, without belt), and two particles that overlap in one image. `halfmap classes2d`
sorts them. Told are the shares of every kind that is taken for a particle at all, that is kept by the rule which the
page offers (20 images or more, 0.55 of the signal of the better ones, resolution within twice the finest), by the
resolution alone (1.3 times the finest), and by somebody who sees at once of which kind most images of a class are. With
`--micelles` so many images show an empty micelle instead (detergent fills the whole spheroid of the belt, its blobs
drawn anew for each), and all others an intact particle. `--relion` sorts the same images with relion_refine beside it
(3.1.3 has no hypothesis of noise alone; the rule by eye is the same).
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import torch
from evidence import RESULTS, CommandFailed, circumstances, run_measured, write_record
from halfmap_run import classes2d, simulate
from numpy.typing import NDArray
from relion_run import prepare

from halfmap.imaging.density import Placed
from halfmap.maps.mrc import write_stack
from halfmap.particles.model import read_model
from halfmap.particles.star import read_star, write_star
from halfmap.particles.star_text import read_tables
from halfmap.particles.table import ParticleTable
from halfmap.report.pages.classes2d import FINER, strong_enough
from halfmap.settings.simulate import SimulateSettings
from halfmap.simulation.simulate import draw_particles, noise_images, signal_images
from halfmap.simulation.specimen import Belt, BeltShape, Specimen
from halfmap.simulation.specimen import prepare as specimen_of
from halfmap.workflows.classes2d import ClassRow

KINDS = {1: "intact", 2: "noise", 3: "broken", 4: "two", 5: "micelle"}
OVERLAP = 0.06  # share of images that hold two particles
APART = 18  # pixels between them
DIAMETER = 170.0  # A
LEAST, ONCE_FINER = 20, 1.3  # what the page offers to tick, and what it did when it knew no signal


@dataclass(frozen=True)
class Sorted:
    """What a program found. number [b]: class, from 1; present [b]: whether an image is taken for a particle;
    rows: the classes as the page knows them, empty for another program."""

    number: NDArray[np.int64]
    present: NDArray[np.bool_]
    rows: tuple[ClassRow, ...] = ()


def made(model: Path, folder: Path, count: int, seed: int) -> Path:
    """The folder with particles.star and particles_truth.star of a seed, simulated unless they are there."""
    if (folder / "done").exists():
        return folder
    simulate([model, "--n", count, "--box", 64, "--apix", 3, "--snr", 0.1, "--micelle", "--junk", 0.3, "--seed", seed],
             folder)
    truth = read_star(folder / "particles_truth.star")
    kind = truth.numbers("rlnClassNumber").astype(int)
    with mrcfile.open(folder / "particles.mrcs") as stack:
        images = np.array(stack.data, np.float32)
    random = np.random.default_rng(seed)
    chosen = np.flatnonzero(kind == 1)[: round(OVERLAP * count)]
    other = random.permutation(np.flatnonzero(kind == 1))[: len(chosen)]
    # Particles of one micrograph share their CTF; here the second one brings its own, which no classification knows.
    angle = random.uniform(0, 2 * np.pi, len(chosen))
    added = [np.roll(images[j], (round(APART * np.sin(a)), round(APART * np.cos(a))), (0, 1))
             for j, a in zip(other, angle, strict=True)]
    images[chosen] = (images[chosen] + np.stack(added)) / np.sqrt(2)
    kind[chosen] = 4
    write_stack(folder / "particles.mrcs", images, 3.0)
    write_star(folder / "particles_truth.star", replace(truth, columns=truth.columns | {"rlnClassNumber": kind}))
    (folder / "done").touch()
    return folder


class _Micelle(Specimen):
    """The detergent of a specimen without its protein."""

    def place(self, rotation: torch.Tensor, shift: torch.Tensor, random: np.random.Generator) -> list[Placed]:
        assert self.belt is not None
        return [Placed(self.belt.draw(random), rotation, shift)]


def with_micelles(model: Path, folder: Path, count: int, share: float, seed: int) -> Path:
    """As `made`, with intact particles and empty micelles only, of the same poses, CTFs and noise."""
    if (folder / "done").exists():
        return folder
    simulate([model, "--n", count, "--box", 64, "--apix", 3, "--snr", 0.1, "--micelle", "--seed", seed], folder)
    settings = SimulateSettings(model=model, out=folder, n=count, box=64, apix=3.0, snr=0.1, micelle=True, seed=seed)
    gain = json.loads((folder / "simulation.json").read_text())["gain"]
    shape = BeltShape(settings.micelle_radius, settings.micelle_thickness, settings.micelle_centre,
                      settings.micelle_contrast)
    specimen = specimen_of(read_model(model), settings.bfactor, None, shape)
    assert specimen.belt is not None
    micelle = _Micelle(specimen.rigid, None, _filled(specimen.belt))
    empty = torch.from_numpy(np.flatnonzero(np.random.default_rng(seed).random(count) < share))
    with mrcfile.open(folder / "particles.mrcs") as stack:
        images = np.array(stack.data, np.float32)
    for some in empty.split(64):
        signal = gain * signal_images(settings, micelle, draw_particles(settings), some)
        images[some.numpy()] = (signal + noise_images(settings, some)).numpy()
    truth = read_star(folder / "particles_truth.star")
    kind = np.ones(count, np.int64)
    kind[empty.numpy()] = 5
    write_stack(folder / "particles.mrcs", images, 3.0)
    write_star(folder / "particles_truth.star", replace(truth, columns=truth.columns | {"rlnClassNumber": kind}))
    (folder / "done").touch()
    return folder


def _filled(belt: Belt) -> Belt:
    """A belt whose spheroid is filled, as dense as it was."""
    middle = 0.5 * (belt.points.amax(dim=0) + belt.points.amin(dim=0))
    extent = 0.5 * (belt.points.amax(dim=0) - belt.points.amin(dim=0)) + 0.5 * belt.step
    axis = torch.arange(-64.0, 65.0, dtype=torch.float64) * belt.step
    rows = [axis[axis.abs() <= float(reach)] for reach in extent]
    points = torch.cartesian_prod(*rows)
    points = points[(points / extent).square().sum(dim=1) <= 1] + middle
    return replace(belt, points=points, count=round(belt.count * len(points) / len(belt.points)))


def judged(found: Sorted, truth: ParticleTable) -> dict[str, Any]:
    """Shares of every kind that are kept, and how far apart views of intact particles of one class are."""
    kind = truth.numbers("rlnClassNumber").astype(int)
    number, present = found.number, found.present
    kinds = {one: name for one, name in KINDS.items() if (kind == one).any()}
    most = {c: int(np.bincount(kind[(number == c) & present]).argmax()) for c in np.unique(number[present])}
    kept = {"taken for particles": present, "by eye": present & np.array([most.get(c, 0) == 1 for c in number])}
    if found.rows:
        finest, strong = min(row.resolution for row in found.rows if row.share > 0), strong_enough(found.rows)
        held = [row for row in found.rows if row.images >= LEAST and row.share > 0]
        offered = [row for row in held if row.resolution < FINER * finest and row.signal >= strong]
        kept["by the page's rule"] = present & np.isin(number, [row.number for row in offered])
        fine = [row.number for row in held if row.resolution < ONCE_FINER * finest]
        kept["by resolution alone"] = present & np.isin(number, fine)
    views = truth.rotations[:, 2].numpy()
    apart = []
    for c in np.unique(number[present]):
        of = views[(number == c) & present & (kind == 1)]
        cosine = (of @ of.T).clip(-1, 1)[np.triu_indices(len(of), 1)]
        apart.append(np.degrees(np.arccos(cosine)))
    return {
        "images": {name: int((kind == one).sum()) for one, name in kinds.items()},
        "kept": {rule: {name: round(float(which[kind == one].mean()), 3) for one, name in kinds.items()}
                 | {"intact among kept": round(float((kind[which] == 1).mean()), 3)} for rule, which in kept.items()},
        "classes": len(most), "views_apart_median_deg": round(float(np.median(np.concatenate(apart))), 1),
    }  # fmt: skip


def by_halfmap(folder: Path, out: Path, classes: int, seed: int) -> dict[str, Any]:
    """Halfmap's classes of the images in a folder."""
    cost = classes2d([folder / "particles.star", "--classes", classes, "--diameter", DIAMETER, "--seed", seed,
                      "--threads", 1], out)
    table = read_star(out / "particles.star")
    means = next(one for one in read_tables(out / "classes.star") if one.name == "model_classes")
    labels = ("rlnClassDistribution", "rlnEstimatedResolution", "halfmapImages", "halfmapParticles", "halfmapSignal")
    rows = zip(*(means.numbers(label).tolist() for label in labels), strict=True)
    found = Sorted(table.numbers("rlnClassNumber").astype(int), table.numbers("halfmapParticleProbability") > 0.5,
                   tuple(ClassRow(c, share, fine, int(images), int(present), signal)
                         for c, (share, fine, images, present, signal) in enumerate(rows, start=1)))
    return judged(found, read_star(folder / "particles_truth.star")) | {"cost": asdict(cost)}


def by_relion(folder: Path, out: Path, classes: int, iterations: int) -> dict[str, Any]:
    """RELION's classes of them, to the detail that Halfmap looks at."""
    prepare(read_star(folder / "particles.star"), folder / "initial.mrc", DIAMETER, out)
    (out / "run").mkdir(exist_ok=True)
    words = ["relion_refine", "--i", "particles.star", "--o", "run/run", "--iter", iterations, "--K", classes, "--ctf",
             "--tau2_fudge", 2, "--particle_diameter", DIAMETER, "--zero_mask", "--flatten_solvent",
             "--oversampling", 1, "--psi_step", 12, "--offset_range", 5, "--offset_step", 2, "--norm", "--scale",
             "--preread_images", "--dont_combine_weights_via_disc", "--pool", 30, "--strict_highres_exp", 12.8,
             "--j", 1, "--random_seed", 1]  # fmt: skip
    cost = run_measured([str(word) for word in words], out / "relion.log", out)
    data = read_star(out / "run" / f"run_it{iterations:03d}_data.star", out)
    number = np.empty(len(data), np.int64)
    number[data.image_index] = data.numbers("rlnClassNumber").astype(int)
    found = Sorted(number, np.ones(len(number), bool))
    return judged(found, read_star(folder / "particles_truth.star")) | {"cost": asdict(cost), "iterations": iterations}


def _table(name: str, result: dict[str, Any]) -> str:
    """Rows of the table, as Markdown."""
    cost = f"{result['cost']['cpu_seconds']:.0f} | {result['classes']} | {result['views_apart_median_deg']:.0f}"
    return "\n".join(f"| {name}, {rule} | " + " | ".join(f"{share:.3f}" for share in shares.values()) + f" | {cost} |"
                     for rule, shares in result["kept"].items())


def main() -> int:
    """Sort the images of every seed, and print the table."""
    parser = argparse.ArgumentParser(description="Do two-dimensional classes part particles from what is none?")
    parser.add_argument("model", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--result", type=Path, default=RESULTS / "classes2d.json", metavar="FILE.json")
    parser.add_argument("--count", type=int, default=3000, help="images of a set")
    parser.add_argument("--classes", type=int, default=50)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--micelles", type=float, metavar="SHARE", help="of the images are empty micelles")
    parser.add_argument("--relion", action="store_true", help="sort them with relion_refine too")
    parser.add_argument("--relion-iterations", type=int, default=25)
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {}
    try:
        for seed in asked.seeds:
            if asked.micelles is None:
                folder = made(asked.model, asked.out / f"images_{asked.count}_seed{seed}", asked.count, seed)
            else:
                folder = asked.out / f"micelles_{asked.count}_seed{seed}"
                with_micelles(asked.model, folder, asked.count, asked.micelles, seed)
            runs = {"halfmap": lambda at, f=folder, s=seed: by_halfmap(f, at, asked.classes, s)}
            if asked.relion:
                runs["relion"] = lambda at, f=folder: by_relion(f, at, asked.classes, asked.relion_iterations)
            for program, run in runs.items():
                name = f"{program}_{asked.count}_{asked.classes}_seed{seed}"
                shutil.rmtree(asked.out / name, ignore_errors=True)
                results[name] = run(asked.out / name)
                write_record(asked.result, circumstances() | {"results": results})
                print(_table(name, results[name]), flush=True)
    except CommandFailed as error:
        print(f"classes2d: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
