"""What a refinement finds before it begins: images that are no images, and a disk without room."""

import shutil
import warnings

import mrcfile
import pytest


def test_an_absurd_image_is_set_aside_and_does_not_reach_the_noise(project, brief, edit_stack, refine):
    def spoil(images):
        images = images.copy()
        images[7, 3, 3] = 1e9
        return images

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        edit_stack(project / "particles.mrcs", spoil)
    done = refine(project, "--max-iterations", 2)
    assert done.status == 0 and "outliers of their stack" in done.said
    text = (done.out / "rejected.star").read_text()
    assert "000008@" in text and "outlier" in text and "halfmapRejected" in text
    assert done.records[0]["gain"] == pytest.approx(brief.records[0]["gain"], rel=0.05)


def test_a_bright_spot_is_counted_and_kept(project, edit_stack, refine):
    def spot(images):
        images = images.copy()
        images[7, 20, 20] += 25 * images.std()
        return images

    edit_stack(project / "particles.mrcs", spot)
    done = refine(project, "--max-iterations", 1)
    assert done.status == 0 and "1 of 200 images stand out" in done.said and "8@particles.mrcs" in done.said
    assert not (done.out / "rejected.star").exists()


def test_a_full_disk_is_said_before_anything_is_done(dataset, refine, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 90, 10))
    done = refine(dataset, out=tmp_path / "run")
    assert done.status == 2 and "are free there" in done.error and not (tmp_path / "run").exists()


def test_what_is_odd_in_table_and_headers_is_said_once_and_stops_nothing(project, edit_star, refine):
    with mrcfile.open(project / "particles.mrcs", "r+") as file:
        file.voxel_size = 3.7

    def change(tables):
        tables["particles"].loc[:4, ["rlnDefocusU", "rlnDefocusV"]] = 200.0

    star = edit_star(project / "particles.star", project / "changed.star", change)
    done = refine(project, "--max-iterations", 1, star=star.name)
    assert done.status == 0
    assert done.said.count("3.7 A a pixel") == 1 and "5 of 200 particles have less than 0.1 um" in done.said
