"""As whom a service's containers run."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpulab.fleet.plugins.module_utils import _container_user
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError

PASSWD = "root:x:0:0:root:/root:/bin/sh\njovyan:x:1000:100::/home/jovyan:/bin/bash\nbroken\n"


@pytest.mark.parametrize(
    ("service", "image", "user"),
    [
        ({}, {}, ""),
        ({}, {"User": "1000:1000"}, "1000"),
        ({}, {"User": "jovyan"}, "jovyan"),
        ({"user": "0:0"}, {"User": "1000"}, "0"),
        ({"user": 1001}, {"User": ""}, "1001"),
    ],
)
def test_compose_goes_before_the_image(service: dict[str, Any], image: dict[str, Any], user: str) -> None:
    assert _container_user.asked(service, image) == user


class Docker:
    """Stands in for a project: an image with a passwd, and what became of the container that it was read from."""

    def __init__(self, passwd: str | None) -> None:
        self.passwd, self.commands = passwd, list[str]()

    def docker(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        self.commands.append(arguments[0])
        if arguments[0] == "cp" and self.passwd is not None:
            Path(arguments[-1]).write_text(self.passwd, encoding="utf-8")
        return subprocess.CompletedProcess(arguments, 0, "cafe\n", "")


@pytest.mark.parametrize(("user", "uid", "commands"), [("", 0, []), ("root", 0, []), ("1000", 1000, [])])
def test_numbers_need_no_look(user: str, uid: int, commands: list[str]) -> None:
    docker: Any = Docker(PASSWD)
    assert _container_user.uid(docker, "notebook", "sha256:1", user) == uid
    assert docker.commands == commands


def test_a_name_is_looked_up_and_nothing_stays() -> None:
    docker: Any = Docker(PASSWD)
    assert _container_user.uid(docker, "notebook", "sha256:1", "jovyan") == 1000
    assert docker.commands == ["create", "cp", "rm"]


@pytest.mark.parametrize("passwd", [PASSWD, None])
def test_a_name_that_is_not_there_is_said(passwd: str | None) -> None:
    docker: Any = Docker(passwd)
    with pytest.raises(FleetError, match="notebook runs as 'ghost'"):
        _container_user.uid(docker, "notebook", "sha256:1", "ghost")
