"""The drawings of the report against geometry: pictures, outlines, the sphere of views."""

import math
import re
import struct
import zlib

import numpy as np
import pytest

from halfmap.geometry.equal_area import equal_area_cells
from halfmap.report.pictures.png import png
from halfmap.report.pictures.slices import Window, fourier_resize, outline
from halfmap.report.pictures.sphere import view_sphere
from halfmap.validation.view_coverage import fourier_coverage


def directions(count: int = 600) -> np.ndarray:
    """Uniform unit vectors [b,3]."""
    views = np.random.default_rng(3).normal(size=(count, 3))
    return views / np.linalg.norm(views, axis=1, keepdims=True)


def test_a_picture_decodes_to_the_pixels_it_was_made_from() -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (7, 11)).astype(np.uint8)
    data = png(pixels)
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">IIBB", data[16:26]) == (11, 7, 8, 0)
    start = data.index(b"IDAT") + 4
    rows = np.frombuffer(zlib.decompress(data[start:-16]), np.uint8).reshape(7, 12)
    assert set(rows[:, 0]) == {2}
    assert np.array_equal(np.cumsum(rows[:, 1:].astype(int), axis=0) % 256, pixels)


@pytest.mark.parametrize(("box", "size"), [(48, 128), (128, 48), (47, 128), (129, 64)])
def test_resampling_a_wave_gives_the_same_wave_on_the_new_grid(box: int, size: int) -> None:
    def wave(n: int) -> np.ndarray:
        y, x = np.meshgrid(np.arange(n) / n, np.arange(n) / n, indexing="ij")
        return 2 + np.cos(2 * np.pi * (3 * x - 5 * y) + 0.4)

    np.testing.assert_allclose(fourier_resize(wave(box), size), wave(size), atol=1e-10)


def test_the_outline_of_a_disc_is_a_circle_of_its_radius() -> None:
    y, x = np.meshgrid(np.arange(64) - 32.0, np.arange(64) - 32.0, indexing="ij")
    path = outline(np.clip(20.5 - np.hypot(x, y), 0, 1), Window(0, 64))
    points = np.array(re.findall(r"([\d.]+) ([\d.]+)", path), dtype=float) * 64 / 1000
    centre = 32 + 0.5 * 64 / 256
    radii = np.hypot(points[:, 0] - centre, points[:, 1] - centre)
    np.testing.assert_allclose(radii, 20.0, atol=0.1)


def test_cells_of_the_sphere_have_equal_area_on_the_sphere_and_on_the_page() -> None:
    cells = equal_area_cells(12)
    areas = 2 * np.pi * -np.diff(np.cos(cells.edges)) / cells.counts
    np.testing.assert_allclose(areas, 4 * np.pi / cells.counts.sum(), rtol=1e-9)
    sphere = view_sphere(directions(), None, "C1")
    assert sphere is not None
    drawn = sum(_polygon_area(cell.path) for cell in sphere.cells)
    assert drawn == pytest.approx(np.pi * 200 * 100, rel=0.01)


def _polygon_area(path: str) -> float:
    x, y = np.array(re.findall(r"(-?[\d.]+) (-?[\d.]+)", path), dtype=float).T
    return 0.5 * abs(float(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))))


def test_every_view_falls_into_the_cell_that_holds_it() -> None:
    cells, views = equal_area_cells(16), directions(5000)
    found = cells.locate(views)
    ring = np.searchsorted(cells.first, found, side="right") - 1
    tilt = np.degrees(np.arccos(views[:, 2]))
    assert np.all(np.degrees(cells.edges[ring]) <= tilt + 1e-9)
    assert np.all(tilt <= np.degrees(cells.edges[ring + 1]) + 1e-9)
    rot = np.degrees(np.arctan2(views[:, 1], views[:, 0])) % 360
    width = 360 / cells.counts[ring]
    assert np.all(rot >= (found - cells.first[ring]) * width - 1e-9)
    assert np.all(rot <= (found - cells.first[ring] + 1) * width + 1e-9)


def test_fourier_coverage_is_even_for_uniform_views_and_nothing_along_a_single_view() -> None:
    ones = np.ones(100_000)
    assert fourier_coverage(directions(100_000), ones).least == pytest.approx(1.0, abs=0.08)
    cone = fourier_coverage(np.tile([0.0, 0.0, 1.0], (50, 1)), ones[:50])
    assert cone.least == 0.0
    assert abs(cone.direction[2]) > math.sin(math.radians(10))
    turn = np.linspace(0, 2 * np.pi, 7200, endpoint=False)
    side = np.stack([np.cos(turn), np.sin(turn), 0 * turn], axis=1)
    # The direction nearest the equator sees two arcs of 2 x 10 degrees out of 360.
    assert fourier_coverage(side, ones[:7200]).least == pytest.approx(40 / 360 / math.sin(math.radians(10)), rel=0.02)


def test_symmetry_fills_the_sphere_with_equivalent_views() -> None:
    turn = np.random.default_rng(1).uniform(0, np.pi / 2, 4000)
    quarter = np.stack([np.cos(turn), np.sin(turn), np.zeros_like(turn)], axis=1)
    alone, whole = view_sphere(quarter, None, "C1"), view_sphere(quarter, None, "C4")
    assert alone is not None and whole is not None
    assert whole.copies == 4
    assert alone.busiest > 2.5 * whole.busiest


def test_weights_count_as_views() -> None:
    views = directions(3000)
    northern = (views[:, 2] > 0).astype(float)
    weighted, chosen = view_sphere(views, northern, "C1"), view_sphere(views[views[:, 2] > 0], None, "C1")
    assert weighted is not None and chosen is not None
    assert weighted.coverage == pytest.approx(chosen.coverage)
