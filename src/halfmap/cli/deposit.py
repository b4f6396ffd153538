"""``halfmap deposit``: the files of an EMDB entry."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from halfmap.cli.command import given
from halfmap.options import add_options, build
from halfmap.settings.deposit import DepositSettings, validated_deposit


def deposit_options(parser: argparse.ArgumentParser) -> None:
    add_options(parser, DepositSettings)
    parser.usage = "halfmap deposit RUN OUT [options]"


def run_deposit(arguments: argparse.Namespace) -> None:
    settings = validated_deposit(build(DepositSettings, given(arguments, DepositSettings)))
    from halfmap.report.pages.deposit import write_deposit_pictures
    from halfmap.workflows.deposit import deposit

    def pictures(**seen: Any) -> list[Path]:
        """Write the entry's image and a ChimeraX script, which no workflow may draw."""
        return write_deposit_pictures(settings.out, **seen)

    deposit(settings, pictures)
