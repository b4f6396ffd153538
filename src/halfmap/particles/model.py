"""Atomic models: the atoms of a PDB or mmCIF file, and how they scatter electrons."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from halfmap.errors import InputError
from halfmap.imaging.density import Cloud
from halfmap.maps.levels import CUBIC_ANGSTROM_PER_DALTON

if TYPE_CHECKING:
    import gemmi

PDB_LINE = 78  # columns up to the element


@dataclass(frozen=True)
class Atoms:
    """The atoms of a model.

    xyz[a,3] in A, bfactor[a] in A^2 and occupancy[a] (float64); for each atom its element, chain, residue (three
    letters), residue number and name as in the PDB.
    """

    xyz: Tensor
    bfactor: Tensor
    occupancy: Tensor
    element: tuple[str, ...]
    chain: tuple[str, ...]
    residue: tuple[str, ...]
    number: tuple[int, ...]
    name: tuple[str, ...]

    def __len__(self) -> int:
        return self.xyz.shape[0]

    def moved(self, xyz: Tensor) -> Atoms:
        """The same atoms at other places xyz[a,3] (A)."""
        return replace(self, xyz=xyz)

    def in_chain(self, chain: str) -> Tensor:
        """Mask[a] of the atoms of a chain."""
        return torch.tensor([c == chain for c in self.chain], dtype=torch.bool)

    @property
    def mass(self) -> float:
        """Mass in dalton. Hydrogens that the model lacks are not counted."""
        import gemmi

        weights = {e: gemmi.Element(e).weight for e in set(self.element)}
        return sum(weights[e] * o for e, o in zip(self.element, self.occupancy.tolist(), strict=True))

    @property
    def volume(self) -> float:
        """Volume in A^3 at the usual partial specific volume of protein; hydrogens add 7 % to the mass."""
        return 1.07 * self.mass * CUBIC_ANGSTROM_PER_DALTON


def read_model(path: Path, assembly: bool = False) -> Atoms:
    """The atoms of the first model of a PDB or mmCIF file (also gzipped), without hydrogens and water.

    With `assembly`, copies are made by the operators of biological assembly 1. Raises InputError where the file cannot
    be read, has no atoms or no such assembly.
    """
    import gemmi

    if not path.is_file():
        raise InputError(f"{path}: no such model file")
    try:
        structure = gemmi.read_structure(str(path))
    except (RuntimeError, ValueError) as error:
        raise InputError(f"{path}: not a PDB or mmCIF model ({str(error).splitlines()[0]})") from None
    structure.setup_entities()
    if assembly:
        if "1" not in [a.name for a in structure.assemblies]:
            raise InputError(f"{path}: describes no biological assembly 1; leave --assembly out")
        structure.transform_to_assembly("1", gemmi.HowToNameCopiedChain.AddNumber)
    structure.remove_waters()
    structure.remove_hydrogens()
    structure.remove_empty_chains()
    if len(structure) == 0 or structure[0].count_atom_sites() == 0:
        raise InputError(f"{path}: holds no atoms besides water and hydrogen; is it the right file?")
    return _atoms_of(structure[0], path)


def _atoms_of(model: gemmi.Model, path: Path) -> Atoms:
    sites = [site for site in model.all() if site.atom.occ > 0]
    xyz = torch.tensor([site.atom.pos.tolist() for site in sites], dtype=torch.float64)
    atoms = Atoms(
        xyz=xyz,
        bfactor=torch.tensor([site.atom.b_iso for site in sites], dtype=torch.float64),
        occupancy=torch.tensor([site.atom.occ for site in sites], dtype=torch.float64),
        element=tuple(site.atom.element.name for site in sites),
        chain=tuple(site.chain.name for site in sites),
        residue=tuple(site.residue.name for site in sites),
        number=tuple(site.residue.seqid.num or 0 for site in sites),
        name=tuple(site.atom.name for site in sites))
    if not bool(torch.isfinite(xyz).all()):
        raise InputError(f"{path}: an atom has no finite coordinates; correct the model")
    return atoms


def centred(atoms: Atoms) -> tuple[Atoms, Tensor]:
    """The atoms with their mean position at the origin, and that mean [3] (A).

    The mean of a symmetric assembly lies on its axes.
    """
    mean = atoms.xyz.mean(0)
    return atoms.moved(atoms.xyz - mean), mean


def scattering(atoms: Atoms, bfactor: float = 0.0) -> Cloud:
    """The atoms as electron scatterers, five Gaussians each (International Tables C, table 4.3.2.2).

    `bfactor` (A^2) is added to each atom's own B factor. Raises InputError for an element without scattering factors.
    """
    import gemmi

    table: dict[str, tuple[list[float], list[float]]] = {}
    for element in sorted(set(atoms.element)):
        found = gemmi.Element(element).c4322
        if found is None:
            raise InputError(f"element {element}: has no tabulated electron scattering factors; "
                             "remove it from the model")
        table[element] = (found.a, found.b)
    kinds = {element: i for i, element in enumerate(table)}
    kind = torch.tensor([kinds[e] for e in atoms.element])
    a, b = (torch.tensor([row[i] for row in table.values()], dtype=torch.float64)[kind] for i in (0, 1))
    total = b + (atoms.bfactor + bfactor)[:, None]
    if bool((total <= 0).any()):
        raise InputError("the model has negative B factors; add to them with --bfactor")
    weight, exponent = a * atoms.occupancy[:, None], 4 * math.pi ** 2 / total
    return Cloud(atoms.xyz.float(), weight.float(), exponent.float())


def write_pdb(path: Path, atoms: Atoms) -> None:
    """Write the atoms as a PDB file. Raises InputError for an atom that its fixed columns have no room for."""
    lines = []
    for i in range(len(atoms)):
        x, y, z = atoms.xyz[i].tolist()
        occupancy, b = float(atoms.occupancy[i]), float(atoms.bfactor[i])
        name = atoms.name[i] if len(atoms.name[i]) > 3 else f" {atoms.name[i]:<3}"
        lines.append(f"ATOM  {(i + 1) % 100000:5d} {name:4} {atoms.residue[i]:>3} {atoms.chain[i]:1}"
                     f"{atoms.number[i]:4d}    {x:8.3f}{y:8.3f}{z:8.3f}{occupancy:6.2f}{b:6.2f}"
                     f"          {atoms.element[i]:>2}")
        if len(lines[-1]) > PDB_LINE:
            raise InputError(f"{path}: atom {i + 1}, {atoms.name[i]} of {atoms.residue[i]} {atoms.number[i]} in chain "
                             f"{atoms.chain[i]}, does not fit the fixed columns of a PDB file; use chains of one "
                             "letter, residue numbers up to 9999, coordinates within 999 A and B factors below 1000")
    path.write_text("\n".join([*lines, "END"]) + "\n", encoding="ascii")
