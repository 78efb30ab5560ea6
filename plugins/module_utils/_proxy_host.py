# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A site's proxy and certificate authority in the files that a whole host reads: apt's settings, the trust store.

Plain data: which files there are to be, with which content; and what else the tool for the trust store writes.
"""

from __future__ import annotations

import re
from pathlib import Path

from ansible_collections.gpulab.fleet.plugins.module_utils._proxy import Proxy, apt_settings

APT = "etc/apt/apt.conf.d/95gpulab-proxy"
AUTHORITIES = "usr/local/share/ca-certificates"
STORE = "etc/ssl/certs"
UPDATE = "/usr/sbin/update-ca-certificates"
NOTE = "// Kept by gpulab.fleet from gpulab_proxy; without that variable this file goes.\n"
CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)


def wanted_files(proxy: Proxy) -> dict[str, str]:
    """Text by path; the tool for the trust store wants one certificate in each file."""
    settings = apt_settings(proxy)
    files = {APT: NOTE + settings} if settings else {}
    for number, certificate in enumerate(CERTIFICATE.findall(proxy.ca), start=1):
        files[f"{AUTHORITIES}/gpulab-{number}.crt"] = certificate + "\n"
    return files


def present_files(root: Path) -> dict[str, str]:
    """Those of our files that are there."""
    paths = [root / APT, *sorted((root / AUTHORITIES).glob("gpulab-*.crt"))]
    return {str(path.relative_to(root)): path.read_text(encoding="utf-8") for path in paths if path.is_file()}


def mode_of(text: str) -> int:
    """apt's settings hold the proxy's password where it has one."""
    return 0o600 if re.search(r"//[^/\s\"]+@", text) else 0o644


def store_entries(root: Path) -> set[str]:
    """The names in the trust store."""
    folder = root / STORE
    return {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
