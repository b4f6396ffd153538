"""The functions of ``import halfmap`` are made from the settings, as the command line is, and say what it says."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import importlib.metadata
import inspect
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import halfmap
from halfmap.api.names import COMMAND_OF, PUBLIC
from halfmap.api.stub import STUB, stub
from halfmap.cli.program import COMMANDS, main, parser_for
from halfmap.commands.table import settings_of

OF_PYTHON = {"progress", "verbose"}
RENAMED = {"regulariser": "method"}  # of halfmap.regularise, which also takes arrays, of a voxel size
PLUGGED = bool(importlib.metadata.entry_points(group="halfmap.regularisers"))


def options(command: str) -> dict[str, argparse.Action]:
    """What ``halfmap COMMAND --help`` lists, by the name of its value."""
    (commands,) = (action for action in parser_for(command)._actions
                   if isinstance(action, argparse._SubParsersAction))
    listed = commands.choices[command]._actions
    return {action.dest: action for action in listed
            if action.help != argparse.SUPPRESS and action.dest not in ("help", "relion_always")}


@pytest.mark.parametrize("name", COMMAND_OF)
def test_every_option_is_a_keyword_and_every_keyword_an_option(name: str) -> None:
    listed = set(options(COMMAND_OF[name]))
    if name == "regularise":
        listed = {RENAMED.get(option, option) for option in listed}
    if name in ("regularise", "fsc"):
        listed |= {"voxel_size"}
    assert set(inspect.signature(getattr(halfmap, name)).parameters) - OF_PYTHON == listed


def test_every_command_is_a_function_but_one_that_is_a_method() -> None:
    assert COMMANDS.keys() - set(COMMAND_OF.values()) == {"report"}
    assert callable(halfmap.Run.write_report)


@pytest.mark.parametrize("name", ["refine", "start", "select", "ctf_refine", "compare"])
def test_defaults_and_choices_are_those_of_the_settings(name: str) -> None:
    parameters = inspect.signature(getattr(halfmap, name)).parameters
    for field in dataclasses.fields(settings_of(COMMAND_OF[name])):
        one = parameters[field.name]
        given = inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default
        assert one.default == given
        for choice in field.metadata.get("choices", ()):
            assert repr(choice) in str(one.annotation)
        assert (one.kind is one.KEYWORD_ONLY) == (not field.metadata.get("positional"))


def test_help_says_of_every_keyword_what_the_command_line_says() -> None:
    text = " ".join(halfmap.refine.__doc__.split())
    for action in options("refine").values():
        assert f"{action.dest}: " in text
        if action.dest != "settings":
            assert " ".join((action.help or "").replace("%%", "%").split()) in text


@pytest.mark.skipif(PLUGGED, reason="a regulariser of another package is installed, whose options the stub has not")
def test_the_stub_is_what_the_settings_make_now() -> None:
    assert STUB.read_text() == stub(), "run python -m halfmap.api.stub"


def test_the_stub_declares_what_is_offered_and_nothing_else() -> None:
    tree = ast.parse(STUB.read_text())
    found = {alias.asname for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names
             if alias.asname}
    found |= {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert found == set(PUBLIC)
    assert set(PUBLIC) <= set(dir(halfmap))


def test_a_type_checker_finds_wrong_keywords_and_wrong_types(tmp_path: Path) -> None:
    lines = [
        ("halfmap.refine('p.star', diameter=150.0, out='run')", ""),
        ("halfmap.refine(out='run', settings='settings.toml')", ""),
        ("halfmap.select('run', out='good.star', classes=[1, 2])", ""),
        ("halfmap.refine('p.star', diametre=150.0, out='run')", "refine"),
        ("halfmap.orientations('run', cones=20.0)", "cones"),
        ("halfmap.refine('p.star', diameter='wide', out='run')", "refine"),
        ("halfmap.refine('p.star', diameter=150.0, out='run', device='tpu')", "refine"),
        ("halfmap.orientations('run', cone=None)", "cone"),
    ]
    script, copy = tmp_path / "script.py", tmp_path / "halfmap" / "__init__.pyi"
    script.write_text("import halfmap\n" + "\n".join(line for line, _ in lines) + "\n")
    copy.parent.mkdir()  # not where it is installed: a checker takes all that lies there for its own
    copy.write_text(STUB.read_text())
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--follow-imports=skip", "--ignore-missing-imports", "--cache-dir",
         str(tmp_path / "cache"), "--config-file=", str(copy), str(script)],
        capture_output=True, text=True, check=False)
    told = {int(match[1]): match[2] for match in re.finditer(r"script\.py:(\d+): error: (.*)", done.stdout)}
    for number, (line, word) in enumerate(lines, start=2):
        assert (word in told.get(number, "")) if word else (number not in told), (line, done.stdout)


def test_import_is_light_and_the_command_line_does_not_need_it() -> None:
    script = ("import sys, halfmap\nheavy = {'torch', 'numpy', 'numba', 'scipy', 'halfmap.api.names'}\n"
              "assert not heavy & set(sys.modules)\nhalfmap.refine\nassert 'torch' not in sys.modules\n"
              "import halfmap.cli.program\nassert not hasattr(halfmap, 'nonsense')\n")
    subprocess.run([sys.executable, "-c", script], check=True)
    script = ("import sys\nfrom halfmap.cli.program import main\ntry:\n    main(['refine', '--help'])\n"
              "except SystemExit:\n    pass\nassert not any(name.startswith('halfmap.api') for name in sys.modules)")
    subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.DEVNULL)


def test_unknown_and_missing_keywords_are_named() -> None:
    with pytest.raises(TypeError, match=r"^refine\(\) has no keyword 'diametr'; did you mean 'diameter'\?$"):
        halfmap.refine("particles.star", diametr=150.0)
    with pytest.raises(TypeError, match=r"^refine\(\): missing diameter, out; see help\(halfmap\.refine\)$"):
        halfmap.refine("particles.star")
    with pytest.raises(TypeError, match="multiple values"):
        halfmap.refine("particles.star", particles="other.star", diameter=150.0, out="run")
    with pytest.raises(TypeError, match="too many positional"):
        halfmap.resume("run", 4)


@pytest.mark.parametrize(("wrong", "said"), [
    ({"diameter": 5}, "diameter=5: below 20 A"),
    ({"threads": -1}, "threads=-1: must be at least 0"),
    ({"ini_high": float("nan")}, "ini_high=nan: give a finite number"),
    ({"max_resolution": 40.0}, "max_resolution=40: must be finer than ini_high 30 A"),
    ({"regulariser": "wiener"}, "regulariser=wiener: choose from uniform"),
    ({"ss_alpha": 0.3}, "ss_alpha: belongs to regulariser sparse_smooth"),
    ({"ctf_refine": ["focus"]}, "focus"),
    ({"map": "absent.mrc"}, "absent.mrc: no such file"),
])
def test_wrong_values_are_told_in_the_sentence_of_the_command_line(
    wrong: dict[str, object], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("particles.star", "map.mrc"):
        Path(name).touch()
    given = {"particles": "particles.star", "map": "map.mrc", "diameter": 150.0, "out": "run"} | wrong
    with pytest.raises(halfmap.InputError) as caught:
        halfmap.refine(**given)
    assert said in str(caught.value) and "--" not in str(caught.value)
    words = [str(given.pop("particles"))]
    for name, value in given.items():
        words += [f"--{name.replace('_', '-')}", *(map(str, value) if isinstance(value, list) else [str(value)])]
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""
    if "regulariser" not in wrong:  # argparse itself says which choices there are
        assert main(["refine", *words]) == 2
        told = capsys.readouterr().err
        plain = [re.sub(r"[^a-z0-9.]+|\.0\b", " ", text).split()
                 for text in (told.removeprefix("halfmap: error: "), str(caught.value))]
        assert plain[0] == plain[1]


def test_values_may_be_numpys_and_paths_of_any_kind(tmp_path: Path) -> None:
    with pytest.raises(halfmap.InputError, match=r"absent\.star: no such file"):
        halfmap.refine(tmp_path / "absent.star", diameter=np.float32(150), out=tmp_path / "run", seed=np.int64(3),
                       null_hypothesis=np.bool_(False))
    for wrong, expected in (({"diameter": "150"}, "a number"), ({"seed": 1.5}, "a whole number"),
                            ({"seed": True}, "a whole number"), ({"null_hypothesis": 1}, "true or false"),
                            ({"out": 3}, "a path"), ({"diameter": None}, "a number")):
        given = {"diameter": 150.0, "out": tmp_path / "run"} | wrong
        (name,) = wrong
        with pytest.raises(halfmap.InputError, match=f"^{name}={wrong[name]!r}: expected {expected}"):
            halfmap.refine(tmp_path / "absent.star", **given)
