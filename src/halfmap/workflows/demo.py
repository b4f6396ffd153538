"""``halfmap demo``: simulate a small membrane protein in a micelle, refine it, and compare the maps with the truth."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from halfmap.errors import InputError
from halfmap.geometry.symmetry import symmetry_group
from halfmap.imaging.density import Cloud, density_map, oversampling_for
from halfmap.maps.masks import solvent_mask
from halfmap.maps.mrc import read_map
from halfmap.particles.model import centred, read_model, scattering, write_pdb
from halfmap.particles.star import read_star
from halfmap.runtime.terminal import say
from halfmap.settings.refine import RefineSettings
from halfmap.settings.simulate import SimulateSettings
from halfmap.simulation.demo_molecule import demo_molecule
from halfmap.simulation.simulate import simulate
from halfmap.validation.fsc import fsc, resolution
from halfmap.validation.poses import PoseError, pose_error

COMPARED = ("uniform", "nonuniform")
BELT_CONTRAST = 1.0  # a belt as dense as protein, as head groups are: a local regulariser pays off


@dataclass(frozen=True)
class Verdict:
    """A refined map compared with the truth.

    poses: their errors; curve: FSC [s] of map and truth within a mask made from the truth; resolution: where that
    falls below 0.5 (A), at best `finest` (A), the Nyquist limit.
    """

    poses: PoseError
    curve: Tensor
    resolution: float
    finest: float

    def sentence(self) -> str:
        """The verdict in words."""
        limit = ", as far as its pixels go" if self.resolution <= self.finest else ""
        return (f"the map agrees with the truth to {self.resolution:.1f} A{limit} (FSC 0.5 inside the protein); "
                f"poses are off by {self.poses['median']:.1f} degrees and "
                f"{self.poses['shift_median']:.1f} A (median), "
                f"{100 * self.poses['above10']:.0f} % of them by more than 10 degrees")


def demo(out: Path, quick: bool = False, run: Callable[[RefineSettings], object] | None = None) -> None:
    """Simulate images of a molecule, refine them with each regulariser, and print errors of poses and maps.

    The images lie in `out`/data, each refinement in `out`/NAME. `quick` takes half of the images, with less noise and
    coarser pixels. `run` carries out one refinement (default: `halfmap.refinement.refine.refine`). Raises InputError
    where `out` already holds something.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"--out {out}: is there already and not empty; name a new folder")
    if run is None:
        from halfmap.refinement.refine import refine

        run = refine
    settings = demo_settings(out, quick)
    settings.out.mkdir(parents=True)
    atoms = demo_molecule()
    write_pdb(settings.model, atoms)
    started = time.perf_counter()
    particles = simulate(settings)
    say(f"Simulated {settings.n} images of a {atoms.mass / 1e3:.0f} kDa membrane protein in detergent "
          f"in {time.perf_counter() - started:.0f} s: {settings.out}")
    record = json.loads((settings.out / "simulation.json").read_text(encoding="utf-8"))
    diameter = min(record["diameter_A"] + 4 * settings.offset, settings.box * settings.apix)
    for name in COMPARED:
        started = time.perf_counter()
        run(RefineSettings(particles=particles, map=settings.out / "initial.mrc", diameter=diameter,
                           out=out / name, regulariser=name))
        seconds, verdict = time.perf_counter() - started, against_truth(settings, out / name)
        say(f"{name}: {seconds:.0f} s; " + verdict.sentence())


def demo_settings(out: Path, quick: bool = False) -> SimulateSettings:
    """The settings of the demo's simulation, which writes into `out`/data."""
    data = out / "data"
    n, box, apix, snr = (800, 48, 3.8, 0.2) if quick else (1500, 64, 2.8, 0.1)
    return SimulateSettings(model=data / "molecule.pdb", out=data, n=n, box=box, apix=apix, snr=snr, micelle=True,
                            micelle_contrast=BELT_CONTRAST, seed=1)


def against_truth(settings: SimulateSettings, run: Path) -> Verdict:
    """Compare the poses and the mean of the raw half maps in the folder `run` with what was simulated.

    The poses give the refined map's frame. The atoms are moved into it and their density is computed anew on the map's
    grid, so that neither map is interpolated.
    """
    truth = read_star(settings.out / "particles_truth.star")
    poses = pose_error(read_star(run / "particles.star"), truth, symmetry_group(settings.symmetry))
    cloud = scattering(centred(read_model(settings.model))[0], settings.bfactor)
    frame, shift = (torch.tensor(poses[key], dtype=torch.float64) for key in ("frame", "shift"))
    cloud = Cloud((cloud.xyz.double() @ frame.T + shift).float(), cloud.weight, cloud.exponent)
    halves = [read_map(run / f"half{h}_unfil.mrc") for h in (1, 2)]
    box, apix = halves[0].data.shape[-1], halves[0].pixel_size
    known = density_map([cloud], box, apix, oversampling_for([cloud], apix))
    mask = solvent_mask(known, apix, extend=2.0)
    curve = fsc(mask * 0.5 * (halves[0].data + halves[1].data), mask * known)
    return Verdict(poses, curve, resolution(curve, box, apix, 0.5), 2 * apix)
