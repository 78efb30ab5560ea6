# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A release's compose.yml: what Compose made of the stack's own, with everything pinned that could change under it.

Here are plain data only: `config` is what `docker compose config --format json` prints.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._stack_files import (
    LABEL,
    LOOPBACK,
    SECRETS_LABEL,
    digest,
    used_secrets,
)


def keep_services(config: Mapping[str, Any], profiles: Sequence[str], runs: Sequence[str]) -> dict[str, Any]:
    """The configuration with the services of these profiles, and those for one-off runs, which no deploy starts."""
    found: dict[str, Any] = copy.deepcopy(dict(config))
    unknown = sorted(set(runs) - set(found["services"]))
    if unknown:
        raise FleetError("STACK_INVALID", f"runs names {', '.join(unknown)}, and compose.yml has no such service")
    found["services"] = {
        name: service for name, service in found["services"].items() if name in runs or is_active(service, profiles)
    }
    for name in runs:
        found["services"][name]["profiles"] = ["run"]
    _refuse_needs_that_are_off(found["services"], config["services"])
    return found


def _refuse_needs_that_are_off(kept: Mapping[str, Any], everything: Mapping[str, Any]) -> None:
    """A service cannot be started without those that it depends on; those that it can do without are left out."""
    for name, service in kept.items():
        needs = service.get("depends_on") or {}
        for other in [each for each in needs if each not in kept]:
            if needs[other].get("required") is False:
                del needs[other]
                continue
            profiles = ", ".join((everything.get(other) or {}).get("profiles") or ["none"])
            text = f"services.{name} depends on {other}, which is off: name one of its profiles ({profiles})"
            raise FleetError("STACK_COMPOSE_INVALID", text)


def is_active(service: Mapping[str, Any], profiles: Sequence[str]) -> bool:
    wanted = service.get("profiles") or []
    return not wanted or bool(set(wanted) & set(profiles))


def binds(config: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(service, volume) of everything of the host that a service mounts."""
    for name, service in config["services"].items():
        for volume in service.get("volumes") or []:
            if volume.get("type") == "bind":
                yield name, volume


def mounted_files(config: Mapping[str, Any], tree: Path, shipped: Mapping[str, Any]) -> dict[str, str]:
    """Paths below the tree that containers are given, as path -> the path within the tree; "" is the tree itself."""
    found = {}
    sources = [volume["source"] for _service, volume in binds(config)]
    for part in ("secrets", "configs"):
        sources += [entry["file"] for entry in (config.get(part) or {}).values() if entry.get("file")]
    for source in sources:
        relative = within(source, tree)
        if relative is not None and (
            relative == "" or relative in shipped or any(name.startswith(f"{relative}/") for name in shipped)
        ):
            found[source] = relative
    return found


def loose_binds(config: Mapping[str, Any], tree: Path, pinned: Mapping[str, str]) -> dict[str, str]:
    """Paths below the tree that nobody shipped: what containers write there would go with the release."""
    found = {}
    for _service, volume in binds(config):
        relative = within(volume["source"], tree)
        if relative is not None and volume["source"] not in pinned:
            found[volume["source"]] = relative
    return found


def within(path: str, tree: Path) -> str | None:
    """The path relative to the tree, None for one that is not below it."""
    whole = Path(path)
    if whole == tree:
        return ""
    return whole.relative_to(tree).as_posix() if whole.is_relative_to(tree) else None


def part_digest(relative: str, shipped: Mapping[str, Mapping[str, Any]]) -> str:
    """One checksum for a file or folder of the tree."""
    part = {
        name: [entry["sha256"], entry["mode"]]
        for name, entry in shipped.items()
        if relative in ("", name) or name.startswith(f"{relative}/")
    }
    return digest([relative, part])[:16]


def build_digest(
    service: Mapping[str, Any],
    tree: Path,
    shipped: Mapping[str, Any],
    bases: Sequence[Any],
    contexts: Mapping[str, str] | None = None,
) -> str:
    """What a service's image is built from, so that the same is not built twice."""
    section = {key: value for key, value in (service.get("build") or {}).items() if key != "secrets"}
    beside = [(contexts or {}).get(path) for path in outside(service, tree)]
    return digest([_without(section, str(tree)), part_digest("", shipped), list(bases), *beside])[:16]


def outside(service: Mapping[str, Any], tree: Path) -> list[str]:
    """The folders of the host, not the stack's own, that a service's image is built from."""
    build = service.get("build") or {}
    named = [build.get("context"), *(build.get("additional_contexts") or {}).values()]
    folders = {Path(each) for each in named if str(each or "").startswith("/")}
    return sorted(str(each) for each in folders if each != tree and tree not in each.parents)


def _without(value: Any, prefix: str) -> Any:
    """The same data with paths below `prefix` as relative ones: where a tree lies is no part of what is built."""
    if isinstance(value, str):
        return value[len(prefix) :] if value.startswith(prefix) else value
    if isinstance(value, Mapping):
        return {key: _without(each, prefix) for key, each in value.items()}
    if isinstance(value, list):
        return [_without(each, prefix) for each in value]
    return value


def anonymous(config: Mapping[str, Any], of_images: Mapping[str, Sequence[str]]) -> list[tuple[str, str]]:
    """(service, path) of each volume without a name; of_images has the paths that a service's image makes volumes of."""
    found = []
    for name, service in config["services"].items():
        mounted = {volume["target"].rstrip("/") for volume in service.get("volumes") or [] if volume.get("source")}
        mounted |= {volume["target"].rstrip("/") for volume in service.get("volumes") or [] if _is_tmpfs(volume)}
        mounted |= {str(entry).partition(":")[0].rstrip("/") for entry in service.get("tmpfs") or []}
        own = [volume["target"] for volume in service.get("volumes") or [] if _is_anonymous(volume)]
        from_image = [path for path in of_images.get(name, []) if path.rstrip("/") not in mounted]
        found += [(name, path) for path in dict.fromkeys([*own, *from_image])]
    return found


def _is_tmpfs(volume: Mapping[str, Any]) -> bool:
    return volume.get("type") == "tmpfs"


def _is_anonymous(volume: Mapping[str, Any]) -> bool:
    return volume.get("type") == "volume" and not volume.get("source")


def named_volumes(config: Mapping[str, Any]) -> list[str]:
    """The engine's names of the volumes that these services use."""
    names = {
        volume["source"]
        for service in config["services"].values()
        for volume in service.get("volumes") or []
        if volume.get("type") == "volume" and volume.get("source")
    }
    known = config.get("volumes") or {}
    return sorted((known.get(name) or {}).get("name") or name for name in names)


def published(config: Mapping[str, Any]) -> list[list[Any]]:
    """[address, port, service, protocol] of each port that is to be listened on."""
    return [
        [port.get("host_ip") or LOOPBACK, int(port["published"]), name, port.get("protocol") or "tcp"]
        for name, service in config["services"].items()
        for port in service.get("ports") or []
        if str(port.get("published", "")).isdecimal() and (port.get("protocol") or "tcp") in ("tcp", "udp")
    ]


def finish(
    stack: str,
    config: Mapping[str, Any],
    images: Mapping[str, str],
    secrets: Mapping[str, str],
    moved: Mapping[str, str],
) -> dict[str, Any]:
    """The configuration as the release keeps it.

    images   by service: what stands for the image's id
    secrets  digests of the secrets that were given: Compose does not see that a secret has changed, a label says it
    moved    paths below the tree -> the path that stands for this content
    """
    whole: dict[str, Any] = copy.deepcopy({key: part for key, part in config.items() if not key.startswith("x-")})
    whole["name"] = stack
    for name, service in whole["services"].items():
        for key in ("build", "pull_policy", "develop"):
            service.pop(key, None)
        service["image"] = images[name]
        used = used_secrets(service)
        given = {secret: secrets[secret] for secret in used if secret in secrets}
        for part, names in (("secrets", used), ("configs", _used_configs(service))):
            for each in names:
                file = (config.get(part) or {}).get(each, {}).get("file")
                if file in moved:
                    given[f"{part}.{each}"] = moved[file]
        labels = {**(service.get("labels") or {}), LABEL: stack}
        if given:
            labels[SECRETS_LABEL] = digest(given)[:16]
        service["labels"] = labels
        for volume in service.get("volumes") or []:
            if volume.get("type") == "bind":
                volume["source"] = moved.get(volume["source"], volume["source"])
    for part in ("secrets", "configs"):
        for entry in (whole.get(part) or {}).values():
            if entry.get("file"):
                entry["file"] = moved.get(entry["file"], entry["file"])
    return whole


def _used_configs(service: Mapping[str, Any]) -> list[str]:
    return [each["source"] if isinstance(each, Mapping) else str(each) for each in service.get("configs") or []]
