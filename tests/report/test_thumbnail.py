"""The small pictures by which runs are told apart."""

from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures.watched import BLOB

from halfmap.maps.mrc import write_map, write_stack
from halfmap.report.pictures.thumbnail import SIDE, thumbnail


def test_a_thumbnail_shows_the_particle_where_it_is_and_fills_with_it(tmp_path: Path) -> None:
    write_map(tmp_path / "map.mrc", torch.from_numpy(BLOB), 2.0)
    with open(tmp_path / "map.mrc", "rb") as stream:
        picture = thumbnail(stream, tmp_path / "map.mrc")
    assert picture.shape == (SIDE, SIDE) and picture.dtype == np.uint8
    y, x = np.nonzero(picture > 128)
    # The blob lies 4 voxels below the centre and has half its height 4.56 from there; it falls to 0.3 of it 10 voxels
    # from the centre. With the margin 30 of 48 voxels are shown.
    pixel = SIDE / 30
    assert x.mean() == pytest.approx(SIDE / 2, abs=pixel) and y.mean() == pytest.approx(SIDE / 2 + 4 * pixel, abs=pixel)
    assert (picture > 128).sum() == pytest.approx(np.pi * (4.56 * pixel) ** 2, rel=0.1)
    means = np.stack([np.roll(BLOB[24], 3 * number, axis=1) for number in range(12)])
    write_stack(tmp_path / "classes.mrcs", means, 2.0)
    with open(tmp_path / "classes.mrcs", "rb") as stream:
        tiles = thumbnail(stream, tmp_path / "classes.mrcs")
    side = SIDE // 3
    assert (tiles[:side, :side] > 128).any() and (tiles[2 * side :, 2 * side :] > 128).any()
