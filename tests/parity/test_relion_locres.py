"""Local resolution against relion_postprocess --locres, under one window and threshold."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from halfmap.maps.masks import spherical_mask
from halfmap.maps.mrc import read_map, write_map
from halfmap.validation.local_resolution import Window, local_resolution

pytestmark = pytest.mark.skipif(
    shutil.which("relion_postprocess") is None, reason="relion_postprocess is not installed"
)

BOX, PIXEL = 64, 2.0
SAMPLING = 20.0  # A: RELION's window is then 1 within 10 A and falls to 0 over 20 A, 40 A wide at half height
MASK_RADIUS = 18.0


def _half_maps() -> tuple[Tensor, Tensor]:
    """Atoms that are sharp where z < 0 and blurred where z > 0, in white noise."""
    rng = np.random.default_rng(5)
    points = rng.normal(size=(1500, 3))
    points *= 17 * rng.random((1500, 1)) ** (1 / 3) / np.linalg.norm(points, axis=1, keepdims=True)
    k = np.fft.fftfreq(BOX)
    wave = np.exp(-2j * np.pi * (points + BOX // 2)[:, :, None] * k)
    squared = k[:, None, None] ** 2 + k[:, None] ** 2 + k**2
    v = np.zeros((BOX,) * 3)
    for side, blur in ((points[:, 0] < 0, 25), (points[:, 0] >= 0, 80)):
        z, y, x = (wave[side, axis] for axis in range(3))
        transform = np.einsum("pz,py,px->zyx", z, y, x, optimize=True)
        v += np.fft.ifftn(transform * np.exp(-blur * squared)).real
    first, second = (v + 0.02 * rng.standard_normal(v.shape) for _ in range(2))
    return torch.from_numpy(first).float(), torch.from_numpy(second).float()


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """RELION's local resolution, ours (both in A), and the mask."""
    folder = tmp_path_factory.mktemp("locres")
    half1, half2 = _half_maps()
    mask = spherical_mask(BOX, MASK_RADIUS, 4)
    for name, data in (("half1", half1), ("half2", half2), ("mask", mask)):
        write_map(folder / f"{name}.mrc", data, PIXEL)
    command = (f"relion_postprocess --i half1.mrc --i2 half2.mrc --mask mask.mrc --angpix {PIXEL} --o ./post --locres "
               f"--locres_sampling {SAMPLING} --locres_minres 50 --locres_randomize_at 25 --adhoc_bfac 0")
    subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
    theirs = read_map(Path(folder) / "post_locres.mrc").data.numpy()
    # RELION reads its local FSC at 0.143, after taking off that of randomised phases.
    ours, _ = local_resolution(half1, half2, mask, Window(2 * SAMPLING / PIXEL), threshold=0.143)
    return theirs, ours.numpy() * PIXEL, mask.numpy()


def test_medians_agree_with_relion_on_the_whole_and_on_each_side(both: tuple[np.ndarray, ...]) -> None:
    theirs, ours, mask = both
    z = np.arange(BOX)[:, None, None] - BOX // 2
    for side in (z == z, z < -6, z > 6):
        inside = (mask > 0.5) & side
        assert np.median(ours[inside]) == pytest.approx(np.median(theirs[inside]), rel=0.15)


def test_both_programs_see_the_same_places_as_better(both: tuple[np.ndarray, ...]) -> None:
    theirs, ours, mask = both
    inside = mask > 0.5
    assert np.corrcoef(1 / theirs[inside], 1 / ours[inside])[0, 1] > 0.9
