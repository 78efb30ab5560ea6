"""nvidia-ctk system: the control nodes, and links to nodes below /dev/char."""

import os
import stat

from . import host
from .cli import Flag, Values
from .log import LOG, Failure

NODE_FLAGS = [
    Flag("root driver-root", default="/", env="ROOT NVIDIA_DRIVER_ROOT DRIVER_ROOT", usage="where modules are loaded"),
    Flag("dev-root", env="NVIDIA_DEV_ROOT DEV_ROOT", usage="the root where /dev is"),
    Flag("control-devices", "bool", usage="create nvidiactl, nvidia-modeset, nvidia-uvm, nvidia-uvm-tools"),
    Flag("load-kernel-modules", "bool", usage="load the modules first"),
    Flag("dry-run", "bool", env="DRY_RUN", usage="only tell"),
]
LINK_FLAGS = [
    Flag("dev-char-path", default="/dev/char", env="DEV_CHAR_PATH", usage="where the links go"),
    Flag("driver-root", default="/", env="NVIDIA_DRIVER_ROOT DRIVER_ROOT", usage="the root whose /dev is searched"),
    Flag("create-all", "bool", env="CREATE_ALL", usage="also links to nodes that may come"),
    Flag("load-kernel-modules", "bool", env="LOAD_KERNEL_MODULES", usage="load the modules first"),
    Flag("create-device-nodes", "bool", env="CREATE_DEVICE_NODES", usage="create the control nodes first"),
    Flag("dry-run", "bool", env="DRY_RUN", usage="only tell"),
]


def create_device_nodes(values: Values) -> None:
    dev_root = values["dev-root"] or values["root"]
    LOG.info(f'Using dev-root "{dev_root}"')
    if not values["control-devices"]:
        return
    majors = host.majors()
    if "nvidia" not in majors and "nvidia-frontend" not in majors:
        raise Failure("failed to create devices info: no NVIDIA devices found")
    LOG.info(f"Creating control device nodes at {dev_root}")
    uvm = majors.get("nvidia-uvm")
    wanted = [("nvidiactl", 195, 255), ("nvidia-modeset", 195, 254)]
    if uvm is None:
        raise Failure("failed to create control device nodes: failed to create device node nvidia-uvm: invalid major")
    wanted += [("nvidia-uvm", uvm, 0), ("nvidia-uvm-tools", uvm, 1)]
    for name, major, minor in wanted:
        path = f"{dev_root.rstrip('/')}/dev/{name}"
        if values["dry-run"]:
            LOG.info(f"Running: mknod --mode=0666 {path} c {major} {minor}")
        elif host.exists(path):
            LOG.info(f"Skipping: {path} already exists")
        else:
            _make(path, major, minor)


def _make(path: str, major: int, minor: int) -> None:
    """Beside nodes of the stand-in driver, which are null devices, a new one is made like them."""
    probe = host.at(path).with_name("nvidia0")
    if probe.exists() and probe.stat().st_rdev == os.makedev(1, 3):
        major, minor = 1, 3
    try:
        os.mknod(host.at(path), stat.S_IFCHR | 0o666, os.makedev(major, minor))
        host.at(path).chmod(0o666)
    except OSError as error:
        raise Failure(
            f"failed to create control device nodes: failed to create device node {path}: "
            f"{(error.strerror or '').lower()}"
        ) from None


def create_links(values: Values) -> None:
    folder = values["dev-char-path"]
    for name in host.listing("/dev"):
        path = f"/dev/{name}"
        if not name.startswith("nvidia") or not host.is_node(path):
            continue
        info = host.at(path).stat()
        link = f"{folder}/{os.major(info.st_rdev)}:{os.minor(info.st_rdev)}"
        LOG.info(f"Creating link {link} => {path}")
        if not values["dry-run"] and not host.at(link).is_symlink():
            host.at(folder).mkdir(parents=True, exist_ok=True)
            host.at(link).symlink_to(path)
