"""What a reset may leave otherwise on a host that was in use before, as docs/reset.md says it ("A whole host").

Packages that were upgraded or removed are listed and stay so, with the files and units that are theirs; the data of an
engine that was there are its own, and it goes on writing them; kept data keep the journal. Nothing else differs.
"""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import Any

from .site import Result, Site
from .test_reset import take, unexplained

LISTED = re.compile(r"(\S+) (?:stays at its present version|\S+ had been removed for the engine)")
MERGED = re.compile(r"^/(bin|sbin|lib)(?=/)")
# Written by the package system for a unit or an init script of a package.
OF_UNIT = re.compile(r"/(?:etc/systemd/system|var/lib/systemd/deb-systemd-helper-enabled)/.*?([^/]+?)(?:\.dsh-also)?$")
OF_SCRIPT = re.compile(r"/etc/rc\d\.d/[KS]\d\d([^/]+)$")


def packaged(site: Site) -> dict[str, set[str]]:
    """The files of every package that is installed."""
    found: dict[str, set[str]] = {}
    for line in site.ssh("cd /var/lib/dpkg/info && grep -H . *.list").splitlines():
        name, _, path = line.partition(":/")
        found.setdefault(name.removesuffix(".list").partition(":")[0], set()).add(MERGED.sub(r"/usr/\1", f"/{path}"))
    return found


class Before:
    """A host as somebody has left it. data: folders that an engine which was there goes on writing."""

    def __init__(self, site: Site, *data: str) -> None:
        self.site = site
        self.data = (*data, "/var/lib/gpulab/journal")
        self.manifest = take(site)
        self.packaged = packaged(site)

    def unexplained(self, reset: Result) -> dict[str, Any]:
        """What is not as it was, and is not what the reset has said of packages, or data."""
        listed = {m[1] for task in reset.tasks for line in task["result"].get("left", []) if (m := LISTED.match(line))}
        now = packaged(self.site)
        files = {path for name in listed for path in self.packaged.get(name, set()) | now.get(name, set())}
        found = unexplained(self.manifest, take(self.site))
        said = {name for name in found if self.is_said(name, listed, files)}
        # Above kept data there are folders; folders that held nothing but what went are gone with it.
        above = {str(path) for folder in self.data for path in PurePath(folder).parents}
        emptied = {f"{path}" for name in said for path in PurePath(name).parents}
        return {
            name: pair
            for name, pair in found.items()
            if name not in said
            and not (pair[0] is None and name.removeprefix("file:") in above)
            and not (pair[1] is None and name in emptied)
        }

    def is_said(self, whole: str, listed: set[str], files: set[str]) -> bool:
        section, _, name = whole.partition(":")
        units = {PurePath(path).name for path in files if "/systemd/system/" in path or "/init.d/" in path}
        if section == "package":
            return name in listed
        if section in ("unit", "service"):
            return name in units
        if section == "mount":
            return name.startswith(("/run/docker/", *(f"{folder}/" for folder in self.data)))
        made_for = OF_UNIT.match(name) or OF_SCRIPT.match(name)
        return section == "file" and (
            name in files
            or re.sub(r"__pycache__/(\w+)\.[^/]*$", r"\1.py", name) in files
            or bool(made_for and made_for[1] in units)
            or any(name == folder or name.startswith(f"{folder}/") for folder in self.data)
        )
