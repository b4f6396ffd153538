"""A PDB file that is written holds what it should in its columns, or is not written."""

from __future__ import annotations

from pathlib import Path

import gemmi
import pytest
import torch

from halfmap.errors import InputError
from halfmap.particles.model import Atoms, write_pdb


def one_atom(**changed: object) -> Atoms:
    usual = {"xyz": torch.tensor([[-999.999, 9999.999, 0.5]], dtype=torch.float64), "element": ("C",), "chain": ("A",),
             "bfactor": torch.tensor([999.99], dtype=torch.float64), "occupancy": torch.ones(1, dtype=torch.float64),
             "residue": ("ALA",), "number": (9999,), "name": ("CA",)}  # fmt: skip
    return Atoms(**(usual | changed))


def test_an_atom_at_the_edge_of_every_column_is_read_back_by_another_program(tmp_path: Path) -> None:
    write_pdb(tmp_path / "m.pdb", one_atom())
    structure = gemmi.read_structure(str(tmp_path / "m.pdb"))  # its sites live as long as it does
    (site,) = structure[0].all()
    assert (site.chain.name, site.residue.name, site.residue.seqid.num, site.atom.name) == ("A", "ALA", 9999, "CA")
    assert site.atom.pos.tolist() == [-999.999, 9999.999, 0.5] and site.atom.element.name == "C"
    assert site.atom.b_iso == pytest.approx(999.99) and site.atom.occ == 1


@pytest.mark.parametrize("changed", [
    {"chain": ("AA",)}, {"number": (10000,)}, {"number": (-1000,)}, {"residue": ("ABCDE",)}, {"name": ("CABCD",)},
    {"xyz": torch.tensor([[-1000.0, 0, 0]], dtype=torch.float64)},
    {"bfactor": torch.tensor([1000.0], dtype=torch.float64)},
])  # fmt: skip
def test_what_does_not_fit_is_refused_and_nothing_is_written(tmp_path: Path, changed: dict[str, object]) -> None:
    with pytest.raises(InputError, match=r"m\.pdb: atom 1, .*does not fit the fixed columns of a PDB file; use chains"):
        write_pdb(tmp_path / "m.pdb", one_atom(**changed))
    assert not (tmp_path / "m.pdb").exists()
