"""What ``halfmap ctf-refine`` writes, as RELION reads it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch
from fixtures.projects import Outcome
from fixtures.wrong_optics import BOX, PIXEL, Imaged

from halfmap.validation.fsc import fsc

pytestmark = pytest.mark.skipif(shutil.which("relion_reconstruct") is None, reason="RELION is not installed")


def reconstructed(star: Path, out: Path) -> torch.Tensor:
    command = ["relion_reconstruct", "--i", str(star), "--o", str(out), "--ctf", "--pad", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return torch.from_numpy(np.array(mrcfile.read(out)))


def test_relions_map_with_the_optics_that_were_found_is_nearly_that_with_the_true_ones(
    imaged: Imaged, optics_fitted: Outcome, tmp_path: Path
) -> None:
    truth = torch.from_numpy(np.array(mrcfile.read(imaged.folder / "run/map.mrc")))
    stars = {"wrong": imaged.folder / "particles.star", "found": optics_fitted.out / "particles.star",
             "true": imaged.folder / "true.star"}
    fine = slice(int(BOX * PIXEL / 8), BOX // 2 - 1)  # from 8 A on
    agreed = {name: float(fsc(reconstructed(star, tmp_path / f"{name}.mrc"), truth)[fine].mean())
              for name, star in stars.items()}
    assert agreed["found"] - agreed["wrong"] > 0.8 * (agreed["true"] - agreed["wrong"]) > 0.05, agreed
