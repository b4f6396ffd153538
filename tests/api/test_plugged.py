"""A regulariser of another package has its options among the keywords, as on the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

DECLARED = '''
from dataclasses import dataclass, field
from halfmap.regularisation.declaration import Declaration, Need

@dataclass(frozen=True, kw_only=True)
class Options:
    scaled_factor: float = field(default=2.0, metadata={
        "help": "what maps are multiplied by", "unit": "times", "above": 0, "group": "maps multiplied"})

SCALED = Declaration(name="scaled", prefix="scaled_", options=Options, method="scaledplug.method:Scaled",
                     paper="Nobody 2020", need=Need(2), without_quarters="it knows no statistics")
'''
METHOD = '''
from dataclasses import dataclass
from halfmap.regularisation.protocol import Solution

@dataclass(frozen=True)
class Scaled:
    factor: float = 2.0
    name = "scaled"
    crosses = "nothing"

    def solve(self, halves, mask, memory):
        raise NotImplementedError

    def filter_pair(self, pair, mask):
        maps = (self.factor * pair.half1, self.factor * pair.half2)
        return Solution(maps, (maps[0] + maps[1]) / 2)
'''
USED = '''
import inspect
import numpy as np
import halfmap
one = inspect.signature(halfmap.refine).parameters["scaled_factor"]
assert one.default == 2.0 and one.annotation is float
assert "'scaled'" in str(inspect.signature(halfmap.regularise).parameters["method"].annotation)
assert "scaled_factor: what maps are multiplied by [times] (default: 2)" in halfmap.refine.__doc__
a, b = np.random.default_rng(1).normal(size=(2, 16, 16, 16)).astype(np.float32)
found = halfmap.regularise(a, b, method="scaled", voxel_size=3.0, scaled_factor=3)
np.testing.assert_array_equal(found.half2, 3 * b)
assert found.theta is None and "nothing" in found.crosses, found.crosses
try:
    halfmap.regularise(a, b, voxel_size=3.0, scaled_factor=3)
except halfmap.InputError as error:
    assert str(error).startswith("scaled_factor: belongs to method scaled"), error
else:
    raise AssertionError
'''


def test_options_of_another_package_are_keywords(tmp_path: Path) -> None:
    files = {
        "scaledplug/__init__.py": "", "scaledplug/declaration.py": DECLARED, "scaledplug/method.py": METHOD,
        "scaledplug-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: scaledplug\nVersion: 1.0\n",
        "scaledplug-1.0.dist-info/entry_points.txt":
            "[halfmap.regularisers]\nscaled = scaledplug.declaration:SCALED\n",
    }  # fmt: skip
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    paths = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run([sys.executable, "-c", USED], env=os.environ | {"PYTHONPATH": paths}, capture_output=True,
                          text=True, check=False)
    assert done.returncode == 0, done.stderr
