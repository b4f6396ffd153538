"""``halfmap local-resolution`` as a user would run it, on small half maps with detail on one side only."""

from __future__ import annotations

import json
import re
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch
from scipy import ndimage

from halfmap.maps.mrc import write_map

BOX, PIXEL = 44, 3.0
Z, Y, X = np.meshgrid(*[np.arange(BOX) - BOX // 2] * 3, indexing="ij")
BALL = np.clip(14.5 - np.sqrt(X**2 + Y**2 + Z**2), 0, 1).astype(np.float32)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The maps of a refinement: fine detail at x < 0, coarse shape at x > 0. Tests must not change them."""
    folder = tmp_path_factory.mktemp("halves") / "run"
    folder.mkdir()
    rng = np.random.default_rng(1)
    texture = rng.normal(size=(BOX,) * 3)
    fine, coarse = ndimage.gaussian_filter(texture, 0.8), ndimage.gaussian_filter(texture, 2.4)
    signal = BALL * np.where(X < 0, fine / fine.std(), coarse / coarse.std())
    for h in (1, 2):
        noisy = signal + 0.5 * rng.normal(size=signal.shape)
        write_map(folder / f"half{h}_unfil.mrc", torch.from_numpy(noisy.astype(np.float32)), PIXEL)
    write_map(folder / "mask.mrc", torch.from_numpy(BALL), PIXEL)
    return folder


def read(path: Path) -> np.ndarray:
    with mrcfile.open(path) as file:
        assert file.data.shape == (BOX,) * 3 and float(file.voxel_size.x) == pytest.approx(PIXEL)
        return np.array(file.data, dtype=np.float64)


def test_a_run_gets_its_local_resolution_its_numbers_and_a_page(run, halfmap, tmp_path) -> None:
    done = halfmap(["local-resolution", run, "--window", 45, "--out", tmp_path / "local"])
    assert done.status == 0, done.error
    assert {path.name for path in done.out.iterdir()} == {"local_resolution.mrc", "mask.mrc", "local_resolution.json",
                                                          "local_resolution.html", "local_resolution.cxc"}
    found, mask = read(done.out / "local_resolution.mrc"), read(done.out / "mask.mrc")
    np.testing.assert_array_equal(mask, BALL)
    fine, coarse = (np.median(found[(mask > 0.5) & side]) for side in (X < -7, X > 7))
    assert fine < 0.8 * coarse
    told = json.loads((done.out / "local_resolution.json").read_text())
    assert told["window_A"] == pytest.approx(45) and told["threshold"] == 0.5
    assert told["percentiles_A"]["50"] == pytest.approx(np.median(found[mask > 0.5]), rel=1e-4)
    # A window of 45 A lies in a cube of 24 voxels of 3 A, of which shell 3 is 24 A.
    assert told["coarsest_A"] == pytest.approx(24) and np.allclose(found[mask == 0], 24, rtol=1e-5)
    assert f"{told['percentiles_A']['50']:.2f}" in done.said and "Finished" in done.said

    page = (done.out / "local_resolution.html").read_text(encoding="utf-8")
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", re.sub(r"<(style|script).*?</\1>", " ", page, flags=re.S)))
    assert f"halfmap local-resolution {run} --window 45 --out {done.out}" in text
    assert "local cut-off" not in text.lower() and "is resolved to" in text and "color sample #1 map #2" in text
    assert "10.1016/j.jsb.2013.08.002" in page


def test_half_maps_by_name_and_a_finer_step_give_the_same_picture(run, halfmap, tmp_path) -> None:
    usual = halfmap(["local-resolution", run, "--window", 45, "--out", tmp_path / "usual"])
    dense = halfmap(["local-resolution", "--half1", run / "half1_unfil.mrc", "--mask", run / "mask.mrc", "--window", 45,
                     "--step", 6, "--out", tmp_path / "dense"])
    assert dense.status == 0, dense.error
    first, second = (1 / read(done.out / "local_resolution.mrc")[BALL > 0.5] for done in (usual, dense))
    assert np.abs(first - second).mean() < 0.05 * first.mean()
    steps = [json.loads((done.out / "local_resolution.json").read_text())["step_A"] for done in (usual, dense)]
    assert steps == [12, 6]


def test_the_window_follows_the_resolution_of_the_maps(run, halfmap, tmp_path) -> None:
    done = halfmap(["local-resolution", run, "--out", tmp_path / "out"])
    told = json.loads((done.out / "local_resolution.json").read_text())
    assert told["window_A"] == pytest.approx(max(20, 24, 5 * told["global_resolution_A"]["corrected"]))


@pytest.mark.parametrize("words,complaint", [
    (["--window", 10], "--window 10: must lie between 24 A (8 voxels) and 88 A"),
    (["--window", 90], "two thirds of the box"),
    (["--window", 40, "--step", 50], "--step 50: must not be more than the window's width"),
    (["--threshold", 1.5], "must be below 1"),
    (["--half2", "other.mrc"], "belongs to --half1"),
    (["--half1", "half1.mrc"], "one of the two"),
])  # fmt: skip
def test_a_wrong_choice_ends_in_one_line_and_nothing_is_written(words, complaint, run, halfmap, tmp_path) -> None:
    done = halfmap(["local-resolution", run, *words, "--out", tmp_path / "out"])
    assert done.status == 2 and complaint in done.error and done.error.count("\n") == 1
    assert not done.out.exists()


def test_wrong_folders_and_masks_are_named(run, halfmap, tmp_path) -> None:
    empty = tmp_path / "empty.mrc"
    write_map(empty, torch.from_numpy(0.3 * BALL), PIXEL)
    before = read(run / "mask.mrc")
    for words, complaint in (
        (["nowhere"], "no such folder"),
        ([tmp_path], "half1_unfil.mrc"),
        ([run, "--mask", empty], "nowhere above one half"),
    ):
        done = halfmap(["local-resolution", *words, "--out", tmp_path / "out"])
        assert done.status == 2 and complaint in done.error and done.error.count("\n") == 1
    done = halfmap(["local-resolution", run, "--out", run])
    assert done.status == 2 and "name a new folder" in done.error
    np.testing.assert_array_equal(read(run / "mask.mrc"), before)
