"""What is said of a starting map, of masks and of the diameter before a refinement, and where the map is moved to."""

import mrcfile
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from halfmap.errors import InputError
from halfmap.geometry.symmetry import symmetry_group
from halfmap.maps.density import density_of
from halfmap.refinement.start import Wanted, placed
from halfmap.validation.mask_share import diameter_verdict, share_verdict
from halfmap.validation.symmetry_axes import symmetry_axes

BOX, PIXEL, DIAMETER = 40, 4.0, 110.0


def wanted(symmetry="C1", searched=True, masked=False, align=False):
    return Wanted(DIAMETER, 20.0, symmetry, symmetry_group(symmetry), searched, masked, align)


def two_fold(blobs, tilt, shift=(0.0, 0.0, 0.0)):
    """Gaussians with a two-fold axis that is tilted from z by so many degrees about y, moved by shift (voxels)."""
    one = blobs(BOX, 5, spread=0.13, width=1.6, seed=5)
    centre = torch.cat([one.centre, one.centre * torch.tensor([-1.0, -1.0, 1.0])]).numpy()
    centre = centre @ Rotation.from_euler("y", tilt, degrees=True).as_matrix().T + np.array(shift)
    return type(one)(BOX, torch.from_numpy(centre), one.width.repeat(2), one.weight.repeat(2)).map().float()


def test_a_start_off_its_axis_is_named_with_the_turn_that_it_needs(blobs):
    found = placed("start.mrc", two_fold(blobs, 45), PIXEL, wanted("C2")).findings
    assert [one.name for one in found] == ["start off its symmetry axes"] and found[0].level == "warning"
    assert "a turn by 45 degrees" in found[0].text and "--align-start" in found[0].text


def test_a_start_on_its_axis_or_without_symmetry_gives_no_remark(blobs):
    v = two_fold(blobs, 0)
    assert not placed("start.mrc", v, PIXEL, wanted("C2")).findings
    assert not placed("start.mrc", v, PIXEL, wanted("C1")).findings


def test_a_start_without_the_symmetry_is_named_and_cannot_be_aligned(blobs):
    centre = torch.tensor([[9.0, 0, 0], [-3, 8, 0], [-5, -6, 3], [0, 0, -8]], dtype=torch.float64)
    width, weight = torch.full((4,), 1.7, dtype=torch.float64), torch.tensor([1.0, 2.5, 0.6, 1.6], dtype=torch.float64)
    v = type(blobs(BOX))(BOX, centre, width, weight).map().float()
    assert [one.name for one in placed("s", v, PIXEL, wanted("C4")).findings] == ["start without the symmetry"]
    with pytest.raises(InputError, match="no C4 axes"):
        placed("s", v, PIXEL, wanted("C4", align=True))


def test_aligning_a_start_puts_its_axis_on_z(blobs):
    start = placed("start.mrc", two_fold(blobs, 35, (0.8, -0.5, 0.3)), PIXEL, wanted("C2", align=True))
    assert [(one.name, one.level) for one in start.findings] == [("start aligned", "note")]
    again = symmetry_axes(start.map, PIXEL, 20.0, DIAMETER, symmetry_group("C2"))
    assert again.as_is > 0.995 and again.angle < 1 and again.distance < 0.5


def test_a_start_off_centre_is_moved_to_the_middle_by_whole_voxels(blobs):
    v = two_fold(blobs, 0)
    v = torch.roll(v, (-density_of(v, PIXEL).centre.flip(0) / PIXEL).round().int().tolist(), (0, 1, 2))
    away = torch.zeros_like(v)
    away[:-3, 4:, 5:] = v[3:, :-4, :-5]
    start = placed("start.mrc", away, PIXEL, wanted())
    assert "(-5, -4, 3) voxels" in start.findings[0].text and start.findings[0].level == "note"
    assert torch.equal(start.map[3:-4, 4:-4, 5:-5], v[3:-4, 4:-4, 5:-5])
    given = placed("start.mrc", away, PIXEL, wanted(searched=False))
    assert torch.equal(given.map, away) and not given.findings  # poses of the file belong to it as it lies
    masked = placed("start.mrc", away, PIXEL, wanted(masked=True))
    assert torch.equal(masked.map, away) and "stays there" in masked.findings[0].text


def ball(radius, at=(0, 0, 0)):
    z, y, x = np.indices((BOX,) * 3) - BOX // 2
    return torch.from_numpy((x - at[0]) ** 2 + (y - at[1]) ** 2 + (z - at[2]) ** 2 <= radius**2).float()


def test_the_share_of_the_density_in_mask_and_sphere_is_that_of_the_molecule():
    density = density_of(ball(12), PIXEL)
    assert density.held_by(ball(16)) == pytest.approx(1, abs=0.01)
    assert density.held_by(1 - ball(16)) == pytest.approx(0, abs=0.01)
    assert density.held_by(ball(16) * (torch.arange(BOX) >= BOX // 2)) == pytest.approx(0.5, abs=0.07)
    assert density.held_within(2 * 6 * PIXEL) == pytest.approx(1 / 8, abs=0.03)


def test_masks_that_miss_the_molecule_are_named_and_those_of_a_part_are_not():
    density = density_of(ball(12), PIXEL)
    assert not share_verdict(density, ball(14), "mask", partial=False)
    assert "is it inverted?" in share_verdict(density, 1 - ball(14), "mask", partial=False)[0].text
    assert "is it inverted?" in share_verdict(density, 1 - ball(14), "mask", partial=True)[0].text
    assert "another frame" in share_verdict(density, ball(4, (15, 0, 0)), "mask", partial=True)[0].text
    part = ball(5, (6, 0, 0))  # a fourteenth of the volume
    assert not share_verdict(density, part, "mask", partial=True)
    assert "--search local" in share_verdict(density, part, "mask", partial=False)[0].text
    assert not diameter_verdict(density, 100.0, partial=False) and diameter_verdict(density, 50.0, partial=False)


def test_a_refinement_says_what_is_wrong_with_its_start_mask_and_diameter(project, refine):
    with mrcfile.open(project / "initial.mrc", "r+") as file:
        file.data[:] = np.roll(file.data, (4, -4), (0, 2))
    mask = np.ones((40,) * 3, np.float32)
    mask[6:34, 6:34, 6:34] = 0
    mrcfile.write(project / "mask.mrc", mask, voxel_size=4.2)
    done = refine(project, "--max-iterations", 1, "--mask", project / "mask.mrc", diameter=40)
    assert done.status == 0 and "is it inverted?" in done.said and "--diameter 40: holds" in done.said
    assert "A off the centre of the box and stays there" in done.said
    names = {one["name"] for one in done.records[-1]["findings"]}
    assert {"start off centre", "mask misses the density", "diameter misses the density"} <= names
    assert refine(project, diameter=2).error.count("--diameter 2: below 20 A") == 1


@pytest.mark.parametrize("options, complaint", [
    ([], "C1 has no axes"), (["--symmetry", "C2", "--search", "local"], "poses, which belong to the map"),
    (["--symmetry", "C2", "--mask", "initial.mrc"], "leave the mask out")])
def test_a_start_is_not_turned_where_that_contradicts_other_choices(options, complaint, dataset, refine):
    options = [dataset / word if word == "initial.mrc" else word for word in options]
    done = refine(dataset, "--align-start", *options)
    assert done.status == 2 and complaint in done.error
