"""The files behind image names are found, and written names lead to them again."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import starfile

from halfmap.particles.star import read_star, write_star

Columns = dict[str, list[object]]
Text = Callable[..., str]


def _names(path: str) -> list[str]:
    return starfile.read(path, always_dict=True)["particles"]["rlnImageName"].tolist()


def test_images_are_found_from_the_working_folder_the_file_and_the_data_folder(
    star: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(data_dir: Path | None = None) -> list[str]:
        return [os.path.abspath(path) for path in read_star(star, data_dir).stacks]

    expected = [str(tmp_path / "stacks/a.mrcs"), str(tmp_path / "stacks/b.mrcs")]
    assert found() == expected
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert found() == expected
    (tmp_path / "stacks").rename(tmp_path / "moved")
    assert found(tmp_path)[0].endswith("elsewhere/stacks/a.mrcs")  # nowhere: as written
    (tmp_path / "disk").mkdir()
    (tmp_path / "moved").rename(tmp_path / "disk/stacks")
    assert found(tmp_path / "disk") == [
        str(tmp_path / "disk/stacks/a.mrcs"),
        str(tmp_path / "disk/stacks/b.mrcs"),
    ]
    (tmp_path / "disk/stacks/a.mrcs").rename(tmp_path / "disk/stacks/a.mrc")
    assert found(tmp_path / "disk")[0].endswith("disk/stacks/a.mrc")


def test_written_image_names_are_valid_where_the_user_is(
    star: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    write_star("again.star", read_star(star))
    names = _names("again.star")
    assert names[1] == f"000003@{tmp_path}/stacks/a.mrcs"
    assert [os.path.isfile(name.split("@")[1]) for name in names] == [True] * 7
    assert read_star("again.star").image_index.tolist() == read_star(star).image_index.tolist()


def test_single_images_and_names_of_cryosparc_are_understood(
    star: Path, star_text: Text, optics: Columns, particles: Columns, project: Path
) -> None:
    (project / "one.mrc").write_bytes((project / "stacks/a.mrcs").read_bytes())
    particles["rlnImageName"] = [
        "one.mrc",
        "2@>stacks/a.mrcs",
        "000003@./stacks/a.mrcs",
        *particles["rlnImageName"][3:],
    ]
    star.write_text(star_text(optics=optics, particles=particles))
    table = read_star(star)
    assert table.image_index[:3].tolist() == [0, 1, 2]
    assert [str(table.stacks[i]) for i in table.stack_index[:3]] == [
        "one.mrc",
        "stacks/a.mrcs",
        "stacks/a.mrcs",
    ]
    write_star("again.star", table)
    names = _names("again.star")
    assert names[0] == "one.mrc" and names[1] == "2@stacks/a.mrcs"
