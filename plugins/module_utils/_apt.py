# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What dpkg and apt say, as data; and which packages have to change."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._floors import accepted

LATEST = "latest"
QUERY_FORMAT = r"${Package}\t${db:Status-Abbrev}\t${Version}\n"


@dataclass(frozen=True)
class Wanted:
    """A package as the inventory asks for it; an empty version takes any, LATEST the newest that is offered."""

    name: str
    version: str = ""
    minimum: str = ""
    accepted: tuple[str, ...] = ()  # versions below the minimum that the site accepts by name
    settings: tuple[str, ...] = ()  # files of it that may be there before the package is

    def refuses(self, version: str) -> bool:
        return below(version, self.minimum) and not accepted(version, self.accepted)


@dataclass(frozen=True)
class Installed:
    """A package as dpkg has it."""

    version: str
    held: bool = False
    whole: bool = True  # false: half-installed, or to be installed again


@dataclass
class Offer:
    """A package as apt's sources offer it, best version first."""

    candidate: str = ""
    versions: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)


def wanted_from(options: Iterable[dict[str, Any]], accepted: Iterable[str] = ()) -> list[Wanted]:
    names = tuple(accepted)
    return [
        Wanted(o["name"], o.get("version") or "", o.get("minimum") or "", names, tuple(o.get("settings") or ()))
        for o in options
    ]


def parse_dpkg(text: str) -> dict[str, Installed]:
    """Installed packages from dpkg-query's output in QUERY_FORMAT."""
    found = {}
    for line in text.splitlines():
        name, status, version = line.split("\t")
        if version and status[1] not in "nc":  # not installed; only its configuration is left
            found[name] = Installed(version, held=status[0] == "h", whole=status[1:3].strip() == "i")
    return found


def parse_policy(text: str) -> dict[str, Offer]:
    """Offers from `apt-cache policy`; a version that only dpkg knows is not an offer."""
    offers: dict[str, Offer] = {}
    offer = Offer()
    version = ""
    for line in text.splitlines():
        if re.match(r"\S+:$", line):
            offer = offers.setdefault(line[:-1], Offer())
        elif line.startswith("  Candidate:"):
            value = line.split(":", 1)[1].strip()
            offer.candidate = "" if value == "(none)" else value
        elif match := re.match(r"( {5}| \*{3} )(\S+) -?\d+$", line):
            version = match[2]
        elif (match := re.match(r" {8,}-?\d+ (\S.*)$", line)) and not match[1].startswith("/"):
            if version not in offer.versions:
                offer.versions.append(version)
            offer.sources.append(match[1])
    for offer in offers.values():
        if offer.candidate not in offer.versions:
            offer.candidate = ""
    return offers


def upstream(version: str) -> str:
    """The publisher's version inside a Debian one: 5:28.5.2-1~ubuntu.22.04~jammy is 28.5.2."""
    version = re.sub(r"^\d+:", "", version)
    return version.rpartition("-")[0].split("+")[0] or version.split("+")[0]


def matches(wanted: str, version: str) -> bool:
    """Whether a Debian version is the wanted one, given in full or as the publisher writes it."""
    return not wanted or wanted in (version, upstream(version))


def numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a publisher's version, for comparing: 1.20.0~rc.1 is (1, 20, 0)."""
    match = re.match(r"\d+(?:\.\d+)*", upstream(version) if "-" in version or ":" in version else version)
    return tuple(int(part) for part in match[0].split(".")) if match else ()


def below(version: str, minimum: str) -> bool:
    return bool(minimum) and numbers(version) < numbers(minimum)


def outstanding(
    wanted: Iterable[Wanted],
    installed: dict[str, Installed],
    keep_installed: bool = False,
    own_holds: Iterable[str] = (),
) -> list[Wanted]:
    """The packages that are missing, broken or of another version; somebody else's hold is respected."""
    todo = []
    for package in wanted:
        present = installed.get(package.name)
        if present and present.whole and (keep_installed or matches(package.version, present.version)):
            if package.refuses(present.version):
                raise too_old(package, f"{present.version} is installed")
            continue
        if present and present.held and package.name not in own_holds:
            raise FleetError("PACKAGE_HELD", f"{package.name} {present.version} is held; wanted {package.version}")
        todo.append(package)
    return todo


def choose(package: Wanted, offer: Offer) -> str:
    """The full version to install, or '' when it is not offered."""
    fitting = [v for v in offer.versions if matches(package.version, v)] if package.version else [offer.candidate]
    version = fitting[0] if fitting else ""
    if version and package.refuses(version):
        raise too_old(package, f"{version} is what the sources offer")
    return version


def too_old(package: Wanted, seen: str) -> FleetError:
    return FleetError("PACKAGE_TOO_OLD", f"{package.name}: {seen}; at least {package.minimum} is needed")


def new_packages(simulated: str) -> list[str]:
    """The packages that `apt-get --simulate` would install anew; one that is upgraded has its old version in brackets."""
    return re.findall(r"^Inst (\S+) \(", simulated, re.MULTILINE)


def complaints(output: str) -> list[str]:
    """The lines in which apt or dpkg say what is wrong."""
    return [line.strip() for line in output.splitlines() if re.match(r"\s*(E|W|Err|dpkg: error)\b:?", line)]
