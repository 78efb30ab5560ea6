# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The check of the package repositories that a host is about to get its packages from.

Asked only for what the host lacks: a host that has all its packages needs no network.
"""

from __future__ import annotations

import gzip
import lzma
import re
import urllib.error
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from ansible_collections.gpulab.fleet.plugins.module_utils import _health_facts as facts
from ansible_collections.gpulab.fleet.plugins.module_utils._apt import matches
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._findings import finding
from ansible_collections.gpulab.fleet.plugins.module_utils._health import Check, Seen
from ansible_collections.gpulab.fleet.plugins.module_utils._health_view import HostView, Unreadable
from ansible_collections.gpulab.fleet.plugins.module_utils._openpgp import fingerprints, normalize
from ansible_collections.gpulab.fleet.plugins.module_utils._proxy_host import UPDATE

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
# A part of an index's name, and what unpacks it. All of them are in use.
FORMS: tuple[tuple[str, Callable[[bytes], bytes]], ...] = (
    (".gz", gzip.decompress),
    (".xz", lzma.decompress),
    ("", bytes),
)
DAMAGED = (OSError, EOFError, zlib.error, lzma.LZMAError)


class Repository(NamedTuple):
    """A repository as the inventory wants it."""

    name: str  # of the keyring
    variables: str  # what the names of its variables begin with
    key_url: str
    fingerprint: str
    folder: str  # address of the folder with the release files
    part: str  # below it, the folder with the index
    packages: dict[str, tuple[str, str]]  # by name: the wanted version ("" for any), and the variable that says so


def wanted(host: HostView) -> Iterator[Repository]:
    """The repositories of the roles whose settings are known here."""
    say = host.settings.get
    answer = host.run(["dpkg", "--print-architecture"])
    arch = answer.out.strip() if answer and answer.rc == 0 else ARCHITECTURES.get(host.kernel()[1], "")
    if say("rootless_docker_source") == "vendor" and _complete(host, "rootless_docker"):
        of = {
            "docker-ce": "engine",
            "docker-ce-cli": "engine",
            "docker-ce-rootless-extras": "engine",
            "containerd.io": "containerd",
            "docker-compose-plugin": "compose",
            "docker-buildx-plugin": "buildx",
        }
        yield Repository(
            "docker",
            "rootless_docker_repository",
            str(say("rootless_docker_repository_key_url")),
            str(say("rootless_docker_repository_key_fingerprint")),
            f"{str(say('rootless_docker_repository_url')).rstrip('/')}/dists/{_suite(host)}",
            f"stable/binary-{arch}",
            {
                package: (str(say(f"rootless_docker_{part}_version") or ""), f"rootless_docker_{part}_version")
                for package, part in of.items()
            },
        )
    if facts.gpu_present(host) and _complete(host, "nvidia_container_toolkit"):
        version = str(say("nvidia_container_toolkit_version") or "")
        yield Repository(
            "nvidia-container-toolkit",
            "nvidia_container_toolkit_repository",
            str(say("nvidia_container_toolkit_repository_key_url")),
            str(say("nvidia_container_toolkit_repository_key_fingerprint")),
            f"{str(say('nvidia_container_toolkit_repository_url')).rstrip('/')}/{arch}",
            "",
            {"nvidia-container-toolkit-base": (version, "nvidia_container_toolkit_version")},
        )


def _complete(host: HostView, role: str) -> bool:
    parts = ("url", "key_url", "key_fingerprint")
    return all(isinstance(host.settings.get(f"{role}_repository_{part}"), str) for part in parts)


def _suite(host: HostView) -> str:
    return facts.os_release(host).get("VERSION_CODENAME", "")


def lacking(host: HostView, repository: Repository) -> dict[str, tuple[str, str]]:
    """Those of its packages that the host does not have in the wanted version."""
    known = facts.packages(host)
    if host.settings.get("rootless_docker_rootful") == "keep" and "docker-ce" in known:
        return {}  # a root engine that is kept keeps its versions
    return {
        name: wish
        for name, wish in repository.packages.items()
        if name not in known or not matches(wish[0], known[name].version)
    }


def repositories(host: HostView) -> Seen:
    """Each repository that is needed answers, is signed by the right key, and has what is to be installed."""
    for repository in wanted(host):
        missing = lacking(host, repository)
        if not missing:
            continue
        if ":***@" in repository.folder + repository.key_url + str(host.settings.get("gpulab_proxy")):
            yield Unreadable(f"repository {repository.folder}", "its address or the proxy's holds a password")
            continue
        try:
            trouble = key_trouble(host, repository) or index_trouble(host, repository, missing)
        except Unreadable as error:
            yield error
            continue
        if trouble:
            yield trouble


def key_trouble(host: HostView, repository: Repository) -> dict[str, Any] | None:
    """What is wrong with the key; not asked for where the host has the right one."""
    wish, url = normalize(repository.fingerprint), repository.key_url
    setting = f"{repository.variables}_key_url"
    try:
        kept = host.read(f"/etc/apt/keyrings/{repository.name}.asc")
        if kept and fingerprints(kept.encode()) == [wish]:
            return None
    except (Unreadable, FleetError):
        pass  # whatever is there is replaced
    try:
        seen = fingerprints(host.fetch(url))
    except FleetError as error:
        return finding(error.code, f"{setting} = {url}: {error.detail}", url=url)
    except (OSError, ValueError) as error:
        return finding("KEY_UNREACHABLE", f"{setting} = {url}: {_said(error)}", url=url)
    if seen != [wish]:
        text = f"{repository.variables}_key_fingerprint = {wish}, {url} holds {', '.join(seen)}"
        return finding("KEY_FINGERPRINT_MISMATCH", text)
    return None


def index_trouble(host: HostView, repository: Repository, missing: dict[str, tuple[str, str]]) -> dict[str, Any] | None:
    """The first package that the repository does not offer as it is wanted."""
    offered = offers(host, repository)
    for package, (version, variable) in missing.items():
        versions = [] if offered is None else offered.get(package, [])
        if not any(matches(version, each) for each in versions):
            seen = f"{variable} = {version or repr('')}: {package} is offered as {', '.join(versions) or 'nothing'}"
            where = f"{repository.variables}_url ({repository.folder}{'' if offered is not None else ', not found'})"
            return finding("PACKAGE_UNAVAILABLE", f"{seen} by {where}", package=package)
    return None


def offers(host: HostView, repository: Repository) -> dict[str, list[str]] | None:
    """Versions by package; None where there is no such repository."""
    base = "/".join(part for part in (repository.folder, repository.part) if part)
    for suffix, unpack in FORMS:
        try:
            return parse_index(unpack(host.fetch(f"{base}/Packages{suffix}")).decode("utf-8", "replace"))
        except urllib.error.HTTPError as error:
            if error.code not in (403, 404, 410):
                raise Unreadable(f"{base}/Packages{suffix}", _said(error)) from error
        except DAMAGED as error:
            raise Unreadable(f"{base}/Packages{suffix}", _said(error)) from error
    for name in ("InRelease", "Release"):
        try:
            host.fetch(f"{repository.folder}/{name}")
        except OSError:
            continue
        raise Unreadable(f"{base}/Packages", "the repository has no index in a known form")
    return None


def parse_index(text: str) -> dict[str, list[str]]:
    """Versions by package of a Packages file."""
    found: dict[str, list[str]] = {}
    for entry in text.split("\n\n"):
        fields = dict(re.findall(r"^(Package|Version): (\S+)$", entry, re.MULTILINE))
        if len(fields) == 2:
            found.setdefault(fields["Package"], []).append(fields["Version"])
    return found


def _said(error: Exception) -> str:
    return str(error if isinstance(error, urllib.error.HTTPError) else getattr(error, "reason", "") or error)


def authorities(host: HostView) -> Seen:
    """A host that is to trust an authority has the tool for it."""
    proxy = facts.dict_of(host.settings.get("gpulab_proxy"))
    if proxy.get("ca") and not host.exists(UPDATE):
        yield finding("CA_TOOL_MISSING", f"gpulab_proxy.ca is set, {UPDATE} is not there")


CHECKS = (
    Check("authorities", authorities, ("CA_TOOL_MISSING",), preflight=True),
    Check(
        "repositories",
        repositories,
        ("KEY_UNREACHABLE", "KEY_INVALID", "KEY_FINGERPRINT_MISMATCH", "PACKAGE_UNAVAILABLE"),
        preflight=True,
    ),
)
