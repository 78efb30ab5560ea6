# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A user's registry logins in the CLI's config.json: theirs stay, ours are merged in, what is no longer asked for goes.

What was put in is known by its digest, so that a login that the user renewed since is left alone.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Any

from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError

# Docker Hub's logins lie under the address of a service that is long gone; the CLI knows them by no other name.
HUB = "https://index.docker.io/v1/"
HUB_NAMES = ("docker.io", "index.docker.io", "registry-1.docker.io", HUB)

Entry = dict[str, Any]


def address(host: str) -> str:
    """The name under which the CLI looks for a registry's login."""
    return HUB if host in HUB_NAMES else host.removesuffix("/")


def wanted(logins: list[dict[str, Any]]) -> dict[str, Entry]:
    """The entries of `auths` for logins of the form {host, login: {username, password}}."""
    entries = {}
    for each in logins:
        pair = f"{each['login']['username']}:{each['login']['password']}"
        entries[address(each["host"])] = {"auth": base64.b64encode(pair.encode()).decode()}
    return entries


def digest(entry: Any) -> str:
    return hashlib.sha256(repr(entry).encode()).hexdigest()


def merge(
    config: dict[str, Any], ours: dict[str, Entry], before: dict[str, Any], path: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The new config.json and the new record of what is ours: {address: {digest, original}}.

    before    the record of the last time
    original  the user's own login that ours stands for, given back when ours goes
    """
    found = config.get("auths", {})
    if not isinstance(found, dict):
        raise FleetError("CLI_CONFIG_INVALID", f"{path}: auths is not an object")
    helper = config.get("credsStore") or next(
        (n for a, n in (config.get("credHelpers") or {}).items() if a in ours), ""
    )
    if ours and helper:
        raise FleetError("REGISTRY_LOGIN_ELSEWHERE", f"{path} names docker-credential-{helper}")
    auths, record = dict(found), {}
    for key, old in before.items():
        if key in ours or key not in auths or digest(auths[key]) != old["digest"]:
            continue
        del auths[key]
        if old["original"] is not None:
            auths[key] = old["original"]
    for key, entry in ours.items():
        original = before[key]["original"] if key in before else auths.get(key)
        record[key] = {"digest": digest(entry), "original": original}
        auths[key] = entry
    after = {key: value for key, value in config.items() if key != "auths"}
    if auths or ("auths" in config and not before):
        after["auths"] = auths
    return after, record
