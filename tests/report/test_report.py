"""The report of a run: complete, self-contained, and never the reason why a run stops."""

import base64
import json
import math
import re
import struct
import zlib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from halfmap.errors import InputError
from halfmap.maps.mrc import write_map
from halfmap.report.pages.gallery import gallery
from halfmap.report.pages.refine import write_report
from halfmap.report.pages.run_folder import read_records, read_settings, report_from_run
from halfmap.report.pages.snapshot import Snapshot
from halfmap.report.pictures.run_charts import fsc_chart
from halfmap.report.record_values import crossing
from halfmap.runtime.log import RunLog

BOX, PIXEL = 48, 2.5
VOID = {"meta", "link", "br", "img", "hr", "input", "path", "rect", "ellipse", "circle"}
STAR = """
data_optics
loop_
_rlnOpticsGroup #1
_rlnVoltage #2
_rlnSphericalAberration #3
_rlnAmplitudeContrast #4
_rlnImagePixelSize #5
_rlnImageSize #6
_rlnImageDimensionality #7
1 300 2.7 0.1 2.5 48 2

data_particles
loop_
_rlnImageName #1
_rlnOpticsGroup #2
_rlnDefocusU #3
_rlnDefocusV #4
_rlnDefocusAngle #5
_rlnAngleRot #6
_rlnAngleTilt #7
_rlnAnglePsi #8
"""


def record(iteration: int, **changed: Any) -> dict[str, Any]:
    """A full iteration record, every number of it different from every other."""
    shells = np.arange(BOX // 2 + 1)
    fsc = 1 / (1 + (shells / (6 + iteration)) ** 6)
    return {
        "iteration": iteration, "search": "global" if iteration < 3 else "local", "band_A": 21.37 - iteration,
        "resolution_A": 17.83 - iteration, "resolution_05_A": 19.61 - iteration, "fsc": fsc.tolist(),
        "fsc_masked": (fsc**0.8).tolist(), "fsc_spherical": (fsc**0.9).tolist(),
        "fsc_randomised": (0.01 * fsc).tolist(), "fsc_corrected": (fsc**0.85).tolist(),
        "angle_change_deg": 5.43 / iteration, "shift_change_A": 2.19 / iteration,
        "max_posterior": 0.731 + 0.01 * iteration, "precision_deg": 3.57 / iteration,
        "gain": 245.7 + iteration, "scale": 0.913,
        "sigma2": [(800 / (1 + shells)).tolist(), (900 / (1 + shells)).tolist()],
        "sigma2_name": ["grid A", "grid B"], "cpu_seconds": 66.6 + iteration,
        "seconds": {"read": 1.25, "search": 30.5, "insert": 4.75, "solve": 2.5, "total": 41.0 + iteration},
        "particles": 12345, "box": BOX, "pixel_size": PIXEL, "findings": [], "crosses": "shell spectrum",
        **changed,
    }  # fmt: skip


def phantom(seed: int = 0) -> np.ndarray:
    """Three Gaussian blobs [z,y,x] with a little noise."""
    z, y, x = np.meshgrid(*[np.arange(BOX) - BOX // 2] * 3, indexing="ij")
    density = sum(np.exp(-((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2) / 18)
                  for a, b, c in ((0, 0, 0), (8, 2, -4), (-5, 7, 3)))
    return (density + np.random.default_rng(seed).normal(0, 0.05, density.shape)).astype(np.float32)


def directions(count: int = 600) -> np.ndarray:
    views = np.random.default_rng(3).normal(size=(count, 3))
    return views / np.linalg.norm(views, axis=1, keepdims=True)


def snapshot(iterations: int = 5, **changed: Any) -> Snapshot:
    z, y, x = np.meshgrid(*[np.arange(BOX) - BOX // 2] * 3, indexing="ij")
    mask = 1 / (1 + np.exp(np.sqrt(x**2 + y**2 + z**2) - 15))
    fields: dict[str, Any] = {
        "records": [record(i + 1) for i in range(iterations)],
        "settings": {"diameter": (123.5, "A", "circle around the particle"), "regulariser": "nonuniform"},
        "map": phantom(), "half1": phantom(1), "half2": phantom(2), "reference": phantom(3), "mask": mask,
        "directions": directions(), "started": "2031-02-03 04:05", "version": "9.8.7",
        "command": "halfmap refine a<b>.star --out run",
    }  # fmt: skip
    return Snapshot(**(fields | changed))


class Page(HTMLParser):
    """Collects text and attributes, and complains about tags that do not pair."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.words: list[str] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert self.open == [], f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))

    def charts(self) -> dict[str, Any]:
        """Values behind the read-outs, by the name of the first curve."""
        found = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', self.source, re.S)
        return {chart["s"][0]["n"]: chart for chart in map(json.loads, found)}


@pytest.fixture
def page(tmp_path: Path) -> Page:
    return Page(write_report(tmp_path, snapshot()))


def test_the_page_shows_every_figure_of_the_latest_iteration(page: Page) -> None:
    wanted = ["12.83", "14.61", "16.37", "12 345", "local", "shell spectrum", "1.09", "0.438", "0.781",
              "0.714", "251", "0.913", "46.0", "71.6", "9.8.7", "2031-02-03 04:05", "C1",
              "123.5"]  # fmt: skip
    assert [text for text in wanted if text not in page.text] == []


def test_curves_carry_the_recorded_values_to_the_read_out(page: Page) -> None:
    last, charts = record(5), page.charts()
    curves = {series["n"]: series["v"] for series in charts["unmasked"]["s"]}
    recorded = ("fsc", "fsc_spherical", "fsc_masked", "fsc_randomised", "fsc_corrected")
    for shown, key in zip(curves.values(), recorded, strict=True):
        np.testing.assert_allclose(shown, last[key], rtol=1e-3)
    assert [series["n"] for series in charts["grid A"]["s"]] == ["grid A", "grid B"]
    np.testing.assert_allclose(charts["grid A"]["s"][1]["v"][1:],
                               last["sigma2"][1][1:], rtol=1e-3)  # fmt: skip
    stages = {series["n"]: series["v"][-1] for series in charts["read"]["s"]}
    assert stages == {"read": 1.25, "search": 30.5, "insert": 4.75, "solve": 2.5, "other": 7.0}
    assert charts["gain"]["s"][0]["v"] == pytest.approx([246.7, 247.7, 248.7, 249.7, 250.7])
    assert charts["FSC 0.143"]["s"][2]["v"] == pytest.approx([20.37, 19.37, 18.37, 17.37, 16.37])


def test_the_page_fetches_nothing(page: Page) -> None:
    fetching = [item for item in page.attributes if item[1] in ("src", "href", "srcset", "data", "action")]
    links = [value for tag, _, value in fetching if tag == "a"]
    others = [value for tag, _, value in fetching if tag != "a"]
    assert links and all(value.startswith("https://doi.org/10.") for value in links)
    assert others and all(value.startswith("data:") for value in others)
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest|import\(", page.source)


def test_the_papers_behind_the_regularisers_are_cited(page: Page) -> None:
    for name in ("Punjani A, Zhang H, Fleet DJ", "Luo Z, Campos-Acevedo AA, Lv L, Wang Q, Ma J", "Halfmap"):
        assert name in page.text
    assert page.text.index("Punjani") < page.text.index("not used in this run") < page.text.index("Luo Z")


def test_text_from_the_user_is_escaped(page: Page) -> None:
    assert "a<b>.star" in page.text
    assert "a<b>.star" not in page.source


def test_the_page_stays_light_for_many_iterations_and_particles(tmp_path: Path) -> None:
    coarse = np.random.default_rng(0).normal(size=(160, 160, 160)).astype(np.float32)
    many = snapshot(60, map=coarse, half1=coarse, half2=coarse, mask=None, reference=coarse,
                    directions=directions(300_000), symmetry="O")  # fmt: skip
    assert write_report(tmp_path, many).stat().st_size < 1_500_000


def test_one_iteration_with_nothing_but_a_number_is_enough(tmp_path: Path) -> None:
    page = Page(write_report(tmp_path, Snapshot(records=[{"iteration": 1}])))
    for missing in ("No Fourier shell correlation", "No map yet", "No view directions", "No noise spectra",
                    "No timings", "No settings"):  # fmt: skip
        assert missing in page.text


@pytest.mark.parametrize("changed", [
    {key: value} for key in record(1) for value in (None, math.nan, "odd") if key not in ("search", "crosses")
])  # fmt: skip
def test_no_odd_field_stops_the_report(tmp_path: Path, changed: dict[str, Any]) -> None:
    odd = [record(1), record(2) | changed]
    Page(write_report(tmp_path, snapshot(records=odd, map=None, directions=None)))


def test_a_map_with_a_hole_or_of_another_shape_is_left_out(tmp_path: Path) -> None:
    hole = phantom()
    hole[3, 4, 5] = np.nan
    shown = snapshot(map=hole, half1=hole)
    assert "No map yet" in Page(write_report(tmp_path, shown)).text
    page = Page(write_report(tmp_path, snapshot(half1=hole, half2=phantom()[:-2, :-2, :-2], mask=None)))
    assert "half map" not in page.text.replace("half maps", "")


def test_a_run_without_iterations_says_so(tmp_path: Path) -> None:
    assert "No iteration has finished yet" in Page(write_report(tmp_path, Snapshot(records=[]))).text


def test_warnings_are_shown_once_with_their_iterations(tmp_path: Path) -> None:
    records = [record(i, findings=[said("drift of <3 A")] if i < 4 else []) for i in range(1, 6)]
    page = Page(write_report(tmp_path, snapshot(records=records)))
    assert page.text.count("Drift of <3 A") == 1
    assert "iterations 1 to 3" in page.text
    assert "to look at" in page.text


def said(text: str, level: str = "warning") -> dict[str, str]:
    """A finding as records hold it."""
    return {"name": text.split(":")[0], "text": text, "about": "FSC", "level": level}


def test_findings_that_stand_come_first_and_notes_are_no_warnings(tmp_path: Path) -> None:
    found = [said("mask too tight: widen it"), said("quote the corrected one", "note"),
             said("5 images are empty", "note") | {"about": "images"}]
    records = [record(4, findings=[said("drift")]), record(5, findings=found)]
    page = Page(write_report(tmp_path, snapshot(records=records)))
    assert "2 things to look at" in page.text
    assert page.text.index("Mask too tight: widen it.") < page.text.index("Drift.") and "iteration 4" in page.text
    assert "Quote the corrected one." in page.text and "5 images are empty." in page.text


def test_masked_curves_are_not_judged_before_the_final_pass(tmp_path: Path) -> None:
    early = record(5, inserted_A=2 * BOX * PIXEL / 10)
    page = Page(write_report(tmp_path, snapshot(records=[early])))
    assert "measured in the final pass" in page.text
    assert {len(series.values) for series in fsc_chart([early]).chart.series} == {6}


def test_what_the_half_sets_share_is_said_and_what_it_means(tmp_path: Path) -> None:
    for crosses, meaning in (("FSC, solvent mask", "the usual gold standard"),
                             ("FSC (joined)", "because they are joined"),
                             ("starting map to 30 A (improved with all images)", "holds all images")):
        page = Page(write_report(tmp_path, snapshot(records=[record(5, crosses=crosses)])))
        assert crosses in page.text.replace("\n", " ") and meaning in page.text


def test_pictures_are_embedded_whole(page: Page) -> None:
    images = [value for tag, name, value in page.attributes if tag == "img" and name == "src"]
    assert len(images) == 9
    for uri in images:
        data = base64.b64decode(uri.removeprefix("data:image/png;base64,"), validate=True)
        assert struct.unpack(">II", data[16:24]) == (256, 256)
        assert data.endswith(b"IEND" + struct.pack(">I", zlib.crc32(b"IEND")))


def test_the_pictures_show_the_mask_and_a_scale_bar_of_the_right_length() -> None:
    shown = gallery(snapshot(), PIXEL)
    assert shown is not None
    length = float(shown.bar.label.split()[0])
    width = float(re.findall(r"(\d+) voxels", shown.side)[0]) * PIXEL
    assert shown.bar.percent == pytest.approx(100 * length / width)
    assert 2 * 15 * PIXEL < width < BOX * PIXEL


def test_the_crossing_lies_where_a_straight_line_crosses() -> None:
    line = [1.0 - 0.04 * shell for shell in range(25)]
    # 1 - 0.04 s = 0.5 at shell 12.5, and box * pixel / 12.5 = 120 / 12.5.
    assert crossing(record(1), line, 0.5) == pytest.approx(120 / 12.5)
    assert crossing(record(1), [1.0] * 25, 0.5) is None


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder as a refinement leaves it."""
    shown = snapshot()
    lines = [json.dumps(entry) for entry in (record(1), record(2), record(2, particles=77), record(3))]
    (tmp_path / "iterations.jsonl").write_text("\n".join(lines) + '\n{"iteration": 4, "sea')
    (tmp_path / "settings.toml").write_text(
        '# Settings of a refinement\n\n# circle around the particle [A]\ndiameter = 123.5\n\n# point group\n'
        'symmetry = "C2"\n\n# solvent mask\n# mask =   # a soft sphere of the diameter\n'
    )
    for name, volume in (("map", shown.map), ("half1_unfil", shown.half1), ("half2_unfil", shown.half2),
                         ("mask", shown.mask)):  # fmt: skip
        assert volume is not None
        write_map(tmp_path / f"{name}.mrc", torch.as_tensor(volume, dtype=torch.float32), PIXEL)
    rows = [f"{i + 1:06d}@stack.mrcs 1 15000 14000 20 {3 * i} 90 10" for i in range(120)]
    (tmp_path / "particles.star").write_text(STAR + "\n".join(rows) + "\n")
    with RunLog(tmp_path / "log.txt") as log:
        log.begin("9.8.7", "halfmap refine particles.star")
        log.notice("memory: up to 3.14 GB of 5.5 GB available; sums in memory; 32 images at once")
    return tmp_path


def test_a_report_comes_from_the_run_folder_alone(run: Path) -> None:
    page = Page(report_from_run(run))
    for text in ("14.83", "123.5", "C2 symmetry", "9.8.7", "halfmap refine particles.star", "120 views",
                 "Running", "circle around the particle", "a soft sphere of the diameter",
                 "half map 2"):  # fmt: skip
        assert text in page.text
    assert sum(tag == "img" for tag, name, _ in page.attributes if name == "src") == 8


def test_the_memory_plan_is_shown_that_of_the_last_session(run: Path) -> None:
    assert "up to 3.14 GB of 5.5 GB available; sums in memory; 32 images at once" in Page(report_from_run(run)).text
    with RunLog(run / "log.txt") as log:
        log.begin("9.8.7", "halfmap resume")
        log.notice("memory: up to 2.72 GB of 3 GB available; sums on disk (7 GB); 16 images at once")
    page = Page(report_from_run(run)).text
    assert "sums on disk (7 GB); 16 images" in page and "3.14 GB" not in page


def test_a_resumed_run_counts_each_iteration_once(run: Path) -> None:
    records = read_records(run / "iterations.jsonl")
    assert [entry["iteration"] for entry in records] == [1, 2, 3]
    assert records[1]["particles"] == 77


def test_settings_are_read_with_their_units_and_meanings(run: Path) -> None:
    assert read_settings(run / "settings.toml") == {
        "diameter": (123.5, "A", "circle around the particle"),
        "symmetry": ("C2", "", "point group"),
        "mask": ("a soft sphere of the diameter", "", "solvent mask"),
    }


@pytest.mark.parametrize("name", ["map.mrc", "mask.mrc", "half1_unfil.mrc", "particles.star", "log.txt",
                                  "settings.toml", "iterations.jsonl"])  # fmt: skip
def test_a_missing_file_leaves_the_rest_of_the_report(run: Path, name: str) -> None:
    (run / name).unlink()
    Page(report_from_run(run))


def test_a_damaged_map_leaves_the_rest_of_the_report(run: Path) -> None:
    (run / "map.mrc").write_bytes(b"not a map")
    assert "No map yet" in Page(report_from_run(run)).text


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="neither"):
        report_from_run(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        report_from_run(tmp_path / "absent")


def test_a_damaged_line_within_the_records_is_named(run: Path) -> None:
    (run / "iterations.jsonl").write_text('{"iteration": 1}\n{"iter\n{"iteration": 3}\n')
    with pytest.raises(InputError, match="line 2"):
        report_from_run(run)


def test_a_failed_report_leaves_the_old_one(tmp_path: Path) -> None:
    old = write_report(tmp_path, snapshot()).read_bytes()
    with pytest.raises(AttributeError):
        write_report(tmp_path, snapshot(records=[object()]))
    assert (tmp_path / "report.html").read_bytes() == old
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
