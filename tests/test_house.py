"""The house keeps its order: rooms that can be read, names that mean what they say, values that need no counting."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from halfmap.commands.table import COMMANDS, identifier

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src/halfmap"
TREES = {path: ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}
# The words of every file, with the module before them where there is one: `em`, `em.tally`.
WORDS = {
    path: set(re.findall(r"(?=\b(\w+\.\w+))", text)) | set(re.findall(r"\w+", text))
    for folder in ("src", "tests", "benchmarks", "docs") for path in (ROOT / folder).rglob("*.py")
    for text in [path.read_text()]
}
# The table of commands names these functions: those that declare options, and those that start.
NAMED = {identifier(name) + end for name in COMMANDS for end in ("_options", "")}
LONGEST = 350  # lines of a file
# Compiled kernels: Numba knows no dataclass, and their arguments are counted nowhere else.
INNER_LOOPS = "kernels/numba_"
# Numbers whose order everybody knows: points, both ends of a stretch, the three turns of a residue.
POINTS = {"axis", "centre", "ends", "orders", "torsions"}
ALIKE = re.compile(r"tuple\[.+, \.\.\.\]")


def name_of(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


@pytest.mark.parametrize("path", TREES, ids=name_of)
def test_a_file_is_short_enough_to_be_read_at_once(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LONGEST


def mixed(name: str, annotation: ast.expr | None) -> list[str]:
    """The tuples in an annotation whose members one has to count."""
    if annotation is None or name in POINTS:
        return []
    found = [ast.unparse(node) for node in ast.walk(annotation)
             if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "tuple"]
    return [text for text in found if not ALIKE.fullmatch(text)]


def functions() -> Iterator[tuple[Path, ast.FunctionDef]]:
    for path, tree in TREES.items():
        if not name_of(path).startswith(INNER_LOOPS):
            yield from ((path, node) for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def test_no_argument_or_field_is_a_tuple_whose_members_one_has_to_count() -> None:
    found = [f"{name_of(path)}:{node.lineno} {node.name}({one.arg}: {text})" for path, node in functions()
             for one in (*node.args.args, *node.args.kwonlyargs) for text in mixed(one.arg, one.annotation)]
    found += [f"{name_of(path)}:{field.lineno} {node.name}.{ast.unparse(field.target)}: {text}"
              for path, tree in TREES.items() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)
              for field in node.body if isinstance(field, ast.AnnAssign)
              for text in mixed(ast.unparse(field.target), field.annotation)]
    assert not found, "\n".join(found)


def test_three_results_have_names() -> None:
    def three(text: str) -> bool:
        inner = ast.parse(text, mode="eval").body
        return isinstance(inner, ast.Subscript) and isinstance(inner.slice, ast.Tuple) and len(inner.slice.elts) > 2

    found = [f"{name_of(path)}:{node.lineno} {node.name} -> {text}" for path, node in functions() if node.returns
             for part in ast.walk(node.returns) if isinstance(part, ast.Subscript)
             for text in [ast.unparse(part)] if text.startswith("tuple[") and "..." not in text and three(text)]
    assert not found, "\n".join(found)


def test_a_function_that_no_other_file_uses_has_an_underscore_and_no_other_file_uses_one_that_has() -> None:
    found, files = [], Counter(word for words in WORDS.values() for word in words)
    for path, tree in TREES.items():
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and not node.decorator_list:
                private = node.name.startswith("_")
                name = f"{path.stem}.{node.name}" if private else node.name
                used = files[name] > (name in WORDS[path]) or name in NAMED
                if used == private:
                    found.append(f"{name_of(path)}:{node.lineno} {node.name}")
    assert not found, "\n".join(found)


def test_a_refinement_reads_settings_at_its_door_only() -> None:
    # A checkpoint holds them as a record of how the run began.
    door = {"problem.py", "class_problem.py", "refine.py", "classify.py", "resume.py", "checkpoints.py"}
    room = [path for path in TREES if path.parent.name == "refinement"]
    readers = {path.name for path in room if "halfmap.settings" in path.read_text()}
    assert readers == door
