# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Whether the ports that a release wants can be had, said before anything is stopped, and who has those that cannot."""

from __future__ import annotations

import contextlib
import errno
import pwd
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible_collections.gpulab.fleet.plugins.module_utils._compose import Container
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError

NET = Path("/proc/net")
LISTENS, UNCONNECTED = "0A", "07"  # a TCP port that is listened on, a UDP port that is open
KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}


def refuse_taken(
    ports: Sequence[Sequence[Any]],
    containers: Sequence[Container],
    settings: Mapping[str, str] | None = None,
    others: Callable[[], Mapping[int, str]] = dict,
) -> None:
    """ports are [address, port, service, protocol]; containers are the stack's own, whose ports it may have again.

    settings are the stack's, to name the one to change; others says who of the same engine has which port.
    """
    own = {port for each in containers for _address, port, _inside in each.published}
    seen: dict[tuple[str, int, str], str] = {}
    for address, port, service, protocol in (complete(each) for each in ports):
        where = f"{address}:{port}{'/udp' if protocol == 'udp' else ''} (service {service}{_setting(port, settings)})"
        twice = seen.setdefault((address, port, protocol), service)
        if twice != service:
            raise FleetError("STACK_PORT_TAKEN", f"{where}: the service {twice} of this stack has the same")
        if port in own:
            continue
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, KINDS[protocol]) as probe:
            if protocol == "tcp":
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except PermissionError:
                raise FleetError("STACK_PORT_PRIVILEGED", where) from None
            except OSError as error:
                if error.errno == errno.EADDRNOTAVAIL:
                    raise FleetError("STACK_ADDRESS_UNKNOWN", where) from None
                by = others().get(port) or holder(port, protocol)
                raise FleetError("STACK_PORT_TAKEN", f"{where}: {by or error.strerror}") from None


def complete(port: Sequence[Any]) -> tuple[str, int, str, str]:
    """Releases that were made earlier have neither protocol nor service."""
    address, number, *rest = port
    service = rest[0] if rest else "?"
    protocol = rest[1] if len(rest) > 1 else "tcp"
    return str(address), int(number), str(service), str(protocol)


def _setting(port: int, settings: Mapping[str, str] | None) -> str:
    names = [name for name, text in (settings or {}).items() if text == str(port)]
    return f", {' or '.join(names)} = {port}" if names else ""


def holder(port: int, protocol: str = "tcp", net: Path = NET) -> str:
    """Whose program has a port, as the kernel tells everybody."""
    wanted = LISTENS if protocol == "tcp" else UNCONNECTED
    for name in (protocol, f"{protocol}6"):
        with contextlib.suppress(OSError):
            for line in (net / name).read_text(encoding="ascii").splitlines()[1:]:
                fields = line.split()
                if fields[3] == wanted and int(fields[1].rpartition(":")[2], 16) == port:
                    return f"a program of {_user(int(fields[7]))} has it"
    return ""


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
