"""A paragraph for a methods section, and what to cite."""

from dataclasses import dataclass, replace

from halfmap.report.findings import figure, grouped, regulariser_name
from halfmap.report.snapshot import Snapshot, number


@dataclass(frozen=True)
class Citation:
    """A reference with the reason to cite it."""

    role: str
    authors: str
    title: str
    source: str
    doi: str


NONUNIFORM = Citation(
    "Non-uniform regularisation",
    "Punjani A, Zhang H, Fleet DJ.",
    "Non-uniform refinement: adaptive regularization improves single-particle cryo-EM reconstruction.",
    "Nature Methods 17, 1214–1221 (2020).",
    "10.1038/s41592-020-00990-8",
)
SPARSE_SMOOTH = Citation(
    "Sparse and smooth regularisation",
    "Luo Z, Campos-Acevedo AA, Lv L, Wang Q, Ma J.",
    "Sparseness and smoothness regularized imaging for improving the resolution of cryo-EM single-particle "
    "reconstruction (OPUS-SSRI).",
    "Proc. Natl. Acad. Sci. USA 118, e2013756118 (2021).",
    "10.1073/pnas.2013756118",
)
THRESHOLD = Citation(
    "Resolution at FSC 0.143",
    "Rosenthal PB, Henderson R.",
    "Optimal determination of particle orientation, absolute hand, and contrast loss in single-particle "
    "electron cryomicroscopy.",
    "J. Mol. Biol. 333, 721–745 (2003).",
    "10.1016/j.jmb.2003.07.013",
)
RANDOMISED = Citation(
    "Phase-randomised correction of the masked FSC",
    "Chen S, McMullan G, Faruqi AR, Murshudov GN, Short JM, Scheres SHW, Henderson R.",
    "High-resolution noise substitution to measure overfitting and validate resolution in 3D structure "
    "determination by single particle electron cryomicroscopy.",
    "Ultramicroscopy 135, 24–35 (2013).",
    "10.1016/j.ultramic.2013.06.004",
)


UNUSED = " (not used in this run)"


def citations(snapshot: Snapshot) -> list[Citation]:
    """What this run calls for: Halfmap, the papers behind its regularisers, and those of its FSC figures."""
    version = snapshot.version or "version not recorded"
    title = "open cryo-EM refinement with a choice of regularisers,"
    program = Citation("Refinement", "Halfmap", title, version, "")
    used = regulariser_name(snapshot.settings)
    pair = [_as_used(NONUNIFORM, "nonuniform", used), _as_used(SPARSE_SMOOTH, "sparse_smooth", used)]
    pair.sort(key=lambda citation: citation.role.endswith(UNUSED))
    last = snapshot.records[-1] if snapshot.records else {}
    return [program, *pair, THRESHOLD, *([RANDOMISED] if last.get("fsc_randomised") else [])]


def _as_used(citation: Citation, regulariser: str, used: str) -> Citation:
    """The citation, marked where the run is known to have used another regulariser."""
    if not used or used == regulariser:
        return citation
    return replace(citation, role=citation.role + UNUSED)


def methods_text(snapshot: Snapshot) -> str:
    """One paragraph with the facts of the run, ready to be edited into a methods section."""
    if not snapshot.records:
        return ""
    last = snapshot.records[-1]
    box, pixel = number(last, "box"), number(last, "pixel_size")
    images = f" ({box:.0f} × {box:.0f} pixels of {pixel:.4g} Å)" if box and pixel else ""
    name = f"Halfmap {snapshot.version}".strip()
    used = regulariser_name(snapshot.settings).replace("_", "-")
    regularised = f" with {used} regularisation" if used else ""
    rounds = grouped(number(last, "iteration"))
    resolution, half = number(last, "resolution_A"), number(last, "resolution_05_A")
    crosses = last.get("crosses")
    shared = f" The half sets had in common: {crosses}." if crosses else ""
    return (
        f"{grouped(number(last, 'particles'))} particles{images} were refined in {snapshot.symmetry} with "
        f"{name}{regularised}, in {rounds} iterations of two half sets. The FSC between the raw, "
        f"unmasked half maps falls to 0.143 at {figure(resolution)} Å and to 0.5 at {figure(half)} Å.{shared}"
    )
