"""What ``--regulariser wavelet`` says of itself. Halfmap reads this for its help, so nothing heavy is imported here."""

from __future__ import annotations

from dataclasses import dataclass, field

from halfmap.regularisation.declaration import Declaration, Need

GROUP = "wavelet-sparse maps (--regulariser wavelet)"


@dataclass(frozen=True, kw_only=True)
class WaveletOptions:
    """Options of the wavelet regulariser, as a user gives them."""

    wavelet_basis: str = field(default="sym4", metadata={
        "help": "orthogonal wavelet", "choices": ("haar", "db2", "db3", "db4", "sym4", "sym6", "coif2"),
        "group": GROUP})
    wavelet_strength: float = field(default=1.0, metadata={
        "help": "factor of all thresholds; 1: the least mean error; sqrt(2): the published prior", "at_least": 0,
        "group": GROUP})
    wavelet_coarsest: float = field(default=40.0, metadata={
        "help": "wavelets are no coarser than this; what is coarser is left as it is", "unit": "A", "above": 0,
        "group": GROUP})
    wavelet_window: float = field(default=1.0, metadata={
        "help": "sd of the window in which the power of the signal is measured; that of the noise in one twice as wide",
        "unit": "coefficients", "above": 0, "group": GROUP})
    wavelet_turns: int = field(default=4, metadata={
        "help": "shifts of the grid that the result is averaged over", "choices": (1, 2, 4, 8), "group": GROUP})


WAVELET = Declaration(
    name="wavelet",
    prefix="wavelet_",
    options=WaveletOptions,
    method="halfmap_wavelet.shrinkage:Wavelet",
    paper="Kucukelbir 2012, doi:10.1016/j.jsb.2012.04.012",
    need=Need(maps=20, inverting=9),
    without_quarters="its thresholds come from the two quarter sets of each half set, and RELION hands over whole half "
                     "sets",
)
