"""``halfmap convert --group-by``: images come into the groups that their names or positions were made of."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import starfile

from halfmap.cli.program import main

AREAS = (10216707, 10216711, 9993)  # numbers of the template, of three places within a hole
SHOTS = 4  # holes, each with all places
EACH = 30  # images of a micrograph
SHIFTS = np.array([[0.11, -0.2], [-0.13, 0.02], [0.02, 0.21]])


def tables(name: str = "MotionCorr/FoilHole_{hole}_Data_{area}_{template}_20231010_{time:06d}_Fractions.mrc",
           each: int = EACH) -> dict[str, Any]:
    """Images of SHOTS holes in two optics groups, taken at three places in each hole. rlnPlace is the truth."""
    random = np.random.default_rng(4)
    shots = [(hole, place) for hole in range(SHOTS) for place in range(3)]
    rows = pandas.DataFrame([(hole, place) for hole, place in shots for _ in range(each)], columns=["hole", "rlnPlace"])
    names = [name.format(hole=9000 + hole, area=AREAS[place], template=AREAS[place] + 2, time=hole * 100 + place)
             for hole, place in rows.itertuples(index=False)]
    jitter = random.normal(0, 0.003, (SHOTS, 3, 2))
    shift = SHIFTS[rows.rlnPlace] + jitter[rows.hole, rows.rlnPlace]
    particles = pandas.DataFrame({
        "rlnImageName": [f"{i + 1:06d}@stack.mrcs" for i in range(len(rows))], "rlnMicrographName": names,
        "rlnOpticsGroup": 1 + (rows.hole >= 2), "rlnDefocusU": 10000.0, "rlnDefocusV": 10000.0, "rlnDefocusAngle": 0.0,
        "rlnPlace": rows.rlnPlace, "myShiftX": shift[:, 0], "myShiftY": shift[:, 1],
    })
    optics = pandas.DataFrame({
        "rlnOpticsGroup": [1, 2], "rlnOpticsGroupName": ["left", "right"], "rlnVoltage": [300.0, 200.0],
        "rlnSphericalAberration": [2.7, 1.4], "rlnAmplitudeContrast": [0.1, 0.07], "rlnImagePixelSize": [1.5, 1.62],
        "rlnImageSize": [16, 16], "rlnImageDimensionality": [2, 2], "rlnBeamTiltX": [0.2, -0.4],
        "rlnOddZernike": ["[0,0,2.5,0,0,-1.5]", "[0,0,0,0,0,1]"], "rlnMtfFileName": ["k3.star", "falcon.star"],
    })
    return {"optics": optics, "particles": particles}


@pytest.fixture
def convert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Write tables as in.star and convert it; what was printed, or the one line of the error."""
    monkeypatch.chdir(tmp_path)

    def run(held: dict[str, Any], *words: str, out: str = "out.star", refused: bool = False) -> str:
        starfile.write(held, tmp_path / "in.star", overwrite=True)
        status = main(["convert", "in.star", out, *words])
        said, error = capsys.readouterr()
        assert status == (2 if refused else 0), error
        assert re.fullmatch(r"halfmap: error: [^\n]+\n", error) if refused else error == ""
        assert not refused or sorted(path.name for path in tmp_path.iterdir()) == ["in.star"]
        return error if refused else said

    return run


@pytest.mark.parametrize(("rule", "called"), [
    ("beam-shift", [f"{area}_{area + 2}" for area in sorted(AREAS)]),
    (r"name:_Data_(\d+)_", [str(area) for area in sorted(AREAS)]),
    (r"rlnMicrographName:Data_\d+_\d+", [f"Data_{area}_{area + 2}" for area in sorted(AREAS)]),
    ("_myShiftX,myShiftY", ["position1", "position2", "position3"]),
    ("rlnPlace", ["position1", "position2", "position3"]),
])
def test_images_come_into_the_group_of_their_place_and_keep_the_optics_they_had(rule, called, convert):
    given = tables()
    said = convert(given, "--group-by", rule)
    found = starfile.read("out.star", always_dict=True)
    optics, particles = found["optics"], found["particles"]
    assert optics["rlnOpticsGroup"].tolist() == [1, 2, 3, 4, 5, 6]
    assert optics["rlnOpticsGroupName"].tolist() == [f"{old}_{key}" for old in ("left", "right") for key in called]
    # one group for each old group and place, and none for more than one
    truth = pandas.DataFrame({"old": given["particles"]["rlnOpticsGroup"], "place": given["particles"]["rlnPlace"],
                              "new": particles["rlnOpticsGroup"]})
    assert len(truth.drop_duplicates()) == 6 == truth["new"].nunique()
    assert (truth["old"] == 1 + (truth["new"] > 3)).all()
    for label in given["optics"].columns.drop(["rlnOpticsGroup", "rlnOpticsGroupName"]):
        assert optics[label].tolist() == np.repeat(given["optics"][label], 3).tolist(), label
    kept, before = given["particles"].columns.drop("rlnOpticsGroup"), starfile.read("in.star")["particles"]
    pandas.testing.assert_frame_equal(particles[kept], before[kept])
    assert f"divided by {rule}: 6 optics groups (left_{called[0]} to right_{called[2]}) of 60 to 60 images" in said
    assert "6 groups have fewer than 100 images" in said and "left" in said
    page = Path("out_groups.html").read_text()
    assert all(name in page for name in optics["rlnOpticsGroupName"]) and "Ward" not in page
    assert page.count('class="dots') == (3 if "position1" in called else 0)
    assert not re.findall(r'(?:src|href)="(?!data:|https://doi\.org)[^"]+"', page)


def test_a_place_of_the_template_is_told_from_names_however_epu_ends_them(convert):
    for end in (".tiff", "_EER.eer", "-32039.mrc", "_fractions_DW.mrc"):
        for path in Path().glob("out*"):
            path.unlink()
        said = convert(tables("FoilHole_{hole}_Data_{area}_{template}_20181130_{time:04d}" + end), "--group-by",
                       "beam-shift")
        assert "6 optics groups" in said


XML = """<MicroscopeImage xmlns="http://schemas.datacontract.org/2004/07/Fei.SharedObjects"><microscopeData><optics>
<BeamShift xmlns:a="http://schemas.datacontract.org/2004/07/Fei.Types"><a:_x>{x}</a:_x>{between}<a:_y>{y}</a:_y></BeamShift>
</optics></microscopeData></MicroscopeImage>"""


def write_xml(held: dict[str, Any], folder: Path, name: Callable[[str], str]) -> None:
    """A file of every micrograph; the beam was moved for all places of one hole, and for one place of another."""
    folder.mkdir(parents=True)
    shots = held["particles"].drop_duplicates("rlnMicrographName")
    for micrograph, place, x, y in shots[["rlnMicrographName", "rlnPlace", "myShiftX", "myShiftY"]].itertuples(
            index=False):
        moved = 2.0 * ((place == 0 and "Hole_9001" in micrograph) or "Hole_9003" in micrograph)
        (folder / name(micrograph)).write_text(XML.format(x=x + moved, y=y, between="\n  " * (place == 1)))


@pytest.mark.parametrize("names", [
    "MotionCorr/x_FoilHole_{hole}_Data_{area}_{template}_20231010_{time:06d}_Fractions.mrc",
    "mics/FoilHole_{hole}_{time}.mrc",
])
def test_beam_shifts_are_read_from_the_files_of_epu_and_kept(names, convert, tmp_path_factory):
    held, folder = tables(names), tmp_path_factory.mktemp("epu")
    write_xml(held, folder / "Images-Disc1/GridSquare_1/Data",
              lambda name: re.search(r"FoilHole_\d+_(Data_\d+_\d+_\d{8}_)?\d+", name)[0] + ".xml")
    convert(held, "--group-by", "beam-shift", "--xml", str(folder))
    found = starfile.read("out.star", always_dict=True)["particles"]
    before = starfile.read("in.star", always_dict=True)["particles"]
    moved = (found["halfmapBeamShiftX"] - before["myShiftX"]).round(4)
    assert set(moved) == {0.0, 2.0} and np.allclose(found["halfmapBeamShiftY"], before["myShiftY"], atol=1e-5)
    truth = pandas.DataFrame({"old": before["rlnOpticsGroup"], "place": before["rlnPlace"], "moved": moved,
                              "new": found["rlnOpticsGroup"]}).drop_duplicates()
    assert len(truth) == truth["new"].nunique() == len(truth[["old", "place", "moved"]].drop_duplicates())


def test_a_micrograph_without_its_file_or_a_file_without_shift_is_named(convert, tmp_path_factory):
    held, folder = tables(), tmp_path_factory.mktemp("epu") / "xml"
    write_xml(held, folder, lambda name: Path(name).name.replace("_Fractions.mrc", ".xml"))
    first = sorted(folder.iterdir())[0]
    words = ["--group-by", "beam-shift", "--xml", str(folder)]
    first.write_text("<MicroscopeImage/>")
    assert f"{first}: holds no beam shift" in convert(held, *words, refused=True)
    first.unlink()
    assert re.search(r"row \d+: MotionCorr/FoilHole_9000_Data_10216707_\S+ has no XML file .*11 files; 30 of 360 rows",
                     convert(held, *words, refused=True))
    assert "is for --group-by beam-shift" in convert(held, *words[2:], out="out.cs", refused=True)


def test_places_are_as_many_as_is_said(convert):
    said = convert(tables(), "--group-by", "myShiftX,myShiftY", "--groups", "2")
    assert "4 optics groups" in said and "Ward" in Path("out_groups.html").read_text()


def test_the_groups_reach_cryosparc_and_come_from_it(convert):
    convert(tables(), "--group-by", "beam-shift", out="out.cs")
    place = tables()["particles"]["rlnPlace"].to_numpy()
    made = np.load("out.cs")["ctf/exp_group_id"]
    order = np.argsort(np.argsort(AREAS))
    assert made.tolist() == (order[place] + 3 * (tables()["particles"]["rlnOpticsGroup"] - 1)).tolist()


def test_groups_that_are_one_micrograph_are_named(convert):
    held = tables(each=150)
    held["particles"] = held["particles"][(held["particles"]["rlnPlace"] > 0) | (np.arange(1800) < 150)]
    said = convert(held, "--group-by", "beam-shift")
    assert "1 group is one micrograph: left_10216707_10216709" in said and "fewer than" not in said


def bad(change: Callable[[pandas.DataFrame], object]) -> dict[str, Any]:
    held = tables()
    change(held["particles"])
    return held


@pytest.mark.parametrize(("held", "words", "wrong"), [
    (tables("mic{hole}_{area}_{time}.mrc"), ["beam-shift"],
     "row 1: rlnMicrographName 'mic9000_10216707_0.mrc' does not match an EPU name.*none of its rows"),
    (bad(lambda p: p.__setitem__("rlnMicrographName", [*p["rlnMicrographName"][:-30], *["other.mrc"] * 30])),
     ["beam-shift"], "row 331: rlnMicrographName 'other.mrc' .*30 of 360 rows do not"),
    (tables(), [r"name:Data_(\d+"], r"--group-by name:Data_\(\\d\+: .* is not a regular expression"),
    (tables(), ["rlnBeamShiftX"], "has no column rlnBeamShiftX.*myShiftX, myShiftY"),
    (tables(), ["rlnBeamShiftX:a"], "has no column rlnBeamShiftX"),
    (tables(), ["a,b,c"], "--group-by a,b,c: give beam-shift"),
    (tables(), ["name:FoilHole"], "divides nothing: the 2 optics groups of the file are divided like this already"),
    (tables(), ["rlnOpticsGroup"], "divides nothing"),
    (tables(), ["rlnDefocusU"], "12 micrographs cannot be grouped: all are the same"),
    (tables(), ["rlnImageName"], "makes 360 groups of 360 images"),
    (tables(), ["rlnMicrographName"], "makes 12 groups of 12 micrographs"),
    (bad(lambda p: p.__setitem__("myShiftX", [*p["myShiftX"][:-1], np.nan])), ["myShiftX"],
     "row 360: myShiftX .* is not a number"),
    (tables(), ["beam-shift", "--groups", "3"], "--groups 3: is for columns of numbers"),
    (tables(), ["myShiftX,myShiftY", "--groups", "13"], "there are only 12 different ones"),
])
def test_what_cannot_divide_is_refused_in_one_line_and_nothing_is_written(held, words, wrong, convert):
    assert re.search(wrong, convert(held, "--group-by", *words, refused=True))


def test_a_file_of_the_same_kind_and_a_number_of_groups_need_the_rule(convert):
    assert "of the other kind" in convert(tables(), refused=True)
    assert "--groups 3: is for --group-by" in convert(tables(), "--groups", "3", out="out.cs", refused=True)
    assert "must be at least 2" in convert(tables(), "--group-by", "myShiftX", "--groups", "1", refused=True)
