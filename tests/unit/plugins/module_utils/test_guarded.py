"""Which packages nothing but a decision may upgrade."""

from __future__ import annotations

import re

import pytest
from ansible_collections.gpulab.fleet.plugins.module_utils._guarded import UNATTENDED_TEXT, driver_packages

DRIVER = [
    "cuda-drivers-550",
    "libcuda1",
    "libnvidia-compute-580-server",
    "nvidia-compute-utils-550",
    "nvidia-dkms-550-open",
    "nvidia-driver-580",
    "nvidia-fabricmanager-550",
    "nvidia-headless-no-dkms-550-server",
    "nvidia-kernel-common-550",
    "nvidia-l4t-core",
    "nvidia-persistenced",
    "xserver-xorg-video-nvidia-550",
]
TOOLKIT = ["libnvidia-container1", "libnvidia-container-tools", "nvidia-container-toolkit-base"]
ENGINE = ["docker-ce", "docker-ce-rootless-extras", "containerd.io", "containerd", "docker.io", "docker-compose-plugin"]
# The modules that Ubuntu builds follow the kernel and depend on the held driver: they must come with a new kernel.
FREE = ["linux-modules-nvidia-550-generic", "nvidia-cuda-toolkit", "nvidia-prime", "docker-registry", "docker.io-doc"]


def test_the_driver_s_packages() -> None:
    assert driver_packages([*DRIVER, *TOOLKIT, *ENGINE, *FREE]) == DRIVER


@pytest.mark.parametrize("name", [*DRIVER, *TOOLKIT, *ENGINE, *FREE])
def test_what_unattended_upgrades_may_not_touch(name: str) -> None:
    patterns = re.findall(r'^    "(.*)";$', UNATTENDED_TEXT, re.MULTILINE)
    assert any(re.match(pattern, name) for pattern in patterns) is (name not in FREE)
