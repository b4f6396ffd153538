"""``halfmap.fsc`` and ``halfmap.regularise`` on arrays: true to the formula, and to what the commands write."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import mrcfile
import numpy as np
import pytest

import halfmap
from halfmap.cli.program import main

VOXEL = 2.5  # A


@pytest.fixture(scope="module")
def pair() -> dict[str, np.ndarray]:
    """Two half maps of some blobs with noise of their own, stronger at high frequency, and a soft mask."""
    random, n = np.random.default_rng(3), 32
    axis = np.arange(n) - n // 2
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    density = sum(np.exp(-((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2) / 3.0)
                  for a, b, c in random.uniform(-6, 6, size=(12, 3)))
    mask = 1 / (1 + np.exp(np.sqrt(x**2 + y**2 + z**2) - 11))
    return {name: density + 0.25 * random.normal(size=density.shape) for name in ("half1", "half2")} | {"mask": mask}


def by_formula(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Harauz and van Heel's correlation over whole spheres of coefficients, in float64."""
    n = a.shape[0]
    axis = np.fft.fftfreq(n, 1 / n)
    shell = np.rint(np.sqrt(sum(k**2 for k in np.meshgrid(axis, axis, axis, indexing="ij")))).astype(int).ravel()
    first, second = (np.fft.fftn(v.astype(np.float64)).ravel() for v in (a, b))

    def summed(values: np.ndarray) -> np.ndarray:
        return np.bincount(shell, values, minlength=n // 2 + 1)[: n // 2 + 1]

    cross = summed((first * second.conj()).real)
    return cross / np.sqrt(summed(abs(first) ** 2) * summed(abs(second) ** 2))


def test_fsc_is_that_of_the_formula_and_leaves_the_arrays_alone(pair: dict[str, np.ndarray]) -> None:
    before = {name: values.copy() for name, values in pair.items()}
    curves = halfmap.fsc(pair["half1"], pair["half2"], mask=pair["mask"], voxel_size=VOXEL)
    np.testing.assert_allclose(curves.unmasked[1:], by_formula(pair["half1"], pair["half2"])[1:], atol=2e-6)
    masked = by_formula(pair["half1"] * pair["mask"], pair["half2"] * pair["mask"])
    np.testing.assert_allclose(curves.masked[1:], masked[1:], atol=2e-6)
    np.testing.assert_allclose(curves.frequency, np.arange(17) / (32 * VOXEL))
    np.testing.assert_allclose(curves.mask, pair["mask"], atol=1e-7)
    for name, values in pair.items():
        np.testing.assert_array_equal(values, before[name])
    # Chen's correction, from what was randomised.
    start = round(32 * VOXEL / curves.randomised_from) + 2
    masked, randomised = curves.masked[start:], curves.randomised[start:]
    np.testing.assert_allclose(curves.corrected[start:], (masked - randomised) / (1 - randomised), atol=1e-12)


def test_a_resolution_is_where_the_curve_crosses_between_shells(pair: dict[str, np.ndarray]) -> None:
    curves = halfmap.fsc(pair["half1"], pair["half2"], voxel_size=VOXEL)
    at = np.flatnonzero(curves.unmasked < 0.5)[0]
    above, below = curves.unmasked[at - 1 : at + 1]
    shell = at - 1 + (above - 0.5) / (above - below)
    assert curves.resolution("unmasked", 0.5) == pytest.approx(32 * VOXEL / shell)
    assert halfmap.fsc(pair["half1"], pair["half1"] + 1e-3, voxel_size=VOXEL).resolution("unmasked") is None
    with pytest.raises(ValueError, match="choose from unmasked"):
        curves.resolution("best")


@pytest.fixture(scope="module")
def files(pair: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("maps")
    for name, values in pair.items():
        mrcfile.write(folder / f"{name}.mrc", values.astype(np.float32), voxel_size=VOXEL)
    return {name: folder / f"{name}.mrc" for name in pair}


def test_arrays_and_files_give_the_same(pair: dict[str, np.ndarray], files: dict[str, Path]) -> None:
    curves = [halfmap.fsc(pair["half1"], pair["half2"], mask=pair["mask"], voxel_size=VOXEL),
              halfmap.fsc(*files.values()), halfmap.fsc(files["half1"], pair["half2"], mask=pair["mask"])]
    for other in curves[1:]:
        for name in ("unmasked", "spherical", "masked", "randomised", "corrected"):
            np.testing.assert_array_equal(getattr(other, name), getattr(curves[0], name))


@pytest.mark.parametrize(("method", "options"), [
    ("uniform", {}), ("nonuniform", {"nu_candidates": 12, "nu_window": "box"}),
])
def test_regularised_arrays_are_the_maps_that_the_command_writes(
    method: str, options: dict[str, object], pair: dict[str, np.ndarray], files: dict[str, Path], tmp_path: Path,
) -> None:
    words = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    words += [f"--{name}={path}" for name, path in files.items()]
    assert main(["regularise", f"--regulariser={method}", f"--out={tmp_path / 'out'}", *words]) == 0
    found = halfmap.regularise(pair["half1"], pair["half2"], method=method, mask=pair["mask"], voxel_size=VOXEL,
                               **options)
    named = {"half1": found.half1, "half2": found.half2, "map": found.map, "mask": found.mask}
    assert (found.theta is None) == (method == "uniform")
    for name, values in (named | found.arrays).items():
        with mrcfile.open(tmp_path / "out" / f"{name}.mrc") as file:
            np.testing.assert_array_equal(file.data, values)
    assert found.method == method and found.path is None
    written = halfmap.regularise(files["half1"], method=method, mask=files["mask"], out=tmp_path / "again", **options)
    assert written.path == tmp_path / "again" and (written.path / "report.html").is_file()
    np.testing.assert_array_equal(written.map, found.map)


def test_nothing_is_printed_unless_asked_for(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quiet = halfmap.fsc(files["half1"], files["half2"], out=tmp_path / "fsc")
    assert capsys.readouterr() == ("", "")
    assert (tmp_path / "fsc" / "fsc.csv").is_file()
    halfmap.fsc(files["half1"], files["half2"], verbose=True)
    told = capsys.readouterr().out
    assert "Resolution of the half maps" in told
    for finding in quiet.findings:
        assert finding.text[:40] in told


@pytest.mark.parametrize(("call", "said"), [
    (lambda v: halfmap.fsc(v, v[:16], voxel_size=1.0), "half2: an array of 16 x 32 x 32; give a cube"),
    (lambda v: halfmap.fsc(v, v[:16, :16, :16], voxel_size=1.0), "half2: box 16, but half1 has box 32"),
    (lambda v: halfmap.fsc(v, v.copy(), voxel_size=1.0), "half2: holds the same map as half1"),
    (lambda v: halfmap.fsc(v, v * np.nan, voxel_size=1.0), "half2: 32768 voxels are not finite"),
    (lambda v: halfmap.fsc(v, v + 1), "voxel_size: is missing"),
    (lambda v: halfmap.fsc(v, v + 1, mask=v + 5, voxel_size=1.0), "mask: values from"),
    (lambda v: halfmap.fsc(v, v + 1, voxel_size=1.0, diameter=500), "diameter=500: must lie between"),
    (lambda v: halfmap.fsc(v, "absent.mrc"), "absent.mrc"),
    (lambda v: halfmap.fsc(v, object(), voxel_size=1.0), "half2: expected an array of numbers or a path"),
    (lambda v: halfmap.regularise(v, voxel_size=1.0), "half2: is missing"),
    (lambda v: halfmap.regularise(v, v + 1, voxel_size=1.0, method="best"), "method=best: choose from"),
    (lambda v: halfmap.regularise(v, v + 1, voxel_size=1.0, ss_alpha=0.3), "ss_alpha: belongs to method sparse_smooth"),
    (lambda v: halfmap.regularise(v, v + 1, voxel_size=1.0, out="folder"), "out=folder: is for maps in files"),
])
def test_what_cannot_be_compared_is_named(
    call: Callable[[np.ndarray], object], said: str, pair: dict[str, np.ndarray]
) -> None:
    with pytest.raises(halfmap.InputError) as caught:
        call(pair["half1"])
    assert str(caught.value).startswith(said)


def test_a_notebook_sees_pictures_and_no_markup_of_others(pair: dict[str, np.ndarray]) -> None:
    html = halfmap.regularise(pair["half1"], pair["half2"], voxel_size=VOXEL)._repr_html_()
    assert html.count("<img") == 3 and "data:image/png;base64," in html and "<polyline" in html
    assert "<script" not in html and "http" not in html.replace("http://www.w3.org/2000/svg", "")
