"""Rows of products: against double precision, and their bits beside other rows and with other numbers of threads."""

from __future__ import annotations

import pytest
import torch

from halfmap.kernels.products import TILE, in_tiles, rows_times


@pytest.mark.parametrize("rows", [0, 1, TILE - 1, TILE, TILE + 1])
def test_rows_are_filled_up_to_whole_tiles(rows: int) -> None:
    a = torch.randn(rows, 3, generator=torch.Generator().manual_seed(0))
    filled = in_tiles(a)
    assert len(filled) % TILE == 0 and len(filled) - rows < TILE
    assert torch.equal(filled[:rows], a) and not filled[rows:].any()


@pytest.mark.parametrize(("width", "inner"), [(1024, 48), (9, 57), (20, 700), (333, 1253)])
def test_a_row_is_the_same_whatever_stands_beside_it_and_however_many_threads_there_are(width: int, inner: int) -> None:
    generator = torch.Generator().manual_seed(1)
    a, b = torch.randn(200, inner, generator=generator), torch.randn(width, inner, generator=generator).T
    expected, found, before = a.double() @ b.double(), [], torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found += [(rows, rows_times(a[:rows], b)) for rows in (1, 18, 50, 64, 70, 200)]
    finally:
        torch.set_num_threads(before)
    most = found[5][1]
    torch.testing.assert_close(most.double(), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    for rows, product in found:
        assert torch.equal(product, most[:rows])
