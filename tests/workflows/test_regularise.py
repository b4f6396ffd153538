"""``halfmap regularise`` as a user would run it, on two small half maps of blobs and noise."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import mrcfile
import numpy as np
import pytest
import torch

from halfmap.cli.program import main
from halfmap.errors import InputError
from halfmap.maps.mrc import write_map
from halfmap.regularisation.protocol import MapPair, Solution
from halfmap.settings.commands import to_toml
from halfmap.settings.regularise import RegulariseSettings, validated_pair
from halfmap.settings.regularisers import BUILT_IN, REGULARISERS, RegulariserOptions

BOX, PIXEL = 40, 3.0
METHODS = sorted(REGULARISERS)
WRITTEN = {"map.mrc", "half1.mrc", "half2.mrc", "mask.mrc", "fsc.xml", "settings.toml", "report.html"}
FROM_BOTH = "made from both: a picture, not a reference for refinement"


def density() -> np.ndarray:
    """A map [z,y,x] of ten blobs within 20 A of the centre."""
    rng = np.random.default_rng(5)
    grid = np.stack(np.meshgrid(*[(np.arange(BOX) - BOX // 2) * PIXEL] * 3, indexing="ij"))
    centres = rng.uniform(-20, 20, (10, 3))
    return sum(np.exp(-((grid - c[:, None, None, None]) ** 2).sum(axis=0) / (2 * 4.5**2)) for c in centres)


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with run_half1.mrc and run_half2.mrc. Tests must not change it."""
    folder = tmp_path_factory.mktemp("halves")
    rng, signal = np.random.default_rng(6), density()
    for h in (1, 2):
        noisy = signal + rng.normal(0, 0.4, signal.shape)
        write_map(folder / f"run_half{h}.mrc", torch.from_numpy(noisy.astype(np.float32)), PIXEL)
    return folder


def read(path: Path) -> np.ndarray:
    """Read a map with another program, and check its header."""
    with mrcfile.open(path) as file:
        assert file.data.shape == (BOX, BOX, BOX) and file.data.dtype == np.float32
        assert float(file.voxel_size.x) == pytest.approx(PIXEL) and file.is_volume()
        return np.array(file.data, dtype=np.float64)


def text_of(page: Path) -> str:
    """The text of a page without its markup."""
    body = re.sub(r"<(style|script).*?</\1>", " ", page.read_text(encoding="utf-8"), flags=re.S)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", body))


def numpy_filter(volume: np.ndarray, gain: np.ndarray) -> np.ndarray:
    """Multiply the transform of a map by a gain by shell, linear between shells."""
    k = np.fft.fftfreq(BOX, 1 / BOX)
    radius = np.sqrt(k[:, None, None] ** 2 + k[:, None] ** 2 + k**2)
    return np.fft.ifftn(np.fft.fftn(volume) * np.interp(radius, np.arange(len(gain)), gain)).real


@pytest.mark.parametrize("method", METHODS)
def test_every_method_writes_its_maps_with_mask_curve_settings_and_page(method, halves, halfmap, tmp_path):
    done = halfmap(["regularise", "--i", halves / "run_half1.mrc", "--regulariser", method, "--out", tmp_path / "out"])
    assert done.status == 0, done.error
    names = {path.name for path in done.out.iterdir()}
    assert names >= WRITTEN and all(name in done.said.replace("\n", " ") for name in names)
    maps = {path.stem: read(path) for path in done.out.glob("*.mrc")}
    assert all(np.isfinite(volume).all() for volume in maps.values())
    assert maps["mask"].min() >= 0 and maps["mask"].max() == 1
    raw = [read(halves / f"run_half{h}.mrc") for h in (1, 2)]
    truth, inside = density(), maps["mask"] > 0.5
    for name, before in (("map", sum(raw) / 2), ("half1", raw[0]), ("half2", raw[1])):
        assert np.abs((maps[name] - truth)[inside]).mean() < 0.9 * np.abs((before - truth)[inside]).mean()
        assert maps[name][~inside].std() < 0.5 * before[~inside].std()
    text = text_of(done.out / "report.html")
    assert f"--regulariser {method}" in text or method == RegulariserOptions().regulariser
    assert (FROM_BOTH in text) == ("theta" in maps)
    assert ("Local cut-off" in text) == ("theta" in maps)


def test_uniform_is_the_wiener_filter_of_the_curve_in_fsc_xml(halves, halfmap, tmp_path):
    done = halfmap(["regularise", "--half1", halves / "run_half1.mrc", "--half2", halves / "run_half2.mrc",
                    "--regulariser", "uniform", "--diameter", 80, "--out", tmp_path / "out"])
    root = ElementTree.parse(done.out / "fsc.xml").getroot()
    f = np.array([float(point.findtext("y", "")) for point in root.iter("coordinate")])
    first, second = (read(halves / f"run_half{h}.mrc") for h in (1, 2))

    # Below the shell from which phases are randomised, the curve is the plain FSC of the masked maps.
    mask = read(done.out / "mask.mrc")
    k = np.fft.fftfreq(BOX, 1 / BOX)
    shell = np.rint(np.sqrt(k[:, None, None] ** 2 + k[:, None] ** 2 + k**2)).astype(int).ravel()
    a, b = (np.fft.fftn(volume * mask).ravel() for volume in (first, second))
    sums = [np.bincount(shell, weights=w)[: len(f)] for w in ((a * b.conj()).real, np.abs(a) ** 2, np.abs(b) ** 2)]
    np.testing.assert_allclose(f[1:4], (sums[0] / np.sqrt(sums[1] * sums[2]))[1:4], atol=1e-4)

    f = np.minimum(f, 0.9999)
    f[1:][np.logical_or.accumulate(f[1:] <= 0)] = 0
    expected = {"map": numpy_filter((first + second) / 2, 2 * f / (1 + f)), "half1": numpy_filter(first, f),
                "half2": numpy_filter(second, f)}
    for name, volume in expected.items():
        np.testing.assert_allclose(read(done.out / f"{name}.mrc"), volume, atol=2e-5 * np.abs(volume).max())


@dataclasses.dataclass(frozen=True)
class StandIn:
    """A regulariser that halves the maps. Its cut-off rises with the distance from the centre."""

    name: str = "stand-in"
    crosses: str = "nothing but a test"

    def filter_pair(self, pair: MapPair, mask: torch.Tensor) -> Solution:
        x = torch.arange(BOX) - BOX // 2
        theta = 6.5 + (x[:, None, None] ** 2 + x[:, None] ** 2 + x**2).sqrt()
        return Solution((pair.half1 / 2, pair.half2 / 2), (pair.half1 + pair.half2) / 4, arrays={"theta": theta})


def test_a_local_cut_off_is_written_printed_and_said_to_come_from_both_halves(halves, halfmap, tmp_path, monkeypatch):
    monkeypatch.setattr("halfmap.workflows.regularise.regulariser_named", lambda name, **options: StandIn())
    done = halfmap(["regularise", "--i", halves / "run_half1.mrc", "--out", tmp_path / "out"])
    theta, mask = read(done.out / "theta.mrc"), read(done.out / "mask.mrc")
    x = np.arange(BOX) - BOX // 2
    np.testing.assert_allclose(theta, 6.5 + np.sqrt(x[:, None, None] ** 2 + x[:, None] ** 2 + x**2), rtol=1e-6)
    low, middle, high = np.percentile(theta[mask > 0.5], (5, 50, 95))
    assert f"{low:.2f} / {middle:.2f} / {high:.2f} A" in done.said
    raw = sum(read(halves / f"run_half{h}.mrc") for h in (1, 2)) / 2
    np.testing.assert_allclose(read(done.out / "map.mrc"), raw / 2, rtol=1e-5, atol=1e-6)
    text = text_of(done.out / "report.html")
    for said in ("nothing but a test", FROM_BOTH, f"between {high:.1f} and {low:.1f} Å"):
        assert said in text.replace("Nothing", "nothing")
    images = re.findall(r'<img [^>]*src="data:image/png', (done.out / "report.html").read_text())
    assert len(images) == 9


def test_a_mask_among_the_options_of_a_method_is_read_first(halves, halfmap, tmp_path, monkeypatch):
    given: dict[str, Any] = {}
    workflow = "halfmap.workflows.regularise"
    monkeypatch.setattr(f"{workflow}.regulariser_options", lambda settings: {"mask": tmp_path / "m.mrc"})
    monkeypatch.setattr(f"{workflow}.regulariser_named", lambda name, **options: given.update(options) or StandIn())
    ball = (torch.arange(BOX) % 2).float().expand(BOX, BOX, BOX).clone()
    write_map(tmp_path / "m.mrc", ball, PIXEL)
    assert halfmap(["regularise", "--i", halves / "run_half1.mrc", "--out", tmp_path / "out"]).status == 0
    assert torch.equal(given["mask"], ball)


def test_a_mask_of_the_user_is_used(halves, halfmap, tmp_path):
    x = torch.arange(BOX, dtype=torch.float32) - BOX // 2
    ball = (12 - (x[:, None, None] ** 2 + x[:, None] ** 2 + x**2).sqrt()).clamp(0, 1)
    write_map(tmp_path / "ball.mrc", ball, PIXEL)
    done = halfmap(["regularise", "--i", halves / "run_half1.mrc", "--mask", tmp_path / "ball.mrc",
                    "--out", tmp_path / "out"])
    assert np.array_equal(read(done.out / "mask.mrc"), ball.double().numpy())
    assert f"mask: {tmp_path / 'ball.mrc'}, " in done.said


def test_the_settings_file_repeats_the_run(halves, halfmap, tmp_path):
    once = halfmap(["regularise", "--i", halves / "run_half1.mrc", "--diameter", 90, "--out", tmp_path / "once"])
    again = halfmap(["regularise", "--settings", once.out / "settings.toml", "--out", tmp_path / "again"])
    assert again.status == 0, again.error
    for name in ("map.mrc", "half2.mrc", "mask.mrc", "fsc.xml"):
        assert (once.out / name).read_bytes() == (again.out / name).read_bytes()


def test_relion_postprocess_spellings_mean_the_same(halves, halfmap, tmp_path):
    ours = halfmap(["regularise", "--half1", halves / "run_half1.mrc", "--out", tmp_path / "ours"])
    theirs = tmp_path / "theirs"
    assert main(["regularise", "--i", str(halves / "run_half1.mrc"), "--i2", str(halves / "run_half2.mrc"),
                 "--o", str(theirs)]) == 0
    assert (ours.out / "half2.mrc").read_bytes() == (theirs / "half2.mrc").read_bytes()


def test_the_report_command_leaves_the_page_of_filtered_maps_alone(halves, halfmap, tmp_path, capsys):
    done = halfmap(["regularise", "--i", halves / "run_half1.mrc", "--out", tmp_path / "out"])
    before = (done.out / "report.html").read_bytes()
    capsys.readouterr()
    assert main(["report", str(done.out)]) == 2
    assert "halfmap regularise" in capsys.readouterr().err
    assert (done.out / "report.html").read_bytes() == before


# Mistakes of a user


def foreign_option() -> list[str]:
    """An option of a regulariser other than the default one, and a value other than its default."""
    usual = RegulariserOptions()
    for field in dataclasses.fields(RegulariserOptions):
        owner = next((one.name for one in BUILT_IN if field.name.startswith(one.prefix)), usual.regulariser)
        if owner != usual.regulariser and "float" in str(field.type):
            return ["--" + field.name.replace("_", "-"), "0.777"]
    raise AssertionError("no method has an option")


@pytest.fixture
def spoilt(halves: Path, tmp_path: Path) -> Path:
    """A copy of the half maps, with maps that do not fit them."""
    folder = Path(shutil.copytree(halves, tmp_path / "maps"))
    noise = torch.randn(BOX, BOX, BOX, generator=torch.Generator().manual_seed(0))
    write_map(folder / "small.mrc", noise[:32, :32, :32], PIXEL)
    write_map(folder / "coarse.mrc", noise, PIXEL + 0.1)
    write_map(folder / "blank.mrc", torch.full_like(noise, 3.0), PIXEL)
    holed = noise.clone()
    holed[1, 2, 3] = torch.nan
    write_map(folder / "holed.mrc", holed, PIXEL)
    (folder / "text.mrc").write_text("no map")
    (folder / "deep").mkdir()
    shutil.copy(folder / "run_half1.mrc", folder / "deep" / "run_half1.mrc")
    return folder


@pytest.mark.parametrize(("words", "said"), [
    (["--half1", "absent_half1.mrc"], ["absent_half1.mrc: no such file"]),
    (["--half1", "deep/run_half1.mrc"], ["run_half2.mrc: no such file"]),
    (["--half1", "small.mrc"], ["small.mrc", "--half2"]),
    (["--half2", "run_half1.mrc"], ["same map as --half1"]),
    (["--half2", "small.mrc"], ["small.mrc: box 32", "box 40"]),
    (["--half2", "coarse.mrc"], ["coarse.mrc: pixel size 3.1 A", "3 A"]),
    (["--half2", "blank.mrc"], ["blank.mrc", "3 everywhere"]),
    (["--half2", "holed.mrc"], ["holed.mrc", "1 voxels are not finite"]),
    (["--half2", "text.mrc"], ["text.mrc", "not an MRC file"]),
    (["--half2", "deep"], ["deep: is a folder"]),
    (["--mask", "small.mrc"], ["small.mrc: box 32"]),
    (["--mask", "run_half1.mrc"], ["run_half1.mrc: values from"]),
    (["--mask", "absent.mrc"], ["--mask", "absent.mrc: no such file"]),
    (["--diameter", "121"], ["--diameter 121", "120 A"]),
    (["--diameter", "0"], ["--diameter 0", "more than 0"]),
    (["--regulariser", "magic"], ["magic", "uniform"]),
    (["--out", "run_half1.mrc/x"], ["is a file, not a folder"]),
    (["--out", "deep"], ["deep: holds run_half1.mrc", "new folder"]),
    (["--settings", "absent.toml"], ["absent.toml"]),
    (foreign_option(), [foreign_option()[0], "belongs to"]),
])
def test_a_mistake_is_one_line_and_leaves_every_file_alone(words, said, spoilt, monkeypatch, capsys):
    monkeypatch.chdir(spoilt)
    before = {path: path.read_bytes() for path in spoilt.rglob("*") if path.is_file()}
    usual = ["--half1", "run_half1.mrc", "--out", "out"]
    assert main(["regularise", *usual, *words]) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(r"halfmap: error: [^\n]+\n", error)
    assert [text for text in said if text not in error] == []
    assert {path: path.read_bytes() for path in spoilt.rglob("*") if path.is_file()} == before
    assert not (spoilt / "out").exists()


def test_missing_options_are_named(capsys):
    assert main(["regularise"]) == 2
    assert "missing: --half1, --out" in capsys.readouterr().err


def test_nothing_is_written_over(halves: Path, halfmap: Callable[..., Any], tmp_path: Path) -> None:
    words = ["regularise", "--i", halves / "run_half1.mrc", "--out", tmp_path / "out"]
    done = halfmap(words)
    before = {path.name: path.stat().st_mtime_ns for path in done.out.iterdir()}
    again = halfmap([*words, "--regulariser", "uniform"])
    assert again.status == 2 and "holds a run already" in again.error
    assert {path.name: path.stat().st_mtime_ns for path in done.out.iterdir()} == before


@pytest.mark.parametrize("option", ["--nu-aligned-noise", "--nu-uneven-sampling", "--ss-gamma"])
def test_what_only_a_refinement_has_is_no_option_here(option: str, capsys) -> None:
    for command, there in (("refine", True), ("regularise", False)):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        assert (f"{option} " in capsys.readouterr().out) == there
    assert main(["regularise", "--half1", "a", "--out", "b", option, "corrected"]) == 2
    assert option in capsys.readouterr().err


@pytest.mark.parametrize("name", ["nu_aligned_noise", "nu_uneven_sampling", "ss_gamma"])
def test_what_only_a_refinement_has_is_neither_written_nor_read_nor_taken(
    name: str, halves: Path, halfmap: Callable[..., Any], tmp_path: Path
) -> None:
    method, value = ("nonuniform", "ignored") if name.startswith("nu") else ("sparse_smooth", 0.05)
    usual = ["regularise", "--half1", halves / "run_half1.mrc", "--out", tmp_path / "out"]
    written = to_toml(RegulariseSettings(half1=Path("a"), out=Path("b"), regulariser=method))
    assert name not in written and "nu_awf" in written
    own = tmp_path / "own.toml"
    own.write_text(f'regulariser = "{method}"\n{name} = {json.dumps(value)}\n')
    asked = halfmap([*usual, "--settings", own])
    assert asked.status == 2 and f"{own}: {name} has an effect only in refinements; remove the line" in asked.error
    half1, out = halves / "run_half1.mrc", tmp_path / "out"
    given = RegulariseSettings(half1=half1, out=out, regulariser=method, **{name: value})
    with pytest.raises(InputError, match=f"--{name.replace('_', '-')} {value}: has an effect only in refinements"):
        validated_pair(given)
