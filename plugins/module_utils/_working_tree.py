# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A person's working tree as it is shipped to a host: its files, the commit it is at, and what differs from that.

In a git checkout git says which files there are: what it tracks and what is new, without what its rules ignore,
submodules included. `git ls-files` cannot list new files across submodules, so that each is asked for itself. Anywhere
else it is every file but those of NOT_SHIPPED. Nothing is written to the tree, and nothing of it is run.
"""

from __future__ import annotations

import difflib
import fnmatch
import os
import re
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from ansible_collections.gpulab.fleet.plugins.module_utils import _dockerignore
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._stack_files import NOT_SHIPPED, digest

# Files whose differences are not noted down: what is in them may be a secret.
SECRET_NAMES = (".env", ".env.*", "*.env", "*secret*", "*credential*", "*password*", "*token*", "*.pem", "*.key", "*.p12",
                "id_rsa*", "id_ed25519*", ".netrc", ".pypirc", ".git-credentials", "kubeconfig*")  # fmt: skip
DIFF_LIMIT = 1 << 20
NEW_FILE_LIMIT = 1 << 16
# A repository's own settings could otherwise name programs that git runs.
QUIET = (
    "-c",
    "core.fsmonitor=false",
    "-c",
    "core.quotepath=off",
    "-c",
    "diff.external=",
    "-c",
    "core.hooksPath=/dev/null",
)


@dataclass
class Tree:
    """A folder as it stands now."""

    root: Path
    files: dict[str, dict[str, Any]]  # relative path -> sha256 and mode
    source: dict[str, Any]  # for the release's record
    diff: str = ""
    notes: list[str] = field(default_factory=list)


def look(
    folder: Path, compose: Any = None, compose_folder: str = "", hide: Iterable[str] = (), also: Iterable[str] = ()
) -> Tree:
    """The tree with all that has to travel.

    compose         the Compose file, not interpolated: with it, what .dockerignore leaves out stays behind
    compose_folder  where it is in the tree
    hide            values (of secrets) that must not stand in the difference
    also            files that travel whatever Git and .dockerignore say of them: overrides are often a person's own
    """
    notes: list[str] = []
    git, also = is_checkout(folder), list(also)
    names = sorted({*(_git_files(folder, notes) if git else _all_files(folder)), *also})
    known = set(names)
    files: dict[str, dict[str, Any]] = {}
    for name in names:
        for path in _followed(folder, name, known, notes):
            files[path] = _entry(folder / path)
    contexts = _dockerignore.builds(compose, compose_folder) if compose else None
    if contexts:
        texts = _dockerignore.read(folder, files)
        kept = [*_dockerignore.mounted(compose, compose_folder), *_beside(compose_folder), *also]
        for name in _dockerignore.needless(files, texts, contexts, kept):
            del files[name]
    source = {"kind": "folder", "path": str(folder), "files": digest(files)[:16], **state(folder)}
    return Tree(folder, files, source, difference(folder, hide) if source.get("dirty") else "", notes)


def mutable(folder: Path, hide: Iterable[str] = ()) -> Tree:
    """A folder whose code stays where it is and is edited there: only noted down, nothing of it travels."""
    source = {"kind": "mutable", "path": str(folder), **state(folder)}
    notes = [] if source["commit"] else [f"{folder} is no git checkout: what its code was like cannot be noted down"]
    return Tree(folder, {}, source, difference(folder, hide) if source["dirty"] else "", notes)


def rollback_words(then: Mapping[str, Any], diff_file: Path, now: Mapping[str, Any]) -> list[str]:
    """What a rollback to a release with a mutable source brings back, and what it does not. now: `state` of the folder."""
    path = then["path"]
    words = [f"back: images, settings, ports, GPUs and secrets. Not back: the code in {path}, which stays as it is now"]
    if not then.get("commit"):
        return [*words, f"{path} was no git checkout then: nobody noted down what its code was like"]
    if then["commit"] == now.get("commit") and not then.get("dirty") and not now.get("dirty"):
        return [*words, f"it is what it was: commit {then['commit'][:12]}"]
    was = f"commit {then['commit'][:12]}" + (" with local changes" if then.get("dirty") else "")
    command = f"git -C {path} checkout {then['commit'][:12]}"
    if then.get("dirty"):
        command += f" && git -C {path} apply {diff_file}"
    return [*words, f"it was {was}; to have that again (commit or stash first): {command}"]


def is_checkout(folder: Path) -> bool:
    """Whether git can say what belongs to this folder: it is in a checkout, and not ignored there."""
    if not any((parent / ".git").exists() for parent in (folder.absolute(), *folder.absolute().parents)):
        return False
    _git(folder, "rev-parse", "--show-toplevel")
    ignored = _run(folder, "check-ignore", "-q", ".")
    return ignored.returncode != 0


def state(folder: Path) -> dict[str, Any]:
    """Commit, branch and whether anything differs from them; empty where git knows nothing."""
    if not is_checkout(folder):
        return {"commit": "", "branch": "", "dirty": False}
    commit = _run(folder, "rev-parse", "--verify", "-q", "HEAD").stdout.strip()
    branch = _run(folder, "symbolic-ref", "--short", "-q", "HEAD").stdout.strip()
    dirty = _git(folder, "status", "--porcelain", "--untracked-files=normal", "--", ".").strip()
    return {"commit": commit, "branch": branch, "dirty": bool(dirty)}


def difference(folder: Path, hide: Iterable[str] = ()) -> str:
    """What differs from the commit, as text that `git apply` takes; new files too, and nothing that may be a secret."""
    if not is_checkout(folder):
        return ""
    if _run(folder, "rev-parse", "--verify", "-q", "HEAD").returncode != 0:
        return "# no commit yet\n"
    diff = ("diff", "HEAD", "--no-ext-diff", "--no-textconv", "--no-color", "--relative", "--ignore-submodules=dirty")
    changed = [name for name in _git(folder, *diff, "--name-only", "-z", "--", ".").split("\0") if name]
    left_out = [name for name in changed if may_be_secret(name)]
    but = [f":(top,exclude,literal){name}" for name in _from_top(folder, left_out)]
    text = _git(folder, *diff, "--", ".", *but) if len(changed) > len(left_out) else ""
    for name in sorted(_new(folder)):
        if may_be_secret(name):
            left_out.append(name)
        else:
            text += _new_file(folder, name)
    head = "".join(f"# {name} differs too; it may hold a secret and is not shown\n" for name in left_out)
    head += "".join(
        f"# {name} is a submodule with changes of its own, not shown\n" for name in _changed_submodules(folder)
    )
    for value in hide:
        if value:
            text = text.replace(value, "********")
    if len(text) > DIFF_LIMIT:
        head += f"# cut: {len(text)} characters in all\n"
    return head + text[:DIFF_LIMIT]


def may_be_secret(name: str) -> bool:
    return any(fnmatch.fnmatch(part.lower(), pattern) for part in name.split("/") for pattern in SECRET_NAMES)


def _new(folder: Path) -> list[str]:
    """Files of nobody's commit that git does not ignore; but not a person's settings, secrets and data."""
    names = _git(folder, "ls-files", "-z", "-o", "--exclude-standard").split("\0")
    return [name for name in names if name and not name.endswith("/") and not NOT_SHIPPED & set(name.split("/"))]


def _changed_submodules(folder: Path) -> list[str]:
    rows = _git(folder, "status", "--porcelain=v2", "-z", "--", ".").split("\0")
    found = [re.match(r"1 \S+ S.(?:M.|.U) (?:\S+ ){5}(.*)", row) for row in rows]
    return [match[1] for match in found if match]


def _new_file(folder: Path, name: str) -> str:
    path = folder / name
    if path.is_symlink() or path.stat().st_size > NEW_FILE_LIMIT:
        return f"# {name} is new and not shown\n"
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    except UnicodeDecodeError:
        return f"# {name} is new and not text\n"
    mode = "100755" if path.stat().st_mode & 0o100 else "100644"
    head = f"diff --git a/{name} b/{name}\nnew file mode {mode}\n"
    if not lines:
        return head
    body = "".join(difflib.unified_diff([], lines, "/dev/null", f"b/{name}"))
    return head + (body if body.endswith("\n") else f"{body}\n\\ No newline at end of file\n")


def _git_files(folder: Path, notes: list[str], inside: str = "") -> list[str]:
    """Paths from the folder that was first asked for; submodules' files under their own paths."""
    here = folder / inside if inside else folder
    found = []
    for row in _git(here, "ls-files", "-z", "-s", "--cached").split("\0"):
        if not row:
            continue
        about, _, name = row.partition("\t")
        path = f"{inside}/{name}" if inside else name
        if about.startswith("160000"):
            if (folder / path / ".git").exists():
                found += _git_files(folder, notes, path)
            else:
                notes.append(f"submodule {path} is not checked out and not shipped: git submodule update --init {path}")
        elif os.path.lexists(folder / path):
            found.append(path)
    found += [f"{inside}/{name}" if inside else name for name in _new(here)]
    return list(dict.fromkeys(found))


def _all_files(folder: Path) -> list[str]:
    found = []
    for where, folders, files in os.walk(folder):
        links = [name for name in folders if Path(where, name).is_symlink()]
        folders[:] = [name for name in folders if name not in NOT_SHIPPED and name not in links]
        found += [
            Path(where, name).relative_to(folder).as_posix() for name in [*files, *links] if name not in NOT_SHIPPED
        ]
    return found


def _followed(folder: Path, name: str, names: set[str], notes: list[str]) -> list[str]:
    """The paths that a listed one stands for: itself; for a link to a folder of the tree, that folder's files under it."""
    path = folder / name
    if not path.is_symlink():
        return [name] if path.is_file() else []
    real, root = Path(os.path.realpath(path)), Path(os.path.realpath(folder))
    if real.is_file():
        if not real.is_relative_to(root):
            notes.append(f"{name} is a link to {real}: its content is shipped")
        return [name]
    if real.is_dir() and real.is_relative_to(root) and not path.absolute().is_relative_to(real):
        inside = real.relative_to(root).as_posix()
        return [
            name + each[len(inside) :] for each in names if each.startswith(f"{inside}/") and (folder / each).is_file()
        ]
    notes.append(f"{name} is a link to {path.readlink()}, out of the tree or to nothing, and is not shipped")
    return []


def _entry(path: Path) -> dict[str, Any]:
    checksum = sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                checksum.update(block)
        mode = 0o755 if path.stat().st_mode & 0o100 else 0o644
    except OSError as error:
        raise FleetError("STACK_SOURCE_UNREADABLE", f"{path}: {error.strerror}") from error
    return {"sha256": checksum.hexdigest(), "mode": mode}


def _beside(compose_folder: str) -> list[str]:
    """What belongs to the deployment itself, whatever a .dockerignore says."""
    names = ("compose.yml", "compose.yaml", "docker-compose.yml", "docker-compose.yaml", "stack.yml")
    return [f"{compose_folder}/{name}" if compose_folder else name for name in names]


def _from_top(folder: Path, names: Iterable[str]) -> list[str]:
    prefix = _git(folder, "rev-parse", "--show-prefix").strip()
    return [f"{prefix}{name}" for name in names]


def _run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not re.match(r"GIT_", name)}
    environment.update(GIT_OPTIONAL_LOCKS="0", LC_ALL="C", GIT_TERMINAL_PROMPT="0")
    try:
        return subprocess.run(
            ["git", "-C", str(folder), *QUIET, *arguments], capture_output=True, text=True, check=False, env=environment,
            stdin=subprocess.DEVNULL, errors="surrogateescape",
        )  # fmt: skip
    except FileNotFoundError:
        raise FleetError("STACK_SOURCE_UNREADABLE", f"{folder} is a git checkout, and there is no git here") from None


def _git(folder: Path, *arguments: str) -> str:
    done = _run(folder, *arguments)
    if done.returncode != 0:
        raise FleetError("STACK_SOURCE_UNREADABLE", f"{folder}: git {arguments[0]}: {done.stderr.strip()}")
    return done.stdout
