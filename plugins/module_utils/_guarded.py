# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Packages that nothing but a person's decision may upgrade: driver, container toolkit and engine.

Modules that Ubuntu builds for each kernel (linux-modules-nvidia-*) are left out on purpose: they depend on exactly the
driver that is held, and without theirs the next kernel would come up without a GPU.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

# Python's and unattended-upgrades' regular expressions, matched from the start of a name.
DRIVER_NAMES = (
    "nvidia-(driver|dkms|headless|kernel|firmware|utils|compute-utils|smi|modprobe|persistenced|fabricmanager|imex)",
    "nvidia-(alternative|legacy|tesla|open|vulkan|egl|opencl-icd|cuda-mps|vdpau|suspend|support|l4t)",
    "libnvidia-(?!container)",
    "(libcuda1|libcudadebugger1|libnvcuvid1|libnvoptix1|firmware-nvidia|cuda-drivers|xserver-xorg-video-nvidia)",
)
TOOLKIT_NAMES = ("nvidia-container-toolkit", "libnvidia-container")
ENGINE_NAMES = (
    "docker-ce",
    "docker-buildx",
    "docker-compose",
    "docker[.]io$",
    "docker-cli$",
    "containerd",
    "rootlesskit$",
)

DRIVER = re.compile("|".join(DRIVER_NAMES))

UNATTENDED = "etc/apt/apt.conf.d/52gpulab-unattended-upgrades"
UNATTENDED_TEXT = "".join(
    [
        "// Kept by gpulab.fleet: upgraded under running work, each of these takes GPUs or containers away.\n",
        "// gpulab_hold: false takes this file away again; playbooks/upgrade.yml is how they are upgraded.\n",
        "Unattended-Upgrade::Package-Blacklist {\n",
        *(f'    "{name}";\n' for name in (*ENGINE_NAMES, *TOOLKIT_NAMES, *DRIVER_NAMES)),
        "};\n",
    ]
)


def driver_packages(names: Iterable[str]) -> list[str]:
    """Those that belong to the NVIDIA driver."""
    return sorted(name for name in names if DRIVER.match(name))
