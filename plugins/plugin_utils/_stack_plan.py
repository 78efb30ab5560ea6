# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A stack's folder on the controller: found, read, and a site's settings held against it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from ansible_collections.gpulab.fleet.plugins.module_utils import (
    _stack,
    _stack_files,
    _stack_gpus,
    _stack_images,
    _stack_schema,
    _working_tree,
)
from ansible_collections.gpulab.fleet.plugins.module_utils._compose_gpus import written
from ansible_collections.gpulab.fleet.plugins.module_utils._deploy_plan import of_definition
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._yaml_by_compose import Found, dotenv, locate, merged
from ansible_collections.gpulab.fleet.plugins.module_utils._yaml_by_compose import notes as said_of

STACK = "stack.yml"
CATALOGUE = Path(__file__).parents[2] / "stacks"


class _Loader(yaml.SafeLoader):
    """Compose has tags of its own (!reset, !override): what they stand for does not matter here."""


def _ignore_tag(loader: yaml.SafeLoader, _suffix: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return node.value


_Loader.add_multi_constructor("!", _ignore_tag)


def read_yaml(path: Path) -> Any:
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise FleetError("STACK_INVALID", f"{path}: {error}") from error


def find(source: str, base: Path) -> Found:
    """The stack's tree and files: in the catalogue by name, or wherever a path says (of a folder or a file)."""
    path = (base / Path(source).expanduser()) if "/" in source else CATALOGUE / source
    try:
        return locate(path)
    except FleetError as error:
        shipped = ", ".join(sorted(path.parent.name for path in CATALOGUE.glob(f"*/{_stack_files.COMPOSE}")))
        raise FleetError(error.code, f"{error.detail}; the catalogue has {shipped}") from error


def make_plan(name: str, found: Found, args: Mapping[str, Any]) -> dict[str, Any]:
    """What the host's part needs to know of the stack, with the site's settings held against it."""
    defined, compose, gpus = judge(name, found, args)
    settings = _stack.settings(name, defined, args.get("settings") or {})
    archives = [describe_archive(image) for image in args.get("images") or []]
    tree = travelling(found, compose, args)
    # With its archives: who deploys it again on the host has only the release to know them from.
    tree["source"] |= {"archives": archives, **found.inside()}
    return {
        **of_definition(defined, (found.compose.parent / STACK).exists()),
        **tree,
        **found.inside(),
        "settings": settings,
        "gpus": gpus,
        "archives": archives,
        "wait_timeout": int(defined["wait_timeout"]),
        "given": given(args, settings),
    }


def given(args: Mapping[str, Any], settings: Mapping[str, str]) -> dict[str, Any]:
    """What the site's entry says besides the stack's own files: goes on when the stack is deployed again on the host."""
    parts = {part: args[part] for part in (*_stack_schema.PARTS, "keep", "wait_timeout") if args.get(part) is not None}
    chosen = {name: settings[name] for name in args.get("settings") or {}}
    return {**parts, "settings": chosen, "gpus": dict(args.get("gpus") or {})}


def travelling(found: Found, compose: Any, args: Mapping[str, Any]) -> dict[str, Any]:
    """The files that go to the host, and where they are from; of a checkout what Git says belongs to it."""
    tree, inside = found.tree, found.inside()
    if "/" not in str(args.get("source") or ""):
        return {"files": _stack_files.shipped(tree), "source": {"kind": "catalogue", "path": str(tree)}}
    secrets = [str(value) for value in (args.get("secrets") or {}).values()]
    folder = inside["compose_file"].rpartition("/")[0]
    seen = _working_tree.look(tree, compose, folder, secrets, [name for name in inside.values() if name])
    notes = [*seen.notes, *said_of(found, dotenv(found.compose.with_name(".env")))]
    return {"files": seen.files, "source": seen.source, "diff": seen.diff, "notes": notes}


def judge(name: str, found: Found, args: Mapping[str, Any]) -> tuple[dict[str, Any], Any, dict[str, Any]]:
    """The definition, the Compose file and the GPUs of the services; an error where the site's entry misfits."""
    _stack.check_name(name)
    over = read_yaml(found.override) if found.override else None
    compose = _stack_schema.check_shape(name, merged(read_yaml(found.compose), over))
    described = found.compose.parent / STACK
    read = read_yaml(described) if described.exists() else _stack_schema.derived(compose)
    defined = _stack_schema.with_site(name, _stack_schema.definition(name, read), args)
    _stack_schema.check_names(name, defined, compose, args)
    gpus = {**written(compose), **defined["gpus"], **(args.get("gpus") or {})}
    known = set(compose["services"])
    for service, request in gpus.items():
        _stack_gpus.check_request(service, request)
        if service not in known:
            raise _stack.wrong(name, f"gpus names the service {service}; there are {', '.join(sorted(known))}")
    _stack.check_secrets(name, defined, args.get("secrets") or {})
    return defined, compose, gpus


def problems(stacks: Any, base: Path) -> Iterator[tuple[str, FleetError]]:
    """(stack, error) for each entry of gpulab_stacks that its stack's own files contradict.

    What has the wrong form altogether is the settings' check to tell.
    """
    for name, entry in (stacks if isinstance(stacks, Mapping) else {}).items():
        parts = entry if isinstance(entry, Mapping) else {}
        formed = all(isinstance(parts.get(key) or {}, Mapping) for key in ("settings", "gpus", "secrets"))
        if entry is not None and not isinstance(entry, Mapping):
            continue
        if parts.get("state", "present") != "present" or not formed or not _stack.NAME.fullmatch(str(name)):
            continue
        try:
            defined = judge(str(name), find(str(parts.get("source") or name), base), parts)[0]
            _stack.settings(str(name), defined, parts.get("settings") or {})
            for image in parts.get("images") or []:
                if isinstance(image, Mapping) and {"name", "archive"} <= set(image):
                    archive_kind(image)
        except FleetError as error:
            yield str(name), error


def describe_archive(image: dict[str, Any]) -> dict[str, Any]:
    path = Path(image["archive"]).expanduser()
    kind = archive_kind(image)
    checksum = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            checksum.update(block)
    about = {"architecture": _stack_images.architecture(path)} if kind == "saved" else {}
    return {"name": image["name"], "archive": str(path), "kind": kind, "sha256": checksum.hexdigest(), **about}


def archive_kind(image: Mapping[str, Any]) -> str:
    """saved or rootfs, of an entry of `images`; an error where it can be none of them."""
    if not _stack_images.NAME.fullmatch(str(image["name"])):
        raise FleetError("STACK_ARCHIVE_INVALID", f"images: {str(image['name'])!r} cannot be the name of an image")
    return _stack_images.kind(Path(str(image["archive"])).expanduser())
