"""The pretended accelerator refuses what CUDA refuses, allows what it allows, and computes what the CPU computes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

MIXED = "Expected all tensors to be on the same device"
UNREPEATED = "does not have a deterministic implementation"
CPU_INDEX = torch.tensor([1, 0])

# By name: a planted fault in terms of x and of its counterpart y on the CPU, and how CUDA complains.
FAULTS = {
    "sum": (lambda x, y: x + y, MIXED),
    "sum, the other way round": (lambda x, y: y + x, MIXED),
    "number of the GPU beside an array of the CPU": (lambda x, y: y * x[0, 0], MIXED),
    "in place": (lambda x, y: y.add_(x), MIXED),
    "0-dim result on the CPU": (lambda x, y: y[0, 0].add_(x[0, 0]), MIXED),
    "out": (lambda x, y: torch.add(x, x, out=y), MIXED),
    "matrix product": (lambda x, y: x @ y, MIXED),
    "einsum": (lambda x, y: torch.einsum("ij,jk->ik", x, y), MIXED),
    "cat": (lambda x, y: torch.cat([x, y]), MIXED),
    "where": (lambda x, y: torch.where(y > 0, x, 0.0), MIXED),
    "polar of a number": (lambda x, y: torch.polar(torch.ones(()), x), MIXED),
    "clamp by a number": (lambda x, y: x.clamp(min=torch.tensor(0.0)), MIXED),
    "index_select": (lambda x, y: x.index_select(0, CPU_INDEX), MIXED),
    "gather": (lambda x, y: x.gather(0, CPU_INDEX[None]), MIXED),
    "index_add_": (lambda x, y: x.index_add_(0, CPU_INDEX, x), MIXED),
    "take_along_dim": (lambda x, y: torch.take_along_dim(x, CPU_INDEX[None], dim=0), MIXED),
    "masked_fill": (lambda x, y: x.masked_fill(y > 0, 0.0), MIXED),
    "bincount weights": (lambda x, y: torch.bincount(CPU_INDEX, weights=x[0]), MIXED),
    "searchsorted": (lambda x, y: torch.searchsorted(x[0], torch.tensor(1.0)), MIXED),
    "values put at indices": (lambda x, y: x.__setitem__(CPU_INDEX, y), MIXED),
    "index of the GPU": (lambda x, y: y[CPU_INDEX.to(x.device)], "indices should be either on cpu"),
    "numpy": (lambda x, y: x.numpy(), "can't convert cuda:0"),
    "asarray": (lambda x, y: np.asarray(x), "can't convert cuda:0"),
    "numpy function": (lambda x, y: np.sqrt(x), "can't convert cuda:0"),
    "generator": (lambda x, y: torch.randn(3, generator=torch.Generator(), device=x.device), "'cuda' device type"),
    "generator of the GPU": (lambda x, y: torch.randperm(3, generator=torch.Generator("cuda")), "'cpu' device type"),
    "normal_": (lambda x, y: x.normal_(generator=torch.Generator()), "'cuda' device type"),
    "integer matrix product": (lambda x, y: x.long() @ x.long(), "not implemented"),
    "weighted bincount": (lambda x, y: torch.bincount(CPU_INDEX.to(x.device), x[0]), UNREPEATED),
    "cumsum": (lambda x, y: x.cumsum(0), UNREPEATED),
    "histc": (lambda x, y: torch.histc(x, 4), UNREPEATED),
    "median with its place": (lambda x, y: x.median(dim=0), UNREPEATED),
    "histogram": (lambda x, y: torch.histogram(x, 4), "Could not run"),
}

# What CUDA does allow, and the same on the CPU gives the result.
ALLOWED = {
    "number of the CPU": lambda x, y: x * torch.tensor(2.0) + torch.where(x > 1, torch.tensor(3.0), x),
    "index of the CPU": lambda x, y: x[CPU_INDEX],
    "mask of the CPU": lambda x, y: x[y > 1],
    "number put at indices": lambda x, y: x.index_put_((CPU_INDEX,), torch.tensor(3.0)),
    "slice put": lambda x, y: x.clone().__setitem__(slice(0, 1), y[:1]),
    "copy_": lambda x, y: torch.zeros_like(x).copy_(y),
    "copy_ back": lambda x, y: torch.zeros(2, 2).copy_(x),
    "float": lambda x, y: float(x.sum()) + x[0, 1].item() + sum(x.flatten().tolist()),
    "made there": lambda x, y: torch.arange(4.0, device=x.device).view(2, 2) @ torch.tensor([[1.0], [2]]).to(x),
    "made alike": lambda x, y: x.new_tensor([1.0, 2.0]) + x.new_zeros(2) + torch.ones_like(x),
    "list of numbers of the GPU": lambda x, y: torch.tensor([x[0, 1], x.sum()]) * y[0],
    "as_tensor": lambda x, y: torch.as_tensor(np.ones(2), device=x.device) * x,
    "transform": lambda x, y: torch.view_as_real(torch.fft.fft2(x).conj().resolve_conj()) + torch.fft.rfft(x).imag[0],
    "views": lambda x, y: x.clone()[:, :1].T.unsqueeze(-1).expand(1, 2, 2).contiguous().flatten(),
    "linear algebra": lambda x, y: torch.linalg.solve(x + 3 * torch.eye(2, device=x.device), x).max(dim=0),
    "sums that repeat": lambda x, y: (x.long().cumsum(0), torch.bincount(x.long().flatten()), x.median(),
                                      torch.zeros_like(x).index_add_(0, CPU_INDEX.to(x.device), x)),
    "normal_": lambda x, y: torch.zeros_like(x).normal_(generator=torch.Generator(x.device).manual_seed(1)),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_refused_as_cuda_refuses_it(accelerator, name):
    fault, complaint = FAULTS[name]
    with accelerator() as gpu, pytest.raises((RuntimeError, TypeError), match=complaint):
        y = torch.arange(4.0).view(2, 2)
        fault(y.to(gpu), y.clone())


@pytest.mark.parametrize("name", ALLOWED)
def test_what_cuda_allows_gives_what_the_cpu_gives(on_both, name):
    y = torch.arange(4.0).view(2, 2)
    on_both(lambda to: (ALLOWED[name](to(y.clone()), y.clone()), 0.0), stays=True)


def test_views_share_memory_and_copies_between_devices_do_not(accelerator):
    with accelerator() as gpu:
        y = torch.zeros(4)
        x = y.to(gpu)
        x.narrow(0, 1, 2).add_(1)
        x[2:][0] = 5
        torch.sub(x[:2], 1, out=x[:2])
        back = x.cpu()
        x.zero_()
    assert back.tolist() == [-1, 0, 5, 0] and y.tolist() == [0, 0, 0, 0]
    assert x.device == torch.device("cuda:0") and x.is_cuda and x.device != torch.device("cuda")


def test_the_accelerator_is_there_within_its_block_only(accelerator):
    generator = torch.Generator
    with accelerator(memory=5):
        assert torch.cuda.is_available() and torch.cuda.mem_get_info(torch.device("cuda"))[0] == 5
    assert torch.Generator is generator
    if not torch.cuda.is_available():
        with pytest.raises((AssertionError, RuntimeError)):
            torch.zeros(3, device="cuda")
