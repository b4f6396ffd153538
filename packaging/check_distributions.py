"""Builds wheel and sdist, and checks that they are whole: what they hold, what they say, and that they run.

    python packaging/check_distributions.py FOLDER

Run it in an environment with all that Halfmap needs, and with build, twine and setuptools. The wheel is made from the
sdist. If the Halfmap of this environment is an installed one, its files must be those of the wheel: then the tests that
passed here passed for the wheel. Nothing is downloaded.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import venv
import zipfile
from importlib.metadata import distribution
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
IN_SDIST = (
    "LICENSE", "README.md", "CHANGELOG.md", "ARCHITECTURE.md", "CITATION.cff", "pyproject.toml", "PKG-INFO", ".ci/run",
    "tests/conftest.py", "tests/test_house.py", "tests/fixtures/projects.py", "tests/data/trpv1/trpv1_volume.mrc",
    "docs/result.png", "benchmarks/README.md", "packaging/Dockerfile", "packaging/constraints.txt",
)  # fmt: skip
COMMANDS = ("halfmap", "halfmap-relion", "halfmap-relion-job")


def run(*words: object, **more: object) -> str:
    """Run a command and return what it prints. If it fails, everything that it said is shown."""
    done = subprocess.run([str(word) for word in words], text=True, capture_output=True, **more)
    check(done.returncode == 0, f"{' '.join(map(str, words[:6]))} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def check(fine: bool, fault: str) -> None:
    if not fine:
        sys.exit(f"check_distributions: {fault}")


def check_sdist(path: Path) -> None:
    """The sdist holds what the tests, and whoever reads it, need, and nothing that was made from it."""
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    tracked = {f"src/halfmap/{one.relative_to(ROOT / 'src/halfmap')}" for one in (ROOT / "src/halfmap").rglob("*")
               if one.suffix in (".py", ".html", ".typed")}
    missing = sorted(({*IN_SDIST} | tracked) - names)
    check(not missing, f"{path.name} lacks {', '.join(missing[:5])}")
    made = sorted(name for name in names if "__pycache__" in name or name.endswith((".pyc", ".nbc", ".nbi")))
    check(not made, f"{path.name} holds {', '.join(made[:5])}")


def check_wheel(path: Path) -> None:
    """The wheel holds the package, all of it and nothing else."""
    with zipfile.ZipFile(path) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        licence = [name for name in archive.namelist() if name.endswith("/licenses/LICENSE")]
    source = ROOT / "src"
    expected = {str(one.relative_to(source)) for one in (source / "halfmap").rglob("*")
                if one.is_file() and "__pycache__" not in one.parts}
    check(names == expected, f"{path.name} differs from src by {', '.join(sorted(names ^ expected)[:5])}")
    check(len(licence) == 1, f"{path.name} lacks the licence")
    check(any(name.endswith("templates/page.html") for name in names) and "halfmap/py.typed" in names,
          f"{path.name} lacks templates or py.typed")


def check_same_as_installed(path: Path) -> None:
    """The files of the Halfmap that is installed here are those of the wheel."""
    installed = Path(str(distribution("halfmap").locate_file("halfmap")))
    if installed.resolve().is_relative_to(ROOT):
        print("halfmap is run from its sources here: not compared with the wheel")
        return
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.startswith("halfmap/"):
                here = installed.parent / name
                same = here.is_file() and digest(here.read_bytes()) == digest(archive.read(name))
                check(same, f"{name} of {path.name} is not what is installed and was tested")
    print("the wheel holds what is installed here, file by file")


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def check_runs(path: Path, folder: Path) -> None:
    """From a new environment, in which everything else is that of this one, the commands of the wheel run."""
    venv.create(folder, with_pip=False, symlinks=True)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    run(sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "install", "--quiet", "--no-deps",
        "--no-index", path)
    # Entries of sys.path that a .pth file adds come last: the wheel's own files are found first.
    rest = [one for one in sys.path if one.endswith(("site-packages", "dist-packages"))]
    (packages / "rest.pth").write_text("\n".join(rest) + "\n")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    elsewhere = {"cwd": folder, "env": clean}
    where = run(folder / "bin" / "python", "-c", "import halfmap; print(halfmap.__file__)", **elsewhere).strip()
    check(Path(where).is_relative_to(packages), f"{where} was imported, not the wheel")
    version = run(folder / "bin" / "halfmap", "--version", **elsewhere).split()[1]
    check(f"-{version}-" in path.name, f"halfmap --version says {version} of {path.name}")
    check("--diameter" in run(folder / "bin" / "halfmap", "refine", "--help", **elsewhere), "refine has no --diameter")
    for name in COMMANDS:
        check((folder / "bin" / name).is_file(), f"{path.name} installs no {name}")
    page = ("from halfmap.report.pages.page import rendered; "
            "print(rendered('watch_row.html', dict(key='', pages=[], name='', picture='', state='', left='',"
            " percent=None, resolution='', status=type('S', (), dict(command='', said='', stage='', resolution=None,"
            " changed=0)))))")
    check("<article" in run(folder / "bin" / "python", "-c", page, **elsewhere), "its templates are not found")


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    left = ROOT / "src" / "halfmap.egg-info"  # by a build; a folder that lies there would be taken for an installation
    before = left.exists()
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT)
    if not before:
        shutil.rmtree(left, ignore_errors=True)
    (sdist,), (wheel,) = list(folder.glob("*.tar.gz")), list(folder.glob("*.whl"))
    print(run(sys.executable, "-m", "twine", "--no-color", "check", "--strict", sdist, wheel), end="")
    check_sdist(sdist)
    check_wheel(wheel)
    check_same_as_installed(wheel)
    with tempfile.TemporaryDirectory() as clean:
        check_runs(wheel, Path(clean))
    sizes = ", ".join(f"{one.name} {one.stat().st_size / 1e6:.1f} MB" for one in (sdist, wheel))
    print(f"checked: {sizes}")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
