"""What every fit of the optics does: sums over images first, values of them then, and a table that has these values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from halfmap.ctf_refinement.parameters import Per
from halfmap.ctf_refinement.products import PosedImages, Products
from halfmap.particles.table import ParticleTable


@dataclass(frozen=True)
class Fitted:
    """Values of one kind that were fitted to n particles, micrographs or optics groups.

    name: as in `parameters.PARAMETERS`; per: what has one value; components [p]: what each of p numbers is called, with
    their ``units`` [p]. number int64 [n]: particles, micrographs or optics groups; half int64 [n]: the half set whose
    images were used, -1 for both. before, change, error float64 [n, p]: the values as they were, what is to be added,
    and its standard error; gain [n]: nats of likelihood that the change wins; applied bool [n]: whether the change is
    significant and was made (elsewhere values stay as they were). verdict: one sentence, with the test that decided.
    prior: standard deviation of the first component's change before an image is looked at, if it has such a prior.
    """

    name: str
    per: Per
    components: tuple[str, ...]
    units: tuple[str, ...]
    number: Tensor
    half: Tensor
    before: Tensor
    change: Tensor
    error: Tensor
    gain: Tensor
    applied: Tensor
    verdict: str
    prior: float | None = None

    @property
    def change_rms(self) -> list[float]:
        """Root mean square [p] of the changes that were made; 0 where none was."""
        made = self.change[self.applied]
        return made.square().mean(dim=0).sqrt().tolist() if len(made) else [0.0] * len(self.components)


class Fit(Protocol):
    """A fit of one kind of values, for all images of a table in one pass over them.

    common: whether both half sets get the same values. Then images are compared with the map of the other half set,
    whose noise is not theirs, and nothing crosses that would not have crossed anyway. Otherwise with that of their own.
    """

    @property
    def common(self) -> bool: ...

    def add_(self, posed: PosedImages, products: Products) -> None:
        """Count images of one optics group. products: theirs."""
        ...

    def sums(self) -> list[Tensor]:
        """Everything that was counted, in tensors that add up over images, and so over processes, in place."""
        ...

    def solved(self, table: ParticleTable) -> Solved:
        """The values, and the table with those that are significant."""
        ...


@dataclass(frozen=True)
class PhaseMap:
    """The phase error of an optics group over the Fourier plane, for pictures.

    kind: "odd" or "even"; group: the optics group; kxy int64 [k, 2]; phase [k]: measured, radians; weight [k]: its
    inverse variance; fitted [k]: by the polynomial.
    """

    kind: str
    group: int
    kxy: Tensor
    phase: Tensor
    weight: Tensor
    fitted: Tensor


@dataclass(frozen=True)
class Solved:
    """What a fit found: the table with new optics, the values, and phase maps where there are any.

    again: whether another pass over the images, with these values, would better them; all_again: whether it would
    better those of every fit, since what they summed up was made with optics that were far off.
    """

    table: ParticleTable
    fitted: tuple[Fitted, ...]
    maps: tuple[PhaseMap, ...] = ()
    again: bool = False
    all_again: bool = False
