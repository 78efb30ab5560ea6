"""Every role's defaults and argument specs say the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

ROLES = sorted(p for p in (Path(__file__).parents[2] / "roles").iterdir() if p.is_dir())


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8")) or {}


def test_there_are_roles() -> None:
    assert [r.name for r in ROLES] == [
        "compose_stacks",
        "gpu_verify",
        "nvidia_container_toolkit",
        "preflight",
        "rootless_docker",
        "upgrade",
    ]


@pytest.mark.parametrize("role", ROLES, ids=lambda r: r.name)
def test_defaults_and_spec_are_in_lockstep(role: Path) -> None:
    options = load(role / "meta" / "argument_specs.yml")["argument_specs"]["main"]["options"]
    defaults = load(role / "defaults" / "main.yml")
    documented = {n: o["default"] for n, o in options.items() if "default" in o and n.startswith(role.name)}
    assert documented == defaults


def test_shared_variables_are_described_alike_everywhere() -> None:
    seen: dict[str, dict[str, Any]] = {}
    names: set[str] = set()
    for role in ROLES:
        options = load(role / "meta" / "argument_specs.yml")["argument_specs"]["main"]["options"]
        for name, option in options.items():
            if name.startswith("gpulab_"):
                names.add(name)
                if role.name == "preflight":
                    # It checks types itself, and says more about a wrong one than Ansible would.
                    assert option["type"] == "raw", name
                    continue
                shape = {key: option.get(key) for key in ("type", "default", "elements")}
                assert seen.setdefault(name, shape) == shape, f"{role.name}: {name}"
    assert names == {
        "gpulab_users",
        "gpulab_stacks",
        "gpulab_stack",
        "gpulab_release",
        "gpulab_why",
        "gpulab_copy",
        "gpulab_purge",
        "gpulab_gpus_expected",
        "gpulab_gpu_shares",
        "gpulab_proxy",
        "gpulab_hold",
        "gpulab_accept_versions",
        "gpulab_when_busy",
        "gpulab_busy_timeout",
        "gpulab_reset_purge_data",
        "gpulab_reboot_allowed",
    }


@pytest.mark.parametrize("role", ROLES, ids=lambda r: r.name)
def test_every_option_is_named_typed_and_described(role: Path) -> None:
    options = load(role / "meta" / "argument_specs.yml")["argument_specs"]["main"]["options"]
    for name, option in options.items():
        assert name.startswith((f"{role.name}_", "gpulab_")), name
        assert option.get("type"), name
        assert option.get("description"), name
        assert not option.get("required") or "default" not in option, name
