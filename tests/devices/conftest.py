"""A pretended accelerator: tensors that lie on the CPU, say that they lie on a GPU, and are refused what CUDA refuses.

It also refuses what torch.use_deterministic_algorithms refuses there, whether it was asked for or not.

It finds faults of place without a GPU: a tensor made on the CPU that meets one of the GPU, an array taken from the GPU
by numpy, a generator of the wrong device, an operation that CUDA has no kernel for. Arithmetic, memory, speed and the
order of additions of real CUDA stay untested: every operation is done by the CPU.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torchgen
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from halfmap import kernels
from halfmap.regularisation import proximal

CUDA = torch.device("cuda:0")
MEMORY = 8 * 10**9  # bytes that are free
Generator = torch.Generator


class _Place(threading.local):
    """Of the function at work: whether what it makes lies on the GPU (None: as its tensors do), and the place of its
    generator, which dispatch hides."""

    on_gpu: bool | None = None
    generator: str = "cpu"


_place = _Place()

MOVES = {Tensor.to: None, Tensor.cuda: "cuda", Tensor.cpu: "cpu"}
COPIES = {"copy_", "copy", "_to_copy", "_copy_from"}
INDEXING = {"index", "_unsafe_index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index_put"}
FILLS = {"fill", "fill_", "masked_fill", "masked_fill_"}
# Elementwise operations take 0-dim tensors of the CPU beside those of the GPU (TensorIterator), all but these.
NO_NUMBERS = {"clamp", "clamp_", "complex", "polar"}
# Not the same bits every time on CUDA, by torch's documentation: some of them for some arguments only.
UNREPEATED = {"bincount", "cumsum", "cumsum_", "histc", "kthvalue", "median", "nanmedian", "put", "put_"}
PRODUCTS = {"mm", "bmm", "addmm", "baddbmm", "addbmm", "mv", "addmv", "dot", "vdot"}  # not of integers, by cuBLAS


class Pretended(Tensor):
    """A tensor that holds one of the CPU and says that it lies on the GPU. Views hold views, so memory is shared.

    Only Python hears of the GPU: a torch without CUDA cannot guard a device that it was not built for.
    """

    held: Tensor
    device = property(lambda self: CUDA)  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]
    is_cpu = property(lambda self: False)  # type: ignore[assignment]
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: Tensor) -> Pretended:
        made = Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatched(func, args, kwargs or {})

    def to(self, *args: Any, **kwargs: Any) -> Tensor:
        return moved(self, *args, **kwargs)

    def cpu(self, *_: Any) -> Tensor:
        return moved(self, "cpu")

    def numpy(self, *, force: bool = False) -> Any:
        if force:
            return self.cpu().numpy()
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor to "
                        "host memory first.")

    def __array__(self, *_: Any, **__: Any) -> Any:
        return self.numpy()

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def data_ptr(self) -> int:
        raise AssertionError("memory of the pretended accelerator was asked for by its address")

    def __repr__(self, **_: Any) -> str:
        return f"pretended {self.cpu()!r}"

    def __format__(self, spec: str) -> str:
        return format(self.cpu(), spec)


def moved(t: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """What ``t.to(...)`` gives: a copy where place or type change."""
    device, dtype = t.device, t.dtype
    for word in (*args, *kwargs.values()):
        if isinstance(word, Tensor):
            device, dtype = word.device, word.dtype
        elif isinstance(word, torch.dtype):
            dtype = word
        elif isinstance(word, str | torch.device):
            device = torch.device(word)
    here, there = isinstance(t, Pretended), device.type == "cuda"
    result = _held(t).to(dtype, copy=here != there or kwargs.get("copy", False))
    if result is _held(t):
        return t
    return Pretended(result) if there else result


def dispatched(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """What CUDA would do with an operation: refuse it, or do it where its tensors are."""
    tensors = tensors_in((args, kwargs))
    ours = [t for t in tensors if isinstance(t, Pretended)]
    made_there = _place.on_gpu and (not tensors or func is torch.ops.aten.lift_fresh.default)
    _check_generator(func, args, kwargs, made_there or bool(ours))
    if not ours and not made_there:
        return func(*args, **kwargs)
    _check_kernel(func, ours)
    if 0 < len(ours) < len(tensors):
        _check_places(func, args, kwargs)
    _check_repeats(func, args, kwargs)
    result = func(*mapped(_held, args), **mapped(_held, kwargs))
    if func.overloadpacket in (torch.ops.aten._conj, torch.ops.aten._neg_view):
        result = result.resolve_conj().resolve_neg()  # a wrapper cannot be lazy; nothing is written through such views
    # what an operation in place or with out= gives back is its argument
    known = {} if made_there else {id(_held(t)): t for t in tensors}

    def given(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if id(value) not in known:
            return value if _place.on_gpu is False else Pretended(value)
        assert known[id(value)].shape == value.shape, f"{func} changed a shape in place, which is not pretended here"
        return known[id(value)]

    return mapped(given, result)


def tensors_in(value: Any) -> list[Tensor]:
    """All tensors in a nest of sequences and dictionaries."""
    if isinstance(value, Tensor):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return [tensor for part in parts for tensor in tensors_in(part)]


def mapped(change: Callable[[Any], Any], value: Any) -> Any:
    """The same nest of dataclasses, sequences and dictionaries with what is in it changed."""
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: mapped(change, getattr(value, f.name)) for f in fields(value)})
    if isinstance(value, dict):
        return {key: mapped(change, part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        parts = [mapped(change, part) for part in value]
        made = {list: list, tuple: tuple}.get(type(value)) or getattr(value, "_make", type(value))
        return made(parts)
    return change(value)


def _held(value: Any) -> Any:
    return value.held if isinstance(value, Pretended) else value


@cache
def _name(func: Any) -> str:
    return str(func._schema.name).removeprefix("aten::")


def _check_generator(func: Any, args: Any, kwargs: dict[str, Any], on_gpu: bool) -> None:
    has, needs = _place.generator, "cuda" if on_gpu else "cpu"
    if has != needs and any(isinstance(leaf, Generator) for leaf in (*args, *kwargs.values())):
        raise RuntimeError(f"Expected a '{needs}' device type for generator but found '{has}'")


def _check_kernel(func: Any, ours: list[Pretended]) -> None:
    name = _name(func)
    if func.name() in without_cuda():
        raise NotImplementedError(f"Could not run '{func.name()}' with arguments from the 'CUDA' backend.")
    if name in PRODUCTS and not all(t.is_floating_point() or t.is_complex() for t in ours):
        raise RuntimeError(f"\"{name}_cuda\" not implemented for integers")


def _check_repeats(func: Any, args: Any, kwargs: dict[str, Any]) -> None:
    """Refuse what torch.use_deterministic_algorithms refuses on CUDA (the list of its documentation)."""
    name = _name(func)
    if name not in UNREPEATED:
        return
    named = _by_name(func, args, kwargs)
    whole = not (named["self"].is_floating_point() or named["self"].is_complex())
    allowed = {"bincount": named.get("weights") is None, "cumsum": whole, "cumsum_": whole,
               "median": "dim" not in named, "nanmedian": "dim" not in named}
    if not allowed.get(name, False):
        raise RuntimeError(f"{name}_cuda does not have a deterministic implementation")


def _by_name(func: Any, args: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments of an operation by their names."""
    return {a.name: value for a, value in zip(func._schema.arguments, args, strict=False)} | kwargs


def _check_places(func: Any, args: Any, kwargs: dict[str, Any]) -> None:
    """Refuse tensors of both places in one operation, where CUDA does.

    Followed: TensorIterator's common device, typeConvertIndices and index_put of ATen's advanced indexing.
    """
    name = _name(func)
    if name in COPIES:
        return
    named = _by_name(func, args, kwargs)
    written = {a.name for a in func._schema.arguments if a.alias_info is not None and a.alias_info.is_write}
    if name in INDEXING and not isinstance(named["self"], Pretended):
        if any(isinstance(i, Pretended) for i in named["indices"]):
            raise RuntimeError("indices should be either on cpu or on the same device as the indexed tensor (cpu)")
    numbers = torch.Tag.pointwise in func.tags and name not in NO_NUMBERS
    put = "values" if name in INDEXING else "value" if name in FILLS else None
    for argument, value in named.items():
        if name in INDEXING and argument == "indices":
            continue
        number = argument == put if put else numbers and argument not in written
        for t in tensors_in(value):
            if not (isinstance(t, Pretended) or (number and t.dim() == 0)):
                raise RuntimeError("Expected all tensors to be on the same device, but found at least two devices, "
                                   f"cuda:0 and cpu! (argument {argument} of {func})")


@cache
def without_cuda() -> frozenset[str]:
    """Operations with a kernel for the CPU and none for CUDA, by the list that torch is generated from."""
    path = Path(torchgen.__file__).parent / "packaged/ATen/native/native_functions.yaml"
    places, delegates = {}, {}
    for block in re.split(r"^- func: ", path.read_text(), flags=re.MULTILINE)[1:]:
        name = block[: block.index("(")]
        keys = re.findall(r"^    ([A-Za-z, ]+): \w+", block, flags=re.MULTILINE)
        places[name] = {key.strip() for line in keys for key in line.split(",")}
        delegate = re.search(r"^  structured_delegate: (\S+)", block, flags=re.MULTILINE)
        delegates[name] = delegate[1] if delegate else name
    found = {name: places[name] | places[delegates[name]] for name in places}
    return frozenset(f"aten::{name}" for name, keys in found.items()
                     if "CPU" in keys and not any(key == "CUDA" or key.startswith("Composite") for key in keys))


class _Dispatch(TorchDispatchMode):
    """Hears of what is made in a function that was given a device, where no tensor of that place is at hand."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and to say so in every operation takes time

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatched(func, args, kwargs or {})


class _Functions(TorchFunctionMode):
    """Hears of devices and generators, which are named to functions, and of what is moved."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in MOVES:
            return moved(*args, **kwargs) if func is Tensor.to else moved(args[0], MOVES[func])
        device, before = kwargs.get("device"), (_place.on_gpu, _place.generator)
        if device is not None:
            _place.on_gpu, kwargs["device"] = torch.device(device).type == "cuda", "cpu"
        elif func in (torch.tensor, torch.as_tensor) and not isinstance(args[0], Tensor):
            _place.on_gpu, args = False, mapped(_held, args)  # a list of numbers, wherever they lie
        else:
            _place.on_gpu = any(isinstance(t, Pretended) for t in tensors_in((args, kwargs)))
        if isinstance(kwargs.get("generator"), PretendedGenerator):
            _place.generator = "cuda"
        try:
            result = func(*args, **kwargs)
            if device is not None and _place.on_gpu and not isinstance(result, Pretended):
                return moved(result, CUDA)
            return result
        finally:
            _place.on_gpu, _place.generator = before


class PretendedGenerator(Generator):
    """torch.Generator, which can be one of the GPU: it draws what one of the CPU does."""

    def __new__(cls, device: Any = "cpu") -> Any:
        return Generator() if torch.device(device).type == "cpu" else super().__new__(cls)

    def __init__(self, device: Any = "cpu") -> None:
        pass

    @property
    def device(self) -> torch.device:
        return CUDA


@contextmanager
def accelerator(memory: int = MEMORY) -> Iterator[torch.device]:
    """Within the block there is a GPU with so many bytes free, as far as torch and the program can tell."""
    with pytest.MonkeyPatch.context() as patch, _Functions(), _Dispatch():
        patch.setattr(torch, "Generator", PretendedGenerator)
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(torch.cuda, "device_count", lambda: 1)
        patch.setattr(torch.cuda, "set_device", lambda device: None)
        patch.setattr(torch.cuda, "get_device_name", lambda device=None: "pretended GPU")
        patch.setattr(torch.cuda, "synchronize", lambda device=None: None)
        patch.setattr(torch.cuda, "mem_get_info", lambda device=None: (memory, memory))
        try:
            yield CUDA
        finally:
            torch.use_deterministic_algorithms(False)


def on_gpu(value: Any) -> Any:
    """The same nest of dataclasses, sequences and dictionaries with its tensors on the pretended GPU."""
    return mapped(lambda one: Pretended(one) if isinstance(one, Tensor) else one, value)


def on_cpu(value: Any) -> Any:
    """The same nest with the tensors of the CPU that those of the pretended GPU hold: memory is shared."""
    return mapped(_held, value)


@contextmanager
def plain_kernels() -> Iterator[None]:
    """Within the block, kernels run in plain torch on the CPU too: what comes out is what a GPU has to give."""

    def plainly(kernel: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            with _Functions(), _Dispatch():
                return on_cpu(kernel(*on_gpu(args), **kwargs))
        return run

    with pytest.MonkeyPatch.context() as patch:
        for name in set(kernels.__all__) - {"compiled_by_triton", "set_threads", "thread_count"}:
            patch.setattr(kernels, name, plainly(getattr(kernels, name)))
        patch.setattr(proximal, "has_kernels", lambda x: False)
        yield


def found_in(value: Any) -> list[Any]:
    """All tensors and numbers in a nest of dataclasses, dictionaries and sequences, in order."""
    if is_dataclass(value) and not isinstance(value, type):
        return [leaf for f in fields(value) for leaf in found_in(getattr(value, f.name))]
    if isinstance(value, dict):
        return [leaf for key in sorted(value) for leaf in found_in(value[key])]
    if isinstance(value, list | tuple):
        return [leaf for part in value for leaf in found_in(part)]
    return [value] if isinstance(value, Tensor | float | int) else []


@pytest.fixture
def on_both() -> Callable[..., None]:
    """Run work(to) on the CPU with plain kernels and on the pretended accelerator, to[.] taking what it is given there:
    results must be the same to the bit, and lie where the input lay unless ``stays`` says otherwise."""

    def compare(work: Callable[[Callable[[Any], Any]], Any], stays: bool = False) -> None:
        with plain_kernels():
            expected = found_in(work(lambda value: value))
        with accelerator() as gpu:
            found = found_in(work(lambda value: value.to(gpu)))
        assert len(found) == len(expected) > 0
        for mine, other in zip(found, expected, strict=True):
            if isinstance(mine, Tensor):
                assert stays or isinstance(mine, Pretended)
                torch.testing.assert_close(mine.cpu(), other, rtol=0, atol=0, equal_nan=True)
            else:
                assert mine == other or mine != mine
    return compare


@pytest.fixture(name="accelerator")
def _accelerator() -> Callable[..., Any]:
    return accelerator


@pytest.fixture(name="plain_kernels")
def _plain_kernels() -> Callable[..., Any]:
    return plain_kernels
