"""The hooks: they work on the root file system of a container that is being created, whose state comes on stdin."""

import json
import os
import re
import sys
from pathlib import Path

from .cli import Command, Flag, Values
from .log import Failure

LINK_FLAGS = [Flag("link", "list", usage="target::link")]
LDCACHE_FLAGS = [
    Flag("folder", "list", usage="a folder for the linker's search path"),
    Flag("ldconfig-path", default="/sbin/ldconfig", usage="the ldconfig to run"),
    Flag("container-spec", usage="the container's state; stdin otherwise"),
]
COMPAT_FLAGS = [
    Flag("host-driver-version", usage="the driver's version"),
    Flag("host-cuda-version", usage="the CUDA version of the driver"),
    Flag("cuda-compat-container-root", default="/usr/local/cuda/compat", usage="where the compat libraries are"),
]
CHMOD_FLAGS = [
    Flag("path", "list", usage="a path in the container"),
    Flag("mode", usage="its mode"),
    Flag("container-spec", usage="the container's state; stdin otherwise"),
]


def container_root(state_path: str = "") -> Path:
    """The container's root folder: what config.json of the bundle says."""
    try:
        text = sys.stdin.read() if state_path in ("", "-") else Path(state_path).read_text()
        bundle = Path(json.loads(text)["bundle"])
        root = json.loads((bundle / "config.json").read_text())["root"]["path"]
    except (OSError, ValueError, KeyError) as error:
        raise Failure(f"failed to load container state: {error}") from None
    return (bundle / root).resolve()


def inside(root: Path, path: str) -> Path:
    """The path in the container's root with links resolved there: none of them leads out of it."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    place: list[str] = []
    hops = 0
    while parts:
        part = parts.pop(0)
        if part == "..":
            place = place[:-1]
            continue
        full = root.joinpath(*place, part)
        if full.is_symlink():
            hops += 1
            if hops > 40:
                raise Failure(f"too many links in {path}")
            target = str(full.readlink())
            if target.startswith("/"):
                place = []
            parts = [piece for piece in target.split("/") if piece not in ("", ".")] + parts
        else:
            place.append(part)
    return root.joinpath(*place)


def create_symlinks(values: Values) -> None:
    root = container_root()
    for link in values["link"]:
        target, separator, path = link.partition("::")
        if not separator:
            raise Failure(f"invalid symlink specification {link!r}")
        folder, _, name = path.rpartition("/")
        full = inside(root, folder) / name
        full.parent.mkdir(parents=True, exist_ok=True)
        if full.is_symlink() and str(full.readlink()) == target:
            continue
        full.unlink(missing_ok=True)
        full.symlink_to(target)


def _random() -> str:
    return str(int.from_bytes(os.urandom(4), "big"))


def _ld_conf(root: Path, prefix: str, folders: list[str]) -> None:
    """A file of its own below ld.so.conf.d, which the container's ld.so.conf is made to include."""
    folder = inside(root, "/etc/ld.so.conf.d")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{prefix}{_random()}.conf").write_text("\n".join(dict.fromkeys(folders)) + "\n")
    main = inside(root, "/etc/ld.so.conf")
    text = main.read_text() if main.exists() else ""
    if not re.search(r"^include\s+(/etc/)?ld\.so\.conf\.d/\*\.conf", text, re.MULTILINE):
        main.write_text(text + "include /etc/ld.so.conf.d/*.conf\n")


def _run(*command: str) -> None:
    import subprocess  # here, since the other hooks are quicker without it

    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Failure(f"failed to run {command[0]}: {done.stderr.strip()}")


def update_ldcache(values: Values) -> None:
    root = container_root(values["container-spec"])
    if not inside(root, "/etc").is_dir():
        return  # no linker's cache in such a container
    if values["folder"]:
        _ld_conf(root, "zz-nvcr-", values["folder"])
    program = values["ldconfig-path"].lstrip("@")
    _run(program, "-r", str(root), "-C", "/etc/ld.so.cache", "-f", "/etc/ld.so.conf")


def enable_cuda_compat(values: Values) -> None:
    """An image may bring libraries of a newer driver; they are preferred when their major version is higher."""
    root = container_root()
    version = values["host-driver-version"]
    folder = inside(root, values["cuda-compat-container-root"])
    if not version or not folder.is_dir():
        return
    found = [entry.name for entry in folder.iterdir() if re.fullmatch(r"libcuda\.so\.\d+\.\d+.*", entry.name)]
    if len(found) == 1 and int(found[0].split(".")[2]) > int(version.split(".")[0]):
        _ld_conf(root, "00-compat-", [values["cuda-compat-container-root"]])


def disable_device_node_modification(values: Values) -> None:
    """The container gets a copy of the driver's parameters that forbids making nodes; without them, nothing to do."""
    params = Path("/proc/driver/nvidia/params")
    target = inside(container_root(), str(params))
    if not params.exists() or not target.exists():
        return
    changed = params.read_text().replace("\nModifyDeviceFiles: 1\n", "\nModifyDeviceFiles: 0\n")
    copy = Path(f"/dev/shm/nvct-params-{_random()}")
    copy.write_text(changed)
    _run("mount", "--bind", "-o", "ro", str(copy), str(target))
    copy.unlink()


def update_application_profile(values: Values) -> None:
    root = container_root()
    folder = inside(root, "/etc/nvidia/nvidia-application-profiles-rc.d")
    folder.mkdir(parents=True, exist_ok=True)
    nodes = [entry.name[6:] for entry in (root / "dev").glob("nvidia[0-9]*")]
    visible = sum(1 << int(number) for number in nodes if number.isdigit())
    profile = {
        "profiles": [{"name": "_container_", "settings": ["EGLVisibleDGPUDevices", visible]}],
        "rules": [{"pattern": [], "profile": "_container_"}],
    }
    (folder / "10-container.conf").write_text(json.dumps(profile))


def change_mode(values: Values) -> None:
    root = container_root(values["container-spec"])
    if not values["mode"]:
        raise Failure("a non-empty mode must be specified")
    for path in values["path"]:
        full = inside(root, path)
        if full.exists():
            full.chmod(int(values["mode"], 8))


COMMANDS = [
    Command("update-ldcache", "Update the linker's cache of a container", LDCACHE_FLAGS, run=update_ldcache),
    Command("create-symlinks", "Create links in a container", LINK_FLAGS, run=create_symlinks),
    Command("chmod", "Set the mode of folders in a container", CHMOD_FLAGS, run=change_mode),
    Command("enable-cuda-compat", "Prefer newer CUDA libraries of an image", COMPAT_FLAGS, run=enable_cuda_compat),
    Command(
        "disable-device-node-modification",
        "Keep programs in a container from making nodes",
        run=disable_device_node_modification,
    ),
    Command("update-application-profile", "Tell EGL which GPUs a container has", run=update_application_profile),
]
