"""``halfmap postprocess`` against relion_postprocess on the same half maps, mask and MTF."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest
import torch

from halfmap.cli.program import main
from halfmap.maps.masks import spherical_mask
from halfmap.maps.mrc import write_map

starfile = pytest.importorskip("starfile")
pytestmark = pytest.mark.skipif(
    shutil.which("relion_postprocess") is None, reason="relion_postprocess is not installed"
)

BOX, PIXEL, B, DETECTOR = 80, 1.6, 120.0, 1.2
SHELLS = np.arange(BOX // 2 + 1)


@dataclass(frozen=True)
class Both:
    """What the two programs say of one pair: RELION's tables, postprocess.json, and the folder of both."""

    relion: dict[str, Any]
    ours: dict[str, Any]
    folder: Path

    def map(self, name: str) -> np.ndarray:
        with mrcfile.open(self.folder / name) as file:
            return np.array(file.data, dtype=np.float64)


@pytest.fixture(scope="module")
def half_maps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A thousand atoms within 26 A, blurred by B, in noise that takes over near 4.5 A."""
    folder = tmp_path_factory.mktemp("maps")
    rng = np.random.default_rng(3)
    points = rng.normal(size=(1000, 3))
    points *= 16 * rng.random((1000, 1)) ** (1 / 3) / np.linalg.norm(points, axis=1, keepdims=True)
    k = np.fft.fftfreq(BOX)
    wave = np.exp(-2j * np.pi * (points + BOX // 2)[:, :, None] * k)
    transform = np.einsum("pz,py,px->zyx", wave[:, 0], wave[:, 1], wave[:, 2], optimize=True)
    squared = (k[:, None, None] ** 2 + k[:, None] ** 2 + k**2) / PIXEL**2
    v = np.fft.ifftn(transform * np.exp(-B / 4 * squared)).real
    for h in (1, 2):
        noisy = v + 0.057 * rng.standard_normal(v.shape)
        write_map(folder / f"half{h}.mrc", torch.from_numpy(noisy).float(), PIXEL)
    write_map(folder / "mask.mrc", spherical_mask(BOX, 20, 6), PIXEL)
    frequency = np.linspace(0, 0.5, 2001)
    rows = "".join(f"{f:.6f} {np.exp(-1.5 * f):.8f}\n" for f in frequency)
    (folder / "mtf.star").write_text(f"\ndata_\n\nloop_\n_rlnResolutionInversePixel #1\n_rlnMtfValue #2\n{rows}")
    return folder


@pytest.fixture(scope="module", params=["plain", "mtf"])
def both(half_maps: Path, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Both:
    folder = Path(shutil.copytree(half_maps, tmp_path_factory.mktemp("postprocess") / "both"))
    words = ["--mask", "mask.mrc", "--auto_bfac", "--autob_lowres", "10", "--autob_highres", "5", "--low_pass", "4.4"]
    if request.param == "mtf":
        words += ["--mtf", "mtf.star", "--mtf_angpix", str(DETECTOR)]
    command = ["relion_postprocess", "--i", "half1.mrc", "--i2", "half2.mrc", "--o", "./post", *words]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["postprocess", "--i", "half1.mrc", "--i2", "half2.mrc", "--o", "ours", *words]) == 0
    ours = json.loads((folder / "ours" / "postprocess.json").read_text())
    return Both(starfile.read(folder / "post.star"), ours, folder)


def _counted_twice(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """What an FSC gains when the plane x = 0 of the half transform counts twice, as it does in RELION."""
    A, B = np.fft.fftn(first), np.fft.fftn(second)
    k = np.fft.fftfreq(BOX, 1 / BOX)
    shell = np.rint(np.sqrt(k[:, None, None] ** 2 + k[:, None] ** 2 + k**2)).astype(int)
    curves = []
    for weight in (np.ones(BOX), np.where(np.isin(np.arange(BOX), (0, BOX // 2)), 1.0, 0.5)):
        sums = [np.bincount(shell.ravel(), (f * weight).ravel())[: BOX // 2 + 1]
                for f in ((A * B.conj()).real, abs(A) ** 2, abs(B) ** 2)]
        curves.append(sums[0] / np.sqrt(sums[1] * sums[2]))
    return curves[1] - curves[0]


def test_resolution_is_within_one_shell(both: Both) -> None:
    extent = BOX * PIXEL
    ours = both.ours["resolution_A"]["corrected"]["0.143"]
    assert 3.5 < ours < 6
    assert abs(extent / ours - extent / both.relion["general"]["rlnFinalResolution"]) <= 1


def test_the_b_factor_is_within_five_square_angstroms(both: Both) -> None:
    theirs = both.relion["general"]["rlnBfactorUsedForSharpening"]
    assert both.ours["bfactor_A2"] == pytest.approx(theirs, abs=5)
    squared = both.relion["general"]["rlnCorrelationFitGuinierPlot"]
    assert both.ours["guinier_fit"]["correlation"] == pytest.approx(-(squared**0.5), abs=0.05)


def test_the_masked_map_tells_the_b_factor_that_noise_of_the_solvent_hides_from_both(both: Both) -> None:
    masked = both.ours["guinier_fit_masked"]
    if both.ours["mtf"] is None:  # the maps were not made with it
        assert masked["bfactor_A2"] == pytest.approx(-B, abs=3 * masked["standard_error_A2"])
    assert abs(both.ours["bfactor_A2"]) < 0.7 * abs(masked["bfactor_A2"])
    assert any("within the mask" in sentence for sentence in both.ours["verdict"])


def test_unmasked_and_masked_fsc_agree_to_a_thousandth_but_for_the_plane_counted_twice(both: Both) -> None:
    halves, mask = [both.map(f"half{h}.mrc") for h in (1, 2)], both.map("mask.mrc")
    label = "rlnFourierShellCorrelation"
    for name, pair in (("Unmasked", halves), ("Masked", [half * mask for half in halves])):
        expected = np.array(both.ours["fsc"][name.lower()]) + _counted_twice(*pair)
        theirs = both.relion["fsc"][f"{label}{name}Maps"].to_numpy()
        np.testing.assert_allclose(expected[1:-1], theirs[1:-1], atol=1e-3)


def test_the_guinier_plot_is_the_same_where_random_phases_matter_little(both: Both) -> None:
    reach = slice(5, int(np.flatnonzero(np.array(both.ours["fsc"]["corrected"]) < 0.4)[0]))
    assert reach.stop > 20
    names = {"original": "Original", "weighted": "Weighted", "sharpened": "Sharpened"}
    if both.ours["mtf"]:
        names["mtf_divided"] = "MTFCorrected"
    for ours, theirs in names.items():
        found = np.array(both.ours["guinier"][ours][reach], dtype=float)
        expected = both.relion["guinier"][f"rlnLogAmplitudes{theirs}"].to_numpy()[reach]
        np.testing.assert_allclose(found, expected, atol=0.04)


def test_the_sharpened_maps_agree(both: Both) -> None:
    for ours, theirs in (("map_sharpened.mrc", "post.mrc"), ("map_sharpened_masked.mrc", "post_masked.mrc")):
        mask = both.map("mask.mrc") > 0.5
        correlation = np.corrcoef(both.map(f"ours/{ours}")[mask], both.map(theirs)[mask])[0, 1]
        assert correlation > 0.98
