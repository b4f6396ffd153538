"""Point groups and HEALPix directions against what RELION prints."""

import re
import shutil
import subprocess

import mrcfile
import numpy as np
import pytest
import torch

from halfmap.geometry.orientation_grid import healpix_directions
from halfmap.geometry.rotations import euler_to_matrix, view_directions
from halfmap.geometry.symmetry import symmetry_group

pytestmark = pytest.mark.skipif(shutil.which("relion_refine") is None, reason="RELION is not installed")

MATRIX = re.compile(r"R\(\d+\)=\s*\n" + 3 * r"((?:\s+\S+){3})\s*\n")


@pytest.mark.parametrize("name", ["C1", "C3", "C7", "D2", "D3", "D7", "T", "O", "I", "I1", "I2", "I3", "I4"])
def test_the_rotations_of_a_group_are_those_that_relion_prints(tmp_path, name):
    done = subprocess.run(
        ["relion_refine", "--print_symmetry_ops", "--sym", name, "--o", "x"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    printed = np.array([[row.split() for row in rows] for rows in MATRIX.findall(done.stdout)], dtype=float)
    group = symmetry_group(name).numpy()
    assert printed.shape == group.shape
    gaps = np.abs(group[:, None] - printed).max((-1, -2))
    # RELION writes its axes with five or six digits.
    assert gaps.min(0).max() < 1e-5
    assert gaps.min(1).max() < 1e-5


def test_the_healpix_directions_are_those_that_relion_searches(tmp_path):
    with mrcfile.new(tmp_path / "x.mrcs") as file:
        file.set_data(np.random.default_rng(0).normal(size=(2, 32, 32)).astype(np.float32))
    with mrcfile.new(tmp_path / "map.mrc") as file:
        file.set_data(np.random.default_rng(1).normal(size=(32, 32, 32)).astype(np.float32))
        file.voxel_size = 4.0
    (tmp_path / "in.star").write_text(
        "\n# version 30001\n\ndata_optics\n\nloop_\n_rlnOpticsGroup\n_rlnOpticsGroupName\n_rlnVoltage\n"
        "_rlnSphericalAberration\n_rlnAmplitudeContrast\n_rlnImagePixelSize\n_rlnImageSize\n"
        "_rlnImageDimensionality\n1 a 300 2.7 0.1 4.0 32 2\n"
        "\n# version 30001\n\ndata_particles\n\nloop_\n_rlnImageName\n_rlnMicrographName\n_rlnOpticsGroup\n"
        "000001@x.mrcs m.mrc 1\n000002@x.mrcs m.mrc 1\n"
    )
    (tmp_path / "out").mkdir()
    options = "--iter 1 --K 1 --firstiter_cc --ini_high 30 --dont_check_norm --particle_diameter 100"
    options += " --healpix_order 2 --oversampling 0 --offset_range 0"
    done = subprocess.run(
        f"relion_refine --i in.star --ref map.mrc --o out/run {options}".split(),
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    text = (tmp_path / "out/run_it001_sampling.star").read_text()
    table = text.split("data_sampling_directions")[1].split("_rlnAngleTilt #2")[1]
    rot, tilt = np.array([line.split()[:2] for line in table.splitlines() if line.strip()], dtype=float).T
    angles = torch.from_numpy(np.stack([rot, tilt, 0 * rot], 1))
    torch.testing.assert_close(
        view_directions(euler_to_matrix(angles)), healpix_directions(2), atol=1e-6, rtol=0
    )
