"""Reading a detector's MTF."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from halfmap.errors import InputError
from halfmap.particles.mtf import read_mtf


def table(path: Path, rows: list[str], labels: str = "_rlnResolutionInversePixel #1\n_rlnMtfValue #2") -> Path:
    path.write_text(f"\ndata_mtf\n\nloop_\n{labels}\n" + "\n".join(rows) + "\n")
    return path


def test_the_table_is_read_and_interpolated(tmp_path):
    mtf = read_mtf(table(tmp_path / "mtf.star", ["0 1.0", "0.25 0.6", "0.5 0.4"]))
    grid = mtf.on_grid(8, 2.0, 2.0).numpy()
    assert grid.shape == (8, 8, 5)
    np.testing.assert_allclose(grid[0, 0], [1, 0.8, 0.6, 0.5, 0.4], rtol=1e-6)
    np.testing.assert_allclose(mtf.on_grid(8, 2.0, 1.0)[0, :5, 0], [1, 0.9, 0.8, 0.7, 0.6], rtol=1e-6)
    assert grid[4, 4, 4] == pytest.approx(0.4)  # beyond the table: its last value


@pytest.mark.parametrize(("rows", "said"), [
    (["0 1.0", "0.2 0.9", "0.1 0.8"], "row 3: rlnResolutionInversePixel does not ascend"),
    (["0 1.0", "0.2 0.0"], "row 2: rlnMtfValue is 0"),
    (["0 1.0"], "1 rows"),
    (["0 1.0", "0.2 much"], "'much', not a finite number"),
])
def test_a_table_that_cannot_be_divided_by_is_refused(rows, said, tmp_path):
    with pytest.raises(InputError, match=said):
        read_mtf(table(tmp_path / "mtf.star", rows))


def test_a_missing_column_is_named(tmp_path):
    with pytest.raises(InputError, match="has no column rlnMtfValue"):
        read_mtf(table(tmp_path / "mtf.star", ["0 1.0"], "_rlnResolutionInversePixel #1\n_rlnVoltage #2"))
