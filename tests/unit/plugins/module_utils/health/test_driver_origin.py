"""Where a driver comes from, and how a host without one gets it."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.gpulab.fleet.plugins.module_utils import _driver_origin

LIBRARY = "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.550.1"
NONE: dict[str, Any] = {
    "files": {"/proc/driver/nvidia/version": None, LIBRARY: None},
    "packages": {"libnvidia-compute-550": None},
}
BOOT = {"/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c": "\x06\0\0\0\x01"}
DEBIAN = {"/etc/os-release": 'ID=debian\nVERSION_ID="12"\nVERSION_CODENAME=bookworm\n'}


@pytest.mark.parametrize(
    ("parts", "origin"),
    [
        ({}, "packages (libnvidia-compute-550 550.1-0ubuntu1)"),
        ({"packages": {"nvidia-driver-550": "550.1-0ubuntu1"}}, "packages (nvidia-driver-550 550.1-0ubuntu1)"),
        (
            {"packages": {"libnvidia-compute-550": None}, "files": {"/usr/bin/nvidia-uninstall": ""}},
            "NVIDIA's installer (.run)",
        ),
        ({"packages": {"libnvidia-compute-550": None}}, "the host's image (no package owns it)"),
        ({"files": {"/etc/nv_tegra_release": "# R36\n"}}, "Jetson (L4T)"),
        (NONE, None),
    ],
)
def test_origin(make_host: Any, parts: dict[str, Any], origin: str | None) -> None:
    assert _driver_origin.origin(make_host(**parts)) == origin


@pytest.mark.parametrize(
    ("files", "machine", "said"),
    [
        ({}, "x86_64", ["ubuntu-drivers-common", "install --gpgpu nvidia:580-server", "nvidia-utils-580-server"]),
        (BOOT, "x86_64", ["modules are signed"]),
        (DEBIAN, "x86_64", ["non-free-firmware", "linux-headers-amd64 nvidia-driver"]),
        (DEBIAN, "aarch64", ["linux-headers-arm64"]),
        ({**DEBIAN, **BOOT}, "x86_64", ["mokutil"]),
        ({"/etc/nv_tegra_release": ""}, "aarch64", ["nvidia-jetpack"]),
    ],
)
def test_how_to_get_one(make_host: Any, files: dict[str, str], machine: str, said: list[str]) -> None:
    text = _driver_origin.how_to_get(make_host(files={**NONE["files"], **files}, machine=machine))
    assert [word for word in said if word not in text] == []


@pytest.mark.parametrize(
    ("index", "has"),
    [
        ("updates/dkms/nvidia.ko:\n", True),
        ("updates/dkms/nvidia-current.ko.zst:\n", True),
        ("kernel/drivers/net/nvidia-ish.ko:\nkernel/x.ko: updates/dkms/nvidia.ko\n", False),
    ],
)
def test_whether_a_kernel_has_the_module(make_host: Any, index: str, has: bool) -> None:
    assert _driver_origin.has_module(make_host(files={"/lib/modules/k/modules.dep": index}), "k") is has
