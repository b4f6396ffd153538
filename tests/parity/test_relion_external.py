"""halfmap-relion inside RELION: the same files reconstructed by RELION's own program, and a run that uses it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from fixtures.plug_packages import installed

from halfmap.fourier.shells import half_volume_radius
from halfmap.particles.model import write_pdb
from halfmap.plugins.relion_external import main
from halfmap.plugins.relion_sums import read_call, read_sums
from halfmap.settings.simulate import SimulateSettings
from halfmap.simulation.demo_molecule import demo_molecule
from halfmap.simulation.simulate import simulate

pytestmark = pytest.mark.skipif(
    shutil.which("relion_external_reconstruct") is None or shutil.which("relion_refine") is None,
    reason="RELION is not installed",
)

ENDING = "_external_reconstruct"
CLASS = "run_it002_class001"
REFINE = ("relion_refine --i particles.star --ref initial.mrc --o ./run --iter 2 --K 1 --firstiter_cc --ini_high 30 "
          "--pad 2 --ctf --particle_diameter 150 --flatten_solvent --zero_mask --oversampling 0 --healpix_order 1 "
          "--offset_range 3 --offset_step 3 --norm --scale --j 1 --random_seed 1 --external_reconstruct")  # fmt: skip
PLUGIN = f"{sys.executable} -m halfmap.plugins.relion_external"


def density(path: Path) -> np.ndarray:
    with mrcfile.open(path, permissive=True) as file:
        return np.array(file.data, dtype=np.float64)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two iterations of RELION with sparse_smooth as its reconstruction; all files are kept."""
    folder = tmp_path_factory.mktemp("relion")
    write_pdb(folder / "m.pdb", demo_molecule())
    simulate(SimulateSettings(model=folder / "m.pdb", out=folder, n=40, box=32, apix=5.25, snr=0.5, micrographs=2))
    told = {"RELION_EXTERNAL_RECONSTRUCT_EXECUTABLE": f"{PLUGIN} --regulariser sparse_smooth --ss-steps 40"}
    done = subprocess.run(REFINE.split(), cwd=folder, env=os.environ | told | {"OMP_NUM_THREADS": "1"},
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-1000:]
    return folder


@pytest.fixture
def copied(run: Path, tmp_path: Path) -> Callable[[str], str]:
    """Copies of the last call's files in tmp_path under another name; gives the STAR file's."""

    def copy(name: str) -> str:
        for path in run.glob(f"{CLASS}{ENDING}*"):
            target = tmp_path / path.name.replace(CLASS, name)
            if path.suffix == ".star":
                target.write_text(path.read_text().replace(CLASS, name))
            else:
                shutil.copy(path, target)
        return f"{name}{ENDING}.star"

    return copy


def by_relion(folder: Path, star: str) -> np.ndarray:
    words = ["relion_external_reconstruct", star, "--skip_gridding"]
    subprocess.run(words, cwd=folder, check=True, capture_output=True)
    return density(folder / star.replace(".star", ".mrc"))


def test_uniform_gives_relions_own_map_for_both_half_sets_at_once_and_for_all_images(
    copied: Callable[[str], str], tmp_path: Path
) -> None:
    stars = [copied(f"run_it002{half}_class001") for half in ("_half1", "_half2", "")]
    # a half set of its own: the second with half the weight
    with mrcfile.open(tmp_path / stars[1].replace(".star", "_weight.mrc"), "r+") as file:
        file.data[:] *= 0.5
    expected = [by_relion(tmp_path, star) for star in stars]
    assert np.abs(expected[0] - expected[1]).max() > 1e-3 * np.abs(expected[0]).max()
    for star in stars:
        (tmp_path / star.replace(".star", ".mrc")).unlink()
    calls = [subprocess.Popen([*PLUGIN.split(), "--threads", "1", star], cwd=tmp_path) for star in stars]
    assert [call.wait() for call in calls] == [0, 0, 0]
    for star, want in zip(stars, expected, strict=True):
        found = density(tmp_path / star.replace(".star", ".mrc"))
        assert np.linalg.norm(found - want) < 1e-5 * np.linalg.norm(want)
    log = (tmp_path / "run_halfmap.log").read_text().splitlines()
    assert sorted(line.split("class001 ")[1].split(":")[0] for line in log) == ["all images", "half 1", "half 2"]


def test_relion_goes_on_from_the_map_that_sparse_smooth_gives_it(run: Path) -> None:
    given, kept = density(run / f"{CLASS}{ENDING}.mrc"), density(run / f"{CLASS}.mrc")
    x = np.arange(32) - 16
    radius = np.sqrt(x[:, None, None] ** 2 + x[:, None] ** 2 + x**2)
    inside = radius < 150 / 2 / 5.25 - 3
    np.testing.assert_allclose(kept[inside], given[inside], atol=1e-6 * np.abs(given).max())
    log = (run / "run_halfmap.log").read_text().splitlines()
    assert "iteration 1 " in log[0] and "from no earlier map" in log[0]
    assert "iteration 2 " in log[1] and "from the map of iteration 1" in log[1]


def test_sparse_smooth_has_the_place_and_grey_scale_of_relions_map(
    run: Path, copied: Callable[[str], str], tmp_path: Path
) -> None:
    """They share their data: the sparse map may be sharper, not shifted, inverted or in other units."""
    want, found = by_relion(tmp_path, copied(CLASS)), density(run / f"{CLASS}{ENDING}.mrc")
    assert np.corrcoef(want.ravel(), found.ravel())[0, 1] > 0.8
    assert 0.6 < (want * found).sum() / (want * want).sum() < 1.6


def test_the_weights_of_relions_sums_say_how_much_noise_they_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images without a particle, one pose each: trilinear insertion leaves (2/3)^3 of the weight as noise power."""
    write_pdb(tmp_path / "m.pdb", demo_molecule())
    simulate(SimulateSettings(
        model=tmp_path / "m.pdb", out=tmp_path, n=100, box=32, apix=5.25, snr=1e-4, micrographs=2))
    told = {"RELION_EXTERNAL_RECONSTRUCT_EXECUTABLE": f"{PLUGIN} --regulariser uniform", "OMP_NUM_THREADS": "1"}
    words = REFINE.replace("--iter 2", "--iter 1").replace(" --zero_mask", "")
    subprocess.run(words.split(), cwd=tmp_path, env=os.environ | told, capture_output=True, check=True)
    monkeypatch.chdir(tmp_path)  # RELION names its files as seen from where it runs
    sums = read_sums(read_call(Path(f"run_it001_class001{ENDING}.star")))
    radius = half_volume_radius((len(sums.sums) - 1) // 2) / 2
    inside = (radius > 8) & (radius < 14)  # below, the poses follow what noise has in common with the starting map
    power = sums.sums[..., :2].square().sum(-1)[inside].sum()
    assert float(power / sums.weight[inside].sum()) == pytest.approx(8 / 27, rel=0.15)  # twice that in RELION's units


def test_the_pull_of_gamma_is_towards_the_last_map_of_the_same_half_set(
    copied: Callable[[str], str], run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    star = copied("run_it002_half2_class001")
    last = density(run / "run_it001_class001.mrc").astype(np.float32)
    found = {}
    for name, sign in (("own", 1.0), ("other way", -1.0)):
        with mrcfile.new(tmp_path / "run_it001_half2_class001.mrc", overwrite=True) as file:
            file.set_data(np.float32(sign) * last)
            file.voxel_size = 5.25
        assert main([star, "--regulariser", "sparse_smooth", "--ss-gamma", "50", "--ss-steps", "40"]) == 0
        found[name] = density(tmp_path / star.replace(".star", ".mrc"))
    assert np.corrcoef(found["own"].ravel(), last.ravel())[0, 1] > 0.9
    assert np.corrcoef(found["other way"].ravel(), last.ravel())[0, 1] < -0.5


@pytest.mark.parametrize(("name", "kept", "said"), [
    ("run_ct1_it002_half1_class001", ["run_it001_half1_class001"], "half 1: sparse_smooth"),
    ("run_it002_class001", ["run_it001_half1_class001", "run_it001_half2_class001"], "all images: sparse_smooth"),
])  # fmt: skip
def test_a_continued_run_and_the_last_reconstruction_find_their_earlier_maps(
    name: str, kept: list[str], said: str, copied: Callable[[str], str], run: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    star = copied(name)
    for file in kept:
        shutil.copy(run / "run_it001_class001.mrc", tmp_path / f"{file}.mrc")
    assert main([star, "--regulariser", "sparse_smooth", "--ss-steps", "1"]) == 0
    log = (tmp_path / "run_halfmap.log").read_text()
    assert said in log and "from the map of iteration 1" in log


def test_a_regulariser_of_another_package_that_needs_one_half_set_only_makes_relions_map(
    copied: Callable[[str], str], tmp_path: Path
) -> None:
    star, packages = copied("run_it002_half1_class001"), tmp_path / "packages"
    packages.mkdir()
    path = os.pathsep.join([str(installed(packages)), str(Path(__file__).parents[2] / "src")])
    found = []
    for gain in (0.25, 0.5):
        done = subprocess.run([*PLUGIN.split(), star, "--regulariser", "soft", "--soft-gain", str(gain),
                               "--pixel-size", "5.25"], cwd=tmp_path,
                              env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        found.append(density(tmp_path / star.replace(".star", ".mrc")))
    np.testing.assert_allclose(2 * found[0], found[1], rtol=1e-5)
    assert "half 1: soft gain 0.25, from no earlier map" in (tmp_path / "run_halfmap.log").read_text()


@pytest.mark.parametrize(("options", "reason"), [
    (["--regulariser", "nonuniform"], "quarter sets"),
    (["--regulariser", "sidesplitter"], "both half maps"),
    (["--regulariser", "joined"], "quarter sets"),
    (["--regulariser", "sparse_smooth", "--ss-parameters", "cross-validated"], "quarter sets"),
    (["--regulariser", "sparse_smooth", "--ss-parameters", "published-code"], "other half set"),
    (["--ss-alpha", "0.3"], "belongs to --regulariser sparse_smooth"),
    (["--regulariser", "unifrom"], "invalid choice"),
])  # fmt: skip
def test_what_cannot_run_on_one_half_set_is_refused_with_the_reason(
    options: list[str], reason: str, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(run)
    before = (run / f"{CLASS}{ENDING}.mrc").read_bytes()
    assert main([*options, f"{CLASS}{ENDING}.star"]) == 2
    said = capsys.readouterr().err
    assert reason in said and said.count("\n") == 1
    assert (run / f"{CLASS}{ENDING}.mrc").read_bytes() == before


def test_a_truncated_volume_is_named_here_and_in_the_log(
    copied: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    star = copied("run_it002_half2_class001")
    weight = tmp_path / star.replace(".star", "_weight.mrc")
    weight.write_bytes(weight.read_bytes()[:-400])
    (tmp_path / star.replace(".star", ".mrc")).unlink()
    monkeypatch.chdir(tmp_path)
    assert main([star]) == 2
    said = capsys.readouterr().err
    assert weight.name in said and "truncated" in said and said.count("\n") == 1
    assert "half 2: halfmap-relion: error:" in (tmp_path / "run_halfmap.log").read_text()
    assert not (tmp_path / star.replace(".star", ".mrc")).exists()
