"""What a user can choose about regularisation, for every command that regularises a map.

An option belongs to the method whose prefix it has. The method itself gets its options without the prefix.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from halfmap.errors import InputError

# Method -> prefix of its options.
PREFIXES = {
    "uniform": "uniform_", "nonuniform": "nu_", "cutoff": "cutoff_", "local-fsc": "local_fsc_",
    "sidesplitter": "sidesplitter_", "sparse_smooth": "ss_",
}  # fmt: skip
REGULARISERS = tuple(PREFIXES)

_NONUNIFORM = "non-uniform refinement (--regulariser nonuniform)"
_CUTOFF = "strict resolution limit (--regulariser cutoff)"
_LOCAL_FSC = "local half-map FSC, a control that leaks (--regulariser local-fsc)"
_SIDESPLITTER = "SIDESPLITTER (--regulariser sidesplitter)"
_SPARSE_SMOOTH = "OPUS-SSRI, sparse and smooth maps (--regulariser sparse_smooth)"


@dataclass(frozen=True, kw_only=True)
class RegulariserOptions:
    """The method of regularisation, and the options of every method."""

    regulariser: str = field(default="uniform", metadata={
        "help": "how each half map is regularised between iterations", "choices": REGULARISERS,
        "reference": "uniform: Scheres 2012, doi:10.1016/j.jsb.2012.09.006; nonuniform: Punjani 2020, "
                     "doi:10.1038/s41592-020-00990-8; cutoff: Grant 2018, doi:10.7554/eLife.35383; local-fsc: Bell "
                     "2016, doi:10.1016/j.ymeth.2016.02.018; sidesplitter: Ramlaul 2020, "
                     "doi:10.1016/j.jsb.2020.107545; sparse_smooth: Luo 2021, doi:10.1073/pnas.2013756118"})
    nu_awf: float = field(default=3.0, metadata={
        "help": "width of the window that cut-offs are compared in", "unit": "wavelengths", "above": 0,
        "group": _NONUNIFORM})
    nu_candidates: int = field(default=50, metadata={
        "help": "number of cut-offs tried, equispaced in frequency", "at_least": 2, "group": _NONUNIFORM})
    nu_coarsest: float = field(default=30.0, metadata={
        "help": "lowest cut-off tried", "unit": "A", "above": 0, "group": _NONUNIFORM})
    nu_finest: float | None = field(default=None, metadata={
        "help": "highest cut-off tried", "unit": "A", "above": 0, "none": "a quarter beyond where quarter maps agree",
        "group": _NONUNIFORM})
    nu_aligned_noise: str = field(default="corrected", metadata={
        "help": "noise that quarter maps share because they were aligned to one reference: taken for noise where the "
                "FSC of the half maps shows it, or ignored as published",
        "choices": ("corrected", "ignored"), "group": _NONUNIFORM, "in_refinements": True})
    nu_uneven_sampling: str = field(default="corrected", metadata={
        "help": "directions that few images show, whose noise is strong: toned down as a Wiener filter would before "
                "cut-offs are chosen, or left as they are as published",
        "choices": ("corrected", "ignored"), "group": _NONUNIFORM, "in_refinements": True})
    nu_order: int = field(default=8, metadata={
        "help": "order of the Butterworth filter", "at_least": 1, "group": _NONUNIFORM})
    nu_amplitude: str = field(default="root", metadata={
        "help": "the filter's gain: [1 + (f / fc)^(2 order)]^(-1/2), or its square",
        "choices": ("root", "squared"), "group": _NONUNIFORM})
    nu_window: str = field(default="gaussian", metadata={
        "help": "shape of the window: a cube of that width, or a Gaussian of the same variance",
        "choices": ("gaussian", "box"), "group": _NONUNIFORM})
    nu_form: str = field(default="increment", metadata={
        "help": "compare cut-offs step by step, each step in its own window, or each as a whole as published",
        "choices": ("increment", "literal"), "group": _NONUNIFORM})
    nu_target: str = field(default="half", metadata={
        "help": "the images that the cut-off is best for: a quarter of all, as published, or the half that it filters",
        "choices": ("quarter", "half"), "group": _NONUNIFORM})
    cutoff_resolution: float | None = field(default=None, metadata={
        "help": "amplitudes beyond this limit are set to zero", "unit": "A", "above": 0,
        "none": "where the FSC falls below --cutoff-threshold", "group": _CUTOFF})
    cutoff_threshold: float = field(default=0.143, metadata={
        "help": "half-map correlation within the mask at which the limit is set", "unit": "FSC", "above": 0,
        "group": _CUTOFF})
    cutoff_edge: float = field(default=2.0, metadata={
        "help": "width of the cosine edge before the limit", "unit": "shells", "at_least": 0, "group": _CUTOFF})
    cutoff_mask: Path | None = field(default=None, metadata={
        "help": "mask of the well-ordered part, 1 inside; the options below act outside of it", "short": "mask.mrc",
        "none": "none: all of the map is treated alike", "group": _CUTOFF})
    cutoff_outside: float | None = field(default=None, metadata={
        "help": "low-pass filter outside --cutoff-mask", "unit": "A", "above": 0, "none": "the limit of the rest",
        "group": _CUTOFF})
    cutoff_weight: float = field(default=1.0, metadata={
        "help": "share of the density outside --cutoff-mask that is kept, 0 clears it", "unit": "share", "at_least": 0,
        "group": _CUTOFF})
    local_fsc_mode: str = field(default="tophat", metadata={
        "help": "keep a band of frequencies where the local FSC exceeds a threshold, or weight it by its local SNR",
        "choices": ("tophat", "wiener"), "group": _LOCAL_FSC})
    local_fsc_window: float | None = field(default=None, metadata={
        "help": "width of the window that the local FSC is measured in", "unit": "A", "above": 0,
        "none": "6 x the resolution (wiener: 4 x), at least 15 A", "group": _LOCAL_FSC})
    local_fsc_threshold: float | None = field(default=None, metadata={
        "help": "local correlation below which a band is dropped", "unit": "FSC", "above": 0,
        "none": "0.143 (wiener: 0.01)", "group": _LOCAL_FSC})
    sidesplitter_mode: str = field(default="density", metadata={
        "help": "values kept: of the map low-passed at each voxel's level (the program's --rotfl), or of the "
                "normalised map with its spectrum restored (the program's default)",
        "choices": ("density", "spectrum"), "group": _SIDESPLITTER})
    ss_alpha: float = field(default=0.6, metadata={
        "help": "strength of sparseness; published range 0.4 to 0.8", "unit": "rms", "at_least": 0,
        "group": _SPARSE_SMOOTH})
    ss_beta: float = field(default=2.0, metadata={
        "help": "strength of smoothness; published range 0.5 to 4", "unit": "rms", "at_least": 0,
        "group": _SPARSE_SMOOTH})
    ss_gamma: float = field(default=0.1, metadata={
        "help": "pull towards the last iteration's map; published range 0.05 to 0.2", "unit": "mean weight",
        "at_least": 0, "group": _SPARSE_SMOOTH, "in_refinements": True})
    ss_eps_gradient: float = field(default=1.0, metadata={
        "help": "gradient above which smoothness is given up, over the level at which a mask would be drawn; published "
                "range 1/3 to 2", "unit": "mask level", "above": 0, "group": _SPARSE_SMOOTH})
    ss_steps: int = field(default=100, metadata={
        "help": "most steps of the descent", "at_least": 1, "group": _SPARSE_SMOOTH})
    ss_parameters: str = field(default="fixed", metadata={
        "help": "strengths as given; or their common factor chosen within each half set; or as the authors' program "
                "chooses: by the other half set's images, which leaks; or, at each place, by the local cut-off of "
                "non-uniform refinement, with the mean as given",
        "choices": ("fixed", "cross-validated", "published-code", "local"), "group": _SPARSE_SMOOTH})


def regulariser_options(settings: RegulariserOptions) -> dict[str, Any]:
    """The options of the chosen method by name, without the prefix."""
    prefix = PREFIXES[settings.regulariser]
    return {f.name.removeprefix(prefix): getattr(settings, f.name) for f in fields(RegulariserOptions)
            if f.name.startswith(prefix)}


def check_options(settings: RegulariserOptions) -> None:
    """Raise InputError where an option belongs to another method than the chosen one, or could have no effect."""
    for f in fields(RegulariserOptions):
        owner = next((name for name, prefix in PREFIXES.items() if f.name.startswith(prefix)), settings.regulariser)
        if owner != settings.regulariser and getattr(settings, f.name) != f.default:
            raise InputError(f"--{f.name.replace('_', '-')}: belongs to --regulariser {owner}, and this is "
                             f"{settings.regulariser}; leave it out or change the regulariser")
    if settings.regulariser == "cutoff":
        _check_cutoff(settings)
    if settings.ss_parameters != "fixed" and settings.ss_alpha == 0 and settings.ss_beta == 0:
        raise InputError(f"--ss-parameters {settings.ss_parameters}: chooses a factor of --ss-alpha and --ss-beta, and "
                         "both are 0; give one of them")
    finest = settings.nu_finest
    if finest is not None and finest >= settings.nu_coarsest:
        raise InputError(f"--nu-finest {finest:g}: must be finer than --nu-coarsest {settings.nu_coarsest:g} A")


def _check_cutoff(settings: RegulariserOptions) -> None:
    """Raise InputError where options of the resolution limit contradict one another, or one leaves another without
    effect."""
    outside, weight, limit = settings.cutoff_outside, settings.cutoff_weight, settings.cutoff_resolution
    if weight > 1:
        raise InputError(f"--cutoff-weight {weight:g}: must lie between 0 and 1")
    if limit is not None and settings.cutoff_threshold != 0.143:
        raise InputError("--cutoff-threshold: sets the limit, and --cutoff-resolution does so too; leave one out")
    if settings.cutoff_mask is None and (outside is not None or weight != 1):
        name = "outside" if outside is not None else "weight"
        raise InputError(f"--cutoff-{name}: acts outside of a mask, and there is none; name it with --cutoff-mask")
    if settings.cutoff_mask is not None and outside is None and weight == 1:
        raise InputError("--cutoff-mask: changes nothing alone; say with --cutoff-outside or --cutoff-weight what "
                         "is to be done outside of it")
    if outside is not None and weight == 0:
        raise InputError("--cutoff-outside: has no effect, as --cutoff-weight 0 clears what lies outside the mask")
    if outside is not None and limit is not None and outside <= limit:
        raise InputError(f"--cutoff-outside {outside:g}: must be coarser than --cutoff-resolution {limit:g} A, which "
                         "holds everywhere")
