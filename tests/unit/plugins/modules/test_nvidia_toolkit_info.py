"""Versions that are refused, and the packages that are named."""

from __future__ import annotations

import pytest
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.modules import nvidia_toolkit_info as info


@pytest.mark.parametrize("version", ["1.19.1", "1.20.0", "1.100.0", "2.0.0", "latest"])
def test_accepted(version: str) -> None:
    info.refuse_unsafe(version)


@pytest.mark.parametrize("version", ["1.19.0", "1.18.2", "1.9.9", "0.99.9", "", "1.20", "1.20.0-1", "1.20.0-rc.1"])
def test_refused(version: str) -> None:
    with pytest.raises(FleetError) as raised:
        info.refuse_unsafe(version)
    assert raised.value.code == "TOOLKIT_VERSION_REFUSED"
    assert "1.19.1" in raised.value.detail


@pytest.mark.parametrize(
    ("installed", "names"),
    [
        ([], ["nvidia-container-toolkit-base"]),
        (["nvidia-container-toolkit-base"], ["nvidia-container-toolkit-base"]),
        (
            ["libnvidia-container1", "nvidia-container-toolkit", "libnvidia-container-tools"],
            [
                "nvidia-container-toolkit-base",
                "nvidia-container-toolkit",
                "libnvidia-container-tools",
                "libnvidia-container1",
            ],
        ),
    ],
)
def test_packages_carry_one_version(installed: list[str], names: list[str]) -> None:
    found = info.packages("1.20.0", installed)
    assert found[0].pop("settings") == ["/etc/nvidia-container-runtime/config.toml"]
    assert found == [{"name": name, "version": "1.20.0", "minimum": "1.19.1"} for name in names]


def test_a_version_below_the_floor_is_accepted_by_its_name_only() -> None:
    info.refuse_unsafe("1.18.2", ["1.18.2"])
    with pytest.raises(FleetError):
        info.refuse_unsafe("1.18.2", ["1.18.1"])
