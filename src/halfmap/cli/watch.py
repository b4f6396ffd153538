"""The options of ``halfmap watch``."""

from __future__ import annotations

import argparse

from halfmap.options import add_options
from halfmap.settings.watch import WatchSettings


def watch_options(parser: argparse.ArgumentParser) -> None:
    add_options(parser, WatchSettings)
    parser.usage = "halfmap watch RUN|FOLDER [...] [--port N] [--host address] [--allow-host name ...]"
    parser.epilog = ("Nothing is written and nothing is changed. Runs are shown as they come and go; on a machine that "
                     "others use too, they can open the address as well. Ctrl-C ends it.")
