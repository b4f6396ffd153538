"""Symmetry-expanded particle sets against those of relion_particle_symmetry_expand."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import starfile
from scipy.spatial.transform import Rotation

EXPAND = "relion_particle_symmetry_expand"
pytestmark = pytest.mark.skipif(shutil.which(EXPAND) is None, reason="RELION is not installed")

HEAD = """
data_optics

loop_
_rlnOpticsGroup
_rlnOpticsGroupName
_rlnVoltage
_rlnSphericalAberration
_rlnAmplitudeContrast
_rlnImagePixelSize
_rlnImageSize
_rlnImageDimensionality
1 opticsGroup1 300 2.7 0.1 2 64 2

data_particles

loop_
_rlnImageName
_rlnMicrographName
_rlnOpticsGroup
_rlnDefocusU
_rlnDefocusV
_rlnDefocusAngle
_rlnAngleRot
_rlnAngleTilt
_rlnAnglePsi
_rlnOriginXAngst
_rlnOriginYAngst
_rlnRandomSubset
"""
COUNT = 7


def matrices(table: dict[str, np.ndarray]) -> np.ndarray:
    """Reference to image coordinates [b, 3, 3]: intrinsic z, y, z (Heymann et al. 2005), by scipy."""
    angles = np.stack([table[f"rlnAngle{name}"] for name in ("Rot", "Tilt", "Psi")], axis=1)
    return Rotation.from_euler("ZYZ", angles, degrees=True).inv().as_matrix()


@pytest.mark.parametrize(("name", "order"), [("C3", 3), ("C4", 4), ("D2", 4), ("T", 12), ("O", 24), ("I1", 60)])
def test_every_image_has_the_poses_that_relion_gives_it(
    tmp_path: Path, halfmap: Callable, name: str, order: int
) -> None:
    random = np.random.default_rng(3)
    rows = [
        f"{i + 1:06d}@s.mrcs m.mrc 1 15000 14000 20 {random.uniform(-180, 180):.4f} {random.uniform(0, 180):.4f} "
        f"{random.uniform(-180, 180):.4f} {random.normal():.3f} {random.normal():.3f} {1 + i % 2}"
        for i in range(COUNT)
    ]
    star = tmp_path / "p.star"
    star.write_text(HEAD + "\n".join(rows) + "\n")
    subprocess.run([EXPAND, "--i", star, "--o", tmp_path / "relion.star", "--sym", name], check=True,
                   capture_output=True, cwd=tmp_path)  # fmt: skip
    done = halfmap(["expand", star, "--symmetry", name, "--out", tmp_path / "ours.star"])
    assert done.status == 0, done.error
    theirs, ours = (starfile.read(tmp_path / f"{who}.star")["particles"] for who in ("relion", "ours"))
    assert len(theirs) == len(ours) == COUNT * order
    for i in range(1, COUNT + 1):
        a, b = (table[table["rlnImageName"].str.startswith(f"{i:06d}@")] for table in (theirs, ours))
        gaps = np.abs(matrices(a)[:, None] - matrices(b)).max((-1, -2))
        # RELION writes its axes with five or six digits.
        assert gaps.shape == (order, order) and max(gaps.min(0).max(), gaps.min(1).max()) < 2e-5
        for label in ("rlnOriginXAngst", "rlnOriginYAngst", "rlnRandomSubset"):
            assert sorted(a[label]) == pytest.approx(sorted(b[label]), abs=1e-6)
