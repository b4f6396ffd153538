"""``halfmap simulate``: particle images of an atomic model."""

from __future__ import annotations

from halfmap.commands.done import Done
from halfmap.settings.simulate import SimulateSettings


def simulate(settings: SimulateSettings) -> Done:
    """Write the images and the truth."""
    from halfmap.simulation.simulate import simulate as write

    return Done(write(settings).parent)
