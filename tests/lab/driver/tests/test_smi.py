"""nvidia-smi: texts on stdout and exit statuses."""

import pytest

from .conftest import Make

ONE = "GPU-12345678-1234-1234-1234-123456780000"
TWO = "GPU-12345678-1234-1234-1234-123456780001"
FIELDS = "index,name,uuid,driver_version,memory.total,compute_cap,pci.bus_id,persistence_mode,mig.mode.current"
LIST = f"GPU 0: NVIDIA A100-SXM4-40GB (UUID: {ONE})\nGPU 1: NVIDIA A100-SXM4-40GB (UUID: {TWO})\n"
NOT_LOADED = (
    "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. "
    "Make sure that the latest NVIDIA driver is installed and running.\n\n"
)
COMMUNICATION = "Failed to initialize NVML: "


@pytest.mark.parametrize(
    ("faults", "arguments", "code", "output"),
    [
        ([], ["-L"], 0, LIST),
        (
            [],
            [f"--query-gpu={FIELDS}", "--format=csv", "-i", "0"],
            0,
            "index, name, uuid, driver_version, memory.total [MiB], compute_cap, pci.bus_id, persistence_mode, "
            f"mig.mode.current\n0, NVIDIA A100-SXM4-40GB, {ONE}, 550.163.01, 40960 MiB, 8.0, 00000000:07:00.0, "
            "Enabled, Disabled\n",
        ),
        (
            [],
            ["--query-gpu=index,memory.total,compute_cap", "--format=csv,noheader,nounits"],
            0,
            "0, 40960, 8.0\n1, 40960, 8.0\n",
        ),
        ([], ["--query-gpu", "uuid", "--format", "csv,noheader", "-i", TWO], 0, f"{TWO}\n"),
        ([], ["--query-gpu=bogus", "--format=csv"], 2, 'Field "bogus" is not a valid field to query.\n\n'),
        ([], ["--bogus"], 255, "ERROR: Option --bogus is not recognized. Please run 'nvidia-smi -h'.\n\n"),
        ([], ["-i", "7"], 6, "No devices were found\n"),
        ([], ["-i", "0", "-pm", "1"], 0, "Persistence mode is already Enabled for GPU 00000000:07:00.0.\nAll done.\n"),
        (
            [],
            ["--version"],
            0,
            "NVIDIA-SMI version  : 550.163.01\nNVML version        : 550.163\n"
            "DRIVER version      : 550.163.01\nCUDA Version        : 12.4\n",
        ),
        (["no-devices"], ["-L"], 0, "No devices found.\n"),
        (["no-devices"], [], 6, "No devices were found\n"),
        (["no-devices"], ["--query-gpu=name", "--format=csv"], 6, "No devices were found\n"),
        (["not-loaded"], ["-L"], 9, NOT_LOADED),
        (
            ["library-mismatch"],
            ["-L"],
            18,
            COMMUNICATION + "Driver/library version mismatch\nNVML library version: 550.163\n",
        ),
        (["no-permission"], ["-L"], 4, COMMUNICATION + "Insufficient Permissions\n"),
        (["unknown"], ["-L"], 999 % 256, COMMUNICATION + "Unknown Error\n"),
        (
            ["gpu-lost:0"],
            ["-L"],
            15,
            "Unable to determine the device handle for GPU0: 00000000:07:00.0: GPU is lost.  "
            "Reboot the system to recover this GPU\n",
        ),
    ],
)
def test_output(make: Make, faults: list[str], arguments: list[str], code: int, output: str) -> None:
    done = make(*faults).smi(*arguments)
    assert (done.stdout, done.stderr, done.returncode) == (output, "", code)


def test_without_the_library(make: Make) -> None:
    rig = make("no-nvml-library")
    done = rig.smi("-L")
    assert done.returncode == 12
    assert "couldn't find libnvidia-ml.so library" in done.stdout


def test_table_lines_are_of_one_width(make: Make) -> None:
    done = make().smi()
    assert done.returncode == 0
    lines = [line for line in done.stdout.splitlines()[1:] if line]
    assert {len(line) for line in lines} == {91}
    assert "Driver Version: 550.163.01" in done.stdout
    assert "CUDA Version: 12.4" in done.stdout


def test_another_driver_version_is_told_everywhere(make: Make) -> None:
    rig = make(settings=("version=560.35.03",))
    assert "NVIDIA-SMI 560.35.03" in rig.smi().stdout
    assert "CUDA Version: 12.6" in rig.smi().stdout
    assert rig.smi("--query-gpu=driver_version", "--format=csv,noheader", "-i", "0").stdout == "560.35.03\n"
