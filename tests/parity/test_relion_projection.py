"""Projections of a map, shifted and through the CTF, against relion_project coefficient by coefficient."""

from __future__ import annotations

import math
import shutil
import subprocess
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch
from torch import Tensor

from halfmap import kernels
from halfmap.fourier.band import Band
from halfmap.fourier.transform import half_volume
from halfmap.geometry.rotations import euler_to_matrix
from halfmap.imaging.ctf import Defocus, ctf
from halfmap.imaging.optics import OpticsGroup

pytestmark = pytest.mark.skipif(shutil.which("relion_project") is None, reason="relion_project is not installed")

BOX, PIXEL = 48, 1.25  # a pixel size that the float32 of a header holds exactly
ANGLES = [(0, 0, 0), (40, 0, 0), (0, 90, 0), (10, 70, -130), (-95, 160, 20), (123, 45, 67), (-33, 117, -8), (9, 179, 1)]
ORIGINS = [(0, 0), (1.25, 0), (0, -2.5), (3.1, 1.7), (-0.4, 0.9), (-5.0, 2.2), (0.6, -0.6), (2.2, 3.3)]  # angstrom


def write_star(path: Path) -> None:
    optics = {"OpticsGroup": 1, "OpticsGroupName": "o", "ImageDimensionality": 2, "Voltage": 300, "ImageSize": BOX,
              "SphericalAberration": 2.7, "AmplitudeContrast": 0.1, "ImagePixelSize": PIXEL}  # fmt: skip
    particles = []
    for i, (angles, origin) in enumerate(zip(ANGLES, ORIGINS, strict=True)):
        particles.append({
            "ImageName": f"{i + 1}@x.mrcs", "OpticsGroup": 1, "DefocusU": 8000 + 1500 * i, "DefocusV": 7500 + 1400 * i,
            "DefocusAngle": 20 * i - 60, "AngleRot": angles[0], "AngleTilt": angles[1], "AnglePsi": angles[2],
            "OriginXAngst": origin[0], "OriginYAngst": origin[1],
        })  # fmt: skip
    with path.open("w") as file:
        for name, rows in (("optics", [optics]), ("particles", particles)):
            file.write(f"\n# version 30001\n\ndata_{name}\n\nloop_\n")
            file.writelines(f"_rln{label}\n" for label in rows[0])
            file.writelines(" ".join(map(str, row.values())) + "\n" for row in rows)
            file.write("\n")


def phantom() -> Tensor:
    """Sixty sharp blobs within a third of the box, without symmetry [z, y, x]."""
    random = np.random.default_rng(8)
    centre = random.uniform(-0.3 * BOX, 0.3 * BOX, (200, 3))
    centre = centre[np.linalg.norm(centre, axis=1) < 0.3 * BOX][:60]
    axis = np.arange(BOX) - BOX // 2
    one = [np.exp(-((axis - centre[:, i, None]) ** 2) / (2 * 1.1**2)) for i in range(3)]
    return torch.from_numpy(np.einsum("az,ay,ax->zyx", one[2], one[1], one[0])).float()


@pytest.mark.parametrize("padding", [1, 2])
@pytest.mark.parametrize("with_ctf", [False, True])
def test_projections_are_relions(tmp_path, with_ctf, padding):
    v = phantom()
    with mrcfile.new(tmp_path / "map.mrc") as file:
        file.set_data(v.numpy())
        file.voxel_size = PIXEL
    write_star(tmp_path / "in.star")
    command = f"relion_project --i map.mrc --o out --ang in.star --angpix {PIXEL} --pad {padding}"
    options = ["--ctf"] if with_ctf else []
    done = subprocess.run([*command.split(), *options], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-1000:]
    images = mrcfile.read(tmp_path / "out.mrcs").astype(np.float64)

    band = Band.to_shell(BOX, BOX // 2 - 2)
    kx, ky = band.kxy.numpy().T
    truth = np.fft.fft2(np.fft.ifftshift(images, axes=(1, 2)))[:, ky, kx]

    rotations = euler_to_matrix(torch.tensor(ANGLES, dtype=torch.float64))
    shifts = -torch.tensor(ORIGINS, dtype=torch.float64) / PIXEL
    angle = -2 * math.pi / BOX * shifts @ band.kxy.double().T
    slices = kernels.project_slices(half_volume(v, padding, BOX // 2 - 2), band.kxy.double() * padding, rotations)
    found = (torch.polar(torch.ones_like(angle), angle) * slices).numpy()
    if with_ctf:
        number = torch.arange(len(ANGLES), dtype=torch.float64)
        zero = torch.zeros_like(number)
        u, v, angle = 8000 + 1500 * number, 7500 + 1400 * number, torch.deg2rad(20 * number - 60)
        defocus = Defocus(u, v, angle, zero, zero, zero + 1)
        found = found * ctf(band.kxy, OpticsGroup("o", 300.0, 2.7, 0.1, PIXEL, BOX), defocus).numpy()

    for one, other in zip(found, truth, strict=True):
        scale = np.vdot(other, one) / np.vdot(other, other)
        correlation = abs(np.vdot(other, one)) / (np.linalg.norm(one) * np.linalg.norm(other))
        # RELION divides the map by sinc^2 of the radius, this program by the product over the axes, which is what
        # linear interpolation does: they differ in the fourth order of radius over padded box
        assert correlation > 1 - {1: 1e-5, 2: 1e-7}[padding]
        assert abs(scale - 1) < {1: 3e-3, 2: 2e-4}[padding]
