"""Ports that a release cannot have: which service and setting want it, and who has it."""

from __future__ import annotations

import os
import pwd
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.gpulab.fleet.plugins.module_utils import _port_holders
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError


@pytest.fixture(params=[socket.SOCK_STREAM, socket.SOCK_DGRAM], ids=["tcp", "udp"])
def taken(request: pytest.FixtureRequest) -> Iterator[tuple[int, str]]:
    """A port of this very process, and its protocol."""
    with socket.socket(socket.AF_INET, request.param) as mine:
        mine.bind(("127.0.0.1", 0))
        if request.param == socket.SOCK_STREAM:
            mine.listen()
        yield mine.getsockname()[1], "tcp" if request.param == socket.SOCK_STREAM else "udp"


def refused(*ports: list[Any], **known: Any) -> FleetError:
    with pytest.raises(FleetError) as caught:
        _port_holders.refuse_taken(ports, known.pop("containers", []), **known)
    return caught.value


def test_a_port_that_a_program_has(taken: tuple[int, str]) -> None:
    (port, protocol), me = taken, pwd.getpwuid(os.geteuid()).pw_name
    error = refused(["127.0.0.1", port, "web", protocol], settings={"WEB_PORT": str(port), "OTHER": "x"})
    assert error.code == "STACK_PORT_TAKEN"
    assert f"(service web, WEB_PORT = {port})" in error.detail and f"a program of {me} has it" in error.detail


def test_a_port_that_another_stack_has(taken: tuple[int, str]) -> None:
    port, protocol = taken
    error = refused(["127.0.0.1", port, "web", protocol], others=lambda: {port: "the stack other has it"})
    assert error.detail.endswith("(service web): the stack other has it")


def test_what_the_stack_itself_has_is_no_mistake(taken: tuple[int, str]) -> None:
    port, protocol = taken
    own: Any = SimpleNamespace(published=[("127.0.0.1", port, 8000)])
    _port_holders.refuse_taken([["127.0.0.1", port, "web", protocol]], [own])


def test_a_port_that_is_free() -> None:
    with socket.socket() as mine:
        mine.bind(("127.0.0.1", 0))
        port = mine.getsockname()[1]
    _port_holders.refuse_taken([["127.0.0.1", port, "web", "tcp"], ["127.0.0.1", port, "web", "udp"]], [])
    assert _port_holders.holder(port) == ""


def test_two_services_of_one_stack() -> None:
    error = refused(["127.0.0.1", 45999, "web", "tcp"], ["127.0.0.1", 45999, "api", "tcp"])
    assert error.code == "STACK_PORT_TAKEN" and "the service web of this stack has the same" in error.detail


def test_an_address_that_is_not_this_hosts() -> None:
    error = refused(["192.0.2.1", 45999, "web", "tcp"])
    assert error.code == "STACK_ADDRESS_UNKNOWN" and error.detail.startswith("192.0.2.1:45999 (service web")


def test_ports_as_earlier_releases_noted_them_down() -> None:
    assert _port_holders.complete(["127.0.0.1", 80]) == ("127.0.0.1", 80, "?", "tcp")
    assert _port_holders.complete(["127.0.0.1", 80, "web"]) == ("127.0.0.1", 80, "web", "tcp")
    assert _port_holders.complete(["127.0.0.1", 80, "web", "udp"]) == ("127.0.0.1", 80, "web", "udp")


def test_whoever_is_not_listed_is_not_named(tmp_path: Path) -> None:
    row = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  4242        0 1 1"
    (tmp_path / "tcp").write_text(f"  sl  local_address\n{row}\n", encoding="ascii")
    assert _port_holders.holder(8080, "tcp", tmp_path) == "a program of uid 4242 has it"
    assert _port_holders.holder(8081, "tcp", tmp_path) == ""
    assert _port_holders.holder(8080, "udp", tmp_path) == ""
