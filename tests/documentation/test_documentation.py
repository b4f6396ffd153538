"""README and the pages of docs/ are true: what they show is understood, and their tables are those of the results."""

import ast
import json
import re
import shlex
import sys
from importlib import import_module
from pathlib import Path

import pytest

from halfmap.cli.program import COMMANDS, parser_for

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "docs")]

from generate import commands, evidence, included, python_api  # noqa: E402
from generate.needed import left_out  # noqa: E402

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
# Commands of other programs, whose options nobody here can know.
FOREIGN = ("relion", "mpirun", "torchrun", "pip", "python", "pytest", "mkdocs", "docker", "apptainer", "RELION")


def shown() -> list[str]:
    """Every command line with ``halfmap`` in a block of a page, as `file: line`."""
    found = []
    for page in PAGES:
        text = page.read_text()
        if left_out(text, ROOT):
            continue
        blocks = [body for kind, body in FENCE.findall(text) if kind == "sh"]
        blocks += ["\n".join(re.findall(r"^    (\S.*)", text, re.MULTILINE))] if page.name == "README.md" else []
        for line in "\n".join(blocks).replace("\\\n", " ").splitlines():
            for part in line.split("&&"):
                words = part.strip()
                if re.match(r"(torchrun .* -m )?halfmap [a-z]", words):
                    found.append(f"{page.relative_to(ROOT)}: {words[words.index('halfmap ') :]}")
    return found


@pytest.mark.parametrize("line", shown())
def test_a_command_that_a_page_shows_is_understood(line: str) -> None:
    words = shlex.split(line.split(": ", 1)[1].replace("[", "").replace("]", ""))
    parser_for(words[1]).parse_args(words[1:])


def options_of(name: str) -> set[str]:
    program = parser_for(name)
    (choices,) = (action.choices for action in program._actions if action.dest == "command")
    return {option for action in choices[name]._actions for option in action.option_strings}


def test_an_option_that_a_page_names_exists() -> None:
    known = {option for name in COMMANDS for option in options_of(name)}
    others = [
        *(ROOT / "benchmarks").rglob("*.py"),
        *(ROOT / "src/halfmap/cli").glob("relion*.py"),
        *(ROOT / "src/halfmap/plugins").glob("*.py"),
    ]
    known |= {option for path in others for option in re.findall(r"--[a-z][\w-]*", path.read_text())}
    unknown = []
    for page in PAGES:
        text = FENCE.sub("", page.read_text())
        for code in re.findall(r"`([^`]+)`", text):
            if not code.startswith(FOREIGN) and not left_out(text, ROOT):
                unknown += [f"{page.name}: {code}" for o in re.findall(r"(?<!\S)--[a-z][\w-]*", code) if o not in known]
    # Of RELION's programs, cisTEM's and SIDESPLITTER's, named as theirs.
    theirs = ("--ewald", "--reverse_curvature", "--rotfl", "--external_reconstruct", "--skip_gridding")
    assert not [line for line in unknown if not line.endswith(theirs)]


def test_the_reference_names_every_option_that_the_help_shows() -> None:
    pages = commands.pages()
    for name in COMMANDS:
        text = pages[f"reference/{name}.md"]
        missing = [o for o in options_of(name) if o not in ("-h", "--help") and o not in text]
        assert not missing, f"{name}: {missing}"


def test_the_tables_of_evidence_can_be_made_from_the_results() -> None:
    for name, block in evidence.BLOCKS.items():
        if name not in python_api.blocks() and name != "example-package":
            assert len(block(ROOT / "benchmarks" / "results")) > 100, name


def test_results_at_the_papers_scale_are_shown_set_by_set(tmp_path: Path) -> None:
    earlier = json.loads((ROOT / "benchmarks/results/paper_like.json").read_text())["results"]
    one = earlier["dimer 4000 seed1 nonuniform"]
    record = {
        "benchmark": "paper_scale.py --out work", "time": "2026-11-30", "paper": {"dimer": ["STRA6", 28_848, 4.0, 3.6]},
        "results": {f"dimer 4000 seed1 {name}": one | {"regulariser": name} for name in ("uniform", "joined")},
    }
    (tmp_path / "claims").mkdir()
    (tmp_path / "claims/paper_scale.py").touch()
    (tmp_path / "results").mkdir()
    (tmp_path / "results/paper_scale.json").write_text(json.dumps(record))
    text = evidence.BLOCKS["paper-scale"](tmp_path / "results")
    assert "| map to truth, FSC 0.5, A | 3.27 | 3.27 |" in text
    assert "## dimer, 4,000 particles, seed 1" in text
    assert text.count("<polyline") == 2


@pytest.mark.parametrize("page", [p for p in PAGES if "```python" in p.read_text()], ids=lambda page: page.stem)
def test_python_that_a_page_shows_is_python_and_its_names_are_offered(page: Path) -> None:
    offered = import_module("halfmap.api.names").PUBLIC
    for kind, body in FENCE.findall(page.read_text()):
        if kind == "python":
            for node in ast.walk(ast.parse(body)):
                if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "halfmap":
                    assert node.attr in offered


def test_a_page_asks_for_blocks_that_exist() -> None:
    asked = {name for page in PAGES for name in re.findall(r"^\{\{ *([\w-]+) *\}\}$", page.read_text(), re.MULTILINE)}
    assert asked <= set(evidence.BLOCKS)


def test_the_table_of_regularisers_in_readme_is_that_of_the_results() -> None:
    table = evidence.BLOCKS["regularisers-brief"](ROOT / "benchmarks" / "results").replace("\u00a0", " ")
    readme = (ROOT / "README.md").read_text()
    for row in table.splitlines()[2:]:
        assert row in readme


def test_the_regulariser_interface_is_described_from_its_docstrings() -> None:
    text = python_api.blocks()["regulariser-interface"](ROOT)
    assert "## HalfSets" in text
    assert "### HalfSets.quarter\\_difference" in text or "### HalfSets.quarter_difference" in text


def test_links_of_included_pages_do_not_lead_out_of_the_site() -> None:
    for text in included.pages(ROOT).values():
        assert not re.findall(r"\]\((?!https?:|#)", text)
