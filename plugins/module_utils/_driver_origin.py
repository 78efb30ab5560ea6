# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Where a host's NVIDIA driver comes from, why it is not loaded, and how this very host gets one."""

from __future__ import annotations

import re

from ansible_collections.gpulab.fleet.plugins.module_utils import _health_facts as facts
from ansible_collections.gpulab.fleet.plugins.module_utils._findings import finding
from ansible_collections.gpulab.fleet.plugins.module_utils._guarded import DRIVER
from ansible_collections.gpulab.fleet.plugins.module_utils._health import Seen
from ansible_collections.gpulab.fleet.plugins.module_utils._health_view import HostView

BRANCH = "580"  # the branch with the longest support
SECURE_BOOT = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
JETSON_MARKS = ("/etc/nv_tegra_release", "/sys/module/tegra_fuse")
RUNFILE_MARKS = ("/usr/bin/nvidia-uninstall", "/usr/bin/nvidia-installer")
LIBRARIES = ("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib")
DEBIAN_ARCH = {"x86_64": "amd64", "aarch64": "arm64"}


def is_jetson(host: HostView) -> bool:
    return any(host.exists(mark) for mark in JETSON_MARKS) or "nvidia-l4t-core" in facts.packages(host)


def driver_packages(host: HostView) -> dict[str, facts.Package]:
    return {name: package for name, package in facts.packages(host).items() if DRIVER.match(name)}


def library_there(host: HostView) -> bool:
    return any(host.glob(f"{folder}/libnvidia-ml.so.*") for folder in LIBRARIES)


def origin(host: HostView) -> str | None:
    """Who put the driver there, in words; None where there is none."""
    if is_jetson(host):
        return "Jetson (L4T)"
    packages = driver_packages(host)
    if packages:
        names = [
            name for name in packages if re.match(r"nvidia-(driver|headless|kernel|utils)|libnvidia-compute", name)
        ]
        name = min(names or packages, key=lambda each: (not each.startswith("nvidia-driver"), each))
        return f"packages ({name} {packages[name].version})"
    if any(host.exists(mark) for mark in RUNFILE_MARKS):
        return "NVIDIA's installer (.run)"
    if library_there(host) or facts.driver_version(host) is not None:
        return "the host's image (no package owns it)"
    return None


def secure_boot(host: HostView) -> bool:
    """Whether the firmware lets only signed modules in."""
    return (host.read(SECURE_BOOT) or "").endswith("\x01")


def has_module(host: HostView, kernel: str) -> bool:
    """Whether a kernel has the driver's module, by the index that depmod keeps."""
    index = host.read(f"/lib/modules/{kernel}/modules.dep") or ""
    return re.search(r"^\S*nvidia(?:-current)?\.ko", index, re.MULTILINE) is not None


def from_source(host: HostView) -> bool:
    """Whether DKMS builds the module for each kernel."""
    return bool(host.glob("/usr/src/nvidia-*")) or any("dkms" in name for name in driver_packages(host))


def not_loaded(host: HostView, expected: bool) -> Seen:
    """Why no module of NVIDIA's is loaded, by what can be seen; none of it needs root."""
    where = ", ".join(facts.cards(host)["pci"] or facts.cards(host)["nodes"])
    kernel = host.kernel()[0]
    if host.exists("/sys/module/nouveau"):
        yield finding("NOUVEAU_LOADED", f"/sys/module/nouveau exists; NVIDIA GPU: {where}")
    elif origin(host) is None and not has_module(host, kernel):
        seen = f"no package, library or module of the driver; NVIDIA GPU: {where}"
        yield finding("DRIVER_EXPECTED" if expected else "DRIVER_MISSING", seen, how=how_to_get(host))
    elif not has_module(host, kernel) and from_source(host) and not host.exists(f"/lib/modules/{kernel}/build"):
        seen = f"no module for {kernel}, and no /lib/modules/{kernel}/build"
        yield finding("DRIVER_HEADERS_MISSING", seen, kernel=kernel)
    elif has_module(host, kernel) and secure_boot(host):
        yield finding("DRIVER_NOT_SIGNED", f"Secure Boot is on; the module for {kernel} is there and not loaded")
    else:
        yield finding("DRIVER_NOT_LOADED", f"/proc/driver/nvidia/version is absent; NVIDIA GPU: {where}")


def next_kernel(host: HostView) -> Seen:
    """The kernel that the next boot takes has the driver as well."""
    running = host.kernel()[0]
    if is_jetson(host) or not has_module(host, running):
        return
    bootable = [name for name in host.names("/lib/modules") if host.exists(f"/boot/vmlinuz-{name}")]
    newest = max(bootable, key=_order, default=running)
    if newest != running and _order(newest) > _order(running) and not has_module(host, newest):
        yield finding("DRIVER_NOT_FOR_NEXT_KERNEL", f"{running} has it, {newest} does not", kernel=newest)


def _order(kernel: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", kernel)]


def how_to_get(host: HostView) -> str:
    """The commands for this host; there is no better place to look them up than the host itself."""
    if is_jetson(host):
        return "apt-get install nvidia-jetpack (the driver of a Jetson comes with its system, and with nothing else)"
    release = facts.os_release(host)
    machine = host.kernel()[1]
    signed = "; Secure Boot is on: " if secure_boot(host) else ""
    if release.get("ID") == "ubuntu":
        tool = "" if host.exists("/usr/bin/ubuntu-drivers") else "apt-get install ubuntu-drivers-common; "
        note = f"{signed}its modules are signed" if signed else ""
        return (
            f"{tool}ubuntu-drivers install --gpgpu nvidia:{BRANCH}-server; "
            f"apt-get install nvidia-utils-{BRANCH}-server; reboot{note}"
        )
    headers = f"linux-headers-{DEBIAN_ARCH.get(machine, machine)}"
    note = f"{signed}enrol DKMS's key first (mokutil --import /var/lib/dkms/mok.pub)" if signed else ""
    return (
        "add contrib, non-free and non-free-firmware to Debian's source; "
        f"apt-get install {headers} nvidia-driver firmware-misc-nonfree; reboot{note}"
    )
