"""Papers to cite, and the paragraph for a methods section of a refinement and of filtered half maps."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from halfmap.report.pages.findings import asked_for_particles, figure, grouped, regulariser_name
from halfmap.report.pages.snapshot import Snapshot
from halfmap.report.record_values import Record, number, plain_value


@dataclass(frozen=True)
class Citation:
    """A paper, and the reason to cite it (role)."""

    role: str
    authors: str
    title: str
    source: str
    doi: str

    @property
    def short(self) -> str:
        """The form for running text: Punjani et al. 2020."""
        names = self.authors.rstrip(".").split(", ")
        year = re.search(r"\((\d{4})\)", self.source)
        family = names[0].rsplit(" ", 1)[0] + {1: "", 2: " & " + names[-1].rsplit(" ", 1)[0]}.get(len(names), " et al.")
        return f"{family} {year[1]}" if year else self.authors


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
BAYESIAN = Citation(
    "Uniform regularisation",
    "Scheres SHW.",
    "RELION: implementation of a Bayesian approach to cryo-EM structure determination.",
    "J. Struct. Biol. 180, 519–530 (2012).",
    "10.1016/j.jsb.2012.09.006",
)
CISTEM = Citation(
    "Resolution limit",
    "Grant T, Rohou A, Grigorieff N.",
    "cisTEM, user-friendly software for single-particle image processing.",
    "eLife 7, e35383 (2018).",
    "10.7554/eLife.35383",
)
LOCAL_FSC = Citation(
    "Local FSC filter",
    "Bell JM, Chen M, Baldwin PR, Ludtke SJ.",
    "High resolution single particle refinement in EMAN2.1.",
    "Methods 100, 25–34 (2016).",
    "10.1016/j.ymeth.2016.02.018",
)
SIDESPLITTER = Citation(
    "SIDESPLITTER",
    "Ramlaul K, Palmer CM, Nakane T, Aylett CHS.",
    "Mitigating local over-fitting during single particle reconstruction with SIDESPLITTER.",
    "J. Struct. Biol. 211, 107545 (2020).",
    "10.1016/j.jsb.2020.107545",
)
LOCAL_RESOLUTION = Citation(
    "Local resolution",
    "Cardone G, Heymann JB, Steven AC.",
    "One number does not fit all: mapping local variations in resolution in cryo-EM reconstructions.",
    "J. Struct. Biol. 184, 226–236 (2013).",
    "10.1016/j.jsb.2013.08.002",
)

# Every run names the papers that the program is built around.
IDEAS = {"nonuniform": NONUNIFORM, "sparse_smooth": SPARSE_SMOOTH}
KNOWN = {citation.doi: citation for citation in (*IDEAS.values(), BAYESIAN, CISTEM, LOCAL_FSC, SIDESPLITTER)}
UNUSED = " (not used in this run)"


def citations(settings: Mapping[str, Any], version: str, citing: str, randomised: bool) -> list[Citation]:
    """What to cite for a run with these settings: Halfmap, the paper of its regulariser, and those of its FSC.

    citing: as in `Snapshot`; randomised: phases were randomised to correct the masked FSC.
    """
    title = "open cryo-EM refinement with a choice of regularisers,"
    program = Citation("Refinement", "Halfmap", title, version or "version not recorded", "")
    used = _method_paper(settings, citing)
    # earlier runs say so by the strengths of sparse_smooth alone
    both = regulariser_name(settings) == "joined" or settings.get("ss_parameters", ("",))[0] == "local"
    others = [paper if used is None or both else replace(paper, role=paper.role + UNUSED)
              for paper in IDEAS.values() if paper != used]
    return [program, *([used] if used else []), *others, THRESHOLD, *([RANDOMISED] if randomised else [])]


def _method_paper(settings: Mapping[str, Any], citing: str) -> Citation | None:
    """The paper of the regulariser in the settings; None if the regulariser or its paper is not recorded."""
    name = regulariser_name(settings)
    found = re.search(rf"(?:^|; ){re.escape(name)}: (.+?), doi:(\S+?)(?:; |$)", citing) if name else None
    if found is None:
        return IDEAS.get(name)
    return KNOWN.get(found[2]) or Citation(f"{name} regularisation", f"{found[1]}.", "", "", found[2])


def _cited(settings: Mapping[str, Any], citing: str) -> str:
    """The regulariser with its paper, in words; empty if it is not recorded."""
    name, paper = regulariser_name(settings), _method_paper(settings, citing)
    if not name:
        return ""
    papers = list(IDEAS.values()) if name == "joined" else [paper] if paper else []
    short = "; ".join(one.short.rstrip(".") for one in papers)
    return f"{name} regularisation" + (f" ({short})" if short else "")


def methods_text(snapshot: Snapshot) -> str:
    """One paragraph about a refinement, to be edited into a methods section; empty without records."""
    if not snapshot.records:
        return ""
    last = snapshot.records[-1]
    box, pixel = number(last, "box"), number(last, "pixel_size")
    images = f" ({box:.0f} × {box:.0f} pixels of {pixel:.4g} Å)" if box and pixel else ""
    name = f"Halfmap {snapshot.version}".strip()
    cited = _cited(snapshot.settings, snapshot.citing)
    regularised = f" with {cited}" if cited else ""
    rounds = grouped(number(last, "iteration"))
    resolution, half = number(last, "resolution_A"), number(last, "resolution_05_A")
    crosses = last.get("crosses")
    shared = f" The half sets had in common: {crosses}." if crosses else ""
    shared = _strengths(last.get("regulariser")) + shared
    counted = _probabilities(last) if asked_for_particles(snapshot) else ""
    return (
        f"{grouped(number(last, 'particles'))} particles{images} were refined in {snapshot.symmetry} with "
        f"{name}{regularised}, in {rounds} iterations of two half sets.{_relaxed(snapshot.settings)}"
        f"{_held(last)}{counted} The FSC between the raw, "
        f"unmasked half maps falls to 0.143 at {figure(resolution)} Å and to 0.5 at {figure(half)} Å.{shared}"
    )


def _probabilities(last: Record) -> str:
    """How images were weighed by the probability that they hold a particle; empty if the record does not have it."""
    none, share = number(last, "no_particle"), number(last, "particle_share")
    if none is None or share is None:
        return ""
    return (
        " Each image entered the maps with the probability that it holds a particle, as a weight and without a "
        "threshold: the evidence for a particle over all poses against noise alone, given the share of images that "
        f"hold one, which was estimated ({figure(share)}). {grouped(none) if none else 'No'} "
        f"image{'' if none == 1 else 's'} of {grouped(number(last, 'particles'))} had a probability below one half."
    )


def _relaxed(settings: Mapping[str, Any]) -> str:
    """The group that local searches tried poses in beyond the map's own, in words; empty without one."""
    group = str(plain_value(settings, "relax_symmetry"))
    if not re.fullmatch(r"[CDTOI]\d*", group, re.IGNORECASE):
        return ""
    return f" Local searches also tried every pose at its mates in {group.upper()} (relaxed symmetry)."


def _held(record: Record) -> str:
    """The prior that poses had about those of the particle file, in words; empty if there was none."""
    turn, shift = number(record, "prior_rotation_deg"), number(record, "prior_shift_A")
    widths = [f"{figure(turn)}°"] * (turn is not None) + [f"{figure(shift)} Å"] * (shift is not None)
    if not widths:
        return ""
    return f" Poses were kept near those of the particle file by normal priors (sd {' and '.join(widths)})."


def _strengths(chosen: Any) -> str:
    """The strengths that a regulariser chose by itself, in words; empty if it took those given.

    chosen: the record's field `regulariser`.
    """
    found = chosen.get("strength") if isinstance(chosen, dict) else None
    if not found or all(factor == 1 for half in found for factor in half):
        return ""
    halves = " and ".join(", ".join(f"{factor:.3g}" for factor in half) for half in found)
    return f" In the last iteration the strengths of sparseness and smoothness were {halves} times those given."


def filtering_text(record: Record, settings: Mapping[str, Any], version: str, citing: str) -> str:
    """One paragraph about two half maps that were filtered outside a refinement."""
    box, pixel = number(record, "box"), number(record, "pixel_size")
    resolution, half = number(record, "resolution_A"), number(record, "resolution_05_A")
    size = f"{box:.0f} × {box:.0f} × {box:.0f} voxels of {pixel:.4g} Å"
    name = f"Halfmap {version}".strip()
    return (
        f"Two half maps ({size}) and their average were filtered after refinement with {name}, by "
        f"{_cited(settings, citing)}. The FSC between the half maps as given, without a mask, falls to 0.143 at "
        f"{figure(resolution)} Å and to 0.5 at {figure(half)} Å."
    )
