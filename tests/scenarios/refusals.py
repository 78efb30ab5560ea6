"""Runs on a lab host, as root: deploys with a mistake as a stack's user, one after the other, and says what each changed.

Reads a JSON list of {name, files, arguments, target, before, after, full} from standard input:
files      path in the stack's folder -> its text, None to leave it out
arguments  of `gpulab deploy`, besides the folder and the stack's name
before     a command that root runs first, after one that takes it back
full       the command sees the engine's disk as a full one
"""

import json
import pwd
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

USER = pwd.getpwnam("trainer")
HOME = Path(USER.pw_dir)
STACK = "good"
ENV = {"HOME": USER.pw_dir, "USER": USER.pw_name, "PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}
SOCKET = {"DOCKER_HOST": f"unix:///run/user/{USER.pw_uid}/docker.sock"}


def as_user(argv: list[str], folder: Path = HOME) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        argv, user=USER.pw_uid, group=USER.pw_gid, extra_groups=[], env={**ENV, **SOCKET}, cwd=folder,
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def on_full_disk(argv: list[str], folder: Path) -> "subprocess.CompletedProcess[str]":
    """The same with a full file system where the engine's data are: for this process alone, the engine keeps its own."""
    place = HOME / ".local/share/docker"
    script = (
        f"mount -t tmpfs -o size=1m,mode=755 none {place} && head -c 2M /dev/zero > {place}/fill 2>/dev/null; "
        f'exec setpriv --reuid {USER.pw_uid} --regid {USER.pw_gid} --clear-groups "$@"'
    )
    return subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", *argv], env={**ENV, **SOCKET}, cwd=folder,
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def state() -> dict[str, Any]:
    """What a refusal must leave alone."""
    ids = as_user(["docker", "ps", "-aq", "--no-trunc"]).stdout.split()
    form = "{{.Id}} {{.State.Status}} {{.State.StartedAt}} {{.Image}}"
    root, link = HOME / "gpulab", HOME / "gpulab" / "stacks" / STACK / "current"
    return {
        "containers": sorted(as_user(["docker", "inspect", "-f", form, *ids]).stdout.splitlines()) if ids else [],
        "networks": sorted(as_user(["docker", "network", "ls", "-q"]).stdout.split()),
        "current": str(link.readlink()) if link.is_symlink() else "",
        # The history alone may say that somebody tried.
        "files": sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.name != "history"),
    }


def run(case: dict[str, Any]) -> dict[str, Any]:
    folder = HOME / "cases" / "good"
    shutil.rmtree(folder.parent, ignore_errors=True)
    for name, text in case["files"].items():
        if text is not None:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")
    subprocess.run(["chown", "-R", "trainer:", str(folder.parent)], check=True)
    if case.get("before"):
        subprocess.run(["sh", "-c", case["before"]], check=True)
    try:
        before = state()
        target = case.get("target", "./good")
        argv = ["gpulab", "deploy", target, *case.get("arguments", []), "--json"]
        done = (on_full_disk if case.get("full") else as_user)(argv, folder.parent)
        after = state()
    finally:
        if case.get("after"):
            subprocess.run(["sh", "-c", case["after"]], check=True)
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        answer = {}
    changed = {key: [before[key], after[key]] for key in before if before[key] != after[key]}
    return {"rc": done.returncode, "answer": answer, "said": done.stdout + done.stderr, "changed": changed}


if __name__ == "__main__":
    print(json.dumps({case["name"]: run(case) for case in json.load(sys.stdin)}))
