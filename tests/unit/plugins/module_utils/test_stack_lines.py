"""What people read of a stack."""

from __future__ import annotations

from typing import Any

from ansible_collections.gpulab.fleet.plugins.module_utils._stack_lines import lines

GPU = "GPU-00000000-0000-0000-0000-000000000000"


def service(name: str, *addresses: str, health: str | None = "healthy") -> dict[str, Any]:
    where = [{"address": address, "container_port": 8000} for address in addresses]
    return {"service": name, "status": "running", "health": health, "addresses": where}


def result(*services: Any, actions: Any = (), gpus: Any = None) -> dict[str, Any]:
    return {
        "actions": list(actions),
        "services": list(services),
        "gpus": gpus or {},
        "folder": "/home/ann/gpulab/stacks/q",
    }


def test_where_it_listens_and_which_gpus_it_has() -> None:
    up = result(service("sim", "127.0.0.1:8001"), service("training", health=None), gpus={"training": [GPU]})
    assert lines("q", "ann", up) == [
        "q (ann): in /home/ann/gpulab/stacks/q",
        "  sim       healthy  127.0.0.1:8001",
        f"  training  running  {GPU}",
    ]


def test_a_service_without_a_health_check_is_what_its_container_is() -> None:
    for health in (None, "none"):
        assert lines("q", "ann", result(service("sim", health=health)))[1] == "  sim  running"


def test_many_gpus_take_a_line_each() -> None:
    text = lines("q", "ann", result(service("training"), gpus={"training": [GPU, GPU]}))
    assert len(text) == 3
    assert text[2].strip() == GPU


def test_check_mode_says_what_would_be_done() -> None:
    found = result(service("sim"), actions=["build sim", "up"])
    assert lines("q", "ann", found, check=True) == ["q (ann): would", "  build sim", "  up"]
    assert lines("q", "ann", result(service("sim")), check=True)[0].startswith("q (ann): in ")


def test_a_stack_that_is_gone() -> None:
    assert lines("q", "ann", result(actions=["remove /x"])) == ["q (ann): not there"]
