"""Options of Halfmap's own regularisers. Each begins with the prefix of its method, which gets it without."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

_NONUNIFORM = "non-uniform refinement (--regulariser nonuniform)"
_CUTOFF = "strict resolution limit (--regulariser cutoff)"
_LOCAL_FSC = "local half-map FSC, a control that leaks (--regulariser local-fsc)"
_SIDESPLITTER = "SIDESPLITTER (--regulariser sidesplitter)"
_SPARSE_SMOOTH = "OPUS-SSRI, sparse and smooth maps (--regulariser sparse_smooth, joined)"


@dataclass(frozen=True, kw_only=True)
class UniformOptions:
    """The Wiener filter of shells has none."""


@dataclass(frozen=True, kw_only=True)
class NonUniformOptions:
    """Options of non-uniform refinement."""

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


@dataclass(frozen=True, kw_only=True)
class CutoffOptions:
    """Options of the strict resolution limit."""

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


@dataclass(frozen=True, kw_only=True)
class LocalFscOptions:
    """Options of the local half-map FSC."""

    local_fsc_mode: str = field(default="tophat", metadata={
        "help": "keep a band of frequencies where the local FSC exceeds a threshold, or weight it by its local SNR",
        "choices": ("tophat", "wiener"), "group": _LOCAL_FSC})
    local_fsc_window: float | None = field(default=None, metadata={
        "help": "width of the window that the local FSC is measured in", "unit": "A", "above": 0,
        "none": "6 x the resolution (wiener: 4 x), at least 15 A", "group": _LOCAL_FSC})
    local_fsc_threshold: float | None = field(default=None, metadata={
        "help": "local correlation below which a band is dropped", "unit": "FSC", "above": 0,
        "none": "0.143 (wiener: 0.01)", "group": _LOCAL_FSC})


@dataclass(frozen=True, kw_only=True)
class SidesplitterOptions:
    """Options of SIDESPLITTER."""

    sidesplitter_mode: str = field(default="density", metadata={
        "help": "values kept: of the map low-passed at each voxel's level (the program's --rotfl), or of the "
                "normalised map with its spectrum restored (the program's default)",
        "choices": ("density", "spectrum"), "group": _SIDESPLITTER})


@dataclass(frozen=True, kw_only=True)
class SparseSmoothOptions:
    """Options of OPUS-SSRI, with strengths as given, chosen, or by place (joined)."""

    ss_alpha: float = field(default=0.6, metadata={
        "help": "strength of sparseness, relative to the rms of the back-projected data or 0.45 sd of its noise, "
                "whichever is less (published-code: to the rms); published range 0.4 to 0.8", "unit": "rms or noise",
        "short": "number", "at_least": 0, "group": _SPARSE_SMOOTH})
    ss_beta: float = field(default=2.0, metadata={
        "help": "strength of smoothness, relative to the same; published range 0.5 to 4", "unit": "rms or noise",
        "short": "number", "at_least": 0, "group": _SPARSE_SMOOTH})
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
                "non-uniform refinement, in the core as given",
        "choices": ("fixed", "cross-validated", "published-code", "local"), "group": _SPARSE_SMOOTH})
