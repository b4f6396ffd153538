"""The surface on the pages: what is packed for the browser, that a browser draws it, and the ChimeraX scripts."""

from __future__ import annotations

import base64
import gzip
import json
import math
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from halfmap.maps.mrc import write_map
from halfmap.report.pages.refine import write_report
from halfmap.report.pages.snapshot import Snapshot
from halfmap.report.pictures.chimerax import Scene, palette, write_chimerax
from halfmap.report.pictures.local_cutoff import local_cutoff
from halfmap.report.pictures.viewer import STILL, Viewer, viewer

BOX, PIXEL, SPREAD, CENTRE = 40, 2.5, 5.0, (2.0, -3.0, 1.0)
AXIS = np.arange(BOX) - BOX // 2
Z, Y, X = (grid.astype(np.float32) for grid in np.meshgrid(AXIS, AXIS, AXIS, indexing="ij"))
RADIUS = np.sqrt((X - CENTRE[0]) ** 2 + (Y - CENTRE[1]) ** 2 + (Z - CENTRE[2]) ** 2)
BLOB = np.exp(-(RADIUS**2) / (2 * SPREAD**2))
MASK = (RADIUS < 16).astype(np.float32)
THETA = np.where(X > CENTRE[0], 4.0, 8.0).astype(np.float32)


@pytest.fixture(scope="module", autouse=True)
def _whole_surfaces() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("halfmap.report.pictures.viewer.STILL", STILL)
        yield


@pytest.fixture(scope="module")
def view() -> Viewer:
    made = viewer(BLOB, MASK, PIXEL, THETA, local_cutoff(THETA, MASK, PIXEL))
    assert made is not None
    return made


def unpacked(text: str, size: list[int]) -> np.ndarray:
    """What the browser unpacks, [z,y,x]."""
    return np.frombuffer(gzip.decompress(base64.b64decode(text)), np.uint8).reshape(size[::-1]).astype(float)


def grey(view: Viewer) -> tuple[np.ndarray, dict[str, Any]]:
    """The map as the script decodes it."""
    facts = json.loads(view.facts)
    coded = unpacked(view.volume, facts["size"]) / 255
    return facts["base"] + coded**2 * (facts["peak"] - facts["base"]), facts


def test_the_packed_map_is_the_map_on_a_finer_grid(view) -> None:
    """Within the slider's span a voxel's grey value says how far it lies from the blob's middle."""
    values, facts = grey(view)
    ratio = (1000 * facts["nm3"]) ** (1 / 3) / PIXEL
    assert max(facts["size"]) <= 112 and ratio == pytest.approx(0.5, rel=1e-6)
    z, y, x = np.mgrid[[slice(0, n) for n in values.shape]]
    weight = np.where(values >= facts["level"], 1.0, 0.0)
    middle = [(axis * weight).sum() / weight.sum() for axis in (z, y, x)]
    distance = ratio * np.sqrt(sum((axis - m) ** 2 for axis, m in zip((z, y, x), middle, strict=True)))
    used = (values > facts["low"]) & (values < facts["high"])
    assert used.sum() > 3000
    expected = SPREAD * np.sqrt(-2 * np.log(values[used]))
    assert np.abs(distance[used] - expected).max() < 0.3


def test_the_slider_spans_levels_around_the_one_that_is_shown(view) -> None:
    _, facts = grey(view)
    assert facts["base"] < facts["low"] < facts["level"] == view.level < facts["high"] < facts["peak"]


def test_colours_lie_where_theta_has_them(view) -> None:
    facts = json.loads(view.facts)
    colours = unpacked(view.colours, facts["coloursize"])
    assert set(np.unique(colours)) == {0.0, 255.0}, "the coarsest and the finest"
    share = (colours == 255).mean(axis=(0, 1))
    assert share[0] == 0 and share[-1] == 1 and 0.3 < (share > 0.5).mean() < 0.7, "fine where x is large"


def test_there_is_no_surface_where_there_is_nothing_to_draw() -> None:
    assert viewer(None, MASK, PIXEL) is None
    assert viewer(BLOB, MASK, None) is None
    assert viewer(np.zeros_like(BLOB), MASK, PIXEL) is None
    plain = viewer(BLOB, None, PIXEL)
    assert plain is not None and plain.colours == "" and plain.cutoff is None


def written(folder: Path, finished: bool) -> str:
    """The page of a run with these maps."""
    record = {"iteration": 1, "search": "final" if finished else "local", "box": BOX, "pixel_size": PIXEL}
    for name, values in {"map": BLOB, "mask": MASK, "theta": THETA, "half1_unfil": BLOB}.items():
        write_map(folder / f"{name}.mrc", torch.from_numpy(values).float(), PIXEL)
    shown = Snapshot(records=[record], map=BLOB, mask=MASK, theta=THETA, finished=finished)
    return write_report(folder, shown).read_text(encoding="utf-8")


def test_a_finished_page_has_the_surface_complete_in_itself_and_a_running_one_has_not(tmp_path) -> None:
    assert "volume3d" not in written(tmp_path, finished=False) and not (tmp_path / "map.cxc").exists()
    page = written(tmp_path, finished=True)
    assert len(re.findall(r'class="(?:volume|colours|palette|facts)3d">[^<]+<', page)) == 4
    assert not re.findall(r'(?:src|href)="(?!data:|https://doi\.org)[^"]+"', page)
    assert len(page) < 1_000_000


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium here")
def test_a_browser_draws_the_surface_over_the_still_picture(tmp_path) -> None:
    written(tmp_path, finished=True)
    command = ["chromium", "--headless", "--no-sandbox", "--enable-unsafe-swiftshader", "--use-gl=angle",
               "--use-angle=swiftshader", "--virtual-time-budget=6000", "--dump-dom",
               f"--user-data-dir={tmp_path / 'profile'}", f"file://{tmp_path / 'report.html'}"]
    page = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    (stage,) = re.findall(r'<div class="stage3d">.*?</div>', page, flags=re.S)
    canvas, image = re.search(r"<canvas[^>]*>", stage), re.search(r"<img[^>]*>", stage)
    assert canvas is not None and "hidden" not in canvas[0]
    assert image is not None and 'hidden=""' in image[0]
    (said,) = re.findall(r"<output>([^<]*)</output>", page)
    level, volume = float(said.split()[0]), float(said.split()[2])
    radius = SPREAD * math.sqrt(-2 * math.log(level)) * PIXEL
    assert volume == pytest.approx(4 / 3 * math.pi * radius**3 / 1000, rel=0.05)


def test_the_script_of_a_run_opens_its_files_and_colours_by_theta_from_fine_to_coarse(tmp_path) -> None:
    written(tmp_path, finished=True)
    lines = (tmp_path / "map.cxc").read_text().splitlines()
    opened = [(line.split('"')[1], line.split()[-1]) for line in lines if line.startswith("open")]
    assert opened == [("map.mrc", "1"), ("theta.mrc", "2"), ("half1_unfil.mrc", "3"), ("mask.mrc", "4")]
    assert "volume #2-4 hide" in lines
    (coloured,) = [line for line in lines if line.startswith("color sample")]
    found = re.fullmatch(r"color sample #1 map #2 palette (\S+) key true", coloured)
    assert found is not None
    stops = [stop.split(",") for stop in found[1].split(":")]
    assert [float(value) for value, _ in stops] == sorted(float(value) for value, _ in stops)
    assert all(re.fullmatch(r"#[0-9a-f]{6}", colour) for _, colour in stops)


def test_a_script_names_files_from_its_own_folder_and_leaves_out_what_is_missing(tmp_path) -> None:
    (tmp_path / "a b").mkdir()
    write_map(tmp_path / "map.mrc", torch.from_numpy(BLOB), PIXEL)
    cutoff = local_cutoff(THETA, MASK, PIXEL)
    scene = Scene(tmp_path / "map.mrc", 0.25, tmp_path / "theta.mrc", palette(cutoff), [tmp_path / "mask.mrc"])
    text = write_chimerax(tmp_path / "a b" / "map.cxc", scene).read_text()
    assert f'open "{Path("..") / "map.mrc"}" id 1' in text and text.count("open \"") == 1
    assert "hide" not in text and "color sample" not in text and "level 0.25 " in text
