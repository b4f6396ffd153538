"""RELION itself reads what is written here, and reads a 3.0 file as it is read here."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import starfile
import torch

from halfmap.maps.mrc import write_map, write_stack
from halfmap.particles.stack_reader import StackReader
from halfmap.particles.star import read_star, write_star
from halfmap.particles.table import with_poses

pytestmark = pytest.mark.skipif(shutil.which("relion_stack_create") is None, reason="RELION is not installed")

Columns = dict[str, list[object]]


def _relion(program: str, *arguments: str) -> str:
    done = subprocess.run([f"relion_{program}", *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_relion_finds_the_images_of_a_written_star_file(star: Path) -> None:
    table = read_star(star)
    posed = with_poses(table, torch.eye(3, dtype=torch.float64).expand(7, 3, 3), torch.ones(7, 2))
    write_star("ours.star", posed.select([5, 2, 0]))
    _relion("stack_create", "--i", "ours.star", "--o", "collected")
    with StackReader(table) as reader:
        np.testing.assert_allclose(
            mrcfile.read("collected.mrcs"), reader.read(np.array([5, 2, 0])), atol=1e-6
        )


def test_relion_upgrades_a_3_0_file_to_the_same_particles(
    star: Path, star_text: Callable[..., str], particles: Columns
) -> None:
    old = {
        label: values
        for label, values in particles.items()
        if label not in ("rlnOpticsGroup", "rlnOriginXAngst", "rlnOriginYAngst", "rlnSomethingOfMine")
    }
    old |= {
        "rlnOriginX": [1, -2.5, 0, 3, 4, 5, 6],
        "rlnOriginY": [0.25, 1, 2, 3, 4, 5, -6],
        "rlnVoltage": [300] * 7,
        "rlnSphericalAberration": [2.7] * 7,
        "rlnAmplitudeContrast": [0.1] * 7,
        "rlnDetectorPixelSize": [5] * 7,
        "rlnMagnification": [40000] * 7,
    }
    # RELION takes any file with the line "# version 30001" for one of 3.1.
    star.write_text(star_text(**{"": old}).removeprefix("# version 30001\n"))
    write_star("ours.star", read_star(star))
    _relion("convert_star", "--i", str(star), "--o", "theirs.star")
    ours, theirs = (starfile.read(name, always_dict=True) for name in ("ours.star", "theirs.star"))
    for label in (
        "rlnVoltage",
        "rlnSphericalAberration",
        "rlnAmplitudeContrast",
        "rlnImagePixelSize",
        "rlnImageSize",
    ):
        assert float(ours["optics"][label][0]) == pytest.approx(float(theirs["optics"][label][0]))
    for label in ("rlnOriginXAngst", "rlnOriginYAngst", "rlnDefocusU", "rlnAngleRot", "rlnOpticsGroup"):
        np.testing.assert_allclose(ours["particles"][label], theirs["particles"][label], atol=1e-5)
    assert "rlnOriginX" not in theirs["particles"] and "rlnOriginX" not in ours["particles"]


@pytest.mark.parametrize("box", [12, 13])
def test_relion_reads_written_maps_and_stacks(tmp_path: Path, box: int) -> None:
    data = torch.randn(box, box, box, generator=torch.Generator().manual_seed(0))
    write_map(tmp_path / "map.mrc", data, 1.5)
    write_stack(tmp_path / "stack.mrcs", data[:5], 1.5)
    for name in ("map.mrc", "stack.mrcs"):
        out = tmp_path / f"doubled_{name}"
        _relion("image_handler", "--i", str(tmp_path / name), "--o", str(out), "--multiply_constant", "2")
        expected = 2 * (data if name == "map.mrc" else data[:5])
        with mrcfile.open(out, permissive=True) as mrc:
            np.testing.assert_allclose(mrc.data, expected, atol=1e-6)
    stats = _relion("image_handler", "--i", str(tmp_path / "map.mrc"), "--stats")
    assert f"(x,y,z,n)= {box} x {box} x {box} x 1" in stats and "1.5" in stats
