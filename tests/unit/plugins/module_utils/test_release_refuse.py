"""What would be found out only when containers start, told while nothing has been stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpulab.fleet.plugins.module_utils import _release_refuse as refuse
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError


def config(**top: Any) -> dict[str, Any]:
    service = {
        "secrets": [{"source": "TOKEN"}],
        "configs": [{"source": "RULES"}],
        "build": {"secrets": [{"source": "PIP"}]},
    }
    return {"services": {"web": service}, **top}


def said(error: pytest.ExceptionInfo[FleetError]) -> tuple[str, str]:
    return error.value.code, error.value.detail


def test_profiles_that_no_service_has() -> None:
    everything = {"services": {"a": {"profiles": ["board"]}, "b": {}}}
    refuse.profiles(everything, ["board"])
    with pytest.raises(FleetError) as caught:
        refuse.profiles(everything, ["board", "$(id)"])
    assert said(caught) == (
        "STACK_SETTING_INVALID",
        "profiles or COMPOSE_PROFILES names $(id); compose.yml has the profiles: board",
    )


@pytest.mark.parametrize(
    ("top", "expected"),
    [
        ({"secrets": {"TOKEN": {"file": "/no/token"}}}, "secrets.TOKEN.file: /no/token is not there"),
        ({"secrets": {"PIP": {"file": "/no/pip"}}}, "secrets.PIP.file: /no/pip is not there"),
        ({"configs": {"RULES": {"file": "/no/rules"}}}, "configs.RULES.file: /no/rules is not there"),
        ({"secrets": {"TOKEN": {"environment": "HF"}}}, "secrets.TOKEN.environment: HF of whoever starts it"),
        ({"secrets": {"TOKEN": {"external": True}}}, "secrets.TOKEN.external: only Swarm has those"),
        ({"secrets": {"UNUSED": {"file": "/no/such"}, "TOKEN": {"file": "/dev/null"}}}, ""),
        ({"configs": {"RULES": {"content": "x"}}}, ""),
    ],
)
def test_files_that_are_not_there(tmp_path: Path, top: dict[str, Any], expected: str) -> None:
    if not expected:
        refuse.missing_files(config(**top), tmp_path)
        return
    with pytest.raises(FleetError) as caught:
        refuse.missing_files(config(**top), tmp_path)
    assert caught.value.code == "STACK_FILE_MISSING" and expected in caught.value.detail


def test_a_secret_that_the_deploy_writes_is_not_missed(tmp_path: Path) -> None:
    refuse.missing_files(config(secrets={"TOKEN": {"file": str(tmp_path / "TOKEN.d1")}}), tmp_path)


def test_networks_and_volumes_of_others() -> None:
    class Engine:
        def api(self, question: str) -> Any:
            return {"/networks": [{"Name": "lan"}], "/volumes": {"Volumes": None}}[question]

    engine: Any = Engine()
    known = {"lan": {"name": "lan", "external": True}, "default": {"name": "s_default"}}
    refuse.missing_externals({"networks": known}, engine)
    with pytest.raises(FleetError) as caught:
        refuse.missing_externals({"networks": known, "volumes": {"w": {"name": "weights", "external": True}}}, engine)
    assert said(caught) == ("STACK_EXTERNAL_MISSING", "volumes.w: weights")


def test_archives_for_another_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    refuse.foreign_archives(
        [{"name": "a:1", "archive": "/a.tar"}, {"name": "b:1", "archive": "/b", "architecture": "amd64"}]
    )
    with pytest.raises(FleetError) as caught:
        refuse.foreign_archives([{"name": "a:1", "archive": "/a.tar", "architecture": "arm64"}])
    assert said(caught) == ("STACK_IMAGE_ARCHITECTURE", "images: a:1 in /a.tar is for arm64, this host is amd64")
