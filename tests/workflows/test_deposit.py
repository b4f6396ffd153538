"""``halfmap deposit`` as a user would run it, on a small finished run; files are read back by other programs."""

from __future__ import annotations

import json
import os
import shutil
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import gemmi
import mrcfile
import numpy as np
import pytest
import torch

from halfmap.cli.program import main
from halfmap.maps.mrc import write_map

BOX, PIXEL = 48, 2.0
MAPS = {"map.mrc", "half_map_1.mrc", "half_map_2.mrc", "mask.mrc", "additional_map.mrc"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished refinement with its sharpened map: only the files that matter here."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    folder.mkdir()
    rng = np.random.default_rng(5)
    axis = np.arange(BOX) - BOX // 2
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    inside = (x / 8) ** 2 + (y / 11) ** 2 + ((z - 2) / 14) ** 2 < 1
    k = np.fft.fftfreq(BOX, PIXEL)
    gain = np.exp(-30 * (k[:, None, None] ** 2 + k[:, None] ** 2 + k**2))
    molecule = np.fft.ifftn(np.fft.fftn(inside * (1 + 0.5 * rng.standard_normal(inside.shape))) * gain).real
    halves = [molecule + 0.15 * rng.standard_normal(molecule.shape) for _ in range(2)]
    mask = np.clip((18 - np.sqrt(x**2 + y**2 + z**2)) / 4, 0, 1)
    named = {"half1_unfil": halves[0], "half2_unfil": halves[1], "map": 0.9 * molecule, "mask": mask}
    for name, values in named.items():
        write_map(folder / f"{name}.mrc", torch.from_numpy(values).float(), PIXEL)
    (folder / "settings.toml").write_text('regulariser = "nonuniform"\nsymmetry = "C2"\nseed = 3\n')
    record = {"iteration": 4, "search": "final", "particles": 1234, "crosses": "starting map to 30 A"}
    (folder / "iterations.jsonl").write_text(json.dumps(record) + "\n")
    said = ("halfmap 0.0.9", "command: halfmap refine p.star", "finished")
    (folder / "log.txt").write_text("".join(f"2030-01-02 03:04:05  {line}\n" for line in said))
    assert main(["postprocess", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def entry(run: Path) -> Path:
    """The entry of that run, made with default settings. Tests must not change it."""
    out = run.parent / "entry"
    assert main(["deposit", str(run), str(out)]) == 0
    return out


@pytest.fixture
def copied(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "run"))


def data(path: Path) -> np.ndarray:
    with mrcfile.open(path) as file:
        return np.array(file.data)


def summary(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "deposition.json").read_text()))


def test_the_entry_holds_what_the_archive_asks_for_in_headers_that_other_programs_read_alike(entry):
    out = entry
    found = {path.name for path in out.iterdir()}
    assert found == MAPS | {"fsc.xml", "image.png", "map.cxc", "deposition.json", "deposition.txt"}
    for name in MAPS:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert mrcfile.validate(out / name), name
        with mrcfile.open(out / name) as file:
            header, values = file.header, np.array(file.data)
            assert (header.mode, header.ispg, header.nsymbt) == (2, 1, 0)
            assert [int(header[f"n{axis}start"]) for axis in "xyz"] == [0, 0, 0]
            assert [float(header.origin[axis]) for axis in "xyz"] == [0, 0, 0]
            assert [float(header.cella[axis]) for axis in "xyz"] == [BOX * PIXEL] * 3
            assert file.get_labels()[0].startswith("Halfmap ")
            assert header.dmean == pytest.approx(values.mean(), abs=1e-6)
            assert header.rms == pytest.approx(values.std(), rel=1e-5)
            assert (header.dmin, header.dmax) == (values.min(), values.max())
        other = gemmi.read_ccp4_map(str(out / name))
        assert other.grid.axis_order == gemmi.AxisOrder.XYZ
        assert other.grid.unit_cell.parameters == (BOX * PIXEL,) * 3 + (90.0,) * 3
        assert [other.header_i32(word) for word in (5, 6, 7, 23)] == [0, 0, 0, 1]
        assert np.array_equal(np.array(other.grid, copy=False), values.transpose(2, 1, 0)), "both read one orientation"


def test_maps_are_those_of_the_run_to_the_last_bit_and_the_main_one_as_chosen(run, entry, tmp_path):
    files = {"half_map_1.mrc": "half1_unfil.mrc", "half_map_2.mrc": "half2_unfil.mrc"}
    assert main(["deposit", str(run), str(tmp_path / "entry"), "--map", "regularised"]) == 0
    for out, chosen, source in ((entry, "sharpened", "postprocess/map_sharpened.mrc"),
                                (tmp_path / "entry", "regularised", "map.mrc")):
        for name, own in (files | {"map.mrc": source}).items():
            assert np.array_equal(data(out / name), data(run / own))
        assert (out / "additional_map.mrc").exists() == (chosen == "sharpened")
        assert (summary(out)["bfactor_A2"] is None) == (chosen == "regularised")
    assert np.array_equal(data(entry / "additional_map.mrc"), data(run / "map.mrc"))


def test_the_summary_says_what_the_run_and_the_curves_say(run, tmp_path, capsys):
    out = tmp_path / "entry"
    assert main(["deposit", str(run), str(out), "--level", "0.3"]) == 0
    printed, said = capsys.readouterr().out, summary(out)
    assert f"{said['resolution_A']:.2f} A" in printed and "contour level" in printed
    expected = json.loads((run / "postprocess" / "postprocess.json").read_text())
    assert said["resolution_A"] == pytest.approx(expected["resolution_A"]["corrected"]["0.143"])
    assert said["bfactor_A2"] == pytest.approx(expected["bfactor_A2"])
    assert (said["particles"], said["symmetry"], said["box"], said["pixel_size_A"]) == (1234, "C2", BOX, PIXEL)
    assert said["software"][0]["version"] == "0.0.9" and "Punjani 2020" in said["citation"]
    assert said["contour_level"] == 0.3
    assert said["enclosed_A3"] == pytest.approx((data(out / "map.mrc") >= 0.3).sum() * PIXEL**3)
    text = (out / "deposition.txt").read_text()
    assert f"{said['resolution_A']:.2f} A" in text and "1234" in text and "C2" in text
    assert "level 0.3 " in (out / "map.cxc").read_text()


def test_the_fsc_file_has_the_form_of_the_archive(run, entry):
    out = entry
    root = ElementTree.parse(out / "fsc.xml").getroot()
    assert root.tag == "fsc" and root.get("xaxis") == "Resolution (A-1)"
    assert root.get("yaxis") == "Correlation Coefficient"
    points = [(float(c.findtext("x", "")), float(c.findtext("y", ""))) for c in root.findall("coordinate")]
    assert len(points) == BOX // 2 + 1 and points[-1][0] == pytest.approx(0.5 / PIXEL, abs=1e-6)
    curve = json.loads((run / "postprocess" / "postprocess.json").read_text())["fsc"]["corrected"]
    assert [y for _, y in points] == pytest.approx(curve, abs=1e-5)


def test_a_recalibrated_pixel_size_reaches_headers_curve_resolution_and_bfactor(run, entry, tmp_path):
    plain, scaled = entry, tmp_path / "scaled"
    assert main(["deposit", str(run), str(scaled), "--pixel-size", "2.05"]) == 0
    for name in MAPS:
        with mrcfile.open(scaled / name) as file:
            assert float(file.header.cella.x) == pytest.approx(BOX * 2.05, rel=1e-6)
        assert np.array_equal(data(scaled / name), data(plain / name))
    before, after = summary(plain), summary(scaled)
    assert after["resolution_A"] == pytest.approx(before["resolution_A"] * 1.025)
    assert after["bfactor_A2"] == pytest.approx(before["bfactor_A2"] * 1.025**2)
    assert after["enclosed_A3"] == pytest.approx(before["enclosed_A3"] * 1.025**3)
    assert after["pixel_size_recalibrated_from_A"] == pytest.approx(PIXEL)
    last = ElementTree.parse(scaled / "fsc.xml").getroot().findall("coordinate")[-1]
    assert float(last.findtext("x", "")) == pytest.approx(0.5 / 2.05, abs=1e-6)


def test_the_image_is_a_png_of_500_pixels_with_the_molecule_on_white(run, entry):
    out = entry
    raw = (out / "image.png").read_bytes()
    assert raw[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">IIBB", raw[16:26]) == (500, 500, 8, 2)
    size = struct.unpack(">I", raw[33:37])[0]
    rows = np.frombuffer(zlib.decompress(raw[41 : 41 + size]), dtype=np.uint8).reshape(500, 1501)
    pixels = np.add.accumulate(rows[:, 1:], axis=0, dtype=np.uint8).reshape(500, 500, 3)  # filter 2: add the row above
    assert (rows[:, 0] == 2).all() and (pixels[0] == 255).all()
    assert pixels[250, 250].max() < 250 and 0.1 < (pixels.min(2) < 250).mean() < 0.9


def test_the_chimerax_script_opens_files_that_are_there_and_shows_the_map(run, entry):
    out = entry
    lines = (out / "map.cxc").read_text().splitlines()
    opened = [line.split('"')[1] for line in lines if line.startswith("open")]
    assert opened[0] == "map.mrc" and all((out / name).is_file() for name in opened)
    shown = next(line for line in lines if line.startswith("volume #1 "))
    assert f"level {summary(out)['contour_level']:.5g} " in shown
    assert f"volume #2-{len(opened)} hide" in lines


def refused(words: list[str], capsys: pytest.CaptureFixture[str], out: Path) -> str:
    """Check that a command fails with one line, status 2 and nothing written; return the line."""
    assert main(words) == 2
    said = capsys.readouterr().err
    assert said.startswith("halfmap: error: ") and said.count("\n") == 1
    assert not out.exists() or not any(out.iterdir())
    return said


def test_a_run_that_has_not_finished_is_refused(copied, tmp_path, capsys):
    record = {"iteration": 3, "search": "local", "particles": 1234}
    (copied / "iterations.jsonl").write_text(json.dumps(record) + "\n")
    said = refused(["deposit", str(copied), str(tmp_path / "o")], capsys, tmp_path / "o")
    assert "not finished" in said and str(copied) in said


@pytest.mark.parametrize("damaged", ['{"iteration": 4, "search": "fin', "[4]"])
def test_a_damaged_record_is_named_with_its_line(damaged, copied, tmp_path, capsys):
    (copied / "iterations.jsonl").write_text('{"iteration": 3}\n\n' + damaged + "\n")
    said = refused(["deposit", str(copied), str(tmp_path / "o")], capsys, tmp_path / "o")
    assert f"{copied / 'iterations.jsonl'}: line 3 is not the record of an iteration" in said


def test_a_sharpened_map_of_other_half_maps_is_refused(copied, tmp_path, capsys):
    noise = 0.2 * np.random.default_rng(1).standard_normal((BOX,) * 3)
    write_map(copied / "half2_unfil.mrc", torch.from_numpy(data(copied / "half2_unfil.mrc") + noise), PIXEL)
    said = refused(["deposit", str(copied), str(tmp_path / "o")], capsys, tmp_path / "o")
    assert "map_sharpened.mrc" in said and "postprocess again" in said
    assert main(["deposit", str(copied), str(tmp_path / "o"), "--map", "regularised"]) == 0


def test_every_file_that_may_not_be_read_is_named_and_no_option_that_does_not_exist(
    copied, tmp_path, capsys, monkeypatch
):
    closed, access = {copied / "half1_unfil.mrc", copied / "postprocess/map_sharpened.mrc"}, os.access
    # The owner of all files may read them whatever their permissions say.
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) not in closed and access(path, mode))
    said = refused(["deposit", str(copied), str(tmp_path / "o")], capsys, tmp_path / "o")
    assert all(f"{path}: no permission to read it" in said for path in closed) and "--" not in said
    assert "mask.mrc" not in said


def test_other_mistakes_are_one_line_that_says_what_to_do(copied, tmp_path, capsys):
    out = tmp_path / "o"
    words = ["deposit", str(copied), str(out)]
    assert "no calibration" in refused([*words, "--pixel-size", "3"], capsys, out)
    assert "halfmap postprocess" in refused([*words, "--map", "local"], capsys, out)
    assert "give one between" in refused([*words, "--level", "1e6"], capsys, out)
    assert "no such folder" in refused(["deposit", str(copied / "none"), str(out)], capsys, out)
    assert "missing: OUT" in refused(["deposit", str(copied)], capsys, out)
    write_map(copied / "mask.mrc", torch.ones(8, 8, 8), PIXEL)
    assert "box 8" in refused([*words, "--map", "regularised"], capsys, out)
    (copied / "mask.mrc").unlink()
    (copied / "half2_unfil.mrc").unlink()
    assert f"{copied}: holds no half2_unfil.mrc and no mask.mrc; give" in refused(words, capsys, out)
    assert main(["deposit", str(copied), str(copied)]) == 2
