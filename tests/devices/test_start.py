"""Starting maps on the pretended accelerator are to the bit those that the CPU finds, axes found or imposed."""

from __future__ import annotations

import mrcfile

from halfmap.particles.model import write_pdb
from halfmap.refinement import starting_schedule
from halfmap.settings.simulate import SimulateSettings
from halfmap.settings.start import StartSettings
from halfmap.simulation.demo_molecule import demo_molecule
from halfmap.simulation.simulate import simulate
from halfmap.workflows import start as workflow


def test_starts_are_the_same_bits_on_both(accelerator, plain_kernels, monkeypatch, tmp_path):
    monkeypatch.setattr(workflow, "FEWEST", 10)
    monkeypatch.setattr(starting_schedule, "ITERATIONS", 2)
    monkeypatch.setattr(starting_schedule, "AFTER_AXES", 3)
    monkeypatch.setattr(starting_schedule, "LEAST_ORDER", 1)
    write_pdb(tmp_path / "molecule.pdb", demo_molecule())
    simulate(SimulateSettings(model=tmp_path / "molecule.pdb", out=tmp_path / "data", n=20, box=24, apix=7.0, snr=2.0,
                              micrographs=3, seed=1))

    def run(device: str) -> workflow.StartingMap:
        return workflow.start(StartSettings(
            particles=tmp_path / "data/particles.star", diameter=130.0, out=tmp_path / device, symmetry="C3",
            starts=2, resolution=38.0, threads=1, device=device), lambda **fields: None)

    with plain_kernels():
        expected = run("cpu")
    with accelerator():
        found = run("cuda")
    assert [one.gains for one in found.ranked.starts] == [one.gains for one in expected.ranked.starts]
    with mrcfile.open(tmp_path / "cpu/map.mrc") as mine, mrcfile.open(tmp_path / "cuda/map.mrc") as its:
        assert (mine.data == its.data).all()
    stars = [(tmp_path / device / "particles.star").read_text() for device in ("cpu", "cuda")]
    assert stars[0] == stars[1]
