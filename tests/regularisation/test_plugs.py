"""Regularisers of other packages: found, chosen with their options, kept in runs; broken ones stop nothing else."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import mrcfile
import pytest
import torch
from fixtures.plug_packages import METHOD, installed

from halfmap.errors import InputError
from halfmap.regularisation.protocol import MapPair
from halfmap.settings.regularisers import DECLARED, regulariser_named
from halfmap.workflows.regulariser_claims import CLAIMS

SOURCE = str(Path(__file__).parents[2] / "src")
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def halfmap_with(tmp_path: Path) -> Run:
    """Run a command line of Halfmap, or of another module of it, where a folder of packages is on Python's path."""

    def run(packages: Path | None, *words: object, module: str = "halfmap") -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join([str(packages)] * (packages is not None) + [SOURCE])
        return subprocess.run([sys.executable, "-m", module, *map(str, words)], capture_output=True, text=True,
                              env=os.environ | {"PYTHONPATH": path}, cwd=tmp_path, check=False)  # fmt: skip

    return run


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    folder = tmp_path / "packages"
    folder.mkdir()
    return folder


def test_its_options_stand_in_the_help_of_every_command_that_regularises(halfmap_with, packages):
    installed(packages)
    for command in ("refine", "classify", "regularise"):
        said = halfmap_with(packages, command, "--help").stdout
        assert "soft" in said and "--soft-gain" in said and "factor of the map (default: 0.5)" in said, command
        assert "--soft-gain" not in halfmap_with(None, command, "--help").stdout
    external = halfmap_with(packages, "--help", module="halfmap.plugins.relion_external")
    assert "--soft-gain" in external.stdout, external.stderr


def test_half_maps_are_filtered_with_its_options_and_the_page_says_whose_it_is(
    halfmap_with, packages, dataset, tmp_path
):
    maps = [dataset / name for name in ("truth.mrc", "initial.mrc")]
    installed(packages)
    done = halfmap_with(packages, "regularise", "--half1", maps[0], "--half2", maps[1], "--regulariser", "soft",
                        "--soft-gain", 0.25, "--out", "out")
    assert done.returncode == 0, done.stderr
    found, given = (mrcfile.read(path) for path in (tmp_path / "out" / "half1.mrc", maps[0]))
    assert abs(found - 0.25 * given).max() < 1e-6 * abs(given).max()
    settings = (tmp_path / "out" / "settings.toml").read_text()
    assert "soft_gain = 0.25" in settings and "is of the package soft-package 1.5." in settings
    assert "nothing (as soft-package 1.5 declares)" in (tmp_path / "out" / "report.html").read_text()
    again = halfmap_with(None, "regularise", "--settings", "out/settings.toml", "--out", "again")
    assert again.returncode == 2 and again.stderr.count("\n") == 1
    assert "regulariser soft is none of uniform, " in again.stderr and "the head of the file names it" in again.stderr


def test_a_run_with_it_is_resumed_where_it_is_installed_and_only_there(halfmap_with, packages, dataset, tmp_path):
    installed(packages)
    words = ["refine", dataset / "particles.star", "--map", dataset / "initial.mrc", "--diameter", 130, "--threads", 1,
             "--regulariser", "soft", "--max-iterations", 2, "--out", "run"]
    # stopped when its first iteration is recorded: the method fails in the second
    broken = METHOD.replace("maps = tuple", "assert not memory\n        maps = tuple", 1)
    (packages / "soft_package_method.py").write_text(broken)
    stopped = halfmap_with(packages, *words)
    assert stopped.returncode == 1 and "AssertionError" in stopped.stderr
    assert (tmp_path / "run" / "checkpoint" / "state").exists()
    gone = halfmap_with(None, "resume", "run")
    assert gone.returncode == 2 and gone.stderr.count("\n") == 1
    assert "the package soft-package 1.5, which is not installed here" in gone.stderr
    assert "pip install soft-package==1.5" in gone.stderr
    (packages / "soft_package_method.py").write_text(METHOD)
    resumed = halfmap_with(packages, "resume", "run")
    assert resumed.returncode == 0, resumed.stderr
    assert "nothing (as soft-package 1.5 declares)" in (tmp_path / "run" / "iterations.jsonl").read_text()
    # a run with another regulariser does not depend on what is installed
    other = halfmap_with(packages, *words[:-1], "other", "--regulariser", "uniform")
    assert other.returncode == 0, other.stderr
    assert "soft_" not in (tmp_path / "other" / "settings.toml").read_text()
    repeated = halfmap_with(None, "refine", "--settings", "other/settings.toml", "--out", "repeated")
    assert repeated.returncode == 0, repeated.stderr


@pytest.mark.parametrize(("wrong", "said"), [
    ({"target": "no_such_module:SOFT"}, "ModuleNotFoundError"),
    ({"target": "soft_package:OTHER"}, "AttributeError"),
    ({"target": "soft_package:Options"}, "leads to no halfmap.regularisation.declaration.Declaration"),
    ({"name": "uniform", "prefix": "uniform2_"}, "Halfmap itself has a regulariser uniform already"),
    ({"prefix": "nu_"}, "prefix nu_ clashes with nu_ of nonuniform"),
    ({"prefix": "soft"}, "must be small letters that end in an underscore"),
    ({"method": "soft_package_method.Soft"}, "must be module:Class"),
])  # fmt: skip
def test_one_that_cannot_be_declared_is_named_with_its_package_and_stops_no_other(wrong, said, halfmap_with, packages):
    installed(packages, **wrong)
    name = wrong.get("name", "soft")
    usual = halfmap_with(packages, "refine", "no.star", "--diameter", 100, "--out", "run")
    lines = usual.stderr.splitlines()
    assert len(lines) == 2 and lines[1].startswith("halfmap: error: ") and "no.star: no such file" in lines[1]
    assert lines[0].startswith(f"halfmap: note: regulariser {name}: the package soft-package 1.5 cannot be used ")
    assert said in lines[0] and "pip uninstall soft-package" in lines[0]
    assert not halfmap_with(packages, "--version").stderr
    if name == "soft":
        chosen = halfmap_with(packages, "refine", "no.star", "--diameter", 100, "--out", "run", "--regulariser", "soft")
        assert chosen.returncode == 2 and "error: --regulariser soft: the package soft-package 1.5" in chosen.stderr


def chosen_here(packages: Path, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ``soft`` be a regulariser of this process, with a method of this code."""
    installed(packages, code=code)
    monkeypatch.syspath_prepend(packages)
    for module in ("soft_package", "soft_package_method"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    declared = replace(importlib.import_module("soft_package").SOFT, package="soft-package 1.5")
    monkeypatch.setitem(DECLARED, "soft", declared)


@pytest.mark.parametrize(("code", "said"), [
    ("import no_such_library", "ModuleNotFoundError"),
    (METHOD.replace("def filter_pair", "def filter"), "its method has no filter_pair"),
    (METHOD.replace("def alone", "def one"), "its method has no alone"),
    (METHOD.replace('"soft"', '"hard"'), "its method is named hard"),
    (METHOD.replace('crosses: str = "nothing"', 'crosses: str = ""'), "does not say what crosses"),
    (METHOD.replace("gain: float", "factor: float"), "TypeError"),
    (METHOD.replace("(maps, (maps", "((pair.half1[1:], pair.half2), (maps"), "not a map (4, 4, 4) on cpu"),
    (METHOD.replace("self.gain * pair.half2)", "pair.half2 / 0)"), "with values that are no numbers"),
    (METHOD.replace("return Solution(maps, (maps[0] + maps[1]) / 2)", "return maps"), "returns no Solution"),
])  # fmt: skip
def test_one_whose_method_lacks_what_is_needed_is_refused_when_it_is_chosen(code, said, packages, monkeypatch):
    chosen_here(packages, code, monkeypatch)
    pair = MapPair(*torch.ones(2, 4, 4, 4), None, 1.0)
    with pytest.raises(InputError) as refused:
        regulariser_named("soft", gain=0.5).filter_pair(pair, torch.ones(4, 4, 4))
    assert str(refused.value).startswith("--regulariser soft: ") and "soft-package 1.5" in str(refused.value)
    assert said in str(refused.value)


def test_of_two_packages_with_one_name_the_first_is_taken_and_the_other_named(halfmap_with, packages):
    installed(packages, "a-package")
    installed(packages, "b-package")
    done = halfmap_with(packages, "refine", "--help")
    assert "--soft-gain" in done.stdout
    assert "the package b-package 1.5 cannot be used (a-package 1.5 has a regulariser soft already)" in done.stderr


def test_an_option_of_it_with_another_regulariser_is_refused(halfmap_with, packages):
    installed(packages)
    done = halfmap_with(packages, "refine", "no.star", "--diameter", 100, "--out", "run", "--soft-gain", 0.1)
    assert done.returncode == 2
    assert "--soft-gain: belongs to --regulariser soft, and this is nonuniform" in done.stderr


@pytest.mark.parametrize(("change", "claim", "said"), [
    ("(first + 0.1 * second, second)", "nothing of one half set is in the map of the other", "noise of half set 2"),
    ("(first, second)", "noise falls and the molecule stays", "of the error of the raw map is left"),
    ("(first + 1e-3 * torch.randn_like(first), second)", "the same statistics make the same references",
     "make different references"),
])  # fmt: skip
def test_the_claims_are_false_for_one_that_leaks_does_nothing_or_draws_lots(
    change, claim, said, packages, tmp_path, monkeypatch
):
    solve = "maps = tuple(self.gain * v for v in halves.raw)"
    assert solve in METHOD
    chosen_here(packages, "import torch\n" + METHOD.replace(
        solve, f"first, second = halves.raw\n        maps = {change}"), monkeypatch)
    with pytest.raises(AssertionError, match=said):
        CLAIMS[claim]("soft", tmp_path)
