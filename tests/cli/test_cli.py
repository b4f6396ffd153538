"""The command line: what it accepts, how it fails, and that help imports nothing heavy."""

import dataclasses
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import halfmap
from halfmap.cli.program import COMMANDS, main, parser_for
from halfmap.cli.relion import RELION_ALWAYS, RELION_NOTES
from halfmap.errors import InputError
from halfmap.options import flag, table
from halfmap.settings.commands import to_toml
from halfmap.settings.refine import RefineSettings, from_toml, validated

ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "numpy", "scipy", "numba", "mrcfile", "gemmi", "rich", "jinja2"}
FIELDS = dataclasses.fields(RefineSettings)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Empty files: enough for all checks that come before data are read."""
    paths = {name: tmp_path / name for name in ("particles.star", "map.mrc", "mask.mrc")}
    for path in paths.values():
        path.touch()
    return paths


@pytest.fixture
def settings(files: dict[str, Path], tmp_path: Path) -> RefineSettings:
    return RefineSettings(files["particles.star"], 170.0, tmp_path / "run1", map=files["map.mrc"])


def parsed(line: str) -> dict[str, object]:
    """The settings that ``halfmap refine`` takes from this line."""
    return vars(parser_for("refine").parse_args(["refine", *line.split()]))


def one_error_line(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.fullmatch(r"halfmap: error: [^\n]+\n", captured.err)
    return captured.err


@pytest.mark.parametrize("words", [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)])
def test_help_and_version_import_nothing_heavy(words: list[str]) -> None:
    script = (
        "import sys\nfrom halfmap.cli.program import main\n"
        f"try:\n    main({words!r})\nexcept SystemExit as end:\n    assert end.code == 0\n"
        f"heavy = {HEAVY!r} & set(sys.modules)\nassert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "halfmap" in done.stdout


def test_openmp_workers_do_not_spin_unless_the_user_asks() -> None:
    script = "import os, halfmap; print(os.environ['OMP_WAIT_POLICY'])"
    for given, expected in ((None, "PASSIVE"), ("ACTIVE", "ACTIVE")):
        environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
        if given:
            environment["OMP_WAIT_POLICY"] = given
        done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True,
                              check=True)
        assert done.stdout.strip() == expected


@pytest.mark.parametrize(("words", "expected"), [
    ([], "COMMAND"),
    (["refin"], "refin"),
    (["refine"], "missing: particles.star, --diameter, --out"),
    (["refine", "--diameter", "wide"], "wide"),
    (["refine", "--symetry", "C4"], "--symetry"),
    (["refine", "--diam", "170"], "--diam"),
    (["refine", "--settings", "absent.toml"], "absent.toml"),
    ("refine absent.star --map m.mrc --diameter 170 --out run1".split(), "absent.star: no such file"),
    (["fsc", "one.mrc"], "half2.mrc"),
])
def test_a_mistake_is_one_line_and_status_2(
    words: list[str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    assert expected in one_error_line(capsys)
    assert not list(tmp_path.iterdir())


def test_a_message_of_several_lines_is_printed_as_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(arguments: object) -> None:
        raise InputError("a.star: row 3\n  has no image")

    monkeypatch.setitem(COMMANDS, "report", dataclasses.replace(COMMANDS["report"], run=fail))
    assert main(["report", "run1"]) == 2
    assert one_error_line(capsys) == "halfmap: error: a.star: row 3 has no image\n"


def test_a_fault_of_the_program_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(arguments: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setitem(COMMANDS, "report", dataclasses.replace(COMMANDS["report"], run=fail))
    with pytest.raises(ZeroDivisionError):
        main(["report", "run1"])


def test_an_interrupted_run_says_what_it_keeps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(arguments: object) -> None:
        (tmp_path / "iterations.jsonl").touch()
        raise KeyboardInterrupt

    monkeypatch.setitem(COMMANDS, "demo", dataclasses.replace(COMMANDS["demo"], run=interrupt))
    assert main(["demo", "--out", str(tmp_path)]) == 130
    assert capsys.readouterr().err == f"\nhalfmap: interrupted; {tmp_path} keeps iterations.jsonl\n"


def test_help_lists_every_setting_with_its_meaning() -> None:
    wide = os.environ | {"COLUMNS": "400"}
    command = [sys.executable, "-m", "halfmap", "refine", "--help"]
    done = subprocess.run(command, env=wide, capture_output=True, text=True, check=True)
    text = " ".join(done.stdout.split())
    for field in FIELDS:
        name = field.metadata["short"] if field.metadata.get("positional") else flag(field)
        assert name in text
        assert field.metadata["help"] in text


def test_every_setting_says_what_it_is() -> None:
    for field in FIELDS:
        assert field.metadata["help"]
        if "float" in str(field.type):
            assert field.metadata["unit"]
        if "None" in str(field.type):
            assert field.metadata["none"]


def test_readme_and_the_pages_it_leads_to_show_every_command() -> None:
    pages = "".join(path.read_text() for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
    for command in COMMANDS:
        assert f"halfmap {command}" in pages


def test_readme_and_continuous_integration_install_alike() -> None:
    for line in ("pip install '.[test]'", "pytest"):
        assert line in (ROOT / "README.md").read_text()
        assert line in (ROOT / ".ci" / "run").read_text()


def test_the_citation_names_this_version() -> None:
    assert f"\nversion: {halfmap.__version__}\n" in (ROOT / "CITATION.cff").read_text()


def test_relion_spellings_mean_the_same() -> None:
    ours = parsed("""p.star --map m.mrc --diameter 170 --symmetry C4 --ini-high 40 --out o --mask k.mrc
        --flatten-solvent --scale group --threads 8 --padding 1 --join-halves 40 --seed 3""")
    relion = parsed("""--i p.star --ref m.mrc --particle_diameter 170 --sym C4 --ini_high 40 --o o
        --solvent_mask k.mrc --flatten_solvent --scale --j 8 --pad 1 --low_resol_join_halves 40
        --random_seed 3""")
    assert ours == relion


def test_a_relion_command_line_is_understood_and_its_differences_are_named(
    files: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    words = f"""refine --o {files["map.mrc"]}/run --auto_refine --split_random_halves
        --i {files["particles.star"]} --ref {files["map.mrc"]} --firstiter_cc --trust_ref_size --ini_high 60
        --dont_combine_weights_via_disc --pool 3 --pad 2 --ctf --particle_diameter 200 --flatten_solvent
        --zero_mask --solvent_correct_fsc --oversampling 1 --healpix_order 2 --auto_local_healpix_order 4
        --offset_range 5 --offset_step 2 --sym C1 --low_resol_join_halves 40 --norm --scale --j 4
        --gpu 0:1""".split()
    # The output lies under a file, so the command stops there, after it has parsed everything.
    assert main(words) == 2
    *notes, error = capsys.readouterr().err.splitlines()
    assert "is a file, not a folder" in error
    assert all(note.startswith("halfmap: note: --") for note in notes)
    noted = {note.split(":")[2].strip() for note in notes}
    assert noted == set(words) & set(RELION_NOTES)
    assert "pixels" in next(note for note in notes if "--offset_range" in note)
    assert set(RELION_ALWAYS) & set(words) and not set(RELION_ALWAYS) & noted


def test_settings_survive_the_toml_file(settings: RefineSettings, tmp_path: Path) -> None:
    rich = dataclasses.replace(
        settings, mask=Path('/a "quoted"\\ path/m\u00e5sk.mrc'), symmetry="D7", max_resolution=3.2,
        scale="none", flatten_solvent=False, threads=12, join_halves=40.0, offset_range=1e-5)
    for one in (settings, rich):
        path = tmp_path / "settings.toml"
        path.write_text(to_toml(one), encoding="utf-8")
        assert from_toml(path) == one


def test_the_toml_file_is_complete(settings: RefineSettings) -> None:
    text = to_toml(settings)
    for field in FIELDS:
        assert re.search(rf"^(# )?{field.name} = ", text, re.MULTILINE)
        assert field.metadata["help"] in text
    assert set(tomllib.loads(text)) == {f.name for f in FIELDS if getattr(settings, f.name) is not None}


@pytest.mark.parametrize(("line", "expected"), [
    ("diamter = 170.0", "did you mean diameter?"),
    ("threads = 1.5", "whole number"),
    ("threads = true", "whole number"),
    ("resplit = 1", "true or false"),
    ("map = 3", "path in quotes"),
    ("diameter = ", "not a TOML file"),
])
def test_a_wrong_toml_file_is_an_input_error(line: str, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    path.write_text(line + "\n", encoding="utf-8")
    with pytest.raises(InputError, match=re.escape(expected)) as caught:
        from_toml(path)
    assert str(path) in str(caught.value)


def test_options_come_before_the_settings_file(
    settings: RefineSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def stop(read: RefineSettings) -> None:
        seen.append(read)
        raise InputError("far enough")

    monkeypatch.setattr("halfmap.commands.refine.validated", stop)
    path = tmp_path / "settings.toml"
    path.write_text(to_toml(dataclasses.replace(settings, seed=5, threads=2)), encoding="utf-8")
    assert main(["refine", "--settings", str(path), "--seed", "9", "--no-flatten-solvent"]) == 2
    assert seen == [dataclasses.replace(settings, seed=9, threads=2, flatten_solvent=False)]


@pytest.mark.parametrize(("change", "expected"), [
    ({"diameter": 0.0}, "--diameter 0.0: must be more than 0 A"),
    ({"diameter": float("nan")}, "--diameter nan"),
    ({"ini_high": float("inf")}, "--ini-high inf"),
    ({"regulariser": "wiener"}, "--regulariser wiener: choose from uniform"),
    ({"padding": 3}, "--padding 3: choose from 1, 2"),
    ({"threads": -1}, "--threads -1: must be at least 0"),
    ({"seed": -1}, "--seed -1"),
    ({"max_iterations": 0}, "--max-iterations 0"),
    ({"max_resolution": 30.0}, "finer than --ini-high"),
    ({"map": Path("absent.mrc")}, "absent.mrc: no such file"),
    ({"map": Path("/")}, "is a folder"),
    ({"data_dir": Path("absent")}, "no such folder"),
])
def test_a_choice_that_cannot_work_is_named(
    change: dict[str, object], expected: str, settings: RefineSettings
) -> None:
    with pytest.raises(InputError, match=re.escape(expected)):
        validated(dataclasses.replace(settings, **change))


def test_a_run_is_never_written_over(settings: RefineSettings) -> None:
    settings.out.mkdir()
    assert validated(settings).out == settings.out
    (settings.out / "settings.toml").write_text(to_toml(settings), encoding="utf-8")
    with pytest.raises(InputError, match="holds a run already"):
        validated(settings)


def test_paths_become_absolute(
    settings: RefineSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = {name: Path(getattr(settings, name).name) for name in ("particles", "map", "out")}
    assert validated(dataclasses.replace(settings, **names)) == settings


def test_the_report_table_shows_every_setting(settings: RefineSettings) -> None:
    rows = table(dataclasses.replace(settings, ini_high=20.0))
    assert list(rows) == [field.name for field in FIELDS]
    assert rows["ini_high"][:2] == ("20", "A")
    assert rows["flatten_solvent"][0] == "yes"
    assert rows["join_halves"][:2] == ("off: half sets stay apart", "")
