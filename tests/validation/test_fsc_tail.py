"""What is said of FSC curves that are not zero beyond the resolution."""

from __future__ import annotations

import pytest
import torch

from halfmap.validation.fsc import FscCurves, tail_verdict

BOX, PIXEL = 128, 1.5


def curves(unmasked: torch.Tensor, corrected: torch.Tensor | None = None) -> FscCurves:
    other = unmasked if corrected is None else corrected
    return FscCurves(unmasked, unmasked, other, torch.zeros_like(other), other, 20)


def falling(at: float) -> torch.Tensor:
    """A curve that falls from 1 to 0 about a shell."""
    return torch.sigmoid((at - torch.arange(BOX // 2 + 1, dtype=torch.float64)) / 2)


def test_a_curve_that_falls_to_zero_and_stays_there_is_passed_over():
    noise = 0.01 * torch.randn(BOX // 2 + 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert tail_verdict(curves(falling(30) + noise), BOX, PIXEL) == []


def test_a_tail_next_to_nyquist_is_suspicious_of_duplicates():
    curve = falling(30)
    curve[-8:] = 0.12
    (said,) = tail_verdict(curves(curve), BOX, PIXEL)
    assert "still 0.12 next to the Nyquist frequency" in said.text and "duplicated particles" in said.text


def test_a_curve_that_reaches_nyquist_by_itself_has_no_tail():
    assert tail_verdict(curves(falling(60)), BOX, PIXEL) == []


def test_a_corrected_curve_that_comes_back_is_said_with_both_resolutions():
    curve = falling(25)
    curve[35:42] = 0.2
    (said,) = tail_verdict(curves(falling(25), curve), BOX, PIXEL)
    crossing = next(i for i in range(1, 60) if curve[i] < 0.143)
    coarse = float(said.text.split(" at ")[1].split(" A")[0])
    assert BOX * PIXEL / crossing <= coarse <= BOX * PIXEL / (crossing - 1)
    assert float(said.text.split("as far as ")[1].split(" A")[0]) == pytest.approx(BOX * PIXEL / 41, rel=0.03)
