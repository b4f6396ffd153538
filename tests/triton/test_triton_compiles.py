"""Every Triton kernel is compiled for two generations of GPUs, which needs none, and keeps what it holds in registers.

The interpreter takes more than the compiler does, so what it runs may still not compile.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton.language")

import halfmap
from halfmap.kernels import paths

SOURCES = Path(halfmap.__file__).parent / "kernels"
# In a process of its own, where Triton does not interpret. Versions spell constants differently.
PROGRAM = """
import importlib, inspect, re, subprocess, sys
from pathlib import Path
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

work, *modules = sys.argv[1:]
cubin = Path(work) / "kernel.cubin"
tools = Path(triton.__file__).parent / "backends/nvidia/bin"
as_types = "constexprs" in inspect.signature(ASTSource.__init__).parameters
for kernel in (k for name in modules for k in importlib.import_module(f"halfmap.kernels.{name}").KERNELS):
    print(kernel.function.__module__, kernel.function.__name__, flush=True)
    signature = {name: kind for name, kind in kernel.signature.items() if as_types or kind != "constexpr"}
    assert list(kernel.signature) == kernel.function.arg_names, kernel.function
    for capability in (80, 90):
        source = ASTSource(kernel.function, signature, kernel.constants)
        made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=kernel.options)
        cubin.write_bytes(made.asm["cubin"])
        used = subprocess.run([tools / "cuobjdump", "--dump-resource-usage", cubin], capture_output=True, text=True,
                              check=True).stdout
        adds = set(re.findall(r"\\b(?:red|atom)\\.[.\\w:]*add[.\\w:]*\\.(\\w+)", made.asm["ptx"]))
        print("adds", kernel.function.__module__, kernel.function.__name__, *sorted(adds), flush=True)
        print("for", capability, *re.findall(r"(?:REG|STACK|LOCAL|SHARED):\\d+", used), flush=True)
"""


def modules() -> list[str]:
    """Modules that have kernels of their own, not only functions of them."""
    return [path.stem for path in sorted(SOURCES.glob("triton_*.py")) if "\nKERNELS" in path.read_text()]


def test_every_module_with_triton_kernels_tells_which_they_are():
    assert set(paths.TRITON.values()) <= set(modules())


def test_triton_kernels_compile_for_gpus_and_need_no_stack(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path / "cache")
    made = subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path), *modules()], env=environment, text=True,
                          capture_output=True)
    assert made.returncode == 0, made.stdout[-300:] + made.stderr[-3000:]
    used = [line.split() for line in made.stdout.splitlines() if line.startswith("for ")]
    adds = {line.split()[1].rsplit(".", 1)[1]: set(line.split()[3:]) for line in made.stdout.splitlines()
            if line.startswith("adds ") and len(line.split()) > 3}
    assert adds.keys() == {"triton_insertion"}, adds
    assert used and all("STACK:0" in one and "LOCAL:0" in one for one in used), made.stdout
