"""``halfmap fsc`` as a user would run it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from halfmap.cli.program import main
from halfmap.maps.mrc import write_map


def test_one_map_taken_for_two_is_refused_also_as_a_copy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = np.random.default_rng(2).normal(size=(16, 16, 16))
    write_map(tmp_path / "a.mrc", torch.from_numpy(values).float(), 2.0)
    shutil.copy(tmp_path / "a.mrc", tmp_path / "b.mrc")
    for other in ("a.mrc", "b.mrc"):
        assert main(["fsc", str(tmp_path / "a.mrc"), str(tmp_path / other)]) == 2
        error = capsys.readouterr().err
        assert re.fullmatch(r"halfmap: error: [^\n]+\n", error) and f"{other}: holds the same map as" in error
