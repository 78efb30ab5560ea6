"""Compose files of others, in the shape in which Compose hands them over, made to fit an engine without root."""

from __future__ import annotations

import copy
import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpulab.fleet.plugins.module_utils import _compose_adapt, _compose_mounts
from ansible_collections.gpulab.fleet.plugins.module_utils._compose_adapt import Host, adapt
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError

UUID = "GPU-12345678-1234-1234-1234-123456780001"
HOME = Path("/home/trainer")
SOCKET = Path("/run/user/1000/docker.sock")
HOST = Host("28.5.2", HOME, SOCKET, frozenset({"runc", "nvidia"}))
NEW = dataclasses.replace(HOST, engine="29.5.0")


def one(**service: Any) -> dict[str, Any]:
    return {"name": "p", "services": {"s": {"image": "i", **service}}}


def adapted(config: dict[str, Any], host: Host = HOST, **more: Any) -> tuple[dict[str, Any], list[str]]:
    before = copy.deepcopy(config)
    changed, notes = adapt(config, host, **{"gpus": {}, **more})
    assert config == before, "the input is left as it is"
    again, _ = adapt(changed, host, **{"gpus": {}, **more})
    assert again["services"].keys() == changed["services"].keys(), "what came out can go in again"
    return changed, notes


def refused(config: dict[str, Any], host: Host = HOST, **more: Any) -> FleetError:
    with pytest.raises(FleetError) as error:
        adapt(config, host, **{"gpus": {}, **more})
    return error.value


# A policy server as its authors publish it, and a simulator beside it: both on the host's network.
POLICY_SERVER: dict[str, Any] = {
    "build": {"context": "/home/trainer/pi", "dockerfile": "scripts/docker/serve.Dockerfile"},
    "deploy": {"resources": {"reservations": {"devices": [
        {"capabilities": ["gpu"], "driver": "nvidia", "count": 1}]}}, "placement": {}},
    "environment": {"DATA": "/assets", "SERVER_ARGS": None},
    "image": "policy_server", "init": True, "network_mode": "host", "tty": True,
    "volumes": [
        {"type": "bind", "source": "/home/trainer/pi", "target": "/app", "bind": {"create_host_path": True}},
        {"type": "bind", "source": "/home/trainer/.cache/pi", "target": "/assets", "bind": {"create_host_path": True}},
    ],
}  # fmt: skip


def test_a_policy_server_on_the_hosts_network_with_its_port_named() -> None:
    config = {"name": "pi", "services": {"policy_server": POLICY_SERVER}}
    changed, notes = adapted(config, gpus={"policy_server": [UUID]}, publish={"policy_server": [8000]})
    service = changed["services"]["policy_server"]
    assert "network_mode" not in service
    assert service["networks"] == {"default": None}
    assert changed["networks"] == {"default": {"name": "pi_default"}}
    assert service["ports"] == [
        {"mode": "ingress", "host_ip": "127.0.0.1", "target": 8000, "published": "8000", "protocol": "tcp"}
    ]
    assert service["environment"] == {"DATA": "/assets", "GPULAB_GPUS": UUID}
    assert service["deploy"]["resources"]["reservations"]["devices"] == [
        {"driver": "cdi", "device_ids": [f"nvidia.com/gpu={UUID}"], "capabilities": ["gpu"]}
    ]
    assert service["volumes"] == POLICY_SERVER["volumes"]
    text = "\n".join(notes)
    assert "driver: nvidia became a CDI request" in text
    assert "SERVER_ARGS has no value" in text
    assert "127.0.0.1:8000 published" in text


def test_a_policy_server_whose_port_nobody_names_is_refused() -> None:
    error = refused({"name": "pi", "services": {"policy_server": POLICY_SERVER}}, gpus={"policy_server": [UUID]})
    assert error.code == "STACK_HOST_NETWORK"
    assert "services.policy_server.network_mode is host" in error.detail
    assert "publish.policy_server" in error.detail


def test_from_engine_29_5_the_hosts_network_is_the_hosts() -> None:
    changed, notes = adapted({"name": "pi", "services": {"policy_server": POLICY_SERVER}}, NEW)
    assert changed["services"]["policy_server"]["network_mode"] == "host"
    assert any("every address of the host" in note for note in notes)


def test_services_on_the_hosts_network_still_share_localhost() -> None:
    simulator = {
        "image": "sim", "network_mode": "host", "privileged": True, "hostname": "sim",
        "depends_on": {"policy_server": {"condition": "service_started", "required": True}},
    }  # fmt: skip
    config = {"name": "pi", "services": {"a_simulator": simulator, "policy_server": POLICY_SERVER}}
    changed, notes = adapted(config, publish={"policy_server": [8000]})
    member = changed["services"]["a_simulator"]
    assert member["network_mode"] == "service:policy_server"
    assert "hostname" not in member and "networks" not in member
    assert member["depends_on"]["policy_server"]["condition"] == "service_started"
    assert "ports" not in member
    assert any("hostname cannot be kept" in note for note in notes)


def test_ports_of_every_member_are_the_owners() -> None:
    port = {"mode": "ingress", "target": 6006, "published": "6006", "protocol": "tcp"}
    config = {"name": "p", "services": {
        "a": {"network_mode": "host", "ports": [port]},
        "b": {"network_mode": "host", "depends_on": {"a": {"condition": "service_healthy", "required": True}}},
    }}  # fmt: skip
    changed, _ = adapted(config, publish={"b": ["0.0.0.0:9001:9000"]})
    assert [(p["host_ip"], p["published"], p["target"]) for p in changed["services"]["a"]["ports"]] == [
        ("127.0.0.1", "6006", 6006),
        ("0.0.0.0", "9001", 9000),
    ]
    assert changed["services"]["b"]["depends_on"]["a"]["condition"] == "service_healthy"


def test_a_client_on_the_hosts_network_may_publish_nothing() -> None:
    changed, _ = adapted(one(network_mode="host"), publish={"s": []})
    assert "ports" not in changed["services"]["s"]


def test_ports_without_an_address_are_kept_on_the_host() -> None:
    ports = [
        {"mode": "ingress", "target": 2000, "published": "2000", "protocol": "tcp"},
        {"mode": "ingress", "host_ip": "0.0.0.0", "target": 2001, "published": "2001", "protocol": "tcp"},
        {"mode": "ingress", "target": 7000, "protocol": "tcp"},
    ]
    changed, notes = adapted(one(ports=ports))
    assert [port.get("host_ip") for port in changed["services"]["s"]["ports"]] == ["127.0.0.1", "0.0.0.0", None]
    assert len(notes) == 1 and "services.s.ports: 2000" in notes[0]


def test_a_simulator_container() -> None:
    """Named caches, privileged, all GPUs, limits of its own: what robotics simulators ship."""
    config = one(
        privileged=True,
        ipc="host",
        pid="host",
        ulimits={"memlock": -1, "nofile": {"soft": 65536, "hard": 65536}, "stack": 67108864},
        gpus=[{"count": -1}],
        runtime="nvidia",
        environment={"NVIDIA_VISIBLE_DEVICES": "all", "NVIDIA_DRIVER_CAPABILITIES": "all", "CUDA_VISIBLE_DEVICES": "1"},
        volumes=[{"type": "volume", "source": "cache", "target": "/root/.cache", "volume": {}}],
        security_opt=["seccomp=unconfined"],
        mem_limit="8589934592",
        deploy={"resources": {"limits": {"cpus": 2, "pids": 99}}},
    )
    host = dataclasses.replace(HOST, ulimits={"memlock": 8388608, "nofile": 524288}, binds=frozenset({"pids"}))
    changed, notes = adapted(config, host, gpus={"s": [UUID]})
    service = changed["services"]["s"]
    assert not {"privileged", "runtime", "gpus", "pid"} & set(service)
    assert service["cap_add"] == ["ALL"]
    assert service["security_opt"] == ["seccomp=unconfined", "systempaths=unconfined"]
    assert "mem_limit" not in service and service["deploy"]["resources"]["limits"] == {"pids": 99}
    assert service["ulimits"]["memlock"] == {"soft": 8388608, "hard": 8388608}
    assert service["ulimits"]["nofile"] == {"soft": 65536, "hard": 65536}
    assert service["ulimits"]["stack"] == 67108864
    assert service["environment"]["NVIDIA_DRIVER_CAPABILITIES"] == "all"
    assert "NVIDIA_VISIBLE_DEVICES" not in service["environment"]
    text = "\n".join(notes)
    for said in ("privileged: true became", "ipc: host", "pid: host was taken", "ulimits.memlock: -1 became 8388608",
                 "mem_limit: 8589934592 was taken out", "deploy.resources.limits.cpus: 2 was taken out",
                 "gpus, runtime: nvidia, NVIDIA_VISIBLE_DEVICES=all became",
                 "CUDA_VISIBLE_DEVICES is 1"):  # fmt: skip
        assert said in text
    assert all(note.startswith("services.s") for note in notes)


def test_who_gets_no_gpu_asks_for_none() -> None:
    changed, notes = adapted(one(gpus=[{"count": 1}], environment={"A": "b"}))
    assert changed["services"]["s"] == {"image": "i", "environment": {"A": "b"}}
    assert notes == ["services.s: gpus became nothing: no GPU was given to it"]


def test_the_hosts_processes_without_a_gpu() -> None:
    changed, notes = adapted(one(pid="host"))
    assert changed["services"]["s"]["pid"] == "host"
    assert notes == ["services.s.pid: host sees every process of the host, and can end those of its own user"]


def test_a_plain_file_is_left_alone() -> None:
    config = one(
        environment={"A": "b"},
        ulimits={"nofile": 1024},
        volumes=[{"type": "bind", "source": "/home/trainer/x", "target": "/x"}],
        deploy={"resources": {"limits": {"memory": "1"}}},
    )
    assert adapted(config) == (config, [])


def test_the_engines_socket_is_the_users_own() -> None:
    mount = {
        "type": "bind",
        "source": "/var/run/docker.sock",
        "target": "/var/run/docker.sock",
        "bind": {"create_host_path": True},
    }
    changed, notes = adapted(one(volumes=[mount]))
    assert changed["services"]["s"]["volumes"][0] == {
        "type": "bind", "source": str(SOCKET), "target": "/var/run/docker.sock", "bind": {}}  # fmt: skip
    assert "whatever the user can" in notes[0]


@pytest.mark.parametrize(
    ("service", "code", "said"),
    [
        ({"runtime": "runsc"}, "STACK_NEEDS_ROOT", "services.s.runtime is runsc; this engine has nvidia, runc"),
        ({"devices": ["/dev/ttyUSB9:/dev/ttyUSB9"]}, "STACK_NEEDS_ROOT", "/dev/ttyUSB9 is not on this host"),
        ({"ports": [{"target": 80, "published": "80"}]}, "STACK_PORT_PRIVILEGED", "services.s.ports: 80"),
        ({"ports": [{"target": 80, "published": "80-90"}]}, "STACK_PORT_PRIVILEGED", "services.s.ports: 80-90"),
        ({"user": "70000:1000"}, "STACK_NEEDS_ROOT", "services.s.user or group_add names 70000, and ids end at 65535"),
        ({"group_add": ["99999"]}, "STACK_NEEDS_ROOT", "names 99999"),
        ({"container_name": "carla"}, "STACK_NAME_TAKEN", "container_name is carla, which a container of other has"),
    ],
)
def test_refusals(service: dict[str, Any], code: str, said: str) -> None:
    error = refused(one(**service), dataclasses.replace(HOST, names={"carla": "other", "mine": "p"}))
    assert (error.code, said in error.detail) == (code, True), error.detail


def test_a_fixed_name_of_its_own_is_kept() -> None:
    changed, _ = adapted(one(container_name="mine"), dataclasses.replace(HOST, names={"mine": "p"}))
    assert changed["services"]["s"]["container_name"] == "mine"


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ({"networks": {"lan": {"driver": "macvlan"}}}, "networks.lan.driver is macvlan"),
        ({"volumes": {"data": {"driver_opts": {"type": "nfs"}}}}, "volumes.data.driver_opts.type is nfs"),
    ],
)
def test_what_only_root_can_mount_or_join(part: dict[str, Any], said: str) -> None:
    assert said in refused({**one(), **part}).detail
    adapt({**one(), "networks": {"a": None}, "volumes": {"b": {"driver_opts": {"type": "none"}}, "c": None}}, HOST, {})


def test_everything_that_is_wrong_is_said_at_once() -> None:
    error = refused(one(runtime="runsc", ports=[{"target": 80, "published": "80"}], devices=["/dev/none0:/dev/none0"]))
    assert error.code == "STACK_NEEDS_ROOT"
    for said in ("runsc", "/dev/none0", "also STACK_PORT_PRIVILEGED: services.s.ports: 80"):
        assert said in error.detail


def bind(source: Path, **more: Any) -> dict[str, Any]:
    return one(volumes=[{"type": "bind", "source": str(source), "target": "/t", **more}])


def test_a_folder_elsewhere_is_used_as_far_as_the_user_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert adapted(bind(tmp_path))[1] == []
    assert "made in a folder" in adapted(bind(tmp_path / "new" / "er"))[1][0]
    allowed = {str(tmp_path): os.R_OK | os.X_OK}
    monkeypatch.setattr(os, "access", lambda path, mode: allowed[str(path)] & mode == mode)
    assert "cannot write there" in adapted(bind(tmp_path))[1][0]
    assert adapted(bind(tmp_path, read_only=True))[1] == []
    assert f"only root can make it in {tmp_path}" in refused(bind(tmp_path / "new" / "er")).detail
    allowed[str(tmp_path)] = 0
    assert "may not read it" in refused(bind(tmp_path)).detail


def test_all_of_dev_shows_every_gpu() -> None:
    assert "every GPU" in adapted(bind(Path("/dev")))[1][0]
    assert adapted(bind(Path("/dev/shm")))[1] == []


def test_a_device_that_a_container_could_not_open(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _compose_mounts.closed("/dev/null") == []
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    monkeypatch.setattr(os, "getgid", lambda: 12345)
    shut = next(Path(f"/dev/{name}") for name in ("console", "ptmx", "tty0") if Path(f"/dev/{name}").exists())
    shut_mode = shut.stat().st_mode & 0o006 == 0o006
    assert _compose_mounts.closed(str(shut)) == ([] if shut_mode else [str(shut)])
    _, notes = adapted(one(devices=[f"{shut}:{shut}"]))
    assert bool(notes) != shut_mode


def test_limits_are_the_engines_own(tmp_path: Path) -> None:
    (tmp_path / "docker.pid").write_text("7\n")
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "limits").write_text(
        "Limit                     Soft Limit           Hard Limit           Units     \n"
        "Max locked memory         8388608              8388608              bytes     \n"
        "Max open files            1024                 524288               files     \n"
        "Max stack size            8388608              unlimited            bytes     \n"
    )
    found = _compose_adapt.hard_limits(tmp_path / "docker.pid", tmp_path)
    assert found == {"memlock": 8388608, "nofile": 524288}
    assert _compose_adapt.hard_limits(tmp_path / "none", tmp_path) == {}


def test_ids_are_those_of_the_engines_namespace(tmp_path: Path) -> None:
    (tmp_path / "docker.pid").write_text("7\n")
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "uid_map").write_text("         0       1000          1\n         1     100000      65536\n")
    assert _compose_adapt.container_ids(tmp_path / "docker.pid", tmp_path) == 65537
    assert _compose_adapt.container_ids(tmp_path / "none", tmp_path) == 65536
