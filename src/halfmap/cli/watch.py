"""``halfmap watch``: the pages of all runs below a folder, in a browser."""

from __future__ import annotations

import argparse
import getpass
import ipaddress
import socket
from collections.abc import Sequence
from pathlib import Path

from halfmap.cli.command import given
from halfmap.options import add_options, build
from halfmap.settings.watch import WatchSettings, validated_watch


def watch_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER",
                        help="folder of a run, or one with runs below it; links to other folders are not followed")
    add_options(parser, WatchSettings)
    parser.usage = "halfmap watch RUN|FOLDER [...] [--port N] [--host address] [--allow-host name ...]"
    parser.epilog = ("Nothing is written and nothing is changed. Runs are shown as they come and go; on a machine that "
                     "others use too, they can open the address as well. Ctrl-C ends it.")


def run_watch(arguments: argparse.Namespace) -> None:
    asked = build(WatchSettings, given(arguments, WatchSettings))
    folders, settings = validated_watch(arguments.folders, asked)
    from halfmap.report.pages.watch import WatchSite
    from halfmap.runtime.web_server import serving

    site, names = WatchSite(folders), {settings.host.lower(), *(settings.allow_host or "").split()}
    with serving(settings.host, settings.port, site, frozenset(names)) as server:
        print(_told(settings.host, server.port, folders), flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()


def _told(host: str, port: int, folders: Sequence[Path]) -> str:
    """Where the pages are, and how to reach them from another machine, a line each."""
    everywhere, here = _is("is_unspecified", host), host == "localhost" or _is("is_loopback", host)
    where = "127.0.0.1" if everywhere else host
    address = f"http://{f'[{where}]' if ':' in where else where}:{port}/"
    lines = [f"{', '.join(map(str, folders))}: {address} (Ctrl-C ends it)"]
    machine = socket.gethostname()
    if here:
        lines.append(f"From another machine: ssh -N -L {port}:{where}:{port} {_user()}{machine}, then open "
                     f"http://127.0.0.1:{port}/")
    else:
        lines.append(f"Everybody who reaches {machine if everywhere else host} can open it; by a name, where "
                     "--allow-host gives that.")
    return "\n".join(lines)


def _is(kind: str, host: str) -> bool:
    try:
        return bool(getattr(ipaddress.ip_address(host), kind))
    except ValueError:
        return False


def _user() -> str:
    try:
        return f"{getpass.getuser()}@"
    except (KeyError, OSError):  # an account without a name
        return ""
