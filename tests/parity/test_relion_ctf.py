"""The CTF, the aberrations and the magnification against RELION's own programs, to the accuracy of its files.

`relion_project --ctf` applies the CTF to a point, whose transform is 1 everywhere. It leaves out beam tilt,
odd Zernike terms and the stretching of the reference; `relion_particle_subtract` predicts images with those.
"""

import math
import shutil
import subprocess
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch

from halfmap.geometry.rotations import euler_to_matrix
from halfmap.imaging.ctf import Defocus, ctf, odd_aberration, reference_coordinates
from halfmap.imaging.optics import UNDISTORTED, BeamTilt, MagnificationMatrix, OpticsGroup

pytestmark = pytest.mark.skipif(
    not all(shutil.which(name) for name in ("relion_project", "relion_refine", "relion_particle_subtract")),
    reason="RELION is not installed",
)

# A pixel size that float32 holds exactly: relion_project reads it from the header of the map.
BOX, PIXEL = 64, 1.25
SHEAR = MagnificationMatrix(1.03, 0.01, -0.02, 0.97)
# u, v in A, angle and phase shift in degrees, B in A^2, scale: three images that share nothing.
IMAGES = [
    (21000.0, 17000.0, 25.0, 0.0, 0.0, 1.0),
    (9000.0, 9500.0, -70.0, 15.0, 30.0, 1.0),
    (30000.0, 30000.0, 0.0, 90.0, 0.0, 0.9),
]
EULER = [(0.0, 0.0, 0.0), (40.0, 70.0, -110.0), (-15.0, 130.0, 20.0)]


def band(limit: int) -> torch.Tensor:
    """One of each Friedel pair, 0 < |k| <= limit."""
    kxy = torch.cartesian_prod(torch.arange(0, limit + 1), torch.arange(-limit, limit + 1))
    half = (kxy[:, 0] > 0) | (kxy[:, 1] > 0)
    return kxy[half & (kxy.square().sum(1) <= limit**2)]


def defocus() -> Defocus:
    u, v, angle, shift, bfactor, scale = torch.tensor(IMAGES, dtype=torch.float64).unbind(1)
    return Defocus(u, v, torch.deg2rad(angle), torch.deg2rad(shift), bfactor, scale)


def optics(**changes) -> OpticsGroup:
    return OpticsGroup("krios", 300.0, 2.7, 0.1, PIXEL, BOX, **changes)


def star_columns(group: OpticsGroup) -> dict[str, object]:
    columns: dict[str, object] = {
        "OpticsGroup": 1, "OpticsGroupName": group.name, "ImageDimensionality": 2, "Voltage": group.voltage,
        "SphericalAberration": group.spherical_aberration, "AmplitudeContrast": group.amplitude_contrast,
        "ImagePixelSize": group.pixel_size, "ImageSize": group.box,
    }  # fmt: skip
    if any(group.beam_tilt):
        columns.update(zip(("BeamTiltX", "BeamTiltY"), group.beam_tilt, strict=True))
    if group.even_zernike:
        columns["EvenZernike"] = "[" + ",".join(map(str, group.even_zernike)) + "]"
    if group.odd_zernike:
        columns["OddZernike"] = "[" + ",".join(map(str, group.odd_zernike)) + "]"
    if group.has_distortion:
        labels = ("MagMat00", "MagMat01", "MagMat10", "MagMat11")
        columns.update(zip(labels, group.magnification, strict=True))
    return columns


def write_star(path: Path, group: OpticsGroup, stack: str) -> None:
    common = {"MicrographName": "m.mrc", "OpticsGroup": 1, "GroupNumber": 1, "RandomSubset": 1,
              "ClassNumber": 1, "NormCorrection": 1, "OriginXAngst": 0, "OriginYAngst": 0}  # fmt: skip
    labels = ("DefocusU", "DefocusV", "DefocusAngle", "PhaseShift", "CtfBfactor", "CtfScalefactor",
              "AngleRot", "AngleTilt", "AnglePsi")  # fmt: skip
    particles = [
        {"ImageName": f"{i + 1:06d}@{stack}", **common, **dict(zip(labels, image + euler, strict=True))}
        for i, (image, euler) in enumerate(zip(IMAGES, EULER, strict=True))
    ]
    with path.open("w") as file:
        for name, rows in (("optics", [star_columns(group)]), ("particles", particles)):
            file.write(f"\n# version 30001\n\ndata_{name}\n\nloop_\n")
            file.writelines(f"_rln{label}\n" for label in rows[0])
            file.writelines(" ".join(map(str, row.values())) + "\n" for row in rows)
            file.write("\n")


def write_mrc(path: Path, data: np.ndarray, pixel_size: float) -> None:
    with mrcfile.new(path, overwrite=True) as file:
        file.set_data(data.astype(np.float32))
        file.voxel_size = pixel_size


def run(folder: Path, command: str) -> None:
    done = subprocess.run(command.split(), cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-2000:]


def coefficients(images: np.ndarray, kxy: torch.Tensor) -> np.ndarray:
    """Unscaled Fourier coefficients, phase origin at the centre of the box."""
    kx, ky = kxy.numpy().T
    return np.fft.fft2(np.fft.ifftshift(images.astype(np.float64), axes=(-2, -1)))[:, ky, kx]


def point() -> np.ndarray:
    volume = np.zeros((BOX, BOX, BOX))
    volume[BOX // 2, BOX // 2, BOX // 2] = 1.0
    return volume


def relion_ctf(folder: Path, group: OpticsGroup, kxy: torch.Tensor) -> np.ndarray:
    write_mrc(folder / "point.mrc", point(), PIXEL)
    write_star(folder / "in.star", group, "x.mrcs")
    run(folder, f"relion_project --i point.mrc --o out --ang in.star --ctf --angpix {PIXEL}")
    return coefficients(mrcfile.read(folder / "out.mrcs"), kxy)


def relion_prediction(
    folder: Path, group: OpticsGroup, volume: np.ndarray, pixel_size: float, kxy: torch.Tensor
) -> np.ndarray:
    """What RELION subtracts from empty images: CTF and aberrations applied to projections of the volume."""
    noise = np.random.default_rng(0).normal(size=(len(IMAGES), BOX, BOX))
    write_mrc(folder / "x.mrcs", noise, PIXEL)
    write_mrc(folder / "volume.mrc", volume, pixel_size)
    write_mrc(folder / "nothing.mrc", np.zeros_like(volume), pixel_size)
    write_star(folder / "in.star", group, "x.mrcs")
    (folder / "out").mkdir()
    # One iteration without alignment makes the files that the subtraction wants; its map is then replaced.
    options = "--iter 1 --skip_align --ctf --K 1 --pad 2 --firstiter_cc --particle_diameter 70 --ini_high 10"
    options += " --dont_check_norm --trust_ref_size"
    run(folder, f"relion_refine --i in.star --ref volume.mrc --o out/run {options}")
    write_mrc(folder / "out/run_it001_class001.mrc", volume, pixel_size)
    write_mrc(folder / "x.mrcs", 0.0 * noise, PIXEL)
    options = "--mask nothing.mrc --data in.star --ignore_class --o out/"
    run(folder, f"relion_particle_subtract --i out/run_it001_optimiser.star {options}")
    (stack,) = (folder / "out").rglob("*.mrcs")
    return -coefficients(mrcfile.read(stack), kxy)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"magnification": SHEAR},
        *[{"even_zernike": tuple(3.0 if i == index else 0.0 for i in range(9))} for index in range(9)],
        {"even_zernike": (0.2, 1.0, -2.0, 3.0, 4.0, -5.0, 6.0, -7.0, 8.0), "magnification": SHEAR},
    ],
)
def test_the_ctf_is_relions(tmp_path, changes):
    kxy = band(BOX // 2 - 1)
    got = ctf(kxy, optics(**changes), defocus())
    np.testing.assert_allclose(got.numpy(), relion_ctf(tmp_path, optics(**changes), kxy), atol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        *[{"odd_zernike": tuple(3.0 if i == index else 0.0 for i in range(6))} for index in range(6)],
        {"odd_zernike": tuple(5.0 if i == 8 else 0.0 for i in range(12))},
        {"beam_tilt": BeamTilt(2.0, 0.0)},
        # The coma terms are zero: RELION 3.1 forgets them beside a beam tilt, RELION 5 adds the two.
        {"beam_tilt": BeamTilt(1.0, -2.0), "odd_zernike": (0.3, -0.2, 1.0, 0.0, 0.0, 4.0), "magnification": SHEAR},
    ],
)
def test_beam_tilt_and_odd_zernike_terms_turn_the_phases_of_the_model_as_in_relion(tmp_path, changes):
    kxy, group = band(15), optics(**changes)
    got = ctf(kxy, group, defocus()) * odd_aberration(kxy, group)
    truth = relion_prediction(tmp_path, group, point(), PIXEL, kxy)
    np.testing.assert_allclose(got.numpy(), truth, atol=2e-5)


@pytest.mark.parametrize("magnification", [UNDISTORTED, SHEAR, MagnificationMatrix(0.96, -0.03, 0.04, 1.05)])
def test_coefficients_lie_where_relion_puts_them_in_a_reference_of_another_box(tmp_path, magnification):
    box, pixel_size, sigma = 80, 1.1, 2.0
    centres = np.array([[5.0, -3.0, 1.0], [-4.0, 2.0, 5.5], [0.5, 4.0, -5.0]])
    z, y, x = np.meshgrid(*[np.arange(box) - box // 2] * 3, indexing="ij")
    squared = np.stack([(x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2 for a, b, c in centres])
    volume = np.exp(-squared / (2 * sigma**2)).sum(0)
    kxy, group = band(15), optics(magnification=magnification)
    truth = relion_prediction(tmp_path, group, volume, pixel_size, kxy)

    rotations = euler_to_matrix(torch.tensor(EULER)).numpy()
    position = reference_coordinates(kxy, group, box, pixel_size).numpy() @ rotations[:, :2]
    envelope = np.exp(-2 * (math.pi * sigma / box) ** 2 * (position**2).sum(-1))
    waves = np.exp(-2j * math.pi / box * np.einsum("rkj,aj->rka", position, centres)).sum(-1)
    got = ctf(kxy, group, defocus()).numpy() * envelope * waves
    # The overall scale of a box that is not the reference's is a convention of its own.
    scale = np.vdot(got, truth) / np.vdot(got, got)
    assert abs(scale.imag) < 1e-3 * abs(scale)
    # RELION interpolates linearly in the padded transform: 2 parts in 1000 here.
    assert np.abs(truth / scale - got).max() < 5e-3 * np.abs(got).max()
