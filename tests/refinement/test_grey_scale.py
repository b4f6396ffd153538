"""The grey scale of a start whose poses are known, against images whose grey scale is known."""

from __future__ import annotations

import mrcfile
import numpy as np
import pytest
import torch

from halfmap.refinement.problem import prepared
from halfmap.runtime.progress import Progress
from halfmap.settings.refine import RefineSettings


@pytest.mark.parametrize("search", ["local", "fixed"])
@pytest.mark.parametrize("away", [0, 3])
def test_particles_off_the_centre_of_their_images_have_the_grey_scale_of_centred_ones(
    search, away, project, edit_star, edit_stack, tmp_path
):
    # Images are rolled by whole pixels and their origins follow: what is seen of a particle stays the same.
    edit_stack(project / "particles.mrcs", lambda images: np.roll(images, away, axis=2))

    def moved(tables):
        tables["particles"]["rlnOriginXAngst"] -= 4.2 * away

    edit_star(project / "particles_truth.star", project / "moved.star", moved)
    edit_stack(project / "truth.mrc", lambda volume: np.float32(0.02) * volume)
    found = prepared(RefineSettings(
        particles=project / "moved.star", map=project / "truth.mrc", diameter=156.0, out=tmp_path / "unused",
        search=search, ini_high=12.0, flatten_solvent=False, threads=1), Progress())
    with mrcfile.open(project / "truth.mrc") as file:
        truth = torch.from_numpy(np.array(file.data)) / 0.02  # the noise of images and their background has sd 1
    reference = found.state.references[0]
    assert float((reference * truth).sum() / (reference**2).sum()) == pytest.approx(1.0, abs=0.1)
