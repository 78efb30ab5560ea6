"""The driver on a real throwaway host: nodes, traces, changes while it runs, and that containers still can be made."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ... import machine

LAB = Path(__file__).resolve().parents[2] / "lab"
NAME = "driver-test"


def lab(*words: str, stdin: str = "") -> str:
    done = subprocess.run([str(LAB), *words], input=stdin, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def on_host(script: str) -> str:
    return lab("ssh", NAME, "bash", "-s", stdin=script).strip()


@pytest.fixture(scope="module", autouse=True)
def host() -> Iterator[None]:
    if missing := machine.lacks():
        pytest.skip(machine.describe(missing))
    lab("create", NAME, "--gpus", "2")
    yield
    lab("destroy", NAME)


@pytest.fixture
def whole() -> Iterator[None]:
    yield
    lab("gpu", NAME, "mend")
    lab("gpu", NAME, "set", "version=550.163.01", "kernel_version=", "gpus=2", "gpu.1.mig=off")


def test_host_is_well_and_shows_a_driver() -> None:
    assert on_host("systemctl is-system-running --wait") == "running"
    assert on_host("runuser -u trainer nvidia-smi -- --query-gpu=index --format=csv,noheader") == "0\n1"
    assert on_host("awk '{print $8; exit}' /proc/driver/nvidia/version") == "550.163.01"
    assert on_host("grep -c nvidia /proc/devices") == "5"
    assert on_host("grep -lx 0x10de /sys/bus/pci/devices/*/vendor | wc -l") == "2"
    assert on_host("cat /sys/module/nvidia/version") == "550.163.01"
    assert on_host("test -S /run/nvidia-persistenced/socket && echo yes") == "yes"


def test_users_can_still_make_containers_of_their_own() -> None:
    """The kernel refuses a new /proc or /sys in a user namespace where every visible one has something over it."""
    script = "mkdir /tmp/made-sys && mount -t sysfs sysfs /tmp/made-sys && echo fine"
    assert on_host(f"runuser -u trainer -- unshare -Urpfn --mount-proc sh -c '{script}'; rmdir /tmp/made-sys") == "fine"


@pytest.mark.usefixtures("whole")
def test_nodes_that_a_user_may_not_open_show_no_gpu() -> None:
    lab("gpu", NAME, "fault", "nodes-0660")
    assert on_host("runuser -u trainer nvidia-smi -- -L; echo $?").endswith("Insufficient Permissions\n4")
    assert on_host("nvidia-smi -L | wc -l") == "2"
    assert on_host("stat -c %G:%a /dev/nvidia0") == "video:660"


@pytest.mark.usefixtures("whole")
def test_faults_come_and_go_while_it_runs() -> None:
    lab("gpu", NAME, "fault", "uvm-missing")
    assert on_host("ls /dev | grep -c uvm || true") == "0"
    assert on_host("nvidia-modprobe -u -c=0 && ls /dev | grep -c uvm") == "2"
    lab("gpu", NAME, "fault", "not-loaded")
    assert on_host("ls /dev | grep -c nvidia; ls /proc/driver; nvidia-smi -L >/dev/null; echo $?") == "0\n9"
    lab("gpu", NAME, "mend")
    assert on_host("nvidia-smi -L | wc -l; ls /dev | grep -c nvidia") == "2\n6"


@pytest.mark.usefixtures("whole")
def test_upgrade_and_its_reboot() -> None:
    lab("gpu", NAME, "set", "version=560.35.03", "kernel_version=550.163.01")
    assert on_host("nvidia-smi -L >/dev/null; echo $?") == "18"
    lab("gpu", NAME, "set", "kernel_version=")
    lab("reboot", NAME)
    assert on_host("nvidia-smi --query-gpu=driver_version --format=csv,noheader -i 0") == "560.35.03"
    assert (
        on_host("cat /sys/module/nvidia/version; ls /usr/lib/x86_64-linux-gnu | grep -c 550.163.01 || true")
        == "560.35.03\n0"
    )


@pytest.mark.usefixtures("whole")
def test_mig_nodes_follow() -> None:
    lab("gpu", NAME, "set", "gpu.1.mig=1g.5gb,1g.5gb")
    assert (
        on_host(
            "ls /dev/nvidia-caps | wc -l; nvidia-smi -L | grep -c MIG-; grep -c gpu1/gi1 /proc/driver/nvidia-caps/mig-minors"
        )
        == "4\n2\n2"
    )
    lab("gpu", NAME, "set", "gpu.1.mig=off")
    assert on_host("test -e /dev/nvidia-caps || echo gone") == "gone"
