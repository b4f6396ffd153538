"""What ``halfmap ctf-refine`` writes, as RELION reads it."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch
from fixtures.projects import Outcome
from fixtures.wrong_optics import BOX, PIXEL, Imaged

from halfmap.particles.star import read_star, write_star
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


def test_changes_of_defocus_are_those_of_relion_ctf_refine(
    imaged: Imaged, optics_fitted: Outcome, tmp_path: Path
) -> None:
    names = ("rlnSpectralIndex", "rlnResolution", "rlnAngstromResolution", "rlnFourierShellCorrelationCorrected",
             "rlnFourierShellCorrelationUnmaskedMaps", "rlnFourierShellCorrelationMaskedMaps",
             "rlnCorrectedFourierShellCorrelationPhaseRandomizedMaskedMaps")
    rows = [f"{k} {k / (BOX * PIXEL):.6f} {BOX * PIXEL / max(k, 0.1):.4f} 1 1 1 0" for k in range(BOX // 2)]
    labels = [f"_{name} #{i + 1}" for i, name in enumerate(names)]
    fsc_file = tmp_path / "fsc.star"
    fsc_file.write_text("\ndata_general\n\n_rlnFinalResolution 6.2\n\n\ndata_fsc\n\nloop_\n"
                        + "\n".join(labels + rows) + "\n")
    run, out = imaged.folder / "run", tmp_path / "relion"
    out.mkdir()
    given = read_star(imaged.folder / "particles.star")
    write_star(out / "given.star", replace(given, origins=given.origins + 1e-3))  # RELION wants the columns
    command = ["relion_ctf_refine", "--i", out / "given.star", "--f", fsc_file, "--m1",
               run / "half1_unfil.mrc", "--m2", run / "half2_unfil.mrc", "--mask", run / "mask.mrc", "--o", f"{out}/",
               "--fit_defocus", "--fit_mode", "fpfff", "--kmin_defocus", "30"]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    ours, theirs, before = (_mean_defocus(star) for star in (
        optics_fitted.out / "particles.star", out / "particles_ctf_refine.star", out / "given.star"))
    assert np.corrcoef(ours - before, theirs - before)[0, 1] > 0.98


def _mean_defocus(star: Path) -> np.ndarray:
    table = read_star(star)
    return (0.5 * (table.defocus.u + table.defocus.v)).numpy()[np.argsort(table.image_index)]
