"""rootless_docker_user: the part that root does, around the engine's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpulab.fleet.plugins.modules import rootless_docker_user

SPECS = "/var/lib/gpulab/cdi/trainer"


class Module:
    """What of AnsibleModule the settings of the runtime need."""

    def __init__(self, wanted: bool, check: bool) -> None:
        self.check_mode = check
        self.params: dict[str, Any] = {"name": "trainer", "cdi_spec_dir": SPECS, "nvidia_runtime": wanted}


def settle(wanted: bool = True, check: bool = False) -> list[str]:
    user = rootless_docker_user.RootlessUser(Module(wanted, check))
    user.runtime()
    assert len(user.diff) == len(user.actions)
    return user.actions


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(rootless_docker_user, "RUNTIMES", tmp_path)
    return tmp_path / "trainer" / "nvidia-container-runtime" / "config.toml"


def test_the_runtimes_settings_are_written_once(config: Path) -> None:
    assert settle(check=True) == [f"wrote {config}"] and not config.exists()
    assert settle() == [f"wrote {config}"]
    assert config.stat().st_mode & 0o777 == 0o644
    assert settle() == settle(check=True) == []


def test_they_name_this_users_specs_and_no_mode_that_finds_gpus_by_itself(config: Path) -> None:
    settle()
    lines = config.read_text().splitlines()
    assert 'mode = "cdi"' in lines and f'spec-dirs = ["{SPECS}"]' in lines


def test_what_drifted_is_put_right(config: Path) -> None:
    settle()
    config.write_text('[nvidia-container-runtime]\nmode = "auto"\n')
    assert settle() == [f"wrote {config}"]
    config.chmod(0o600)
    assert settle() == [f"wrote {config}"]


def test_they_stay_for_an_engine_that_still_has_the_runtime(config: Path) -> None:
    """Without them NVIDIA's program falls back to all GPUs of the host."""
    settle()
    assert settle(wanted=False) == [] and config.exists()


def test_a_user_without_gpus_gets_none(config: Path) -> None:
    assert settle(wanted=False) == [] and not config.exists()
