"""What is said of this version, and of what it needs, in one place is what is said in the others."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

import halfmap

ROOT = Path(__file__).parents[1]
FILES = ROOT / "packaging"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NEEDED = {one.name: one.specifier for one in map(Requirement, PROJECT["dependencies"])}
CONDA = {"torch": "pytorch"}  # what conda calls a package by another name
RECIPE = (FILES / "conda" / "recipe.yaml").read_text()
APPTAINER = {"files", "post", "environment", "runscript", "test", "labels", "help"}


def pins() -> dict[str, Version]:
    lines = [line for line in (FILES / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    found = dict(line.split("==") for line in lines)
    assert len(found) == len(lines) and list(found) == sorted(found)
    return {name: Version(version) for name, version in found.items()}


def listed(heading: str) -> list[str]:
    """The items of a list in the recipe."""
    found = re.search(rf"^( +){heading}:\n((?:\1 +- .*\n)+)", RECIPE, flags=re.M)
    assert found is not None
    return [line.strip().removeprefix("- ") for line in found[2].splitlines()]


def test_what_is_pinned_is_what_the_project_needs_in_versions_that_it_takes() -> None:
    pinned = pins()
    assert set(NEEDED) <= set(pinned)
    for name, version in pinned.items():
        assert version.local is None and not version.is_prerelease
        assert version in NEEDED.get(name, SpecifierSet())


def test_the_recipe_is_of_this_version_and_needs_the_same() -> None:
    assert f'version: "{halfmap.__version__}"' in RECIPE
    ours = {f"{CONDA.get(name, name)} {spec}".strip(): spec for name, spec in NEEDED.items()}
    run = [Requirement(one) for one in listed("run") if not one.startswith(("python ", "__"))]
    assert {one.name: one.specifier for one in run} == {one.split()[0]: spec for one, spec in ours.items()}
    assert listed("entry_points") == [f"{name} = {target}" for name, target in PROJECT["scripts"].items()]
    least = re.search(r'python_min: "(.+)"', RECIPE)
    assert least is not None and SpecifierSet(f">={least[1]}") == SpecifierSet(PROJECT["requires-python"])


@pytest.mark.parametrize("name", ["Dockerfile", "halfmap.def"])
def test_containers_hold_a_python_that_the_project_takes_and_what_is_pinned(name: str) -> None:
    text = (FILES / name).read_text()
    images = re.findall(r"^F(?:ROM|rom:) (?:docker\.io/)?python:([\d.]+)-", text, flags=re.M)
    assert images and all(one in SpecifierSet(PROJECT["requires-python"]) for one in images)
    assert "-c /wheel/constraints.txt" in text or "-c /source/constraints.txt" in text
    assert all(f"Programming Language :: Python :: {one}" in PROJECT["classifiers"] for one in images)


def test_the_apptainer_definition_has_sections_that_there_are_and_files_that_are_there() -> None:
    text = (FILES / "halfmap.def").read_text()
    assert text.startswith("Bootstrap: docker\nFrom: ")
    assert set(re.findall(r"^%(\w+)", text, flags=re.M)) == APPTAINER
    files = re.search(r"^%files\n((?:    .+\n)+)", text, flags=re.M)
    assert files is not None and all((ROOT / line.split()[0]).exists() for line in files[1].splitlines())


def test_the_license_is_named_once_and_alike() -> None:
    assert PROJECT["license"] == "BSD-3-Clause" and f"license: {PROJECT['license']}" in RECIPE
    assert "license: BSD-3-Clause" in (ROOT / "CITATION.cff").read_text()
