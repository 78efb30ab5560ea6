"""NVML's answers and codes, with a library that answers as it is told."""

from __future__ import annotations

import faulthandler
import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.gpulab.fleet.plugins.module_utils import _nvml
from ansible_collections.gpulab.fleet.plugins.module_utils._catalogue import catalogue

UUIDS = ["GPU-12345678-1234-1234-1234-123456780000", "GPU-12345678-1234-1234-1234-123456780001"]


class NVMLError(Exception):
    def __init__(self, value: int) -> None:
        super().__init__(f"error {value}")
        self.value = value


class Library:
    """Two healthy GPUs; answers[function] or answers[(function, gpu)] changes one answer, an int in `raises` fails it."""

    NVMLError = NVMLError

    def __init__(self, answers: dict[Any, Any] | None = None, raises: dict[Any, int] | None = None) -> None:
        self.answers: dict[Any, Any] = {
            "nvmlInit": None,
            "nvmlShutdown": None,
            "nvmlSystemGetDriverVersion": "550.163.01",
            "nvmlSystemGetCudaDriverVersion_v2": 12040,
            "nvmlDeviceGetCount": 2,
            "nvmlDeviceGetName": "NVIDIA A100-SXM4-40GB",
            "nvmlDeviceGetCudaComputeCapability": (8, 0),
            "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=40 << 30, used=4 << 20),
            "nvmlDeviceGetPciInfo": SimpleNamespace(busId=b"00000000:07:00.0"),
            "nvmlDeviceGetPersistenceMode": 1,
            "nvmlDeviceGetComputeMode": 0,
            "nvmlDeviceGetEccMode": (1, 1),
            "nvmlDeviceGetTotalEccErrors": 0,
            "nvmlDeviceGetRemappedRows": (0, 0, 0, 0),
            "nvmlDeviceGetCurrentClocksEventReasons": 1,
            "nvmlDeviceGetCurrPcieLinkWidth": 16,
            "nvmlDeviceGetMaxPcieLinkWidth": 16,
            "nvmlDeviceGetTemperature": 31,
            "nvmlDeviceGetPowerUsage": 52340,
            "nvmlDeviceGetMigMode": (0, 0),
            "nvmlDeviceGetTopologyCommonAncestor": 40,
            **(answers or {}),
        }
        self.raises = raises or {}

    def __getattr__(self, function: str) -> Any:
        if function.startswith("c_"):
            raise AttributeError(function)

        def call(*arguments: Any) -> Any:
            gpu: Any = arguments[0] if arguments else None
            if function == "nvmlDeviceGetHandleByIndex" and (function, gpu) not in self.raises:
                return gpu
            for key in ((function, gpu), function, ("*", gpu)):
                if key in self.raises:
                    raise NVMLError(self.raises[key])
            if function == "nvmlDeviceGetUUID":
                return self.answers.get((function, gpu)) or UUIDS[gpu]
            for key in ((function, gpu), function):
                if key in self.answers:
                    return self.answers[key]
            raise NVMLError(3)

        return call


def codes(answer: dict[str, Any]) -> list[str]:
    return [found["code"] for found in answer["findings"]]


def test_two_healthy_gpus() -> None:
    answer = _nvml.Nvml(Library()).read()
    assert answer["driver_version"] == "550.163.01"
    assert answer["cuda_driver_version"] == "12.4"
    assert [gpu["uuid"] for gpu in answer["gpus"]] == UUIDS
    first = answer["gpus"][0]
    assert (first["status"], first["compute_capability"], first["pci_bus_id"]) == ("ok", "8.0", "00000000:07:00.0")
    assert first["memory_total_bytes"] == 40 << 30
    assert first["power_draw_watts"] == 52.34
    assert first["power_limit_watts"] is None
    assert first["clock_reasons"] == ["idle"]
    assert answer["topology"] == [{"gpus": UUIDS, "path": "numa_node"}]
    assert answer["findings"] == []


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (4, "NVML_NO_PERMISSION"),
        (9, "DRIVER_NOT_LOADED"),
        (10, "NVML_TIMEOUT"),
        (12, "NVML_LIBRARY_NOT_FOUND"),
        (15, "NVML_GPU_LOST"),
        (16, "NVML_RESET_REQUIRED"),
        (17, "NVML_BLOCKED"),
        (18, "NVML_LIBRARY_MISMATCH"),
        (999, "NVML_UNKNOWN"),
        (23, "NVML_ERROR"),
    ],
)
def test_code_of_nvml_init(number: int, code: str) -> None:
    answer = _nvml.Nvml(Library(raises={"nvmlInit": number})).read()
    assert codes(answer) == [code]
    found = answer["findings"][0]
    assert str(number) in found["evidence"]
    assert found["cause"]
    assert found["remedy"]
    assert answer["gpus"] == []


def test_every_code_is_in_the_catalogue() -> None:
    assert set(_nvml.CODES.values()) <= set(catalogue())


@pytest.mark.parametrize("number", [15, 16, 999])
def test_a_gpu_that_answers_nothing_does_not_hide_the_other(number: int) -> None:
    answer = _nvml.Nvml(Library(raises={("nvmlDeviceGetHandleByIndex", 0): number})).read()
    assert [gpu["uuid"] for gpu in answer["gpus"]] == [None, UUIDS[1]]
    assert [gpu["status"] for gpu in answer["gpus"]] == ["failed", "ok"]
    assert codes(answer) == [_nvml.CODES[number]]


def test_a_gpu_lost_while_it_is_read_is_reported_once() -> None:
    answer = _nvml.Nvml(Library(raises={("*", 1): 15})).read()
    assert codes(answer) == ["NVML_GPU_LOST"]
    assert answer["gpus"][0]["status"] == "ok"
    assert answer["gpus"][1]["status"] == "failed"


@pytest.mark.parametrize(
    ("answers", "code", "status"),
    [
        ({"nvmlDeviceGetRemappedRows": (0, 1, 1, 0)}, "GPU_ROW_REMAP_PENDING", "ok"),
        ({"nvmlDeviceGetRemappedRows": (0, 9, 0, 1)}, "GPU_ROW_REMAP_FAILED", "failed"),
        ({"nvmlDeviceGetTotalEccErrors": 3}, "GPU_ECC_UNCORRECTED", "ok"),
        ({"nvmlDeviceGetComputeMode": 3}, "GPU_COMPUTE_EXCLUSIVE", "ok"),
        ({"nvmlDeviceGetComputeMode": 2}, "GPU_COMPUTE_PROHIBITED", "failed"),
        ({"nvmlDeviceGetCurrPcieLinkWidth": 4}, "GPU_PCIE_NARROW", "ok"),
        ({"nvmlDeviceGetCurrentClocksEventReasons": 0x40}, "GPU_SLOWED_DOWN", "ok"),
        ({"nvmlDeviceGetMigMode": (0, 1)}, "GPU_MIG_PENDING", "ok"),
        ({"nvmlDeviceGetMigMode": (1, 1), "nvmlDeviceGetMaxMigDeviceCount": 0}, "GPU_MIG_EMPTY", "failed"),
        ({"nvmlDeviceGetPersistenceMode": 0}, "GPU_PERSISTENCE_OFF", "ok"),
    ],
)
def test_health(answers: dict[str, Any], code: str, status: str) -> None:
    answer = _nvml.Nvml(Library({"nvmlDeviceGetCount": 1, **answers})).read()
    assert codes(answer) == [code]
    assert answer["findings"][0]["evidence"].startswith(UUIDS[0])
    assert answer["gpus"][0]["status"] == status


def test_mig_instances_are_listed() -> None:
    instance = ("instance", 0)
    library = Library(
        {
            "nvmlDeviceGetCount": 1,
            "nvmlDeviceGetMigMode": (1, 1),
            "nvmlDeviceGetMaxMigDeviceCount": 1,
            "nvmlDeviceGetMigDeviceHandleByIndex": instance,
            ("nvmlDeviceGetUUID", instance): "MIG-one",
            "nvmlDeviceGetGpuInstanceId": 2,
            "nvmlDeviceGetComputeInstanceId": 0,
        }
    )
    mig = _nvml.Nvml(library).read()["gpus"][0]["mig"]
    assert (mig["enabled"], mig["pending"]) == (True, False)
    assert [(each["uuid"], each["gpu_instance"]) for each in mig["instances"]] == [("MIG-one", 2)]


def test_what_a_gpu_does_not_support_is_null_and_no_fault() -> None:
    answer = _nvml.Nvml(Library(raises={"nvmlDeviceGetMigMode": 3, "nvmlDeviceGetEccMode": 13})).read()
    assert answer["findings"] == []
    assert answer["gpus"][0]["mig"]["supported"] is False
    assert answer["gpus"][0]["ecc"] == {"enabled": None, "uncorrected": None, "corrected": None}


@pytest.mark.parametrize(
    ("number", "text"), [(12040, "12.4"), (11080, "11.8"), (13000, "13.0"), (12100, "12.10"), (None, None)]
)
def test_cuda_version(number: int | None, text: str | None) -> None:
    assert _nvml.cuda_version(number) == text


@pytest.mark.parametrize(
    ("gpus", "severities", "looked", "expected"),
    [
        ([{}], [], True, "unknown"),
        ([{"uuid": "a"}], [], True, "pass"),
        ([{"uuid": "a"}], ["warning", "info"], True, "pass"),
        ([{"uuid": "a"}], ["error"], True, "fail"),
        ([], [], True, "unknown"),
        ([], ["error"], True, "fail"),
        ([], ["error"], False, "unknown"),
    ],
)
def test_verdict(gpus: list[dict[str, Any]], severities: list[str], looked: bool, expected: str) -> None:
    assert _nvml.verdict(gpus, [{"severity": each} for each in severities], looked) == expected


def pci_gpu(root: Path) -> None:
    device = root / "sys/bus/pci/devices/0000:07:00.0"
    device.mkdir(parents=True)
    (device / "vendor").write_text("0x10de\n")
    (device / "class").write_text("0x030200\n")


@pytest.mark.parametrize(
    ("hardware", "library", "codes_expected", "verdict"),
    [
        (False, None, ["NO_GPU"], "unknown"),
        (True, None, ["PYTHON_PARTS_MISSING"], "unknown"),
        (False, Library(raises={"nvmlInit": 12}), ["NO_GPU"], "unknown"),
        (False, Library(raises={"nvmlInit": 9}), ["NO_GPU"], "unknown"),
        (True, Library(raises={"nvmlInit": 12}), ["DRIVER_MISSING"], "unknown"),
        (True, Library(raises={"nvmlInit": 18}), ["NVML_LIBRARY_MISMATCH"], "fail"),
        (False, Library(raises={"nvmlInit": 18}), ["NVML_LIBRARY_MISMATCH"], "fail"),
        (True, Library({"nvmlDeviceGetCount": 0}), ["NVML_NO_DEVICES"], "fail"),
        (False, Library({"nvmlDeviceGetCount": 0}), ["NO_GPU"], "unknown"),
        (True, Library(), [], "pass"),
    ],
)
def test_collect(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    hardware: bool,
    library: Library | None,
    codes_expected: list[str],
    verdict: str,
) -> None:
    if hardware:
        pci_gpu(tmp_path)

    def load(_path: str) -> Any:
        if library is None:
            raise ImportError("No module named 'pynvml'")
        return library

    monkeypatch.setattr(_nvml, "load_pynvml", load)
    answer = _nvml.collect("/nowhere", tmp_path)
    assert (codes(answer), answer["verdict"]) == (codes_expected, verdict)


def test_a_loaded_module_without_its_library_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pci_gpu(tmp_path)
    version = tmp_path / "proc/driver/nvidia/version"
    version.parent.mkdir(parents=True)
    version.touch()
    monkeypatch.setattr(_nvml, "load_pynvml", lambda _path: Library(raises={"nvmlInit": 12}))
    answer = _nvml.collect("/nowhere", tmp_path)
    assert (codes(answer), answer["verdict"]) == (["NVML_LIBRARY_NOT_FOUND"], "fail")


def test_a_driver_that_hangs_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_nvml, "collect", lambda _path: time.sleep(30))
    started = time.monotonic()
    answer = _nvml.query("/nowhere", 0.2)
    assert time.monotonic() - started < 5
    assert (codes(answer), answer["verdict"]) == (["NVML_TIMEOUT"], "fail")


def test_a_driver_that_crashes_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(_path: str) -> dict[str, Any]:
        faulthandler.disable()
        os.kill(os.getpid(), signal.SIGSEGV)
        return {}

    monkeypatch.setattr(_nvml, "collect", crash)
    answer = _nvml.query("/nowhere", 5)
    assert (codes(answer), answer["verdict"]) == (["NVML_CRASHED"], "fail")
    assert "SIGSEGV" in answer["findings"][0]["evidence"]
