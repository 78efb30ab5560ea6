"""CDI specs under a live rootless engine: every regeneration is noticed, and containers come back with their GPU.

Two hosts of its own, one a version of the engine, made with the roles up to the toolkit; no proof is run here.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .conftest import Hosts
from .site import LAB, Site, lab

pytestmark = pytest.mark.chaos

ENGINES = ("28.5.2", "26.1.5")
SPEC = "/var/lib/gpulab/cdi/trainer/nvidia.json"
GENERATE = "/usr/bin/python3 /usr/local/lib/gpulab/cdi.py generate"
GPUS = [f"GPU-12345678-1234-1234-1234-12345678000{n}" for n in (0, 1)]


class Host:
    """One host, and what is done on it again and again."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.name = site.hosts[0]

    def root(self, command: str, check: bool = True) -> str:
        return self.site.ssh(command, check=check)

    def trainer(self, command: str, check: bool = True) -> str:
        return self.site.login("trainer", command, check=check)

    def user_systemd(self, command: str) -> str:
        return self.root(f"runuser -u trainer -- env XDG_RUNTIME_DIR=/run/user/1000 systemctl --user {command}")

    def devices(self) -> list[str]:
        return [device["name"] for device in json.loads(self.root(f"cat {SPEC}"))["devices"]]

    def restart_engine(self) -> None:
        self.user_systemd("reset-failed docker.service")
        self.user_systemd("restart docker.service")

    def keeper(self) -> str:
        """A container with GPU 1 and a restart policy, running; returns its id."""
        self.trainer("docker rm -f keeper stopped >/dev/null 2>&1; true")
        return self.trainer(
            "docker run -d --name keeper --network none --restart unless-stopped "
            "--device nvidia.com/gpu=1 lab/base:1 sleep 1000000"
        ).strip()

    def state(self, container: str) -> dict[str, Any]:
        state: dict[str, Any] = json.loads(self.trainer(f"docker inspect -f '{{{{json .State}}}}' {container}"))
        return state

    def wait_for_keeper(self, seconds: float = 30) -> str:
        """The GPUs that the container sees, as soon as it sees any."""
        deadline = time.monotonic() + seconds
        while True:
            seen = self.trainer("docker exec keeper nvidia-smi -L 2>&1", check=False)
            if "GPU-" in seen or time.monotonic() > deadline:
                return seen
            time.sleep(0.5)


@pytest.fixture(scope="module", params=ENGINES)
def host(request: pytest.FixtureRequest, hosts: Hosts) -> Iterator[Host]:
    version = request.param
    name = f"scn-cdi-{version.split('.')[0]}"
    site = hosts.site(
        name,
        {
            "gpulab_users": {"trainer": {"gpus": "all"}},
            "rootless_docker_engine_version": version,
        },
    )
    site.run("site.yml", "--tags", "preflight,engine,toolkit").ok()
    image = lab("image-base", "bookworm").split()[-1]
    with Path(image).open("rb") as tar:
        subprocess.run(
            [str(LAB), "ssh", name, "su - trainer -c 'docker import - lab/base:1'"],
            stdin=tar,
            check=True,
            capture_output=True,
        )
    yield Host(site)
    lab("destroy", "--missing-ok", name)


# What each round does before it regenerates, and the devices that must then resolve and those that must not.
# Removing the spec, giving the user fewer GPUs and giving them back are all seen by the engine as other events.
ROUNDS = r"""
import json, pathlib, subprocess, sys
settings, spec = pathlib.Path("/etc/gpulab/cdi.json"), pathlib.Path("{spec}")
generate = "{generate}".split()
def user(*argv):
    return subprocess.run(["su", "-", "trainer", "-c", " ".join(argv)], capture_output=True, text=True)
def resolves(gpu):
    # Judged by the exit code: on a busy machine the output of so short a container can be lost on its way.
    count = "sh -c 'nvidia-smi -L; test $(nvidia-smi -L | grep -c GPU-) = 1'"
    run = user("docker run --rm --network none --device nvidia.com/gpu=" + gpu, "lab/base:1", count)
    return run.returncode == 0, f"exit code {{run.returncode}}: {{run.stdout}}{{run.stderr}}"
before, failures = settings.read_text(), []
for n in range({rounds}):
    kind = ("removed", "fewer", "more")[n % 3]
    if kind == "removed":
        spec.unlink()
    settings.write_text(json.dumps({{"users": {{"trainer": ["{gpu}"] if kind == "fewer" else "all"}}}}))
    done = subprocess.run(generate, capture_output=True, text=True)
    if done.returncode or "written" not in done.stdout:
        failures.append([n, kind, "not regenerated", done.stdout + done.stderr])
        continue
    ok, said = resolves("{gpu}")
    if not ok:
        failures.append([n, kind, "not resolved", said])
    ok, said = resolves("0")
    if ok == (kind == "fewer"):
        failures.append([n, kind, "an old spec was used", said])
settings.write_text(before)
subprocess.run(generate)
print(json.dumps(failures))
"""


def test_fifty_regenerations_are_all_noticed(host: Host) -> None:
    script = ROUNDS.format(spec=SPEC, generate=GENERATE, rounds=50, gpu=GPUS[1])
    host.root(f"cat >/root/rounds.py <<'EOF'\n{script}\nEOF")
    said = host.root("systemctl stop gpulab-cdi-poll.timer; /usr/bin/python3 /root/rounds.py").splitlines()[-1]
    host.root("systemctl start gpulab-cdi-poll.timer")
    assert json.loads(said) == []


# Two ways that do not work, on the same host: without them the test above could pass for any way of writing.
# Each round writes the spec with a mark of its own and asks a container for it.
CONTROL = r"""
import json, os, pathlib, subprocess
folder = pathlib.Path("{spec}").parent
kept, failed = json.loads((folder / "nvidia.json").read_text()), 0
for n in range(30):
    kept["containerEdits"]["env"] = ["MARK=" + str(n)]
    beside = {beside}
    beside.write_text(json.dumps(kept))
    beside.chmod({mode})
    beside.rename(folder / "nvidia.json")
    (folder / "nvidia.json").chmod(0o644)
    run = subprocess.run(
        ["su", "-", "trainer", "-c", "docker run --rm --device nvidia.com/gpu=0 lab/base:1 printenv MARK"],
        capture_output=True, text=True)
    failed += run.stdout.strip() != str(n)
print(failed)
"""

# As root's nvidia-ctk itself does it, straight into the folder.
DIRECT = r"""
import pathlib, subprocess
folder, failed = pathlib.Path("{spec}").parent, 0
(folder / "nvidia.json").unlink()
for n in range(30):
    subprocess.run(["nvidia-ctk", "--quiet", "cdi", "generate", "--output", folder / "nvidia.yaml"], check=True)
    run = subprocess.run(
        ["su", "-", "trainer", "-c", "docker run --rm --device nvidia.com/gpu=0 lab/base:1 true"],
        capture_output=True, text=True)
    failed += "unresolvable CDI devices" in run.stderr
(folder / "nvidia.yaml").unlink()
print(failed)
"""


@pytest.mark.parametrize(
    ("script", "values", "at_least"),
    [
        pytest.param(DIRECT, {}, 3, id="root's nvidia-ctk writes into the folder"),
        pytest.param(CONTROL, {"beside": 'folder / "beside.tmp"', "mode": "0o600"}, 3, id="opened after the rename"),
        pytest.param(
            CONTROL, {"beside": 'folder.parent / "beside.tmp"', "mode": "0o644"}, 20, id="from another folder"
        ),
    ],
)
def test_control(host: Host, script: str, values: dict[str, str], at_least: int) -> None:
    text = script.format(spec=SPEC, **values)
    host.root(f"systemctl stop gpulab-cdi.path gpulab-cdi-poll.timer; cat >/root/control.py <<'EOF'\n{text}\nEOF")
    failed = int(host.root("/usr/bin/python3 /root/control.py").splitlines()[-1])
    host.root(f"rm -f {SPEC}; {GENERATE}; systemctl start gpulab-cdi.path gpulab-cdi-poll.timer")
    assert failed >= at_least, f"only {failed} of 30 failed: the tests here cannot tell a good way from a bad one"


def test_control_of_the_control(host: Host) -> None:
    """The same script, written as the collection does it, never fails."""
    text = CONTROL.format(spec=SPEC, beside='folder / ".nvidia.json.tmp"', mode="0o644")
    host.root(f"systemctl stop gpulab-cdi.path gpulab-cdi-poll.timer; cat >/root/control.py <<'EOF'\n{text}\nEOF")
    failed = int(host.root("/usr/bin/python3 /root/control.py").splitlines()[-1])
    host.root(f"rm -f {SPEC}; {GENERATE}; systemctl start gpulab-cdi.path gpulab-cdi-poll.timer")
    assert failed == 0


@pytest.mark.parametrize(
    "event",
    ["engine restart", "daemon-reload", "toolkit re-install", "reboot", "power-cut", "driver replaced"],
)
def test_a_container_keeps_its_gpu(host: Host, event: str) -> None:
    made = host.keeper()
    before = host.wait_for_keeper()
    assert before.count("GPU-") == 1 and GPUS[1] in before
    spec = host.root(f"stat -c '%i %Y' {SPEC}; sha256sum {SPEC}")
    if event == "engine restart":
        host.restart_engine()
    elif event == "daemon-reload":
        host.root("systemctl daemon-reload")
        host.user_systemd("daemon-reload")
    elif event == "toolkit re-install":
        host.root("apt-get -qq install -y --reinstall nvidia-container-toolkit-base")
    elif event in ("reboot", "power-cut"):
        lab(event, host.name)
        if event == "power-cut":
            lab("start", host.name)
    else:
        host.root("touch /lib/modules/$(uname -r)/modules.dep /etc/ld.so.cache")
    assert host.wait_for_keeper() == before
    assert host.trainer("docker inspect -f '{{.Id}}' keeper").strip() == made, "the same container"
    assert host.root(f"stat -c '%i %Y' {SPEC}; sha256sum {SPEC}") == spec, "nothing differed: nothing was written"


def test_what_missed_its_gpu_is_started_and_nothing_else(host: Host) -> None:
    """The spec is away while the engine starts; it comes back with the boot service's program."""
    host.keeper()
    run = "docker run -d --network none --restart unless-stopped lab/base:1"
    for name in ("stopped", "broken"):
        host.trainer(f"docker rm -f {name} >/dev/null 2>&1; true")
    host.trainer(
        f"{run.replace('-d', '-d --name stopped --device nvidia.com/gpu=0')} sleep 1000000 && docker stop -t 0 stopped"
    )
    host.trainer(f"{run.replace('-d', '-d --name broken --device nvidia.com/gpu=0')} /no/such/program", check=False)
    untouched = {name: host.state(name) for name in ("stopped", "broken")}
    host.root(f"systemctl stop gpulab-cdi.path gpulab-cdi-poll.timer; mv {SPEC} /root/")
    host.restart_engine()
    assert host.state("keeper")["Running"] is False
    host.root("systemctl start gpulab-cdi.service")
    assert GPUS[1] in host.wait_for_keeper(10)
    for name, state in untouched.items():
        now = host.state(name)
        assert (now["Status"], now["StartedAt"]) == (state["Status"], state["StartedAt"]), name
    assert "keeper: started again" in host.root("journalctl -u gpulab-cdi -n 20 --no-pager")
    host.root("systemctl start gpulab-cdi.path gpulab-cdi-poll.timer")
    host.trainer("docker rm -f stopped broken")


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("not-loaded", "DRIVER_NOT_LOADED"),
        ("library-mismatch", "NVML_LIBRARY_MISMATCH"),
        ("no-cuda-library", "CDI_SPEC_INCOMPLETE"),
    ],
)
def test_a_broken_driver_is_named_and_the_old_spec_kept(host: Host, fault: str, code: str) -> None:
    spec = host.root(f"sha256sum {SPEC}")
    lab("gpu", host.name, "fault", fault)
    try:
        host.root("systemctl start gpulab-cdi.service")
        assert code in host.root("journalctl -u gpulab-cdi -n 20 --no-pager")
        assert host.root("systemctl is-failed gpulab-cdi.service", check=False).strip() != "failed"
        assert host.root(f"sha256sum {SPEC}") == spec
        result = host.site.run("site.yml", "--tags", "toolkit")
        assert result.rc != 0 and code in result.failures and "remedy" in result.failures
    finally:
        lab("gpu", host.name, "mend")
    result = host.site.run("site.yml", "--tags", "toolkit").ok()
    assert host.root(f"sha256sum {SPEC}") == spec


@pytest.mark.parametrize("can_be_loaded", [True, False], ids=["uvm loads", "uvm does not load"])
def test_a_missing_uvm_node_is_made_or_named(host: Host, can_be_loaded: bool) -> None:
    """nvidia-ctk would leave it out with exit code 0, and CUDA would not start in any container."""
    spec = host.root(f"sha256sum {SPEC}")
    host.root("systemctl stop gpulab-cdi.path gpulab-cdi-poll.timer")
    lab("gpu", host.name, "fault", "uvm-missing")
    try:
        assert host.root("test -e /dev/nvidia-uvm || echo missing").strip() == "missing"
        host.root(
            f"chmod {'4755' if can_be_loaded else '644'} /usr/bin/nvidia-modprobe; systemctl start gpulab-cdi.service"
        )
        said = host.root("journalctl -u gpulab-cdi -n 4 --no-pager")
        assert ("UVM_MISSING" in said) is not can_be_loaded
        assert host.root("test -c /dev/nvidia-uvm && echo made", check=False).strip() == (
            "made" if can_be_loaded else ""
        )
        assert host.root(f"sha256sum {SPEC}") == spec
    finally:
        host.root("chmod 4755 /usr/bin/nvidia-modprobe")
        lab("gpu", host.name, "mend")
        host.root("systemctl start gpulab-cdi.path gpulab-cdi-poll.timer")


def test_a_stopped_persistence_daemon_keeps_no_container_from_starting(host: Host) -> None:
    """nvidia-ctk mounts the daemon's socket, and a mount of something that has gone away fails the start."""
    run = "docker run --rm --network none --device nvidia.com/gpu=1 lab/base:1 nvidia-smi -L"
    assert "nvidia-persistenced/socket" in host.root("nvidia-ctk --quiet cdi generate")
    host.root("mv /run/nvidia-persistenced/socket /run/nvidia-persistenced/away")
    try:
        assert GPUS[1] in host.trainer(run)
    finally:
        host.root("mv /run/nvidia-persistenced/away /run/nvidia-persistenced/socket")


def test_mig_instances_are_noticed_without_any_event(host: Host) -> None:
    """Nothing is written to a disk when instances are made or taken away: only the timer can see it."""
    host.root("systemctl stop gpulab-cdi.path; systemctl restart gpulab-cdi-poll.timer")
    try:
        for setting, named in (("3g.20gb,3g.20gb", True), ("off", False)):
            lab("gpu", host.name, "set", f"gpu.0.mig={setting}")
            deadline = time.monotonic() + 100
            while ("0:1" in host.devices()) is not named and time.monotonic() < deadline:
                time.sleep(3)
            assert ("0:1" in host.devices()) is named
            assert ("0" in host.devices()) is not named, "a GPU that is divided is not handed out whole"
    finally:
        host.root("systemctl start gpulab-cdi.path")


def test_a_restricted_user_and_back(host: Host) -> None:
    host.site.set({"gpulab_users": {"trainer": {"gpus": [1]}}})
    for args in (("--check", "--diff"), ()):
        result = host.site.run("site.yml", "--tags", "toolkit", *args).ok()
        assert len(result.changed) == 1
    assert host.devices() == ["1", GPUS[1], "all"]
    assert host.site.run("site.yml", "--tags", "toolkit").ok().changed == []
    assert json.loads(host.root("cat /etc/gpulab/cdi.json")) == {"users": {"trainer": [GPUS[1]]}}
    host.site.set({"gpulab_users": {"trainer": {"gpus": [2]}}})
    refused = host.site.run("site.yml", "--tags", "toolkit")
    assert refused.rc != 0 and "GPU_UNKNOWN" in refused.failures and GPUS[0] in refused.failures
    assert host.devices() == ["1", GPUS[1], "all"]
    host.site.set({"gpulab_users": {"trainer": {"gpus": "all"}}})
    host.site.run("site.yml", "--tags", "toolkit").ok()
    assert host.devices() == ["0", "1", *GPUS, "all"]
