"""``halfmap watch``: the pages of all runs below a folder, in a browser."""

from __future__ import annotations

import getpass
import ipaddress
import socket
from collections.abc import Sequence
from pathlib import Path

from halfmap.commands.done import Done
from halfmap.runtime.terminal import say
from halfmap.settings.watch import WatchSettings, validated_watch


def watch(settings: WatchSettings) -> Done:
    """Serve the pages until Ctrl-C."""
    checked = validated_watch(settings)
    from halfmap.report.pages.watch import WatchSite
    from halfmap.runtime.web_server import serving

    site, names = WatchSite(checked.folders), {checked.host.lower(), *(checked.allow_host or "").split()}
    with serving(checked.host, checked.port, site, frozenset(names)) as server:
        say(_told(checked.host, server.port, checked.folders))
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            say("")
    return Done(None)


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
