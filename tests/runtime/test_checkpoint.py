"""The checkpoint file: it gives back what was put in to the bit, and says so when it cannot."""

import dataclasses
import math
import pickle
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some

from halfmap.errors import InputError
from halfmap.imaging.optics import BeamTilt, CtfState, MagnificationMatrix, OpticsGroup
from halfmap.runtime import checkpoint


@dataclasses.dataclass(frozen=True)
class Part:
    """A record within a record."""

    values: torch.Tensor
    at: tuple[int, float]


@dataclasses.dataclass
class Whole:
    """A record."""

    name: str
    parts: list[Part]
    memory: dict[str, Any]


def written(path: Path, content: Any) -> Path:
    with path.open("wb") as stream:
        checkpoint.dump(stream, content)
    return path


def same(a: Any, b: Any) -> bool:
    """Equal in type and to the bit; NaN equals NaN."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and same(a.numpy(), b.numpy())
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
    if dataclasses.is_dataclass(a):
        return type(a) is type(b) and same(vars(a), vars(b))
    if isinstance(a, dict):
        return type(b) is dict and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float) and math.isnan(a):
        return isinstance(b, float) and math.isnan(b)
    return type(a) is type(b) and a == b


PLAIN = some.recursive(
    some.none() | some.booleans() | some.integers() | some.floats() | some.text() | some.just(Path("/a/b c.star")),
    lambda inner: some.lists(inner) | some.tuples(inner, inner) | some.dictionaries(some.text(), inner),
    max_leaves=8,
)


@given(PLAIN)
def test_plain_values_come_back_as_they_were(tmp_path_factory, value):
    path = written(tmp_path_factory.mktemp("plain") / "file", {"value": value})
    assert same(checkpoint.load(path, ())[0], {"value": value})


def test_an_optics_group_comes_back_with_the_names_of_its_numbers(tmp_path):
    given = OpticsGroup("a", 300.0, 2.7, 0.1, 1.3, 64, BeamTilt(0.1, -0.2), (0.5,), (), MagnificationMatrix(1.01), 2,
                        CtfState.PHASE_FLIPPED)
    path = written(tmp_path / "file", (given,))
    assert same(checkpoint.load(path, (OpticsGroup, CtfState)).content, (given,))
    # Runs begun before these numbers had names know their particles by this text.
    assert "beam_tilt=(0.1, -0.2)" in repr(given) and "magnification=(1.01, 0.0, 0.0, 1.0)" in repr(given)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.int64, torch.bool, torch.complex64])
def test_tensors_come_back_to_the_bit_whatever_their_layout(kind, tmp_path):
    values = (torch.randn(5, 4, 3, dtype=torch.float64) * 3).to(kind)
    many = {"plain": values, "turned": values.permute(2, 0, 1), "part": values[1::2, 1], "none": values[:0],
            "one": values[0, 0, 0], "spread": values[:1].expand(6, 4, 3)}
    found = checkpoint.load(written(tmp_path / "file", many), ())[0]
    assert same(found, {name: tensor.contiguous() for name, tensor in many.items()})
    assert all(tensor.data_ptr() % 64 == 0 for tensor in found.values())  # as torch's own: sums round alike


def test_numbers_that_are_no_numbers_keep_their_bits(tmp_path):
    odd = torch.tensor([math.nan, math.inf, -math.inf, -0.0, 5e-324], dtype=torch.float64)
    assert same(checkpoint.load(written(tmp_path / "file", [odd, odd.numpy()]), ())[0], [odd, odd.numpy()])


def test_records_come_back_with_what_they_hold(tmp_path):
    whole = Whole("x", [Part(torch.arange(3.0), (1, 0.1)), Part(torch.eye(2), (2, math.inf))],
                  {"maps": (torch.ones(2), None), "strength": [(1.0, 2.0)]})
    found, libraries = checkpoint.load(written(tmp_path / "file", whole), (Whole, Part))
    assert same(found, whole)
    # PyTorch's builds for CUDA say +cu130 of themselves, and not where they are registered.
    assert libraries["numpy"] == np.__version__ and torch.__version__.startswith(libraries["torch"])


def test_what_is_not_declared_is_neither_written_nor_made(tmp_path):
    with pytest.raises(TypeError, match="cannot be kept"):
        written(tmp_path / "file", {"run": print})
    with pytest.raises(InputError, match="another state of the program"):
        checkpoint.load(written(tmp_path / "file", Part(torch.ones(1), (1, 1.0))), (Whole,))


def test_another_programs_file_is_refused_and_never_executed(tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "executed",))

    (tmp_path / "file").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(InputError, match="is not a checkpoint"):
        checkpoint.load(tmp_path / "file", ())
    assert not (tmp_path / "executed").exists()


def test_every_flipped_bit_and_every_cut_is_noticed(tmp_path):
    path = written(tmp_path / "file", Part(torch.randn(30), (1, 2.0)))
    whole = path.read_bytes()
    used = len(checkpoint.MAGIC) + checkpoint.PLACE.size
    gap = set(range(used, 64 * -(-used // 64)))  # between head and array nothing is stored
    for place in set(range(0, len(whole), 7)) - gap:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(InputError, match=r"file: (is damaged|is not a checkpoint|has checkpoint format)"):
            checkpoint.load(path, (Part,))
    for length in range(0, len(whole), 11):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"file: (is damaged|is not a checkpoint)"):
            checkpoint.load(path, (Part,))
    path.write_bytes(whole)
    checkpoint.load(path, (Part,))


def test_another_format_or_version_is_named(tmp_path, monkeypatch):
    path = written(tmp_path / "file", 1)
    head = len(checkpoint.MAGIC)
    raw = bytearray(path.read_bytes())
    raw[head : head + 4] = (7).to_bytes(4, "little")
    path.write_bytes(raw)
    with pytest.raises(InputError, match=r"has checkpoint format 7.*reads format 1"):
        checkpoint.load(path, ())
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "__version__", "9.9")
        written(path, 1)
    with pytest.raises(InputError, match=r"was written by halfmap 9\.9"):
        checkpoint.load(path, ())


def test_the_checksum_is_that_of_the_bytes_in_the_file(tmp_path):
    values = np.arange(1000, dtype=np.int64)
    path = written(tmp_path / "file", values)
    raw = path.read_bytes()
    start = raw.index(values.tobytes())
    assert start % checkpoint.ALIGNED == 0
    assert f'"checksum": {zlib.crc32(values.tobytes())}'.encode() in raw
