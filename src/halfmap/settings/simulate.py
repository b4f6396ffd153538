"""What a user can choose for ``halfmap simulate``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class SimulateSettings:
    """Settings of ``halfmap simulate``."""

    model: Path = field(metadata={
        "help": "atomic model (mmCIF or PDB, also gzipped)", "short": "model.cif", "positional": True})
    out: Path = field(metadata={
        "help": "folder for the images and the truth; made if absent", "short": "folder"})
    n: int = field(default=2000, metadata={"help": "number of particles", "at_least": 1})
    box: int = field(default=96, metadata={"help": "side of an image", "unit": "px", "at_least": 16})
    apix: float = field(default=2.0, metadata={"help": "pixel size", "unit": "A", "above": 0})
    snr: float = field(default=0.1, metadata={
        "help": "variance of the signal over that of the noise, over the whole box", "above": 0})
    micelle: bool = field(default=False, metadata={
        "help": "put a detergent belt around the protein, its axis along z, drawn anew for every particle"})
    hinge: str | None = field(default=None, metadata={
        "help": "let a chain swing about its contact with the rest, by this standard deviation; several with commas "
                "between, each by itself", "none": "rigid", "short": "chain:degrees"})
    symmetry: str = field(default="C1", metadata={
        "help": "point group that the model must have, RELION's orientation; noted with the images",
        "short": "group"})
    assembly: bool = field(default=False, metadata={
        "help": "build the model's biological assembly 1", "advanced": True})
    micelle_radius: float | None = field(default=None, metadata={
        "help": "radius of the belt", "unit": "A", "above": 0, "none": "membrane domain and 18 A",
        "advanced": True})
    micelle_thickness: float = field(default=40.0, metadata={
        "help": "thickness of the belt across the membrane", "unit": "A", "above": 0, "advanced": True})
    micelle_centre: float = field(default=0.0, metadata={
        "help": "height z of the membrane's middle in the model's coordinates", "unit": "A",
        "advanced": True})
    micelle_contrast: float = field(default=0.6, metadata={
        "help": "mean density of the belt over the protein's mean density", "at_least": 0, "advanced": True})
    bfactor: float = field(default=40.0, metadata={
        "help": "B factor added to every atom's own", "unit": "A^2", "advanced": True})
    defocus_min: float = field(default=0.8, metadata={
        "help": "least underfocus", "unit": "um", "advanced": True})
    defocus_max: float = field(default=2.2, metadata={
        "help": "largest underfocus", "unit": "um", "advanced": True})
    astigmatism: float = field(default=250.0, metadata={
        "help": "mean difference between a micrograph's two defocus values", "unit": "A", "at_least": 0,
        "advanced": True})
    voltage: float = field(default=300.0, metadata={
        "help": "acceleration voltage", "unit": "kV", "advanced": True})
    cs: float = field(default=2.7, metadata={"help": "spherical aberration", "unit": "mm", "advanced": True})
    amplitude_contrast: float = field(default=0.1, metadata={"help": "amplitude contrast", "advanced": True})
    micrographs: int = field(default=40, metadata={
        "help": "micrographs that the particles come from; each has its defocus", "at_least": 1,
        "advanced": True})
    offset: float = field(default=3.0, metadata={
        "help": "standard deviation of the particle's place along x and y", "unit": "A", "at_least": 0,
        "advanced": True})
    preferred_orientation: float = field(default=0.0, metadata={
        "help": "strength k of preferred views, density exp(k cos^2 tilt): along z, or across it if negative",
        "advanced": True})
    junk: float = field(default=0.0, metadata={
        "help": "fraction of images of nothing (half of them) or of a broken particle", "at_least": 0,
        "advanced": True})
    contrast_sd: float = field(default=0.0, metadata={
        "help": "standard deviation of the logarithm of the particles' contrast", "at_least": 0, "advanced": True})
    noise_slope: float = field(default=0.0, metadata={
        "help": "exponent p of noise with the power spectrum 1 / frequency^p; 0 is white", "at_least": 0,
        "advanced": True})
    noise_only: bool = field(default=False, metadata={
        "help": "leave the particles out of the images", "advanced": True})
    initial_resolution: float = field(default=30.0, metadata={
        "help": "resolution of the initial map written beside the images", "unit": "A", "above": 0,
        "advanced": True})
    dtype: str = field(default="float32", metadata={
        "help": "values in the stack: noise has standard deviation 1, or 20 as int8",
        "choices": ("float32", "float16", "int8"), "advanced": True})
    seed: int = field(default=0, metadata={
        "help": "seed of every random choice", "at_least": 0, "advanced": True})
