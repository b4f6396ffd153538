"""Runs the commands of docs/tutorials/particles-to-deposit.md one after the other, on a quick demo.

    python docs/run_tutorial.py FOLDER

They run in FOLDER. A demo that lies there already, from `halfmap demo --quick --out demo`, is taken as it is. Ends with
exit status 1 at the first command that fails, and prints what that said.
"""

import argparse
import os
import shlex
import subprocess
import sys
from pathlib import Path

TUTORIAL = Path(__file__).parent / "tutorials" / "particles-to-deposit.md"


def commands() -> list[list[str]]:
    """The words of every command line of the tutorial, in order."""
    found, inside = [], False
    for line in TUTORIAL.read_text(encoding="utf-8").splitlines():
        if line.startswith("```"):
            inside = line == "```sh"
        elif inside and line.strip():
            found.append(shlex.split(line))
    return found


def main() -> int:
    """Run all, and say what each took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    for words in commands():
        if words[:2] == ["halfmap", "demo"]:
            if (folder / "demo").exists():
                continue
            words = [*words, "--quick"]
        before = os.times()
        done = subprocess.run([sys.executable, "-m", *words], cwd=folder, capture_output=True, text=True, check=False)
        after = os.times()
        seconds = after.children_user + after.children_system - before.children_user - before.children_system
        print(f"{seconds:6.1f} CPU s  {shlex.join(words)}", flush=True)
        if done.returncode != 0:
            print(done.stdout, done.stderr, sep="\n")
            return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
