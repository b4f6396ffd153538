"""A dataset that Structura's own library wrote (cryosparc-tools 5.0.3, ``Dataset.allocate`` and ``save``), and back.

Row i holds uid 1000 + i, image i of mic_i, half set i mod 2, pose 0.25 (i + 1) (1, -2, 0.5), shift i (1.5, -2) pixels
of 1 A, defocus 15000 + 100 i and 14000 A at 0.1 i radians, exposure groups 3, 3, 7, 7.
"""

from __future__ import annotations

from pathlib import Path

import mrcfile
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from halfmap.particles.cryosparc import read_cryosparc
from halfmap.settings.convert import ConvertSettings
from halfmap.workflows.convert import convert

WRITTEN = Path(__file__).parent / "written_by_cryosparc_tools_5.0.3.cs"


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The dataset in a project folder with its stacks."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "J12" / "extract"
    folder.mkdir(parents=True)
    for i in range(4):
        with mrcfile.new(folder / f"mic_{i}_particles.mrc") as stack:
            stack.set_data(np.zeros((4, 96, 96), np.float32))
            stack.voxel_size = 2.0
    path = tmp_path / "J12" / "particles.cs"
    path.write_bytes(WRITTEN.read_bytes())
    return path


def test_what_structuras_library_writes_is_read_as_it_was_meant(job: Path) -> None:
    table, i = read_cryosparc(job), np.arange(4)
    assert table.columns["ucsfUid"].tolist() == [1000, 1001, 1002, 1003]
    assert [path.name for path in table.stacks] == [f"mic_{k}_particles.mrc" for k in i]
    assert table.image_index.tolist() == [0, 1, 2, 3] and table.half.tolist() == [0, 1, 0, 1]
    assert table.optics_index.tolist() == [0, 0, 1, 1]
    first = table.optics[0]
    assert (first.voltage, first.spherical_aberration, first.amplitude_contrast, first.pixel_size, first.box) == (
        300.0, 2.7, 0.1, 2.0, 96)  # fmt: skip
    np.testing.assert_allclose(table.defocus.u, 15000 + 100 * i)
    np.testing.assert_allclose(table.defocus.v, 14000)
    np.testing.assert_allclose(table.defocus.angle, 0.1 * i, atol=1e-6)
    turns = Rotation.from_rotvec(0.25 * np.outer(i + 1, [1, -2, 0.5]))
    np.testing.assert_allclose(table.rotations, turns.as_matrix().transpose(0, 2, 1), atol=1e-6)
    np.testing.assert_allclose(table.origins, np.outer(i, [1.5, -2.0]), atol=1e-6)


def test_a_dataset_that_goes_through_a_star_file_comes_back_as_it_was(job: Path) -> None:
    star, again = job.parent / "particles.star", job.parent / "again.cs"
    convert(ConvertSettings(job, star))
    convert(ConvertSettings(star, again))
    before, after = np.load(job), np.load(again)
    # shifts come back in pixels of the images, not of the alignment; STAR has no names for the other two
    shift, size = "alignments3D/shift", "alignments3D/psize_A"
    np.testing.assert_allclose(after[shift] * after[size][:, None], before[shift] * before[size][:, None], atol=2e-6)
    for name in set(before.dtype.names) - {shift, size, "ctf/type", "alignments3D/alpha"}:
        if before[name].dtype.kind == "f":
            np.testing.assert_allclose(after[name], before[name], atol=2e-6, err_msg=name)
        else:
            np.testing.assert_array_equal(after[name], before[name], err_msg=name)
