"""The power of the signal that two filtered half maps share."""

import torch

from halfmap.ctf_refinement.signal_power import signal_power
from halfmap.fourier.shells import frequency_length
from halfmap.fourier.transform import volume_fft, volume_ifft

BOX = 48


def of_power(power: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """A map [z, y, x] of noise with this power of its coefficients [z, y, x // 2 + 1]."""
    white = torch.randn(BOX, BOX, BOX, generator=random, dtype=torch.float64) / BOX**1.5
    return volume_ifft(volume_fft(white) * power.sqrt(), BOX)


def test_it_is_the_power_of_the_signal_whatever_noise_and_filter_make_of_the_maps():
    random, k = torch.Generator().manual_seed(1), frequency_length(BOX).double()
    signal, noise = torch.exp(-0.15 * k), 0.02 * (1 + 0.02 * k)
    gain = signal / (signal + noise)
    true = of_power(signal, random)
    halves = [volume_ifft(volume_fft(true + of_power(noise, random)) * gain, BOX) for _ in range(2)]
    found = signal_power(halves[0], halves[1])
    shells = torch.arange(4, 21)
    expected = torch.exp(-0.15 * shells)
    assert ((found[shells] / expected).log().abs() < 0.25).all()
    one = [(volume_fft(half).abs().square()[(k - 20).abs() < 0.5]).mean() for half in halves]
    assert max(one) < 0.8 * expected[-1]  # what a half map itself would say


def test_of_a_map_without_noise_it_is_its_own_power():
    k = frequency_length(BOX).double()
    true = of_power(torch.exp(-0.2 * k), torch.Generator().manual_seed(2))
    power = volume_fft(true).abs().square()
    inside = (k - 15).abs() < 0.5
    twice = torch.ones(BOX // 2 + 1)
    twice[1:-1] = 2
    weight = twice.expand_as(power)[inside]
    expected = (power[inside] * weight).sum() / weight.sum()
    torch.testing.assert_close(signal_power(true, true)[15], expected)
