"""What of the driver a container needs: nodes, files, links."""

import os
import re
import stat
from pathlib import PurePosixPath
from typing import Any

from . import host
from .log import LOG, Failure
from .nvml import Gpu, Mig, capability_minors
from .version import at_least

Edits = dict[str, Any]

BINARIES = (
    "nvidia-cuda-mps-control",
    "nvidia-cuda-mps-server",
    "nvidia-debugdump",
    "nvidia-persistenced",
    "nvidia-smi",
)
CONTROL_NODES = ("nvidia-modeset", "nvidia-uvm", "nvidia-uvm-tools", "nvidiactl")
SOCKETS = ("/run/nvidia-persistenced/socket", "/run/nvidia-fabricmanager/socket", "/tmp/nvidia-mps")
CONFIGURATION = ("/etc/OpenCL/vendors/nvidia.icd", "/etc/vulkan/icd.d/nvidia_icd.json")
# The version in the soname of a library; the others have their whole name as soname.
SONAMES = {
    "libcuda": "1",
    "libcudadebugger": "1",
    "libnvidia-cfg": "1",
    "libnvidia-ml": "1",
    "libnvidia-nvvm": "4",
    "libnvidia-opencl": "1",
    "libnvidia-ptxjitcompiler": "1",
}


class Options:
    """What the flags decide about discovery."""

    def __init__(
        self,
        hook: str = "/usr/bin/nvidia-cdi-hook",
        ldconfig: str = "",
        disabled: list[str] | None = None,
        dev_root: str = "",
        feature_flags: list[str] | None = None,
    ) -> None:
        self.hook = hook
        self.ldconfig = ldconfig
        self.disabled = set(disabled or [])
        self.dev_root = dev_root
        self.feature_flags = set(feature_flags or [])

    def hook_entry(self, name: str, *arguments: str) -> list[dict[str, Any]]:
        if "all" in self.disabled or name in self.disabled:
            return []
        program = PurePosixPath(self.hook).name
        words = [program, *(["hook"] if program == "nvidia-ctk" else []), name, *arguments]
        return [{"hookName": "createContainer", "path": self.hook, "args": words, "env": ["NVIDIA_CTK_DEBUG=false"]}]


# --- nodes --------------------------------------------------------------------------------------------------------


def _nominal(name: str) -> tuple[int, int]:
    """The numbers that the driver gives a node. The lab's nodes are null devices under these names, since a node with
    the real numbers cannot be opened where there is no driver; the spec says what it says on a real host."""
    known = host.majors()
    if name.startswith("nvidia-cap"):
        return known.get("nvidia-caps", 235), int(name[10:])
    if name in ("nvidia-uvm", "nvidia-uvm-tools"):
        return known.get("nvidia-uvm", 511), int(name.endswith("tools"))
    if name in ("nvidiactl", "nvidia-modeset"):
        return 195, 255 if name == "nvidiactl" else 254
    return 195, int(name[6:])


def node(path: str, dev_root: str = "") -> dict[str, Any]:
    """A CDI device node, or {} with a warning when there is none."""
    if not host.is_node(dev_root + path):
        LOG.warning(f"Could not locate {path}: {path}: not found")
        return {}
    LOG.info(f"Selecting {dev_root}{path} as {path}")
    info = host.at(dev_root + path).stat()
    major, minor = os.major(info.st_rdev), os.minor(info.st_rdev)
    name = PurePosixPath(path).name
    if (major, minor) == (1, 3) and name.startswith("nvidia"):
        major, minor = _nominal(name)
    found: dict[str, Any] = {"path": path}
    if dev_root:
        found["hostPath"] = dev_root + path
    if not at_least("1.19.0"):
        return found
    found["major"] = major
    if minor:
        found["minor"] = minor
    found["fileMode"] = stat.S_IMODE(info.st_mode)
    found["permissions"] = "rwm"
    if info.st_gid:
        found["gid"] = info.st_gid
    return found


def device_edits(paths: list[str], hooks: list[dict[str, Any]], options: Options) -> Edits:
    nodes = [found for path in paths if (found := node(path, options.dev_root))]
    edits: Edits = {"deviceNodes": nodes} if nodes else {}
    if hooks:
        edits["hooks"] = hooks
    groups = sorted({found["gid"] for found in nodes if "gid" in found})
    if groups and "no-additional-gids-for-device-nodes" not in options.feature_flags:
        edits["additionalGids"] = groups
    return edits


def gpu_edits(gpu: Gpu, options: Options) -> Edits:
    """The GPU's own node, and those of its display outputs where the host has them."""
    paths, links = [], []
    for kind in ("card", "render"):
        link = f"/dev/dri/by-path/pci-{gpu.bus}-{kind}"
        if host.at(link).is_symlink():
            target = host.at(link).readlink()
            paths.append(f"/dev/dri/{target.name}")
            links += ["--link", f"{target}::{link}"]
    hooks = options.hook_entry("create-symlinks", *links) if links else []
    return device_edits([*paths, f"/dev/nvidia{gpu.minor}"], hooks, options)


def mig_edits(gpu: Gpu, mig: Mig, options: Options) -> Edits:
    minors = capability_minors()
    names = [f"gpu{gpu.minor}/gi{mig.instance}/access", f"gpu{gpu.minor}/gi{mig.instance}/ci{mig.compute}/access"]
    if any(name not in minors for name in names):
        raise Failure(
            "failed to generate CDI spec: failed to create device CDI specs: failed to construct device spec "
            f"generators: failed to get MIG capability devices for gpu{gpu.minor}"
        )
    paths = [f"/dev/nvidia{gpu.minor}", *(f"/dev/nvidia-caps/nvidia-cap{minors[name]}" for name in names)]
    return device_edits(paths, [], options)


# --- files --------------------------------------------------------------------------------------------------------


def _mount(path: str, socket: bool = False) -> dict[str, Any]:
    options = (
        ["nosuid", "nodev", "rbind", "rprivate", "noexec"] if socket else ["ro", "nosuid", "nodev", "rbind", "rprivate"]
    )
    LOG.info(f"Selecting {path} as {path}")
    return {"hostPath": path, "containerPath": path, "options": options}


def _libraries(version: str) -> tuple[str, list[str]]:
    """The folder of the driver's libraries and the names in it that end in the driver's version."""
    folder = str(PurePosixPath(host.library("libcuda.so.1") or host.library("libnvidia-ml.so.1")).parent)
    found = [name for name in host.listing(folder) if name.endswith(f".so.{version}")]
    if not found:
        raise Failure(
            "failed to generate CDI spec: failed to create edits common for entities: failed to create discoverer "
            "for common entities: failed to create discoverer for driver files: failed to create discoverer for "
            "driver libraries: failed to get libraries for driver version: failed to locate libcuda.so."
            f"{version}: pattern libcuda.so.{version} not found"
        )
    return folder, found


def _links(folder: str, libraries: list[str]) -> list[str]:
    links = []
    for library in libraries:
        name = library.split(".so.")[0]
        number = SONAMES.get(name)
        if number is None:
            continue
        soname = [f"{library}::{folder}/{name}.so.{number}"]
        plain = [f"{name}.so.1::{folder}/{name}.so"]
        links += plain + soname if name == "libcuda" else soname + plain if name == "libnvidia-ml" else soname
    return links


def common_edits(version: str, cuda: int, options: Options) -> Edits:
    folder, libraries = _libraries(version)
    LOG.info(f"Using driver version {version}")
    mounts = [_mount(path, True) for path in SOCKETS if host.exists(path)]
    mounts += [_mount(path) for name in BINARIES if (path := host.program(name))]
    mounts += [_mount(path) for path in CONFIGURATION if host.exists(path)]
    mounts += [_mount(f"{folder}/{name}") for name in libraries]
    firmware = f"/lib/firmware/nvidia/{version}"
    mounts += [_mount(f"{firmware}/{name}") for name in host.listing(firmware) if re.fullmatch(r"gsp.*\.bin", name)]
    mounts.sort(key=lambda mount: (mount["containerPath"].count("/"), mount["containerPath"]))
    compat = [f"--host-driver-version={version}"]
    ldcache = [*(["--ldconfig-path", options.ldconfig] if options.ldconfig else []), "--folder", folder]
    links = [word for link in _links(folder, libraries) for word in ("--link", link)]
    hooks = options.hook_entry("create-symlinks", *links) + options.hook_entry("enable-cuda-compat", *compat)
    hooks += options.hook_entry("update-ldcache", *ldcache) + options.hook_entry("disable-device-node-modification")
    if at_least("1.20.0"):
        hooks += options.hook_entry("update-application-profile")
    nodes = [found for name in CONTROL_NODES if (found := node(f"/dev/{name}", options.dev_root))]
    edits: Edits = {"env": [f"NVIDIA_CTK_LIBCUDA_DIR={folder}", "NVIDIA_VISIBLE_DEVICES=void"]}
    if nodes:
        edits["deviceNodes"] = nodes
    if hooks:
        edits["hooks"] = hooks
    return edits | {"mounts": mounts}
