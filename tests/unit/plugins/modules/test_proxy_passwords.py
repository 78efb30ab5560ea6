"""Modules that are given a proxy: its password is in nothing that they print, however early they fail."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.modules import (
    apt_signed_source,
    rootless_docker_host,
    rootless_docker_user,
)

PARAMS = {
    "name": "ann",
    "state": "absent",
    "key_url": "",
    "proxy": {"http": "http://me:hunter2@proxy:3128", "https": "", "no_proxy": None, "ca": ""},
}


class Ended(Exception):
    pass


class FakeModule:
    """As far as a module's main goes before it fails."""

    def __init__(self, **_spec: Any) -> None:
        self.params = PARAMS
        self.no_log_values: set[str] = set()
        self.check_mode = True

    def fail_json(self, **_result: Any) -> None:
        raise Ended(self.no_log_values)


@pytest.mark.parametrize(
    ("module", "worker"),
    [(apt_signed_source, "Source"), (rootless_docker_host, "Host"), (rootless_docker_user, "RootlessUser")],
    ids=["apt_signed_source", "rootless_docker_host", "rootless_docker_user"],
)
def test_a_failure_does_not_show_the_password(module: ModuleType, worker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing:
        def __init__(self, *_arguments: Any) -> None:
            pass

        def refuse(self, *_arguments: Any) -> None:
            raise FleetError("USER_MISSING", "ann")

        absent = converge = refuse

    monkeypatch.setattr(module, "AnsibleModule", FakeModule)
    monkeypatch.setattr(module, worker, Refusing)
    with pytest.raises(Ended) as ended:
        module.main()
    assert ended.value.args[0] == {"hunter2"}
