"""A Triton kernel with the types and constants it is compiled for, and how it is launched.

Numbers of a kernel are never specialised (`do_not_specialize`), so that what a test compiles without a GPU is what a
GPU runs, and no batch of another size is compiled anew. Complex numbers are read as whole numbers of eight bytes
(`as_pairs`), which is one load instruction for each, wherever it lies.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Kernel:
    """A function of triton.jit, and what it is compiled for.

    types: of its arguments in their order, as Triton spells them (``*fp32``: a tensor of float32; ``i32``: a number);
    constants: its tl.constexpr arguments, which come last; warps: of 32 threads, that run one program.
    """

    function: Any
    types: tuple[str, ...]
    constants: dict[str, int] = field(default_factory=dict)
    warps: int = 4

    def launch(self, programs: int, *arguments: Tensor | int) -> None:
        """Run so many programs with these arguments, where the first tensor lies; nothing waits for them."""
        if programs <= 0:
            return
        # Triton takes the current device, which every thread has to itself.
        with torch.cuda.device_of(next(a for a in arguments if isinstance(a, Tensor))):
            self.function[(programs,)](*arguments, **self.constants, **self.options)

    @property
    def options(self) -> dict[str, int | bool]:
        """Of the compiler. A product and a sum are one instruction, which Triton 3.10 no longer does by itself."""
        return {"num_warps": self.warps, "enable_fp_fusion": True}

    @property
    def signature(self) -> dict[str, str]:
        """Types of all arguments by name."""
        constant = dict.fromkeys(self.constants, "constexpr")
        return dict(zip(self.function.arg_names, self.types, strict=False)) | constant


def programs_for(count: int, block: int) -> int:
    """How many programs of ``block`` items each it takes for ``count``."""
    return (count + block - 1) // block


def as_pairs(t: Tensor) -> Tensor:
    """A complex64 tensor [...], or one of float32 [..., 2], as int64 [...]: the two float32 of a pair side by side.

    It shares memory with the tensor where that is contiguous along its last axes, else it is a copy.
    """
    pairs = torch.view_as_real(t.resolve_conj().resolve_neg()) if t.is_complex() else t
    if pairs.stride(-1) != 1 or (pairs.dim() > 1 and pairs.stride(-2) != 2):
        pairs = pairs.contiguous()
    return pairs.view(torch.int64)[..., 0]


def rows_of(t: Tensor) -> Tensor:
    """A tensor [b, k] as float32 whose rows are contiguous; they may lie apart."""
    t = t.float()
    return t if t.stride(-1) == 1 else t.contiguous()
