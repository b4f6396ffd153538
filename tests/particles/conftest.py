"""A small project folder made anew for each test: stacks of known images and the STAR text for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import mrcfile
import numpy as np
import pytest

Columns = Mapping[str, Sequence[object]]


def loop(name: str, columns: Columns) -> str:
    """The text of one STAR table."""
    labels = "".join(f"_{label} #{i}\n" for i, label in enumerate(columns, 1))
    rows = "".join(" ".join(map(str, row)) + "\n" for row in zip(*columns.values(), strict=True))
    return f"\ndata_{name}\n\nloop_\n{labels}{rows}\n"


@pytest.fixture
def star_text() -> Callable[..., str]:
    """Text of a STAR file from named tables given as columns."""
    return lambda **tables: "# version 30001\n" + "".join(loop(name, table) for name, table in tables.items())


@pytest.fixture
def optics() -> dict[str, list[object]]:
    """An optics table with two groups that differ in everything but the box."""
    return {
        "rlnOpticsGroup": [1, 2],
        "rlnOpticsGroupName": ["first", "second"],
        "rlnVoltage": [300, 200],
        "rlnSphericalAberration": [2.7, 1.4],
        "rlnAmplitudeContrast": [0.1, 0.07],
        "rlnImagePixelSize": [1.25, 2.5],
        "rlnImageSize": [12, 12],
        "rlnImageDimensionality": [2, 2],
        "rlnMtfFileName": ["k2.star", "k3.star"],
    }


@pytest.fixture
def particles() -> dict[str, list[object]]:
    """Seven particles of two stacks and three micrographs."""
    return {
        "rlnImageName": [
            f"{i:06d}@stacks/{s}.mrcs"
            for i, s in [(1, "a"), (3, "a"), (2, "b"), (1, "b"), (2, "a"), (4, "a"), (3, "b")]
        ],
        "rlnMicrographName": ["m1.mrc", "m1.mrc", "m2.mrc", "m2.mrc", "m1.mrc", "m3.mrc", "m2.mrc"],
        "rlnDefocusU": [10000.5 + 100 * i for i in range(7)],
        "rlnDefocusV": [9900.25 + 100 * i for i in range(7)],
        "rlnDefocusAngle": [-51.63, 10, 20, 30, 40, 50, 170.5],
        "rlnOpticsGroup": [1, 1, 2, 2, 1, 1, 2],
        "rlnAngleRot": [10.5, -170, 33, 0, 77.25, 1, 2],
        "rlnAngleTilt": [90, 45.5, 0, 180, 12, 3, 4],
        "rlnAnglePsi": [0, 15, -25.125, 35, 179, 5, 6],
        "rlnOriginXAngst": [0.5, -1.25, 3, 0, 0, 1, 2],
        "rlnOriginYAngst": [1.5, 2.25, -3, 0, 0, 1, 2],
        "rlnRandomSubset": [1, 2, 1, 2, 1, 2, 1],
        "rlnSomethingOfMine": ["a", "b", "c", "d", "e", "f", "g"],
    }


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with stacks/a.mrcs (4 images) and stacks/b.mrcs (3 images) of 12 pixels."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stacks").mkdir()
    generator = np.random.default_rng(0)
    for name, count in (("a", 4), ("b", 3)):
        with mrcfile.new(tmp_path / f"stacks/{name}.mrcs") as mrc:
            mrc.set_data(generator.normal(size=(count, 12, 12)).astype(np.float32))
            mrc.set_image_stack()
            mrc.voxel_size = 1.25
    return tmp_path


@pytest.fixture
def star(project: Path, star_text: Callable[..., str], optics: Columns, particles: Columns) -> Path:
    """A complete 3.1 file in the project folder."""
    path = project / "particles.star"
    path.write_text(star_text(optics=optics, particles=particles))
    return path
