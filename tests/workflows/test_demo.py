"""The demo reports correctly how far a refinement is from what was simulated."""

import contextlib
import io
import shutil
from pathlib import Path

import pytest
import torch

from halfmap.errors import InputError
from halfmap.geometry.rotations import rotation_vector_to_matrix
from halfmap.imaging.density import Cloud, density_map
from halfmap.maps.mrc import read_map, write_map
from halfmap.particles.model import centred, read_model, scattering
from halfmap.particles.star import read_star, write_star
from halfmap.particles.table import with_poses
from halfmap.settings.refine import RefineSettings
from halfmap.workflows.demo import against_truth, demo, demo_settings

FRAME = rotation_vector_to_matrix(torch.tensor([[0.5, -0.8, 1.1]]))[0]
SHIFT = torch.tensor([4.0, -6.0, 3.0], dtype=torch.float64)


def perfect_refinement(settings: RefineSettings) -> None:
    """Write what a perfect program would: the truth, in another frame."""
    data = settings.particles.parent
    truth = read_star(data / "particles_truth.star")
    rotations = truth.rotations @ FRAME.T
    origins = truth.origins + (rotations @ SHIFT)[:, :2]
    settings.out.mkdir()
    write_star(settings.out / "particles.star", with_poses(truth, rotations, origins))
    reference = read_map(settings.map)
    cloud = scattering(centred(read_model(data / "molecule.pdb"))[0], 40.0)
    turned = Cloud((cloud.xyz.double() @ FRAME.T + SHIFT).float(), cloud.weight, cloud.exponent)
    seen = density_map([turned], reference.data.shape[-1], reference.pixel_size, 3)
    for half in (1, 2):
        write_map(settings.out / f"half{half}_unfil.mrc", 0.6 * seen, reference.pixel_size)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "demo"
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        demo(out, quick=True, run=perfect_refinement)
    (out / "said.txt").write_text(said.getvalue())
    return out


def test_a_perfect_refinement_in_any_frame_is_found_perfect(finished):
    verdict = against_truth(demo_settings(finished, quick=True), finished / "uniform")
    assert verdict.poses["p80"] < 0.01 and verdict.poses["shift_median"] < 0.01
    assert float(verdict.curve.min()) > 0.999
    said = (finished / "said.txt").read_text()
    assert "uniform" in said and "agrees with the truth to 7.6 A" in said


def test_a_mirrored_map_is_found_wrong(finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished / "uniform", run)
    right = read_map(run / "half1_unfil.mrc")
    for half in (1, 2):
        write_map(run / f"half{half}_unfil.mrc", right.data.flip(0), right.pixel_size)
    assert against_truth(demo_settings(finished, quick=True), run).resolution > 15


def test_the_demo_does_not_write_over_anything(tmp_path):
    (tmp_path / "mine").write_text("keep")
    with pytest.raises(InputError, match="not empty"):
        demo(tmp_path, quick=True, run=perfect_refinement)
