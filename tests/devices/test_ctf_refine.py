"""``halfmap ctf-refine`` on the pretended accelerator finds to the bit what plain kernels find on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures.wrong_optics import DIAMETER, Imaged

from halfmap.particles.star import read_star, write_star
from halfmap.settings.ctf_refine import CtfRefineSettings, validated_ctf_refine
from halfmap.workflows.ctf_refine import CtfRefined, ctf_refine

COUNT = 40


@pytest.mark.parametrize("given", ["run", "star"])
def test_the_command_finds_the_same_bits_on_both(
    imaged: Imaged, accelerator: Any, plain_kernels: Any, tmp_path: Path, given: str
) -> None:
    folder = imaged.folder
    if given == "run":  # its noise and contrast; of a STAR file they are estimated
        what: dict[str, Any] = {"particles": folder / "run"}
    else:
        write_star(tmp_path / "few.star", read_star(folder / "particles.star").select(np.arange(COUNT)))
        what = {"particles": tmp_path / "few.star", "half1": folder / "half1.mrc", "mask": folder / "mask.mrc",
                "diameter": DIAMETER}
    fit = "tilt" if given == "run" else "defocus,astigmatism,tilt,cs,magnification"

    def found(device: str) -> CtfRefined:
        return ctf_refine(validated_ctf_refine(CtfRefineSettings(
            fit=fit, out=tmp_path / device, threads=1, device=device, apply="all", **what)))

    with plain_kernels():
        mine = found("cpu")
    with accelerator():
        its = found("cuda")
    for one, other in zip(mine.fitted, its.fitted, strict=True):
        assert one.change.tolist() == other.change.tolist() and one.error.tolist() == other.error.tolist()
    assert [one.name for one in mine.fitted] == fit.split(",")
    assert (tmp_path / "cpu/particles.star").read_text() == (tmp_path / "cuda/particles.star").read_text()
