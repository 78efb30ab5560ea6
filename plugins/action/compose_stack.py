# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The controller's part of compose_stack: finds and checks the stack's folder, and sends what the host lacks."""

from __future__ import annotations

import hashlib
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import yaml
from ansible.plugins.action import ActionBase
from ansible_collections.gpulab.fleet.plugins.module_utils import _stack, _stack_files, _stack_gpus, _stack_images
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._findings import from_error, message

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


def find(source: str, base: Path) -> Path:
    """The stack's folder: in the catalogue by name, or wherever a path says."""
    folder = (base / Path(source).expanduser()) if "/" in source else CATALOGUE / source
    if not (folder / _stack_files.COMPOSE).is_file():
        shipped = ", ".join(sorted(path.parent.name for path in CATALOGUE.glob(f"*/{_stack_files.COMPOSE}")))
        raise FleetError("STACK_UNKNOWN", f"{folder} has no {_stack_files.COMPOSE}; the catalogue has {shipped}")
    return folder


def make_plan(name: str, folder: Path, args: dict[str, Any]) -> dict[str, Any]:
    """What the host's part needs to know of the folder, with the site's settings held against it."""
    if not _stack.NAME.fullmatch(name):
        raise _stack.wrong(name, "a stack's name has small letters, digits, - and _ only")
    described = folder / "stack.yml"
    defined = _stack.definition(name, read_yaml(described) if described.exists() else {})
    compose = read_yaml(folder / _stack_files.COMPOSE)
    gpus = {**defined["gpus"], **(args.get("gpus") or {})}
    known = set((compose or {}).get("services") or {})
    for service, request in gpus.items():
        _stack_gpus.check_request(service, request)
        if service not in known:
            raise _stack.wrong(name, f"gpus names {service}; there are {', '.join(sorted(known)) or 'no services'}")
    _stack.check_secrets(name, defined, args.get("secrets") or {})
    return {
        "settings": _stack.settings(name, defined, args.get("settings") or {}),
        "data": defined["data"],
        "gpus": gpus,
        "secret_modes": {key: str(entry.get("mode", "0600")) for key, entry in defined["secrets"].items()},
        "files": _stack_files.shipped(folder),
        "forms": _stack.gpu_forms(compose),
        "archives": [describe_archive(image) for image in args.get("images") or []],
        "wait_timeout": int(defined["wait_timeout"]),
    }


def describe_archive(image: dict[str, Any]) -> dict[str, Any]:
    path = Path(image["archive"]).expanduser()
    kind = _stack_images.kind(path)
    checksum = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            checksum.update(block)
    return {"name": image["name"], "archive": str(path), "kind": kind, "sha256": checksum.hexdigest()}


class ActionModule(ActionBase):
    TRANSFERS_FILES = True

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        task_vars = task_vars or {}
        args = dict(self._task.args)
        args.pop("plan", None)
        try:
            if args.get("state", "present") == "present" and args.get("name"):
                base = Path(task_vars.get("inventory_dir") or Path.cwd())
                folder = find(str(args.get("source") or args["name"]), base)
                args["plan"] = make_plan(str(args["name"]), folder, args)
            result.update(self._execute(args, task_vars))
            if "needs" in result:
                args["plan"]["sent"] = self._send(folder, args["plan"], result.pop("needs"))
                result.update(self._execute(args, task_vars))
        except FleetError as error:
            found = from_error(error, user=args.get("user"), stack=args.get("name"))
            result.update(failed=True, msg=message(found), finding=found)
        finally:
            self._remove_tmp_path(self._connection._shell.tmpdir)
        return result

    def _execute(self, args: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        answer: dict[str, Any] = self._execute_module(
            module_name="gpulab.fleet.compose_stack", module_args=args, task_vars=task_vars
        )
        return answer

    def _send(self, folder: Path, plan: dict[str, Any], needs: dict[str, Any]) -> dict[str, Any]:
        """Puts on the host what it said it lacks; returns where that is now."""
        if not self._connection._shell.tmpdir:
            self._make_tmp_path()
        where = self._connection._shell.tmpdir
        sent: dict[str, Any] = {}
        if needs.get("bundle"):
            with tempfile.NamedTemporaryFile(suffix=".tar") as file:
                with tarfile.open(fileobj=file, mode="w", dereference=True) as tar:
                    for name in plan["files"]:
                        tar.add(folder / name, arcname=name, recursive=False)
                file.flush()
                sent["bundle"] = self._transfer_file(file.name, self._connection._shell.join_path(where, "stack.tar"))
        archives = {archive["name"]: archive for archive in plan["archives"]}
        for name in needs.get("archives", []):
            archive = archives[name]
            target = self._connection._shell.join_path(where, f"{archive['sha256']}.tar")
            sent.setdefault("archives", {})[name] = self._transfer_file(archive["archive"], target)
        paths = [sent[key] for key in ("bundle",) if key in sent] + list(sent.get("archives", {}).values())
        self._fixup_perms2((where, *paths))
        return sent
