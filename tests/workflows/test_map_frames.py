"""Commands on maps that begin elsewhere than at 0 A, or are no cubes: what they write lies where the maps lie."""

from __future__ import annotations

import json
import re
from pathlib import Path

import mrcfile
import numpy as np
import pytest

PIXEL = 2.5
START, ORIGIN = (-10, 3, 5), (12.5, -40.0, 7.0)  # x, y, z
SHAPES = {"cube": (24, 24, 24), "flat": (20, 22, 24)}


def _halves(folder: Path, tag: str, shape: tuple, start: tuple = (0, 0, 0), origin: tuple = (0, 0, 0)) -> list[Path]:
    """Two noisy maps of two blobs around the centre voxel."""
    z, y, x = (np.arange(n) - n // 2 for n in shape)
    squares = z[:, None, None] ** 2 + y[:, None] ** 2 + x**2
    blobs = np.exp(-squares / 25) + 0.7 * np.exp(-(squares - 6 * x + 4 * y[:, None] + 13) / 6)
    paths = []
    for name in "AB":
        noise = 0.05 * np.random.default_rng(ord(name)).normal(size=shape)
        paths.append(folder / f"{tag}_{name}.mrc")
        with mrcfile.new(paths[-1]) as mrc:
            mrc.set_data((blobs + noise).astype(np.float32))
            mrc.voxel_size, mrc.nstart, mrc.header.origin = PIXEL, start, origin
    return paths


def _lies(path: Path) -> dict:
    """Side and header's places of a map that mrcfile finds sound."""
    with mrcfile.open(path) as mrc:
        assert len(set(mrc.data.shape)) == 1 and mrc.voxel_size.x == pytest.approx(PIXEL)
        return {"box": mrc.data.shape[0], "start": tuple(int(mrc.header[f"n{axis}start"]) for axis in "xyz"),
                "origin": tuple(float(mrc.header.origin[axis]) for axis in "xyz")}


def test_all_that_is_made_from_half_maps_lies_where_they_do(halfmap, tmp_path) -> None:
    one, two = _halves(tmp_path, "flat", SHAPES["flat"], START, ORIGIN)
    lines = {
        "fsc": ["fsc", one, two],
        "postprocess": ["postprocess", "--half1", one, "--half2", two, "--local"],
        "local": ["local-resolution", "--half1", one, "--half2", two],
        "filtered": ["regularise", "--half1", one, "--half2", two, "--regulariser", "local-fsc"],
    }
    written = set()
    for name, words in lines.items():
        done = halfmap([*words, "--out", tmp_path / name])
        assert done.status == 0, done.error
        assert "24 x 22 x 20 voxels are padded to a cube of 24" in done.said
        for path in done.out.glob("*.mrc"):
            # y and z begin one and two voxels earlier.
            assert _lies(path) == {"box": 24, "start": (-10, 2, 3), "origin": (12.5, -42.5, 2.0)}, path
            written.add(f"{name}/{path.name}")
    assert written >= {"fsc/mask.mrc", "postprocess/map_sharpened.mrc", "postprocess/map_sharpened_local.mrc",
                       "postprocess/theta.mrc", "local/local_resolution.mrc", "local/mask.mrc", "filtered/map.mrc",
                       "filtered/half1.mrc", "filtered/theta.mrc"}

    # The mask made of padded maps belongs to the maps in their files.
    again = halfmap(["fsc", one, two, "--mask", tmp_path / "fsc/mask.mrc", "--out", tmp_path / "again"])
    assert again.status == 0 and "different places" not in again.said
    curves = [json.loads((tmp_path / name / "fsc.json").read_text())["fsc"]["masked"] for name in ("fsc", "again")]
    np.testing.assert_allclose(*curves, atol=1e-5)

    # What ChimeraX opens has its centre voxel at one place.
    script = (tmp_path / "local/local_resolution.cxc").read_text()
    opened = [tmp_path / "local" / name for name in re.findall(r'^open "(.*)" id', script, re.M)]
    assert [path.name for path in opened] == ["flat_A.mrc", "local_resolution.mrc", "mask.mrc"]
    for path in opened:
        with mrcfile.open(path) as mrc:
            first = np.array([float(mrc.header.origin[axis]) for axis in "xyz"])
            assert (first + np.array(mrc.data.shape)[::-1] // 2 * PIXEL).tolist() == [42.5, -12.5, 32.0]


def test_maps_of_one_shape_at_different_places_are_compared_with_a_note(halfmap, tmp_path) -> None:
    one, _ = _halves(tmp_path, "here", SHAPES["cube"], START)
    _, two = _halves(tmp_path, "there", SHAPES["cube"])
    done = halfmap(["fsc", one, two, "--out", tmp_path / "out"])
    assert done.status == 0 and "there_B.mrc and here_A.mrc lie at different places" in done.said
    assert _lies(done.out / "mask.mrc")["start"] == START
    # Start indices and an origin that say the same are one place.
    _, same = _halves(tmp_path, "same", SHAPES["cube"], origin=tuple(PIXEL * index for index in START))
    assert "different places" not in halfmap(["fsc", one, same, "--out", tmp_path / "other"]).said


def test_maps_whose_padding_does_not_meet_are_refused(halfmap, tmp_path) -> None:
    one, _ = _halves(tmp_path, "flat", SHAPES["flat"], START)
    _, two = _halves(tmp_path, "cube", SHAPES["cube"], START)
    done = halfmap(["fsc", one, two, "--out", tmp_path / "out"])
    assert done.status == 2 and done.error.count("\n") == 1 and not done.out.exists()
    assert "24 x 24 x 24 voxels" in done.error and "has 24 x 22 x 20" in done.error


def test_directions_of_any_two_half_maps_are_compared(halfmap, tmp_path) -> None:
    one, two = _halves(tmp_path, "flat", SHAPES["flat"])  # no name holds half1
    done = halfmap(["orientations", "--half1", one, "--half2", two, "--cone", 40, "--out", tmp_path / "out"])
    assert done.status == 0, done.error
    assert json.loads((done.out / "orientations.json").read_text())["box"] == 24 and "padded to a cube" in done.said
    alone = halfmap(["orientations", "--half1", one, "--out", tmp_path / "none"])
    assert alone.status == 2 and "give it with --half2" in alone.error
