"""libnvidia-ml, asked by the real nvidia-ml-py."""

from typing import Any

import pytest

from .conftest import Make

ASK = """
import ctypes, json
import pynvml as nvml
try:
    nvml.nvmlInit()
    gpu = nvml.nvmlDeviceGetHandleByIndex({gpu})
    answer = {expression}
except nvml.NVMLError as error:
    answer = ["error", error.value]
print(json.dumps(answer))
"""


def ask(rig: Any, expression: str, gpu: int = 0) -> Any:
    return rig.python(ASK.format(expression=expression, gpu=gpu))


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("nvml.nvmlSystemGetDriverVersion()", "550.163.01"),
        ("nvml.nvmlSystemGetNVMLVersion()", "12.550.163.01"),
        ("nvml.nvmlSystemGetCudaDriverVersion_v2()", 12040),
        ("nvml.nvmlDeviceGetCount()", 2),
        ("nvml.nvmlDeviceGetName(gpu)", "NVIDIA A100-SXM4-40GB"),
        ("nvml.nvmlDeviceGetUUID(gpu)", "GPU-12345678-1234-1234-1234-123456780000"),
        ("nvml.nvmlDeviceGetIndex(gpu)", 0),
        ("nvml.nvmlDeviceGetMinorNumber(gpu)", 0),
        ("nvml.nvmlDeviceGetMemoryInfo(gpu).total", 40960 << 20),
        ("nvml.nvmlDeviceGetMemoryInfo(gpu, nvml.nvmlMemory_v2).reserved", 571 << 20),
        ("nvml.nvmlDeviceGetCudaComputeCapability(gpu)", [8, 0]),
        ("nvml.nvmlDeviceGetPciInfo(gpu).busId", "00000000:07:00.0"),
        ("nvml.nvmlDeviceGetPciInfo(gpu).busIdLegacy", "0000:07:00.0"),
        ("nvml.nvmlDeviceGetPciInfo(gpu).bus", 7),
        ("nvml.nvmlDeviceGetPersistenceMode(gpu)", 1),
        ("nvml.nvmlDeviceGetEccMode(gpu)", [1, 1]),
        ("nvml.nvmlDeviceGetTotalEccErrors(gpu, 1, 0)", 0),
        ("nvml.nvmlDeviceGetRemappedRows(gpu)", [0, 0, 0, 0]),
        ("nvml.nvmlDeviceGetCurrentClocksEventReasons(gpu)", 1),
        ("nvml.nvmlDeviceGetCurrPcieLinkGeneration(gpu)", 4),
        ("nvml.nvmlDeviceGetMaxPcieLinkWidth(gpu)", 16),
        ("nvml.nvmlDeviceGetMigMode(gpu)", [0, 0]),
        ("nvml.nvmlDeviceGetMaxMigDeviceCount(gpu)", 7),
        ("nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU)", 31),
        ("nvml.nvmlDeviceGetTemperatureV(gpu, nvml.NVML_TEMPERATURE_GPU)", 31),
        ("nvml.nvmlDeviceGetPowerManagementLimit(gpu)", 400000),
        ("nvml.nvmlDeviceGetComputeMode(gpu)", 0),
        ("nvml.nvmlDeviceGetComputeRunningProcesses(gpu)", []),
        ("nvml.nvmlDeviceGetTopologyCommonAncestor(gpu, nvml.nvmlDeviceGetHandleByIndex(1))", 40),
        ("nvml.nvmlDeviceGetIndex(nvml.nvmlDeviceGetHandleByUUID('GPU-12345678-1234-1234-1234-123456780001'))", 1),
        ("nvml.nvmlDeviceGetIndex(nvml.nvmlDeviceGetHandleByPciBusId('0000:0F:00.0'))", 1),
        ("nvml.nvmlDeviceGetFanSpeed(gpu)", ["error", 3]),
        ("nvml.nvmlDeviceGetGpuFabricInfo(gpu, ctypes.byref(nvml.c_nvmlGpuFabricInfo_t()))", ["error", 3]),
        ("nvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, 0)", ["error", 6]),
        ("nvml.nvmlDeviceGetHandleByUUID('GPU-0')", ["error", 6]),
        ("nvml.nvmlDeviceGetHandleByIndex(2)", ["error", 2]),
        ("nvml.nvmlDeviceGetDramEncryptionMode(gpu)", ["error", 13]),
    ],
)
def test_answers(make: Make, expression: str, expected: Any) -> None:
    assert ask(make(), expression) == expected


@pytest.mark.parametrize(
    ("fault", "code"),
    [("not-loaded", 9), ("library-mismatch", 18), ("no-permission", 4), ("blocked", 17), ("unknown", 999),
     ("control-missing", 9), ("gpu-lost:0", 15), ("reset-required:0", 16)],
)  # fmt: skip
def test_faults(make: Make, fault: str, code: int) -> None:
    assert ask(make(fault), "nvml.nvmlDeviceGetName(gpu)") == ["error", code]


def test_a_lost_gpu_is_counted_and_the_other_one_works(make: Make) -> None:
    rig = make("gpu-lost")
    assert ask(rig, "nvml.nvmlDeviceGetCount()") == 2
    assert ask(rig, "nvml.nvmlDeviceGetMinorNumber(gpu)") == 0
    assert ask(rig, "1", gpu=1) == ["error", 15]


def test_only_gpus_whose_node_opens_are_seen(make: Make) -> None:
    rig = make()
    (rig.dev / "nvidia0").unlink()
    assert ask(
        rig, "[nvml.nvmlDeviceGetCount(), nvml.nvmlDeviceGetIndex(gpu), nvml.nvmlDeviceGetMinorNumber(gpu)]"
    ) == [
        1,
        0,
        1,
    ]
    (rig.dev / "nvidia0").write_text("not a node")
    assert ask(rig, "nvml.nvmlDeviceGetCount()") == 1


@pytest.mark.parametrize(
    ("fault", "expression", "expected"),
    [
        ("rows-pending:0", "nvml.nvmlDeviceGetRemappedRows(gpu)", [0, 1, 1, 0]),
        ("ecc-errors:0", "nvml.nvmlDeviceGetTotalEccErrors(gpu, 1, 0)", 3),
        ("exclusive-process:0", "nvml.nvmlDeviceGetComputeMode(gpu)", 3),
        ("persistence-off", "nvml.nvmlDeviceGetPersistenceMode(gpu)", 0),
        ("pcie-degraded:0", "nvml.nvmlDeviceGetCurrPcieLinkWidth(gpu)", 4),
        ("thermal-slowdown:0", "nvml.nvmlDeviceGetCurrentClocksEventReasons(gpu)", 0x60),
        ("no-devices", "nvml.nvmlDeviceGetCount()", ["error", 2]),
        ("gpu-missing:0", "nvml.nvmlDeviceGetMinorNumber(gpu)", 1),
        ("node-missing:0", "nvml.nvmlDeviceGetMinorNumber(gpu)", 1),
    ],
)
def test_health_faults(make: Make, fault: str, expression: str, expected: Any) -> None:
    assert ask(make(fault), expression) == expected


def test_processes_are_those_that_are_named(make: Make) -> None:
    rig = make(settings=("gpu.0.processes=4711:900,12",))
    question = "[(p.pid, p.usedGpuMemory) for p in nvml.nvmlDeviceGet{}RunningProcesses(gpu)]"
    assert ask(rig, question.format("Compute")) == [[4711, 900 << 20], [12, 0]]
    assert ask(rig, question.format("Graphics")) == []
    assert ask(rig, question.format("Compute"), gpu=1) == []


def test_mig_devices_follow_their_capability_nodes(make: Make) -> None:
    rig = make(settings=("gpu.0.mig=1g.5gb,2g.10gb",))
    seen = """[(nvml.nvmlDeviceGetUUID(mig), nvml.nvmlDeviceGetGpuInstanceId(mig),
                nvml.nvmlDeviceGetAttributes(mig).memorySizeMB)
               for mig in map(lambda n: nvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, n), range(%d))]"""
    assert ask(rig, "nvml.nvmlDeviceGetMigMode(gpu)") == [1, 1]
    assert ask(rig, seen % 2) == [
        ["MIG-00000000-0001-5000-8000-123456780000", 1, 4864],
        ["MIG-00000000-0002-5000-8000-123456780000", 2, 9856],
    ]
    (rig.dev / "nvidia-caps/nvidia-cap12").unlink()
    assert ask(rig, seen % 1) == [["MIG-00000000-0002-5000-8000-123456780000", 2, 9856]]


def test_fabric_manager_state(make: Make) -> None:
    expression = """(lambda info: (setattr(info, 'version', nvml.nvmlGpuFabricInfo_v2),
        nvml.nvmlDeviceGetGpuFabricInfoV(gpu, ctypes.byref(info)), info.state)[-1])(nvml.c_nvmlGpuFabricInfo_v2_t())"""
    assert ask(make(), expression) == ["error", 3]
    assert ask(make("fabric-not-ready"), expression) == 2
