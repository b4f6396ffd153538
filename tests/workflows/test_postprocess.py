"""``halfmap postprocess`` as a user would run it, on two small half maps of atoms and noise."""

from __future__ import annotations

import csv
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import mrcfile
import numpy as np
import pytest
import torch

from halfmap.cli.program import main
from halfmap.maps.mrc import write_map

BOX, PIXEL, B = 48, 2.0, 160.0
WRITTEN = {"map_sharpened.mrc", "map_sharpened_masked.mrc", "mask.mrc", "fsc.xml", "guinier.csv", "postprocess.json",
           "postprocess.html", "map_sharpened.cxc"}


def radius() -> np.ndarray:
    """Distance of every voxel [z,y,x] from the centre, in voxels."""
    x = np.arange(BOX) - BOX // 2
    return np.sqrt(x[:, None, None] ** 2 + x[:, None] ** 2 + x**2)


def gained(v: np.ndarray, gain: Any) -> np.ndarray:
    """Multiply the transform of a map by a function of the frequency in 1/A."""
    k = np.fft.fftfreq(BOX, PIXEL)
    return np.fft.ifftn(np.fft.fftn(v) * gain(np.sqrt(k[:, None, None] ** 2 + k[:, None] ** 2 + k**2))).real


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a refinement, with only the files that matter here. Tests must not change it."""
    folder = tmp_path_factory.mktemp("run")
    rng = np.random.default_rng(5)
    atoms = gained(rng.standard_normal((BOX,) * 3) * (radius() < 13), lambda f: np.exp(-B / 4 * f**2))
    for h in (1, 2):
        noisy = atoms + 0.25 * rng.standard_normal(atoms.shape)
        write_map(folder / f"half{h}_unfil.mrc", torch.from_numpy(noisy).float(), PIXEL)
    write_map(folder / "mask.mrc", torch.from_numpy(np.clip((19 - radius()) / 5, 0, 1)).float(), PIXEL)
    (folder / "report.html").write_text("the refinement's page")
    (folder / "settings.toml").write_text("# of the refinement\n")
    return folder


@pytest.fixture
def copied(run: Path, tmp_path: Path) -> Path:
    """A copy that a test may write into."""
    return Path(shutil.copytree(run, tmp_path / "run"))


def read(path: Path) -> np.ndarray:
    """Read a map with another program, and check its header."""
    with mrcfile.open(path) as file:
        assert file.data.shape == (BOX, BOX, BOX) and float(file.voxel_size.x) == pytest.approx(PIXEL)
        return np.array(file.data, dtype=np.float64)


def summary(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "postprocess.json").read_text()))


def text_of(page: Path) -> str:
    """The text of a page without its markup."""
    body = re.sub(r"<(style|script).*?</\1>", " ", page.read_text(encoding="utf-8"), flags=re.S)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", body))


def test_a_run_gets_its_sharpened_maps_and_keeps_its_own_files(copied, capsys):
    before = {path.name: path.read_bytes() for path in copied.iterdir()}
    assert main(["postprocess", str(copied)]) == 0
    out = copied / "postprocess"
    said = capsys.readouterr().out
    assert {path.name for path in out.iterdir()} == WRITTEN
    assert {path.name: path.read_bytes() for path in copied.iterdir() if path.is_file()} == before
    words = " ".join(said.replace("│", " ").split())
    assert all(name in words for name in WRITTEN) and f"mask: {copied / 'mask.mrc'}" in said

    found = summary(out)
    assert found["bfactor_A2"] == found["guinier_fit"]["bfactor_A2"] < -40
    assert found["guinier_fit_masked"]["bfactor_A2"] == pytest.approx(-B, rel=0.2)
    assert f"{found['bfactor_A2']:.1f} A^2" in said
    corrected = found["resolution_A"]["corrected"]["0.143"]
    assert found["lowpass_A"] == corrected and 4 < corrected < 8
    points = ElementTree.parse(out / "fsc.xml").getroot().findall("coordinate")
    curve = [float(point.findtext("y", "")) for point in points]
    np.testing.assert_allclose(curve, found["fsc"]["corrected"], atol=1e-6)
    crossing = next(s for s in range(1, len(curve)) if curve[s] < 0.143)
    assert BOX * PIXEL / crossing <= corrected <= BOX * PIXEL / (crossing - 1)


def test_the_map_is_the_mean_of_the_half_maps_times_the_gains_that_are_written_down(copied):
    assert main(["postprocess", str(copied), "--bfactor", "-90", "--lowpass", "5"]) == 0
    out = copied / "postprocess"
    f_half = np.array(summary(out)["fsc"]["corrected"]).clip(max=1)
    below = np.flatnonzero(f_half[1:] <= 0)
    if len(below):
        f_half[below[0] + 1 :] = 0

    def gain(f: np.ndarray) -> np.ndarray:
        k = f * BOX * PIXEL
        edge = np.clip((k - BOX * PIXEL / 5) / 2 + 0.5, 0, 1)
        weight = np.interp(k, np.arange(len(f_half)), np.sqrt(2 * f_half / (1 + f_half)))
        return np.exp(22.5 * f**2) * weight * (0.5 + 0.5 * np.cos(np.pi * edge))

    expected = gained((read(copied / "half1_unfil.mrc") + read(copied / "half2_unfil.mrc")) / 2, gain)
    sharp = read(out / "map_sharpened.mrc")
    np.testing.assert_allclose(sharp, expected, atol=1e-5 * np.abs(expected).max())
    np.testing.assert_allclose(read(out / "map_sharpened_masked.mrc"), sharp * read(copied / "mask.mrc"), atol=1e-6)
    assert summary(out)["bfactor_from"] == "--bfactor" and "as given" in text_of(out / "postprocess.html")


def test_no_weight_and_no_low_pass_leave_only_the_b_factor(copied):
    assert main(["postprocess", str(copied), "--adhoc_bfac", "-50", "--low_pass", "0", "--skip_fsc_weighting"]) == 0
    expected = gained((read(copied / "half1_unfil.mrc") + read(copied / "half2_unfil.mrc")) / 2,
                      lambda f: np.exp(12.5 * f**2))
    sharp = read(copied / "postprocess" / "map_sharpened.mrc")
    np.testing.assert_allclose(sharp, expected, atol=1e-5 * np.abs(expected).max())


def test_the_guinier_table_holds_the_line_that_was_fitted(run, tmp_path):
    out = tmp_path / "out"
    assert main(["postprocess", str(run), "--fit-from", "11", "--fit-to", "7", "--out", str(out)]) == 0
    rows = list(csv.DictReader((out / "guinier.csv").read_text().splitlines()))
    x = np.array([float(row["1/d^2_1/A^2"]) for row in rows])
    np.testing.assert_allclose(x, (np.arange(BOX // 2 + 1) / (BOX * PIXEL)) ** 2, rtol=1e-6)
    fitted = (x >= 1 / 11**2) & (x <= 1 / 7**2)
    assert [bool(row["ln_amplitude_line"]) for row in rows] == fitted.tolist()
    y = np.array([float(row["ln_amplitude_weighted"] or "nan") for row in rows])
    slope, intercept = np.polyfit(x[fitted], y[fitted], 1)
    assert summary(out)["bfactor_A2"] == pytest.approx(4 * slope, rel=1e-4)
    line = [float(row["ln_amplitude_line"]) for row in rows if row["ln_amplitude_line"]]
    np.testing.assert_allclose(line, intercept + slope * x[fitted], atol=1e-4)


def test_the_mtf_is_divided_out(run, tmp_path):
    rows = "".join(f"{f:.3f} {1 - 0.8 * f:.6f}\n" for f in np.linspace(0, 0.5, 51))
    (tmp_path / "mtf.star").write_text(f"data_\n\nloop_\n_rlnResolutionInversePixel #1\n_rlnMtfValue #2\n{rows}")
    words = ["--bfactor", "0", "--lowpass", "0", "--no-fsc-weight"]
    assert main(["postprocess", str(run), *words, "--mtf", str(tmp_path / "mtf.star"), "--mtf_angpix", "1.0",
                 "--out", str(tmp_path / "out")]) == 0
    expected = gained((read(run / "half1_unfil.mrc") + read(run / "half2_unfil.mrc")) / 2,
                      lambda f: 1 / (1 - 0.8 * np.minimum(f, 0.5)))
    found = read(tmp_path / "out" / "map_sharpened.mrc")
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
    assert "divided by the MTF" in text_of(tmp_path / "out" / "postprocess.html")


def test_half_maps_without_a_run_get_a_mask_made_from_them(run, tmp_path, capsys):
    for h in (1, 2):
        shutil.copy(run / f"half{h}_unfil.mrc", tmp_path)
    assert main(["postprocess", "--i", str(tmp_path / "half1_unfil.mrc")]) == 0
    assert "mask: automatic" in capsys.readouterr().out
    assert WRITTEN == {path.name for path in (tmp_path / "postprocess").iterdir()}


def test_the_command_that_is_written_down_repeats_the_result(copied, tmp_path):
    assert main(["postprocess", str(copied), "--autob_lowres", "9", "--local"]) == 0
    once = copied / "postprocess"
    words = shlex.split(summary(once)["command"])
    assert words[:2] == ["halfmap", "postprocess"]
    words[words.index("--out") + 1] = str(tmp_path / "again")
    assert main(words[1:]) == 0
    for name in ("map_sharpened.mrc", "map_sharpened_local.mrc", "fsc.xml", "guinier.csv"):
        assert (once / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_the_mask_of_a_run_can_be_set_aside(run, tmp_path):
    assert main(["postprocess", str(run), "--auto-mask", "--out", str(tmp_path / "out")]) == 0
    assert summary(tmp_path / "out")["mask"] == "automatic"
    assert np.abs(read(tmp_path / "out" / "mask.mrc") - read(run / "mask.mrc")).max() > 0.5


def test_a_local_filter_at_the_cut_offs_of_the_run(copied):
    coarse = np.where(np.arange(BOX) < BOX // 2, 16.0, 5.0) * np.ones((BOX, BOX, 1))
    write_map(copied / "theta.mrc", torch.from_numpy(coarse).float(), PIXEL)
    assert main(["postprocess", str(copied), "--local", "--bfactor", "-100"]) == 0
    out = copied / "postprocess"
    assert not (out / "theta.mrc").exists() and "theta.mrc" in summary(out)["local_filter"]
    local = read(out / "map_sharpened_local.mrc")
    mean = (read(copied / "half1_unfil.mrc") + read(copied / "half2_unfil.mrc")) / 2
    for side, theta in ((slice(4, BOX // 2 - 4), 16.0), (slice(BOX // 2 + 5, -4), 5.0)):
        expected = gained(mean, lambda f, d=theta: np.exp(25 * f**2) / np.sqrt(1 + (f * d) ** 16))
        scatter = np.abs(local - expected)[:, :, side]
        assert np.sqrt((scatter**2).mean()) < 0.1 * expected[:, :, side].std()
    text = text_of(out / "postprocess.html")
    assert "locally filtered" in text and "cut-offs that the refinement ended with" in text


def test_without_cut_offs_of_the_run_cross_validation_finds_them_and_says_so(run, tmp_path):
    out = tmp_path / "out"
    assert main(["postprocess", str(run), "--local", "--out", str(out)]) == 0
    assert {path.name for path in out.iterdir()} == WRITTEN | {"map_sharpened_local.mrc", "theta.mrc"}
    assert "cross-validation between the half maps" in summary(out)["local_filter"]
    theta = read(out / "theta.mrc")
    assert theta.min() > 2 * PIXEL - 0.01
    assert np.median(theta[radius() < 8]) < np.median(theta[radius() > 20])


def test_half_maps_that_agree_on_little_get_no_b_factor_and_are_told_so(copied, capsys):
    for h in (1, 2):
        noise = np.random.default_rng(h).standard_normal((BOX,) * 3)
        blurred = gained(read(copied / f"half{h}_unfil.mrc"), lambda f: np.exp(-300 * f**2)) + 0.05 * noise
        write_map(copied / f"half{h}_unfil.mrc", torch.from_numpy(blurred).float(), PIXEL)
    assert main(["postprocess", str(copied)]) == 0
    assert "no B factor was applied" in capsys.readouterr().out
    found = summary(copied / "postprocess")
    assert (found["bfactor_A2"], found["bfactor_from"], found["guinier_fit"]) == (0.0, "none", None)
    assert "No line could be fitted" in text_of(copied / "postprocess" / "postprocess.html")


def test_an_inverted_mask_is_named_and_the_fsc_is_worse_within_it(copied, capsys):
    for h in (1, 2):  # the molecule stands out of the solvent
        half = copied / f"half{h}_unfil.mrc"
        write_map(half, torch.from_numpy(read(half) + (radius() < 13)).float(), PIXEL)
    mask = copied / "inverted.mrc"
    write_map(mask, torch.from_numpy(1 - read(copied / "mask.mrc")).float(), PIXEL)
    halves = [str(copied / f"half{h}_unfil.mrc") for h in (1, 2)]
    assert main(["fsc", *halves, "--mask", str(mask)]) == 0
    said = capsys.readouterr().out
    assert "inverted.mrc: covers 82.6 %" in said and "holds 0 % of the density: is it inverted?" in said
    assert "the mask misses the molecule" in said
    assert main(["fsc", *halves, "--mask", str(copied / "mask.mrc")]) == 0
    said = capsys.readouterr().out
    assert "mask.mrc: covers" not in said and "misses" not in said


def test_a_b_factor_far_beyond_the_guinier_plot_is_named(copied, tmp_path, capsys):
    """The atoms have one of -160; 1.5 times as much is a matter of taste."""
    assert main(["postprocess", str(copied), "--bfactor", "-2000", "--out", str(tmp_path / "far")]) == 0
    assert np.isfinite(read(tmp_path / "far" / "map_sharpened.mrc")).all()
    assert "-2000 A^2 sharpens far more than the Guinier plot asks for" in capsys.readouterr().out
    assert main(["postprocess", str(copied), "--bfactor", "-240", "--out", str(tmp_path / "near")]) == 0
    assert "nothing unusual" in capsys.readouterr().out


def test_the_page_is_complete_in_itself(copied):
    assert main(["postprocess", str(copied)]) == 0
    page = (copied / "postprocess" / "postprocess.html").read_text()
    text = text_of(copied / "postprocess" / "postprocess.html")
    assert len(re.findall(r'<img [^>]*src="data:image/png', page)) == 7
    assert not re.findall(r'(?:src|href)="(?!data:|https://doi\.org)[^"]+"', page)
    found = summary(copied / "postprocess")
    for said in (f"{found['resolution_A']['corrected']['0.143']:.2f}", "Guinier plot", "Rosenthal PB, Henderson R.",
                 f"\u2212{-found['bfactor_A2']:.0f}", "phase randomisation"):
        assert said in text


# Mistakes of a user


@pytest.mark.parametrize(("words", "said"), [
    ([], ["folder of a run", "--half1"]),
    (["absent"], ["absent: no such folder"]),
    (["run", "--half1", "run/half1_unfil.mrc"], ["one of the two"]),
    (["run", "--half2", "run/half2_unfil.mrc"], ["belongs to --half1"]),
    (["empty"], ["half1_unfil.mrc: no such file"]),
    (["--half1", "run/mask.mrc"], ["--half2"]),
    (["--half1", "run/half1_unfil.mrc", "--half2", "run/half1_unfil.mrc"], ["same map"]),
    (["run", "--mask", "run/half1_unfil.mrc"], ["half1_unfil.mrc: values from"]),
    (["run", "--mask", "run/mask.mrc", "--auto-mask"], ["--auto-mask"]),
    (["run", "--fit-to", "12"], ["--fit-to 12", "finer than --fit-from 10"]),
    (["run", "--bfactor", "nan"], ["--bfactor nan", "finite"]),
    (["run", "--lowpass", "-3"], ["--lowpass -3", "at least 0"]),
    (["run", "--lowpass", "3.9"], ["--lowpass 3.9", "Nyquist frequency, 4.00 A"]),
    (["run", "--bfactor", "-20000", "--lowpass", "0"], ["--bfactor -20000", "infinite"]),
    (["run", "--mtf-pixel", "1"], ["--mtf-pixel 1: needs --mtf"]),
    (["run", "--mtf", "absent.star"], ["--mtf", "absent.star: no such file"]),
    (["run", "--mtf", "text.star"], ["text.star", "rlnResolutionInversePixel"]),
    (["run", "--out", "run"], ["holds a run already"]),
    (["run", "--out", "taken"], ["taken: holds fsc.xml"]),
    (["odd", "--local"], ["theta.mrc: holds 0"]),
])
def test_a_mistake_is_one_line_and_leaves_every_file_alone(words, said, copied, monkeypatch, capsys):
    monkeypatch.chdir(copied.parent)
    for name in ("empty", "taken"):
        Path(name).mkdir()
    shutil.copytree(copied, "odd")
    write_map(Path("odd/theta.mrc"), torch.zeros(BOX, BOX, BOX), PIXEL)
    Path("taken/fsc.xml").write_text("<fsc/>")
    Path("text.star").write_text("data_\n\n_rlnVoltage 300\n")
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    assert main(["postprocess", *words]) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(r"halfmap: error: [^\n]+\n", error)
    assert [text for text in said if text not in error] == []
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before
    assert not list(Path().rglob("postprocess"))


def test_an_earlier_result_is_never_written_over(copied, capsys):
    assert main(["postprocess", str(copied)]) == 0
    before = {path.name: path.stat().st_mtime_ns for path in (copied / "postprocess").iterdir()}
    assert main(["postprocess", str(copied), "--bfactor", "-10"]) == 2
    assert "name a new folder" in capsys.readouterr().err
    assert {path.name: path.stat().st_mtime_ns for path in (copied / "postprocess").iterdir()} == before
