"""The mask of the strict resolution limit, as a user gives it to a refinement."""

import mrcfile
import numpy as np
import pytest

CUTOFF = ("--regulariser", "cutoff")


@pytest.fixture
def labelled(project):
    """A mask of the lower half of the map, on disk."""
    def write(values: np.ndarray, pixel: float = 4.2) -> None:
        mrcfile.write(project / "lower.mrc", values.astype(np.float32), voxel_size=pixel, overwrite=True)

    write(np.broadcast_to((np.arange(40) < 20)[:, None, None], (40, 40, 40)))
    return write


def test_outside_the_mask_the_final_map_holds_no_detail(project, labelled, refine):
    done = refine(project, *CUTOFF, "--cutoff-mask", project / "lower.mrc", "--cutoff-outside", 40)
    assert done.status == 0, done.error
    found = done.map("map.mrc")
    fine = []
    for side in (found[:20], found[20:]):  # columns across the planes, which the mask's edge leaves alone
        power = np.abs(np.fft.fft2(side)) ** 2
        k = np.fft.fftfreq(40, 1 / 40)
        beyond = np.hypot(k[:, None], k) > 40 * 4.2 / 40 + 1.5
        fine.append(power[:, beyond].sum())
    assert fine[1] < 1e-3 * fine[0]
    assert "resolution limit" in done.records[-1]["crosses"]
    assert "cutoff_mask" in (done.out / "settings.toml").read_text()


def test_a_mask_that_cannot_be_used_is_named_with_what_is_wrong(project, labelled, refine, tmp_path):
    path = project / "lower.mrc"
    cases = [
        (lambda: labelled(np.full((40, 40, 40), 2.0)), "the cutoff mask has values from 2 to 2"),
        (lambda: labelled(np.zeros((40, 40, 40))), "the cutoff mask is 0 everywhere"),
        (lambda: labelled(np.ones((40, 40, 40)), 5.0), "resample the cutoff mask"),
        (lambda: path.write_text("no map"), "lower.mrc"),
        (path.unlink, "--cutoff-mask"),
    ]
    for spoil, said in cases:
        spoil()
        done = refine(project, *CUTOFF, "--cutoff-mask", path, "--cutoff-weight", 0, out=tmp_path / "run")
        assert done.status == 2 and said in done.error and "lower.mrc" in done.error, done.error
        assert done.error.count("\n") == 1 and not (tmp_path / "run").exists()


def test_a_mask_of_another_box_is_fitted_and_the_log_says_so(project, labelled, refine):
    labelled(np.ones((36, 36, 36)))
    done = refine(project, *CUTOFF, "--cutoff-mask", project / "lower.mrc", "--cutoff-weight", 0,
                  "--max-iterations", 1)
    assert done.status == 0, done.error
    assert "lower.mrc: box 36 padded" in (done.out / "log.txt").read_text()


def test_options_without_a_mask_or_of_another_method_are_refused(project, refine, tmp_path):
    for options, said in (((*CUTOFF, "--cutoff-outside", 20), "name it with --cutoff-mask"),
                          (("--cutoff-resolution", 8), "belongs to --regulariser cutoff")):
        done = refine(project, *options, out=tmp_path / "run")
        assert done.status == 2 and said in done.error and not (tmp_path / "run").exists()
