"""Requests for GPUs in any form that people write: read, taken out, and given again as CDI."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from ansible_collections.gpulab.fleet.plugins.module_utils import _compose_gpus as gpu_forms

UUID = "GPU-12345678-1234-1234-1234-123456780001"


def reserve(*devices: dict[str, Any]) -> dict[str, Any]:
    return {"deploy": {"resources": {"reservations": {"devices": list(devices)}}}}


NVIDIA = {"driver": "nvidia", "capabilities": ["gpu"]}

FORMS: list[tuple[str, dict[str, Any], Any]] = [
    ("count 1", reserve({**NVIDIA, "count": 1}), 1),
    ("count all, as Compose puts it", reserve({**NVIDIA, "count": -1}), "all"),
    ("count all, not interpolated", reserve({**NVIDIA, "count": "all"}), "all"),
    ("no count", reserve({"capabilities": ["gpu"]}), "all"),
    ("indices", reserve({**NVIDIA, "device_ids": ["0", "3"]}), [0, 3]),
    ("a UUID", reserve({"device_ids": [UUID], "capabilities": ["gpu", "utility"]}), [UUID]),
    ("CDI names", reserve({"driver": "cdi", "device_ids": ["nvidia.com/gpu=0"], "capabilities": ["gpu"]}), [0]),
    ("CDI all", reserve({"driver": "cdi", "device_ids": ["nvidia.com/gpu=all"]}), "all"),
    ("a MIG instance", reserve({**NVIDIA, "device_ids": ["0:1"]}), ["0:1"]),
    ("gpus", {"gpus": [{"count": -1}]}, "all"),
    ("gpus as text", {"gpus": "all"}, "all"),
    ("gpus with a number", {"gpus": [{"driver": "nvidia", "count": 2}]}, 2),
    ("devices", {"devices": [{"source": "nvidia.com/gpu=1", "target": "x", "permissions": "rwm"}]}, [1]),
    ("devices as text", {"devices": [f"nvidia.com/gpu={UUID}:rwm"]}, [UUID]),
    ("nodes", {"devices": ["/dev/nvidia1:/dev/nvidia1", "/dev/nvidiactl:/dev/nvidiactl"]}, [1]),
    ("runtime and variable", {"runtime": "nvidia", "environment": {"NVIDIA_VISIBLE_DEVICES": "0,1"}}, [0, 1]),
    ("runtime alone", {"runtime": "nvidia"}, "all"),
    ("runtime, void", {"runtime": "nvidia", "environment": {"NVIDIA_VISIBLE_DEVICES": "void"}}, None),
    ("variable alone, as a list", {"environment": ["NVIDIA_VISIBLE_DEVICES=all"]}, "all"),
    ("the request wins", {**reserve({**NVIDIA, "count": 1}), "environment": {"NVIDIA_VISIBLE_DEVICES": "all"}}, 1),
    ("two forms", {**reserve({**NVIDIA, "count": 1}), "gpus": [{"count": 2}]}, 2),
    ("named and counted", {**reserve({**NVIDIA, "device_ids": ["1"]}), "gpus": [{"count": 1}]}, [1]),
    ("another vendor's", reserve({"driver": "amd", "count": 1, "capabilities": ["gpu"]}), None),
    ("another CDI kind", reserve({"driver": "cdi", "device_ids": ["vendor.com/nic=0"], "capabilities": ["x"]}), None),
    ("nothing", {"environment": {"A": "b"}, "devices": ["/dev/dri:/dev/dri"]}, None),
]  # fmt: skip


@pytest.mark.parametrize(("service", "wanted"), [form[1:] for form in FORMS], ids=[form[0] for form in FORMS])
def test_requests(service: dict[str, Any], wanted: Any) -> None:
    found = gpu_forms.requests({"services": {"s": service}})
    assert found == ({} if wanted is None else {"s": wanted})


@pytest.mark.parametrize("service", [form[1] for form in FORMS], ids=[form[0] for form in FORMS])
def test_what_was_taken_out_asks_no_more(service: dict[str, Any]) -> None:
    left = copy.deepcopy(service)
    gone = gpu_forms.strip(left)
    assert gpu_forms.requests({"services": {"s": left}}) == {}
    assert bool(gone) == (left != service)
    assert gpu_forms.strip(left) == []


def test_what_others_asked_for_stays() -> None:
    other = {"driver": "cdi", "device_ids": ["vendor.com/nic=0"], "capabilities": ["x"]}
    service = {**reserve({**NVIDIA, "count": 1}, other), "devices": ["/dev/dri:/dev/dri", "/dev/nvidia0:/dev/nvidia0"]}
    gpu_forms.strip(service)
    assert service == {**reserve(other), "devices": ["/dev/dri:/dev/dri"]}


def test_given_as_cdi_beside_what_is_there() -> None:
    service: dict[str, Any] = {"environment": ["A=b"], "deploy": {"resources": {"limits": {"cpus": 1}}}}
    gpu_forms.give(service, [UUID])
    assert service["environment"] == {"A": "b", "GPULAB_GPUS": UUID}
    assert service["deploy"]["resources"]["limits"] == {"cpus": 1}
    assert gpu_forms.requests({"services": {"s": service}}) == {"s": [UUID]}
    assert service["deploy"]["resources"]["reservations"]["devices"] == [
        {"driver": "cdi", "device_ids": [f"nvidia.com/gpu={UUID}"], "capabilities": ["gpu"]}
    ]
