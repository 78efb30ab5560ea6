#!/usr/bin/python
# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: target_python
short_description: Brings the Python parts that this collection's modules need to a host
version_added: "0.1.0"
description:
  - The Docker SDK and nvidia-ml-py, in the versions and with the hashes that this collection pins, in a folder of
    their own. The system's Python is left alone and the host needs no package index.
  - The controller fetches the wheels once into C(~/.cache/gpulab/wheels), with its own pip, and only when a host
    lacks them.
  - A controller without an index works as well, when the wheels that C(requirements/target.txt) names are in that
    folder.
author:
  - gpulab.fleet contributors
attributes:
  check_mode:
    support: full
    description: Says whether the parts would be brought; fetches nothing.
  diff_mode:
    support: full
    description: Shows which set of parts C(current) leads to.
options:
  root:
    description: Folder on the host for the sets of parts; the link C(current) in it leads to the one in use.
    type: path
    default: /var/lib/gpulab/python
  index:
    description: Package index for the controller's pip, where it is not the configured one.
    type: str
    default: ""
  gpu_only:
    description: Leave a host without a GPU as it is.
    type: bool
    default: false
  digest:
    description: Name of the set. The controller fills it in.
    type: str
  archive:
    description: The parts, on the host. The controller fills it in.
    type: path
  checksum:
    description: SHA-256 of O(archive). The controller fills it in.
    type: str
"""

EXAMPLES = r"""
- name: Bring the Python parts
  gpulab.fleet.target_python:
"""

RETURN = r"""
path:
  description: The folder with the parts, for the O(gpulab.fleet.gpu_info#module:python_path) of other modules.
  type: str
  returned: always
  sample: /var/lib/gpulab/python/current
digest:
  description: Name of the set in use.
  type: str
  returned: always
"""

import compileall
import contextlib
import hashlib
import os
import shutil
import tarfile
from pathlib import Path, PurePosixPath
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpulab.fleet.plugins.module_utils._gpu_presence import gpu_presence
from ansible_collections.gpulab.fleet.plugins.module_utils._journal import TREE, Journal

COMPLETE = ".complete"


def has(root: Path, digest: str) -> bool:
    return (root / digest / COMPLETE).exists()


def link_target(root: Path) -> str:
    link = root / "current"
    return str(link.readlink()) if link.is_symlink() else ""


def unpack(archive: Path, folder: Path) -> None:
    """Files only, each below the folder; then compiled, so that no module run has to."""
    with tarfile.open(archive) as content:
        for member in content:
            parts = PurePosixPath(member.name).parts
            if not member.isfile() or ".." in parts or member.name.startswith("/"):
                raise ValueError(f"{member.name} does not belong into the archive")
            target = folder.joinpath(*parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            source = content.extractfile(member)
            target.write_bytes(source.read() if source else b"")
    compileall.compile_dir(folder, quiet=2)


def install(root: Path, digest: str, archive: Path) -> None:
    """The set in a folder of its own, whole or not at all."""
    part = root / f".{digest}.{os.getpid()}"
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        unpack(archive, part)
        (part / COMPLETE).touch()
        shutil.rmtree(root / digest, ignore_errors=True)
        part.rename(root / digest)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def use(root: Path, digest: str) -> None:
    """Points current at the set, and removes the sets of other versions."""
    part = root / ".current"
    with contextlib.suppress(FileNotFoundError):
        part.unlink()
    part.symlink_to(digest)
    part.replace(root / "current")
    for other in root.iterdir():
        if other.is_dir() and not other.is_symlink() and other.name != digest:
            shutil.rmtree(other, ignore_errors=True)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "default": "/var/lib/gpulab/python"},
            "index": {"type": "str", "default": ""},
            "gpu_only": {"type": "bool", "default": False},
            "digest": {"type": "str"},
            "archive": {"type": "path"},
            "checksum": {"type": "str"},
        },
        supports_check_mode=True,
    )
    root, digest, archive = Path(module.params["root"]), module.params["digest"], module.params["archive"]
    if module.params["gpu_only"] and not gpu_presence()["present"]:
        module.exit_json(changed=False, msg="no GPU on this host", path=str(root / "current"), digest=digest)
    os.umask(0o022)
    before = link_target(root)
    changed = not has(root, digest) or before != digest
    lacks = not has(root, digest) and not archive
    answer: dict[str, Any] = {"path": str(root / "current"), "digest": digest, "changed": changed, "lacks": lacks}
    if module._diff:
        where = str(root / "current")
        shown = {"before": f"{before}\n" if before else "", "after": f"{digest}\n"}
        answer["diff"] = {"before_header": where, "after_header": where, **shown}
    if changed and not lacks and not module.check_mode:
        Journal().add(TREE, str(root))
        try:
            if archive:
                seen = hashlib.sha256(Path(archive).read_bytes()).hexdigest()
                if seen != module.params["checksum"]:
                    raise ValueError(f"{archive} arrived damaged")
                install(root, digest, Path(archive))
            use(root, digest)
        except (OSError, ValueError, tarfile.TarError) as error:
            module.fail_json(msg=f"cannot put the Python parts into {root}: {error}")
    module.exit_json(**answer)


if __name__ == "__main__":
    main()
