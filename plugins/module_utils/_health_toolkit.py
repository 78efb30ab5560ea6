# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Checks of the NVIDIA container toolkit and of the CDI specs that describe the GPUs to engines."""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

from ansible_collections.gpulab.fleet.plugins.module_utils import _health_facts as facts
from ansible_collections.gpulab.fleet.plugins.module_utils._cdi import KIND, SPEC_NAME, all_edits, device_names
from ansible_collections.gpulab.fleet.plugins.module_utils._findings import finding
from ansible_collections.gpulab.fleet.plugins.module_utils._floors import TOOLKIT_FLOOR, accepted, dotted
from ansible_collections.gpulab.fleet.plugins.module_utils._health import Check, Seen
from ansible_collections.gpulab.fleet.plugins.module_utils._health_view import HostView, Unreadable

CONFIG = "/etc/nvidia-container-runtime/config.toml"
BASE = "nvidia-container-toolkit-base"
PROGRAMS = ("/usr/bin/nvidia-ctk", "/usr/bin/nvidia-cdi-hook")  # what the package brings, from the floor on
SYSTEM_FOLDERS = ("/etc/cdi", "/run/cdi")  # /var/run is a link to /run
SPEC_SUFFIXES = (".json", ".yaml", ".yml")


class Spec(NamedTuple):
    """What a spec of GPUs promises, as far as the host can be held against it."""

    path: str
    names: list[str]
    nodes: dict[str, int | None]  # device path -> major number, when it says one
    files: list[str]
    programs: list[str]


def parse_spec(text: str, path: str) -> Spec | None:
    """A spec of NVIDIA GPUs, JSON or the YAML that nvidia-ctk writes; None for specs of other devices."""
    if path.endswith(".json"):
        data = json.loads(text)
        return _from_data(data, path) if isinstance(data, dict) and data.get("kind") == KIND else None
    return _from_lines(text, path)


def _from_data(data: dict[str, Any], path: str) -> Spec:
    spec = Spec(path, device_names(data), {}, [], [])
    for edits in all_edits(data):
        for node in edits.get("deviceNodes") or []:
            spec.nodes[node.get("hostPath") or node["path"]] = node.get("major")
        spec.files.extend(mount["hostPath"] for mount in edits.get("mounts") or [])
        spec.programs.extend(hook["path"] for hook in edits.get("hooks") or [])
    return spec


def _from_lines(text: str, path: str) -> Spec | None:
    """Block YAML, one key a line: enough for what nvidia-ctk writes, without a YAML library."""
    if not re.search(rf"^kind: *[\"']?{re.escape(KIND)}[\"']? *$", text, re.MULTILINE):
        return None
    spec = Spec(path, [], {}, [], [])
    section, node = "", ""
    for line in text.splitlines():
        entry = re.match(r"\s*(?:- )?(\w+): *[\"']?([^\"']*)[\"']? *$", line)
        if not entry:
            continue
        key, value = entry.groups()
        if value == "":
            section = key
        elif key == "name" and line.lstrip().startswith("- "):
            spec.names.append(value)
        elif key == "path" and section == "deviceNodes":
            node = value
            spec.nodes[node] = None
        elif key == "major" and node:
            spec.nodes[node] = int(value)
        elif key == "hostPath":
            spec.files.append(value)
        elif key == "path" and section == "hooks":
            spec.programs.append(value)
    return spec


def specs_in(host: HostView, folder: str) -> list[Spec]:
    """The specs of GPUs in a folder; ValueError for one that cannot be parsed."""
    found = []
    for name in host.names(folder):
        if name.endswith(SPEC_SUFFIXES) and not name.startswith("."):
            spec = parse_spec(host.read(f"{folder}/{name}") or "", f"{folder}/{name}")
            if spec:
                found.append(spec)
    return found


# --- the toolkit --------------------------------------------------------------------------------
def toolkit(host: HostView) -> Seen:
    """The toolkit is there where GPUs are promised, not below the floor, and of one version."""
    known = {name: facts.packages(host)[name] for name in facts.TOOLKIT_PACKAGES if name in facts.packages(host)}
    if not known:
        if facts.users_with_specs(host):
            yield finding("TOOLKIT_MISSING", f"users with GPUs: {', '.join(facts.users_with_specs(host))}")
        return
    rootful = (facts.unit(host, "docker.service") or {}).get("ActiveState") == "active"
    if "nvidia-container-toolkit" in known and facts.users_with_specs(host) and not rootful:
        yield finding("TOOLKIT_LEGACY_HOOK", f"nvidia-container-toolkit {known['nvidia-container-toolkit'].version}")
    versions = sorted({package.version for package in known.values()})
    seen = ", ".join(f"{name} {package.version}" for name, package in known.items())
    if len(versions) > 1:
        yield finding("TOOLKIT_VERSIONS_MIXED", seen)
    names = facts.accepted_versions(host)
    if any(facts.version(each) < TOOLKIT_FLOOR and not accepted(each, names) for each in versions):
        yield finding("TOOLKIT_VERSION_REFUSED", seen, floor=dotted(TOOLKIT_FLOOR))


def programs(host: HostView) -> Seen:
    """What dpkg counts as installed is there.

    A package that is half installed, or below the floor, is replaced with its programs by the next run.
    """
    base = facts.packages(host).get(BASE)
    if base is None or (base.flag, base.state) != ("ok", "installed") or facts.version(base.version) < TOOLKIT_FLOOR:
        return
    gone = [path for path in PROGRAMS if not host.exists(path)]
    if gone:
        yield finding("TOOLKIT_DAMAGED", f"{BASE} {base.version} is installed, {' and '.join(gone)} not there")


def global_settings(host: HostView) -> Seen:
    """Settings for rootful engines that old instructions leave behind."""
    config = host.read(CONFIG) or ""
    if re.search(r"^\s*no-cgroups\s*=\s*true", config, re.MULTILINE):
        yield finding("TOOLKIT_NO_CGROUPS", f"{CONFIG} has no-cgroups = true")
    daemon = facts.json_file(host, "/etc/docker/daemon.json") or {}
    if daemon.get("default-runtime") == "nvidia":
        yield finding("LEGACY_RUNTIME_DEFAULT", "/etc/docker/daemon.json has default-runtime nvidia")


# --- specs --------------------------------------------------------------------------------------
def user_specs(host: HostView) -> Seen:
    """Every user that was promised GPUs has a spec, and the host is what the spec says."""
    for user in facts.users_with_specs(host):
        folder = facts.cdi_folder(user)
        path = f"{folder}/{SPEC_NAME}"
        try:
            text = host.read(path)
            if text is None:
                yield finding("PROOF_SPEC_MISSING", f"{path} does not exist", user=user)
                continue
            spec = parse_spec(text, path)
        except Unreadable as error:
            yield error
            continue
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            yield finding("CDI_SPEC_UNREADABLE", f"{path}: {error}", path=path)
            continue
        if spec is None or not spec.names:
            yield finding("CDI_SPEC_UNREADABLE", f"{path}: no device of {KIND} in it", path=path)
        else:
            yield from held_against_host(host, spec, user)


def held_against_host(host: HostView, spec: Spec, user: str) -> Seen:
    """What a spec names and the host does not have: each is a container that does not start."""
    files = sorted({path for path in spec.files if not host.exists(path)})
    if files:
        yield finding("PROOF_SPEC_STALE", f"{spec.path} names {_few(files)}", user=user)
    programs = sorted({path for path in spec.programs if not host.exists(path)})
    if programs:
        yield finding("PROOF_HOOK_MISSING", f"{spec.path} names {_few(programs)}", user=user)
    nodes = sorted(path for path in spec.nodes if not host.exists(path))
    if nodes:
        yield finding("PROOF_NODE_MISSING", f"{spec.path} names {_few(nodes)}", user=user)


def system_specs(host: HostView) -> Seen:
    """Where a root-owned engine runs: the specs it reads fit the driver.

    Its containers get nodes made by the numbers in the spec; rootless ones get the host's own nodes.
    """
    if (facts.unit(host, "docker.service") or {}).get("ActiveState") != "active":
        return
    uvm = re.search(r"^ *(\d+) nvidia-uvm$", host.read("/proc/devices") or "", re.MULTILINE)
    for folder in SYSTEM_FOLDERS:
        for spec in specs_in(host, folder):
            named = [*spec.files, *spec.programs, *spec.nodes]
            gone = sorted({path for path in named if not host.exists(path)})
            major = spec.nodes.get("/dev/nvidia-uvm")
            if gone:
                yield finding("CDI_SYSTEM_SPEC_STALE", f"{spec.path} names {_few(gone)}, not there", path=spec.path)
            elif uvm and major not in (None, int(uvm.group(1))):
                seen = f"{spec.path} gives /dev/nvidia-uvm the major {major}, the driver has {uvm.group(1)}"
                yield finding("CDI_SYSTEM_SPEC_STALE", seen, path=spec.path)


def _few(paths: list[str]) -> str:
    more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
    return ", ".join(paths[:3]) + more


def conflicts(host: HostView) -> Seen:
    """No engine reads two specs of the same GPUs: in one folder none resolves, in two the later wins."""
    for each in facts.engines(host):
        if isinstance(each, Unreadable):
            yield each
            continue
        folders = (each.daemon or {}).get("cdi-spec-dirs")
        if not isinstance(folders, list):
            continue
        first: dict[str, str] = {}
        for folder in dict.fromkeys(str(folder).rstrip("/") for folder in folders):
            try:
                found = specs_in(host, folder)
            except (ValueError, KeyError, TypeError, AttributeError):
                continue  # the engine ignores what it cannot parse
            except Unreadable as error:
                yield error
                continue
            told = set()
            for spec in found:
                for name in spec.names:
                    before = first.setdefault(name, spec.path)
                    if before != spec.path and before not in told:
                        told.add(before)
                        own = facts.cdi_folder(each.account.name)
                        other = before if spec.path.startswith(f"{own}/{SPEC_NAME}") else spec.path
                        seen = f"{each.account.name}: {before} and {spec.path} both name {KIND}={name}"
                        yield finding("CDI_SPEC_CONFLICT", seen, path=other)


CHECKS = (
    Check(
        "toolkit",
        toolkit,
        ("TOOLKIT_MISSING", "TOOLKIT_LEGACY_HOOK", "TOOLKIT_VERSIONS_MIXED", "TOOLKIT_VERSION_REFUSED"),
    ),
    Check("programs", programs, ("TOOLKIT_DAMAGED",), preflight=True, needed=facts.gpu_present),
    Check("global_settings", global_settings, ("TOOLKIT_NO_CGROUPS", "LEGACY_RUNTIME_DEFAULT"), preflight=True),
    Check(
        "user_specs",
        user_specs,
        (
            "PROOF_SPEC_MISSING",
            "CDI_SPEC_UNREADABLE",
            "PROOF_SPEC_STALE",
            "PROOF_HOOK_MISSING",
            "PROOF_NODE_MISSING",
        ),
        needed=facts.gpu_present,
    ),
    Check("system_specs", system_specs, ("CDI_SYSTEM_SPEC_STALE",), needed=facts.gpu_present),
    Check("conflicts", conflicts, ("CDI_SPEC_CONFLICT",)),
)
