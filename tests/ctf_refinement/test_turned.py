"""Images of which masks have turned the CTF are compared with a CTF that is turned, too."""

from dataclasses import replace

import pytest
import torch
from fixtures.ctf_products import FINEST, a_defocus, a_table, seen, true_ctf, with_changes

from halfmap.ctf_refinement.defocus import ParticleDefocus
from halfmap.ctf_refinement.micrographs import MicrographFit
from halfmap.ctf_refinement.products import Products

COUNT, TURN = 80, 0.15


def turned_images(known: bool) -> Products:
    """Images with TURN times the other quadrature in them; known: said so."""
    at = a_defocus(COUNT)
    images = seen(at, snr=0.3)
    other = true_ctf(images.kxy, with_changes(at, phase=torch.full((COUNT,), torch.pi / 2).double()))
    images = replace(images, y=images.y + TURN * other * images.model)
    found = images.products(at)
    return replace(found, turn=torch.full_like(found.norm, TURN)) if known else found


def test_the_quadratures_are_a_ctf_that_was_turned_and_what_it_becomes_a_quarter_of_a_turn_on():
    products = turned_images(True)
    at = products.quadratures(slice(None))
    plain = replace(products, turn=None).quadratures(slice(None))
    angle = torch.atan(torch.tensor(TURN))
    size = (1 + TURN**2) ** 0.5
    expected = true_ctf(products.kxy, with_changes(products.defocus, phase=angle.double().expand(COUNT)))
    torch.testing.assert_close(at.sine.double(), size * expected, atol=1e-4, rtol=0)
    assert float((at.sine * plain.cosine - at.cosine * plain.sine).mean()) > 0
    torch.testing.assert_close(at.sine.square() + at.cosine.square(),
                               size**2 * (plain.sine.square() + plain.cosine.square()))


@pytest.mark.parametrize("known", [False, True])
def test_a_turn_that_is_known_is_no_phase_shift_and_no_defocus(known):
    products = turned_images(known)
    table = a_table(products.defocus)
    fits = [MicrographFit(table, FINEST, ["phase-shift"]), ParticleDefocus(table, FINEST)]
    for fit in fits:
        fit.add_(None, products)
    phase, focus = (fit.solved(table).fitted[0] for fit in fits)
    assert bool(phase.applied.all()) == bool(focus.applied.any()) == (not known)
    if not known:
        assert float(phase.change.mean()) == pytest.approx(float(torch.atan(torch.tensor(TURN))), abs=0.03)
