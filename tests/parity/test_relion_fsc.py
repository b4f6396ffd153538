"""FSC curves against relion_postprocess."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from halfmap.maps.masks import spherical_mask
from halfmap.maps.mrc import write_map
from halfmap.validation.fsc import corrected_fsc, fsc
from halfmap.validation.halfmaps import null_band

starfile = pytest.importorskip("starfile")
pytestmark = pytest.mark.skipif(
    shutil.which("relion_postprocess") is None, reason="relion_postprocess is not installed"
)

BOX, PIXEL = 48, 2.0


def _half_maps() -> tuple[Tensor, Tensor]:
    """Eight hundred sharp atoms within a radius of 12 voxels, in noise that takes over near shell 20."""
    rng = np.random.default_rng(3)
    points = rng.normal(size=(800, 3))
    points *= 12 * rng.random((800, 1)) ** (1 / 3) / np.linalg.norm(points, axis=1, keepdims=True)
    k = np.fft.fftfreq(BOX)
    wave = np.exp(-2j * np.pi * (points + BOX // 2)[:, :, None] * k)
    transform = np.einsum("pz,py,px->zyx", wave[:, 0], wave[:, 1], wave[:, 2], optimize=True)
    squared = k[:, None, None] ** 2 + k[:, None] ** 2 + k**2
    v = np.fft.ifftn(transform * np.exp(-12 * squared)).real
    first, second = (v + 0.025 * rng.standard_normal(v.shape) for _ in range(2))
    return torch.from_numpy(first).float(), torch.from_numpy(second).float()


@pytest.fixture(scope="module")
def relion(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("postprocess")
    half1, half2 = _half_maps()
    mask = spherical_mask(BOX, 14, 5)
    for name, data in (("half1", half1), ("half2", half2), ("mask", mask)):
        write_map(folder / f"{name}.mrc", data, PIXEL)
    command = "relion_postprocess --i half1.mrc --i2 half2.mrc --mask mask.mrc --angpix 2 --o ./post"
    subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
    tables = starfile.read(Path(folder) / "post.star")
    curves = tables["fsc"]
    label = "rlnFourierShellCorrelation"
    return {
        "halves": (half1, half2),
        "mask": mask,
        "from": float(tables["general"]["rlnRandomiseFrom"]),
        "unmasked": curves[f"{label}UnmaskedMaps"].to_numpy(),
        "masked": curves[f"{label}MaskedMaps"].to_numpy(),
        "randomised": curves["rlnCorrectedFourierShellCorrelationPhaseRandomizedMaskedMaps"].to_numpy(),
        "corrected": curves[f"{label}Corrected"].to_numpy(),
    }


def _stored_once(a: Tensor, b: Tensor) -> np.ndarray:
    """FSC by RELION's bookkeeping: every stored coefficient of the half transform counts once."""
    A, B = (np.fft.rfftn(v.double().numpy()) for v in (a, b))
    k = np.fft.fftfreq(BOX, 1 / BOX)
    squared = k[:, None, None] ** 2 + k[:, None] ** 2 + np.arange(BOX // 2 + 1) ** 2
    shell = np.rint(np.sqrt(squared)).astype(int)
    cross, pa, pb = (
        np.bincount(shell.ravel(), f.ravel())[: BOX // 2 + 1]
        for f in ((A * B.conj()).real, abs(A) ** 2, abs(B) ** 2)
    )
    return cross / np.sqrt(pa * pb)


def test_unmasked_and_masked_curves_agree_with_relion(relion: dict[str, Any]) -> None:
    half1, half2 = relion["halves"]
    mask = relion["mask"]
    below_nyquist = slice(1, BOX // 2)
    for name, pair in (("unmasked", (half1, half2)), ("masked", (half1 * mask, half2 * mask))):
        found = fsc(*pair).numpy()[below_nyquist]
        np.testing.assert_allclose(found, relion[name][below_nyquist], atol=0.01)


def test_the_remaining_difference_is_the_plane_that_relion_counts_twice(relion: dict[str, Any]) -> None:
    found = _stored_once(*relion["halves"])
    np.testing.assert_allclose(found[1:], relion["unmasked"][1:], atol=2e-5)


def test_randomisation_starts_where_relion_starts_it(relion: dict[str, Any]) -> None:
    half1, half2 = relion["halves"]
    curves = corrected_fsc(half1, half2, relion["mask"], torch.Generator().manual_seed(0))
    assert BOX * PIXEL / curves.from_shell == pytest.approx(relion["from"], rel=1e-4)


def test_randomised_and_corrected_curves_agree_within_their_noise(relion: dict[str, Any]) -> None:
    half1, half2 = relion["halves"]
    curves = corrected_fsc(half1, half2, relion["mask"], torch.Generator().manual_seed(0))
    kept = slice(1, curves.from_shell + 2)
    np.testing.assert_allclose(curves.corrected.numpy()[kept], relion["corrected"][kept], atol=0.01)
    # The random phases differ: two draws of one distribution, so they differ by sqrt(2) of its width.
    beyond = slice(curves.from_shell + 2, BOX // 2)
    width = np.sqrt(2) * null_band(BOX, relion["mask"]).numpy()[beyond] + 0.01
    for name in ("randomised", "corrected"):
        difference = getattr(curves, name).numpy()[beyond] - relion[name][beyond]
        assert np.abs(difference / width).max() < 4


def test_the_correction_is_relions_formula(relion: dict[str, Any]) -> None:
    start = round(BOX * PIXEL / relion["from"]) + 2
    masked, randomised = relion["masked"][start:], relion["randomised"][start:]
    expected = (masked - randomised) / (1 - randomised)
    np.testing.assert_allclose(relion["corrected"][start:], expected, atol=5e-6)
