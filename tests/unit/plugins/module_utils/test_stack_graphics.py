"""A service that renders is not started where the driver's graphics part is missing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ansible_collections.gpulab.fleet.plugins.module_utils import _stack_graphics
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError

# What nvidia-ctk 1.20 writes for a host with the whole driver 550.163.01 installed, less what computing needs.
WHOLE = [
    "/usr/lib/x86_64-linux-gnu/libEGL_nvidia.so.550.163.01",
    "/usr/lib/x86_64-linux-gnu/libGLX_nvidia.so.550.163.01",
    "/etc/vulkan/icd.d/nvidia_icd.json",
    "/usr/share/glvnd/egl_vendor.d/10_nvidia.json",
]


def spec(path: Path, mounts: list[str]) -> Path:
    mounted = [{"hostPath": mount, "containerPath": mount} for mount in mounts]
    path.write_text(json.dumps({"devices": [{"name": "0"}], "containerEdits": {"mounts": mounted}}), encoding="utf-8")
    return path


def test_a_whole_driver_is_enough(tmp_path: Path) -> None:
    _stack_graphics.check_specs(["sim"], [spec(tmp_path / "nvidia.json", WHOLE)])


@pytest.mark.parametrize(
    ("without", "said"),
    [
        (WHOLE[0], "libEGL_nvidia.so (EGL)"),
        (WHOLE[1], "libGLX_nvidia.so (Vulkan)"),
        (WHOLE[2], "nvidia_icd.json (Vulkan)"),
        (WHOLE[3], "10_nvidia.json (EGL)"),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, without: str, said: str) -> None:
    path = spec(tmp_path / "nvidia.json", [mount for mount in WHOLE if mount != without])
    with pytest.raises(FleetError) as error:
        _stack_graphics.check_specs(["sim"], [path])
    assert error.value.code == "STACK_GRAPHICS_MISSING"
    assert error.value.detail == f"sim: {path} lacks {said}"


def test_without_a_spec_everything_is_missing_and_without_a_service_nothing_is_asked(tmp_path: Path) -> None:
    with pytest.raises(FleetError, match="no CDI spec lacks"):
        _stack_graphics.check_specs(["sim"], [])
    _stack_graphics.check_specs([], [tmp_path / "not-there.json"])


def test_a_container_is_asked_for_the_files_that_its_loaders_read(tmp_path: Path) -> None:
    assert len(_stack_graphics.lacking(tmp_path)) == 2
    for name in WHOLE[2:]:
        (tmp_path / name.lstrip("/")).parent.mkdir(parents=True)
        (tmp_path / name.lstrip("/")).write_text("{}", encoding="utf-8")
    assert _stack_graphics.lacking(tmp_path) == []
