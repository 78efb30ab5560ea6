"""A host with a GPU and without a driver: set up without GPU, told how to get one, and completed when it is there."""

from __future__ import annotations

import json

import pytest

from .conftest import ONE_USER, Hosts
from .site import Site, lab

HOST = "scn-driver"
LIBRARIES = "/usr/lib/*-linux-gnu/libnvidia-ml.so* /usr/lib/*-linux-gnu/libcuda.so*"


@pytest.fixture(scope="module")
def site(hosts: Hosts) -> Site:
    """A GPU on the bus, and nothing of its driver."""
    site = hosts.site(HOST, {"gpulab_users": ONE_USER["gpulab_users"]})
    lab("gpu", HOST, "fault", "not-loaded")
    site.ssh(f"rm -f {LIBRARIES} /usr/bin/nvidia-smi; echo 'kernel/fs/ext4.ko:' > /lib/modules/$(uname -r)/modules.dep")
    return site


def test_expected_gpus_without_a_driver_are_refused_before_any_change(site: Site) -> None:
    result = site.run("site.yml", "-e", "gpulab_gpus_expected=2")
    assert result.rc != 0
    assert "DRIVER_EXPECTED" in result.failures and "ubuntu-drivers" in result.failures
    assert result.changed == []


def test_without_expectation_the_host_is_set_up_without_gpu_and_told_how_to_get_a_driver(site: Site) -> None:
    result = site.run().ok()
    said = "\n".join(str(task["result"]) for task in result.tasks)
    assert "DRIVER_MISSING" in said and "ubuntu-drivers install --gpgpu" in said
    assert site.login("trainer", "docker info --format '{{.ServerVersion}}'")
    assert "nvidia-ctk" not in site.ssh("ls /usr/bin")
    assert site.run().ok().changed == []


def test_the_next_run_after_the_driver_came_does_the_rest(site: Site) -> None:
    lab("gpu", HOST, "mend")
    site.ssh("systemctl disable nvidia-persistenced.service")
    result = site.run().ok()
    assert json.loads(site.ssh("cat /var/lib/gpulab/proof.json"))["users"]["trainer"]["verdict"] == "pass"
    assert f"{HOST}: gpulab.fleet.nvidia_container_toolkit : Describe the GPUs to the users' engines" in result.changed
    assert site.ssh("systemctl is-enabled nvidia-persistenced.service").strip() == "enabled"
    assert "from " in str([task["result"] for task in site.run("playbooks/doctor.yml").ok().tasks])
