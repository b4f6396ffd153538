"""Two-dimensional classes on the pretended accelerator are to the bit those that the CPU finds."""

from __future__ import annotations

import mrcfile

from halfmap.particles.model import write_pdb
from halfmap.settings.classes2d import Classes2dSettings
from halfmap.settings.simulate import SimulateSettings
from halfmap.simulation.demo_molecule import demo_molecule
from halfmap.simulation.simulate import simulate
from halfmap.workflows.classes2d import classes2d


def test_classes_are_the_same_bits_on_both(accelerator, plain_kernels, tmp_path):
    write_pdb(tmp_path / "molecule.pdb", demo_molecule())
    simulate(SimulateSettings(model=tmp_path / "molecule.pdb", out=tmp_path / "data", n=20, box=24, apix=7.0, snr=2.0,
                              micrographs=3, seed=1))

    def run(device: str) -> None:
        classes2d(Classes2dSettings(particles=tmp_path / "data/particles.star", diameter=130.0, out=tmp_path / device,
                                    classes=2, iterations=5, max_resolution=28.0, threads=1,
                                    device=device))

    with plain_kernels():
        run("cpu")
    with accelerator():
        run("cuda")
    with mrcfile.open(tmp_path / "cpu/classes.mrcs") as mine, mrcfile.open(tmp_path / "cuda/classes.mrcs") as its:
        assert (mine.data == its.data).all()
    stars = [(tmp_path / device / "particles.star").read_text() for device in ("cpu", "cuda")]
    assert stars[0] == stars[1]
