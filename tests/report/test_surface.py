"""The picture of an isosurface: where it is, which way round, and how it is lit, against shapes known by formula."""

import math

import numpy as np
import pytest
import torch

from halfmap.maps.levels import contour_level, level_for_volume, molecular_volume
from halfmap.report.pictures.surface import SIDE, View, render_surface, turned

ALONG_Z = View((1, 0, 0), (0, 1, 0), (0, 0, 1))


def coordinates(box):
    """x, y and z of every voxel from the centre, each [z,y,x]."""
    axis = torch.arange(box, dtype=torch.float32) - box // 2
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    return x, y, z


def gaussian(box, spread, centre=(0.0, 0.0, 0.0)):
    x, y, z = coordinates(box)
    square = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2
    return torch.exp(-square / (2 * spread**2))


def opaque(picture):
    return picture[..., 3].astype(float) / 255


@pytest.mark.parametrize("box", [48, 140])  # sampled twice as finely, and as it is
@pytest.mark.parametrize("view", [ALONG_Z, SIDE, turned(200, -35)])
def test_every_point_of_the_surface_lies_within_a_tenth_of_a_voxel_of_where_the_formula_puts_it(box, view):
    centre = (2.3, -1.4, 0.7)
    spread = box / 9
    blob, found = gaussian(box, spread, centre), []

    def recorded(values):
        found.append(values)
        return np.zeros((len(values), 3))

    for coordinate in coordinates(box):
        render_surface(blob, 0.4, view=view, values=coordinate.numpy(), colours=recorded, width=60)
    distance = np.linalg.norm(np.stack(found, 1) - np.array(centre), axis=1)
    assert len(distance) > 3000
    assert np.abs(distance - spread * math.sqrt(2 * math.log(1 / 0.4))).max() < 0.1


def test_the_silhouette_of_a_ball_is_a_disc_of_its_radius_in_its_place():
    blob = gaussian(60, 8.0, (4.0, -6.0, 3.0))
    picture = opaque(render_surface(blob, 0.5, view=View(*ALONG_Z.axes, centre=(30, 30, 30), reach=30.0), width=240))
    radius = math.sqrt(picture.sum() / math.pi) * 60 / 240
    assert radius == pytest.approx(8.0 * math.sqrt(2 * math.log(2)), abs=0.1)
    rows, columns = np.mgrid[:240, :240] - 119.5
    assert (columns * picture).sum() / picture.sum() * 0.25 == pytest.approx(4.0, abs=0.1)
    assert (rows * picture).sum() / picture.sum() * 0.25 == pytest.approx(6.0, abs=0.1), "y points up"


def test_a_ball_is_brighter_the_more_it_faces_the_light_and_nowhere_black():
    picture = render_surface(gaussian(150, 25.0), 0.5, view=ALONG_Z, width=200)
    light = picture[..., :3].mean(2)
    radius = 0.5 * 200 / 1.04
    at = lambda right, up: float(light[round(99.5 - up * radius), round(99.5 + right * radius)])  # noqa: E731
    assert at(-0.35, 0.5) > at(0, 0) > at(0.4, -0.5) > at(0.5, -0.75) > 0
    assert light[opaque(picture) == 1].min() > 25, "no part is lost in black"


def test_the_picture_shows_the_hand_that_the_map_has():
    """Seen from +z with x to the right, y points up: the arm along y is turned from that along x counterclockwise."""
    x, y, z = coordinates(64)
    arm_x = ((x > 0) & (x < 20) & (y.abs() < 3) & (z.abs() < 3)).float()
    arm_y = ((y > 0) & (y < 12) & (x.abs() < 3) & (z.abs() < 3)).float()
    seen = View(*ALONG_Z.axes, centre=(32, 32, 32), reach=32.0)
    picture = opaque(render_surface(arm_x + arm_y, 0.5, view=seen, width=128))
    assert picture[64, 64 + 30] == 1 and picture[64 - 20, 64] == 1, "right, and up"
    assert picture[64, 64 - 20] == 0 and picture[64 + 20, 64] == 0
    for view in (SIDE, turned(70, -20), turned(0, 90)):
        axes = np.array(view.axes)
        assert np.allclose(axes @ axes.T, np.eye(3)) and np.linalg.det(axes) == pytest.approx(1)
    assert np.allclose(turned(0, 90).axes, np.eye(3))


def test_what_is_nearer_hides_what_is_behind():
    near, far = gaussian(64, 5.0, (0, 0, 15)), gaussian(64, 5.0, (0, 0, -15))
    depth = coordinates(64)[2].numpy()
    seen = []
    for view in (ALONG_Z, View((1, 0, 0), (0, -1, 0), (0, 0, -1))):
        render_surface(near + far, 0.5, view=view, values=depth, width=40,
                       colours=lambda values: seen.append(values) or np.zeros((len(values), 3)))
    assert seen[0].min() > 10 and seen[1].max() < -10


def test_a_hollow_is_darker_than_the_open_surface_that_faces_the_same_way():
    x, y, z = coordinates(140)
    slab = (z.abs() < 20) & (x.abs() < 50) & (y.abs() < 50)
    pit = (x**2 + y**2 < 64) & (z > -14)
    picture = render_surface((slab & ~pit).float(), 0.5, view=View(*ALONG_Z.axes, (70, 70, 70), 60.0), width=240)
    assert picture[120, 120, :3].mean() < 0.75 * picture[120, 120 + 60, :3].mean()


def test_dust_is_left_out_and_what_remains_keeps_its_outline():
    ball, speck = gaussian(64, 8.0), gaussian(64, 1.0, (-22, -22, 0))
    view = View(*ALONG_Z.axes, (32, 32, 32), 32.0)
    clean = render_surface(ball, 0.5, view=view, width=128)
    assert np.array_equal(render_surface(ball + speck, 0.5, view=view, width=128, dust=0.05)[..., 3], clean[..., 3])
    assert opaque(render_surface(ball + speck, 0.5, view=view, width=128, dust=0)).sum() > opaque(clean).sum() + 10


def test_a_second_map_colours_the_surface_and_an_empty_map_gives_an_empty_picture():
    side = coordinates(64)[0]
    two = render_surface(gaussian(64, 9.0), 0.5, view=ALONG_Z, values=(side > 0).float().numpy(), width=80,
                         colours=lambda v: np.where(v[:, None] > 0.5, [[1.0, 0, 0]], [[0, 0, 1.0]]))  # fmt: skip
    assert two[40, 15, 2] > 100 and two[40, 15, 0] < 60
    assert two[40, 65, 0] > 100 and two[40, 65, 2] < 60
    assert not render_surface(gaussian(64, 9.0), 2.0, width=40).any()
    with pytest.raises(ValueError, match="cubes"):
        render_surface(torch.zeros(8, 8, 9), 0.5)


def test_the_level_for_a_volume_is_that_of_a_ball_of_this_volume():
    """A Gaussian exceeds exp(-r^2 / 2 s^2) within a ball of radius r."""
    pixel_size, spread = 1.3, 10.0
    blob = gaussian(80, spread)
    for radius in (6.0, 12.0, 18.0):
        volume = 4 / 3 * math.pi * (radius * pixel_size) ** 3
        found = level_for_volume(blob, volume, pixel_size)
        assert spread * math.sqrt(-2 * math.log(found)) == pytest.approx(radius, abs=0.05)
    assert level_for_volume(blob, 0.0, pixel_size) == float(blob.max())
    assert level_for_volume(blob, 1e9, pixel_size) == float(blob.min())
    assert molecular_volume(100) == pytest.approx(121_000)


def test_the_recommended_level_lies_between_solvent_and_molecule_and_above_the_noise():
    x, y, z = coordinates(64)
    generator = torch.Generator().manual_seed(3)
    molecule = ((x**2 + y**2 + z**2) < 14**2).float()
    mask = ((x**2 + y**2 + z**2) < 22**2).float()
    level = contour_level(molecule + 0.05 * torch.randn(64, 64, 64, generator=generator), mask)
    assert 0.3 < level < 0.7
    weak = 0.02 * molecule + 0.2 * torch.randn(64, 64, 64, generator=generator)
    assert contour_level(weak, mask) > 0.7, "four standard deviations of the solvent"
