"""Puts the stand-in driver into a host's root, before it boots or while it runs."""

import json
import os
import stat
import subprocess
from pathlib import Path

from ..settings import CACHE
from . import state as states
from .tree import BASE, LIBRARIES, MODULES, File, Tree, host_files

MANIFEST = f"{BASE}/manifest.json"


def install(root: Path, gpus: int, faults: list[str] | None = None, cache: Path | None = None) -> None:
    """A host with so many GPUs (0: no driver at all) and these faults; what an earlier call left is replaced."""
    apply(root, states.new(gpus, faults), cache)


def apply(root: Path, state: states.State, cache: Path | None = None) -> None:
    """Make the host's files those of this state; a running host shows it at once, its containers do not."""
    before = states.load(root) if (root / states.FILE).exists() else None
    wanted = host_files(state, cache or CACHE)
    leader = running(root)
    write(root, wanted)
    if wanted:
        states.save(root, state)
    else:
        (root / states.FILE).unlink(missing_ok=True)
    if any(path.startswith(LIBRARIES) for path in wanted) or before is not None:
        subprocess.run(["ldconfig", "-r", str(root)], check=True)
    if leader is not None:
        _inside(leader, state, wanted)
    # Last, as depmod runs at the end of an installation: whoever watches the file finds everything in place.
    if wanted and before is not None and state["version"] != before["version"]:
        _put(root / f"{MODULES}/modules.dep", wanted[f"{MODULES}/modules.dep"])


def _inside(leader: int, state: states.State, wanted: Tree) -> None:
    """The parts of a running host that are not files on its disk."""
    enter = ["nsenter", "--target", str(leader), "--all", "--"]
    setup = f"/{BASE}/setup"
    if not wanted:  # the script has gone with the rest; the nodes and what lies over /proc and /sys go here
        over = "/proc/driver /proc/devices /proc/modules /sys/module /sys/bus/pci/devices"
        clean = f"rm -rf /dev/nvidia*; umount -q {over}"
        subprocess.run([*enter, "/bin/sh", "-c", clean], check=False)
        return
    subprocess.run([*enter, setup], check=True)
    persistenced = "start" if "usr/lib/systemd/system/nvidia-persistenced.service" in wanted else "stop"
    subprocess.run([*enter, "systemctl", "daemon-reload"], check=True)
    subprocess.run([*enter, "systemctl", "--quiet", persistenced, "nvidia-persistenced.service"], check=False)


def running(root: Path) -> int | None:
    """The process id of the host's init, when the host whose root this is runs: its / is this folder."""
    here = root.stat()
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            there = (process / "root").stat()
            if (there.st_dev, there.st_ino) != (here.st_dev, here.st_ino):
                continue
            ids = next(x for x in (process / "status").read_text().splitlines() if x.startswith("NSpid:")).split()[1:]
        except (OSError, StopIteration):
            continue
        if ids[-1] == "1" and len(ids) > 1:
            return int(process.name)
    return None


# --- files --------------------------------------------------------------------------------------------------------


def write(root: Path, wanted: Tree) -> None:
    """Bring what is there to what is wanted: only what differs is written, and always by renaming a whole file."""
    manifest = root / MANIFEST
    known = json.loads(manifest.read_text()) if manifest.exists() else []
    for path in known:
        if path not in wanted:
            (root / path).unlink(missing_ok=True)
            _prune(root, (root / path).parent)
    for path, file in wanted.items():
        if not _same(root / path, file):
            _put(root / path, file)
    if wanted:
        manifest.parent.mkdir(parents=True, exist_ok=True)
        manifest.write_text(json.dumps(sorted(wanted), indent=0) + "\n")
    else:
        manifest.unlink(missing_ok=True)
        _prune(root, manifest.parent)


def _prune(root: Path, folder: Path) -> None:
    """Remove folders that became empty, of those that nothing but the stand-in has."""
    ours = (root / BASE, root / "usr/lib/firmware/nvidia", root / "etc/OpenCL")
    while any(folder == top or top in folder.parents for top in ours):
        # what is mounted over /proc/driver must stay the same folder
        if folder == root / f"{BASE}/proc/driver" or not folder.is_dir() or any(folder.iterdir()):
            return
        folder.rmdir()
        folder = folder.parent


def _same(path: Path, file: File) -> bool:
    if file.link:
        return path.is_symlink() and str(path.readlink()) == file.link
    return (
        path.is_file()
        and not path.is_symlink()
        and stat.S_IMODE(path.stat().st_mode) == file.mode
        and path.read_bytes() == file.content
    )


def _put(path: Path, file: File) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.standin")
    temporary.unlink(missing_ok=True)
    if file.link:
        temporary.symlink_to(file.link)
    else:
        temporary.write_bytes(file.content)
        os.chown(temporary, 0, 0)
        temporary.chmod(file.mode)
    temporary.rename(path)
