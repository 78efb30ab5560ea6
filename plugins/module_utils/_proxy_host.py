# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A site's proxy and certificate authority in the files that a whole host reads: apt's settings, the trust store.

Plain data: which files there are to be, with which content; and whether the tool for the trust store has seen them.
"""

from __future__ import annotations

import re
from pathlib import Path

from ansible_collections.gpulab.fleet.plugins.module_utils._files import read_text
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


def trusted(root: Path, files: dict[str, str]) -> bool:
    """Whether the trust store has these of our authorities and no others, as far as its tool's work shows it."""
    ours = {Path(name).stem: text for name, text in files.items() if name.startswith(AUTHORITIES)}
    there = {link.stem for link in (root / STORE).glob("gpulab-*.pem") if link.is_symlink()}
    bundle = read_text(root / STORE / "ca-certificates.crt")
    return there == set(ours) and all(text in bundle for text in ours.values())
