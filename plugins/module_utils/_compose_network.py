# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Ports and host networking of a Compose file, on an engine without root.

Before Engine 29.5 `network_mode: host` is the network of the engine, not the host's: nobody outside reaches a port
that is opened there. Services that use it are given a network together instead, in which they still find each other
under localhost, and the ports that are known are published.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.gpulab.fleet.plugins.module_utils._stack_files import LOOPBACK

HOST_NETWORK = (29, 5)  # the first engine whose host networking is the host's
# What an engine refuses of a container that uses another's network.
OWNERS_ONLY = (
    "hostname",
    "domainname",
    "extra_hosts",
    "dns",
    "dns_opt",
    "dns_search",
    "mac_address",
    "links",
    "networks",
)


def is_host(service: Mapping[str, Any]) -> bool:
    return service.get("network_mode") == "host"


def spelled(port: Any) -> dict[str, Any]:
    """A port that a site names (8000, "9000:8000", "0.0.0.0:9000:8000", "53:53/udp") as Compose spells it out."""
    text, _, protocol = str(port).partition("/")
    front, _, target = text.rpartition(":")
    address, _, published = front.rpartition(":")
    return {
        "mode": "ingress",
        "host_ip": address.strip("[]") or LOOPBACK,
        "target": int(target),
        "published": published or target,
        "protocol": protocol or "tcp",
    }


def share(config: dict[str, Any], publish: Mapping[str, Sequence[Any]]) -> tuple[list[str], list[str]]:
    """Gives the services on the host's network one of their own; (notes, services whose ports nobody has named)."""
    services = config["services"]
    members = sorted(name for name, service in services.items() if is_host(service))
    ports = {name: _ports(services[name], publish.get(name, ())) for name in members}
    if members and not any(ports.values()):
        unknown = [name for name in members if name not in publish]
        if unknown:
            return [], unknown
    owner = next((name for name in members if not _needs(services, name) & set(members)), None)
    if owner is None:
        return [], []
    notes, all_ports = [], [port for name in members for port in ports[name]]
    said = ", ".join(f"{port['host_ip']}:{port['published']}" for port in all_ports) or "no port"
    for name in members:
        service = services[name]
        service.pop("ports", None)
        if name == owner:
            del service["network_mode"]
            service["networks"] = {"default": None}
            if all_ports:
                service["ports"] = all_ports
            config.setdefault("networks", {}).setdefault("default", {"name": f"{config.get('name', '')}_default"})
            notes.append(
                f"services.{name}.network_mode: host became a network of the stack with {said} published: before "
                "Engine 29.5 the host's network cannot be had without root"
            )
        else:
            service["network_mode"] = f"service:{owner}"
            dropped = [key for key in OWNERS_ONLY if service.pop(key, None)]
            service["depends_on"] = {
                owner: {"condition": "service_started", "restart": True, "required": True},
                **_depends(service),
            }
            also = f"; {', '.join(dropped)} cannot be kept with that" if dropped else ""
            notes.append(
                f"services.{name}.network_mode: host became the network of {owner}, where localhost is the same for "
                f"both{also}"
            )
    return notes, []


def bind_ports(service: dict[str, Any], where: str) -> list[str]:
    """Keeps published ports on loopback where the file names no address; notes what it did."""
    if is_host(service):
        return []
    notes = []
    for port in service.get("ports") or []:
        if port.get("published") and not port.get("host_ip"):
            port["host_ip"] = LOOPBACK
            notes.append(f"{where}.ports: {port['published']} listens on {LOOPBACK} only, as the file names no address")
    return notes


def below(service: Mapping[str, Any], first: int) -> list[str]:
    """The ports that only root could open."""
    found = []
    for port in service.get("ports") or []:
        low = str(port.get("published") or "").partition("-")[0]
        if low.isdecimal() and 0 < int(low) < first:
            found.append(str(port["published"]))
    return found


def _ports(service: Mapping[str, Any], named: Sequence[Any]) -> list[dict[str, Any]]:
    """What a service on the host's network is to publish: what the site names, else what the file does."""
    found = [spelled(port) for port in named]
    if found:
        return found
    kept = []
    for port in service.get("ports") or []:
        published = str(port.get("published") or port["target"])
        kept.append({**port, "published": published, "host_ip": port.get("host_ip") or LOOPBACK})
    return kept


def _depends(service: Mapping[str, Any]) -> dict[str, Any]:
    given = service.get("depends_on") or {}
    if isinstance(given, Mapping):
        return dict(given)
    return {name: {"condition": "service_started", "required": True} for name in given}


def _needs(services: Mapping[str, Any], name: str) -> set[str]:
    """Every service that must be started before this one."""
    found: set[str] = set()
    left = [name]
    while left:
        for each in _depends(services.get(left.pop(), {})):
            if each not in found:
                found.add(each)
                left.append(each)
    return found
