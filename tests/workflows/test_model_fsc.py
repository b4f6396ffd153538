"""``halfmap model-fsc`` as a user would run it, on maps made from a small model."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from halfmap.maps.mrc import read_map, write_map
from halfmap.particles.model import read_model, scattering, write_pdb
from halfmap.validation.model_map import moved_map

BOX, PIXEL = 60, 2.6
CENTRE = BOX // 2 * PIXEL
TURN = torch.from_numpy(Rotation.from_euler("zyx", [6, -4, 5], degrees=True).as_matrix())
SHIFT = torch.tensor([3.0, -2.0, 1.5], dtype=torch.float64)


@pytest.fixture(scope="module")
def scene(molecule, tmp_path_factory) -> Path:
    """built.pdb in the coordinates of map.mrc; half1.mrc and half2.mrc with noise; turned.mrc with the same molecule at
    another place. Tests must not change them."""
    folder = tmp_path_factory.mktemp("scene")
    atoms = read_model(molecule)
    middle = atoms.xyz - atoms.xyz.mean(0)
    write_pdb(folder / "built.pdb", atoms.moved(middle + CENTRE))
    write_pdb(folder / "centred.pdb", atoms.moved(middle))
    write_pdb(folder / "far.pdb", atoms.moved(middle + 900))
    cloud = scattering(atoms.moved(middle), 60.0)
    still = torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    clean = moved_map(cloud, *still, BOX, PIXEL)
    write_map(folder / "map.mrc", clean, PIXEL)
    write_map(folder / "turned.mrc", moved_map(cloud, TURN, SHIFT, BOX, PIXEL), PIXEL)
    random = torch.Generator().manual_seed(1)
    for h in (1, 2):
        noise = torch.randn(clean.shape, generator=random) * 4 * clean.std()
        write_map(folder / f"half{h}.mrc", clean + noise, PIXEL)
    return folder


def numbers(folder: Path) -> dict:
    return json.loads((folder / "model_fsc.json").read_text())


def placed(folder: Path, source: Path, keep: tuple = (slice(None),) * 3, **where: tuple) -> Path:
    """A part of a map with start indices (nstart) or an origin in its header."""
    with mrcfile.open(source) as file:
        part = file.data[keep].copy()
    with mrcfile.new(folder / "placed.mrc", overwrite=True) as file:
        file.set_data(part)
        file.voxel_size, file.nstart, file.header.origin = PIXEL, where.get("start", 0), where.get("origin", 0)
    return folder / "placed.mrc"


def test_a_map_made_from_the_model_agrees_with_it_to_nyquist(scene, halfmap, tmp_path) -> None:
    done = halfmap(["model-fsc", scene / "map.mrc", scene / "built.pdb", "--bfactor", 60, "--out", tmp_path / "out"])
    assert done.status == 0, done.error
    told = numbers(done.out)
    assert told["resolution_A"]["map"] == {"0.5": None, "0.143": None} and f"< {2 * PIXEL:.2f}" in done.said
    assert min(told["fsc"]["map"]) > 0.99 and min(told["fsc"]["unmasked"]) > 0.99
    assert "hardly lies" not in done.said and "outside" not in done.said
    with mrcfile.open(done.out / "model_map.mrc") as ours, mrcfile.open(scene / "map.mrc") as theirs:
        np.testing.assert_allclose(ours.data, theirs.data, atol=2e-2 * theirs.data.max())
    written = {path.name for path in done.out.iterdir()}
    assert written == {"model_fsc.csv", "model_fsc.json", "model_map.mrc", "mask.mrc"}


def test_half_maps_are_compared_too_and_the_table_is_the_json(scene, halfmap, tmp_path) -> None:
    done = halfmap(["model-fsc", scene / "map.mrc", scene / "built.pdb", "--bfactor", 60,
                    "--half1", scene / "half1.mrc", "--out", tmp_path / "out"])
    told = numbers(done.out)
    assert 2 * PIXEL < told["resolution_A"]["half1"]["0.5"] < 20
    assert told["resolution_A"]["half2"]["0.5"] == pytest.approx(told["resolution_A"]["half1"]["0.5"], rel=0.15)
    rows = list(csv.DictReader((done.out / "model_fsc.csv").open()))
    assert len(rows) == BOX // 2 + 1
    for name, curve in told["fsc"].items():
        np.testing.assert_allclose([float(row[name]) for row in rows], curve, atol=1e-6)
    # The FSC by its definition, within the mask that was written.
    a, b, mask = (read_map(path).data.double().numpy() for path in (
        scene / "half1.mrc", done.out / "model_map.mrc", done.out / "mask.mrc"))
    A, B = np.fft.fftn(a * mask), np.fft.fftn(b * mask)
    k = np.fft.fftfreq(BOX, 1 / BOX)
    shell = np.rint(np.sqrt(k[:, None, None] ** 2 + k[:, None] ** 2 + k**2)).astype(int)
    ring = shell == 9
    expected = (A * B.conj()).real[ring].sum() / np.sqrt((abs(A[ring]) ** 2).sum() * (abs(B[ring]) ** 2).sum())
    assert told["fsc"]["half1"][9] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("model,start", [("built.pdb", (31, -7, 12)), ("centred.pdb", (0, 0, 0))])
def test_a_fit_finds_the_molecule_and_says_how_to_move_it(model, start, scene, halfmap, tmp_path) -> None:
    # built.pdb lies as if voxel 0 were at 0 A, whatever the header says.
    path = placed(tmp_path, scene / "turned.mrc", start=start)
    done = halfmap(["model-fsc", path, scene / model, "--bfactor", 60, "--fit", "--out", tmp_path / "out"])
    assert done.status == 0, done.error
    told = numbers(done.out)
    matrix = np.array(told["placement"]["matrix"])
    own = read_model(scene / model).xyz.numpy()
    there = own @ matrix[:, :3].T + matrix[:, 3]
    middle = read_model(scene / "centred.pdb").xyz.numpy()
    expected = middle @ TURN.numpy().T + SHIFT.numpy() + CENTRE + np.multiply(start, PIXEL)
    assert np.abs(there - expected).max() < 0.3
    assert np.mean(told["fsc"]["map"][1:24]) > 0.98
    printed = re.search(r"view matrix models #2,(\S+)", done.said)
    assert printed is not None
    np.testing.assert_allclose([float(word) for word in printed[1].split(",")], matrix.ravel(), rtol=1e-4, atol=1e-5)


def test_a_model_that_lies_elsewhere_is_pointed_out(scene, halfmap, tmp_path) -> None:
    done = halfmap(["model-fsc", scene / "map.mrc", scene / "centred.pdb", "--bfactor", 60, "--out", tmp_path / "out"])
    assert done.status == 0 and "outside the map" in done.said and "--fit" in done.said


@pytest.mark.parametrize("where,corner,start", [
    ({"start": (-30, 12, 5)}, (-30 * PIXEL, 12 * PIXEL, 5 * PIXEL), "where its file says"),
    ({"origin": (-71.5, 3.25, 40.0)}, (-71.5, 3.25, 40.0), "where its file says"),
    ({"start": (-30, 12, 5), "origin": (1.0, 200.0, 0.5)}, (1.0, 200.0, 0.5), "the map's origin"),
    ({"start": (-30, 12, 5), "origin": (1.0, 200.0, 0.5)}, (-30 * PIXEL, 12 * PIXEL, 5 * PIXEL), "start indices"),
])  # fmt: skip
def test_a_model_lies_where_the_header_of_the_map_puts_it(where, corner, start, scene, halfmap, tmp_path) -> None:
    atoms = read_model(scene / "built.pdb")
    write_pdb(tmp_path / "there.pdb", atoms.moved(atoms.xyz + torch.tensor(corner, dtype=torch.float64)))
    done = halfmap(["model-fsc", placed(tmp_path, scene / "map.mrc", **where), tmp_path / "there.pdb", "--bfactor", 60,
                    "--out", tmp_path / "out"])
    assert done.status == 0, done.error
    told = numbers(done.out)
    assert min(told["fsc"]["map"]) > 0.99 and start in told["placement"]["start"]
    with mrcfile.open(done.out / "model_map.mrc") as ours:
        header = ours.header
        assert (header.nxstart, header.nystart, header.nzstart) == where.get("start", (0, 0, 0))
        assert tuple(float(header.origin[axis]) for axis in "xyz") == pytest.approx(where.get("origin", (0, 0, 0)))
        seen = where.get("origin", corner)  # where ChimeraX shows the map, and so where the model has to go
        np.testing.assert_allclose(np.array(told["placement"]["matrix"])[:, 3], np.subtract(seen, corner), atol=1e-4)


def test_a_map_cut_to_a_box_without_symmetry_agrees_with_its_model(scene, halfmap, tmp_path) -> None:
    keep = slice(4, 56), slice(2, 59), slice(3, 60)  # z, y, x; the molecule lies inside
    path = placed(tmp_path, scene / "map.mrc", keep, start=(3, 2, 4))
    done = halfmap(["model-fsc", path, scene / "built.pdb", "--bfactor", 60, "--out", tmp_path / "out"])
    assert done.status == 0, done.error
    told = numbers(done.out)
    assert told["box"] == 57 and min(told["fsc"]["map"]) > 0.98 and told["notes"] == [
        "placed.mrc: 57 x 57 x 52 voxels are padded to a cube of 57"]
    assert told["notes"][0] in done.said


def test_mistakes_end_in_one_line_and_nothing_is_written(scene, halfmap, tmp_path) -> None:
    other = tmp_path / "other.mrc"
    write_map(other, torch.rand(20, 20, 20), PIXEL)
    text = tmp_path / "text.cif"
    text.write_text("data_nothing\n")
    found, built = scene / "map.mrc", scene / "built.pdb"
    for words, complaint in (
        ([found, scene / "far.pdb"], "no atom lies inside the map"),
        ([found, tmp_path / "none.cif"], "none.cif"),
        ([found, text], "text.cif"),
        ([found, built, "--assembly"], "leave --assembly out"),
        ([found, built, "--half2", scene / "half2.mrc"], "needs --half1"),
        ([found, built, "--half1", other, "--half2", scene / "half2.mrc"], "box 20"),
        ([found, built, "--bfactor", -500], "negative B factors"),
        ([found], "missing: model.cif"),
    ):
        done = halfmap(["model-fsc", *words, "--out", tmp_path / "out"])
        assert done.status == 2 and complaint in done.error and done.error.count("\n") == 1, done.error
        assert not done.out.exists()
