"""Mounts of the host as data: read, typed, put into a configuration, and what is wrong with them said before a start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpulab.fleet.plugins.module_utils import _stack_mounts
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._stack import Wrong

ON: dict[str, Any] = {"source": "/a", "target": "/mounts/lib", "services": [], "write": False, "enabled": True}


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("/a", ON),
        ("~/a", {**ON, "source": "~/a"}),
        ("/a:rw", {**ON, "write": True}),
        ("/a:/b/c/:ro", {**ON, "target": "/b/c"}),
        ({"source": "/a"}, ON),
        ({"source": "/a:b", "enabled": False}, {**ON, "source": "/a:b", "enabled": False}),
        ({"source": "/a", "services": ["web"], "write": True}, {**ON, "services": ["web"], "write": True}),
    ],
)
def test_a_mount_is_a_text_or_its_parts(given: Any, found: dict[str, Any]) -> None:
    read = _stack_mounts.read({"lib": given})
    assert read == {"lib": found}
    assert _stack_mounts.read(read) == read, "what a release has noted down is read again"


@pytest.mark.parametrize(
    ("given", "where", "said"),
    [
        (["/a"], "", "write NAME: /path"),
        ({"lib": 1}, ".lib", "write /path"),
        ({"lib": ""}, ".lib", "write /path"),
        ({"lib": "/a:/b:/c"}, ".lib", "write /path"),
        ({"../x": "/a"}, ".../x", "letters"),
        ({"lib": "a"}, ".lib.source", "absolute path on the host"),
        ({"lib": "~bob/a"}, ".lib.source", "absolute path on the host"),
        ({"lib": "/a/../b"}, ".lib.source", "absolute path on the host"),
        ({"lib": "/a/$HOME"}, ".lib.source", "absolute path on the host"),
        ({"lib": {"target": "/b"}}, ".lib.source", "absolute path on the host"),
        ({"lib": "/a:b"}, ".lib.target", "absolute path in the container"),
        ({"lib": "/a:/"}, ".lib.target", "not /"),
        ({"lib": "/a:/b/../c"}, ".lib.target", "absolute path in the container"),
        ({"lib": {"source": "/a", "mode": "ro"}}, ".lib.mode", "a mount has source"),
        ({"lib": {"source": "/a", "write": "yes"}}, ".lib.write", "true or false"),
        ({"lib": {"source": "/a", "services": "web"}}, ".lib.services", "list of names"),
        ({"lib": "/a:/x", "other": "/b:/x/"}, ".other.target", "lib has that one"),
    ],
)
def test_what_is_wrong_is_named(given: Any, where: str, said: str) -> None:
    with pytest.raises(Wrong) as caught:
        _stack_mounts.read(given)
    assert caught.value.args[0] == where
    assert said in caught.value.args[2]


def test_one_target_for_two_is_well_where_they_do_not_meet() -> None:
    for other in ({"enabled": False}, {"services": ["board"]}):
        one = {"source": "/a", "target": "/x", "services": ["web"]}
        assert len(_stack_mounts.read({"one": one, "two": {**one, **other}})) == 2


def test_what_is_typed_changes_what_it_names() -> None:
    before = _stack_mounts.read({"lib": {"source": "/a", "target": "/x", "services": ["web"]}})

    def typed(**words: str) -> dict[str, Any]:
        return _stack_mounts.typed("s", before, words)

    assert typed(lib="off") == {"lib": {**before["lib"], "enabled": False}}
    assert _stack_mounts.typed("s", typed(lib="off"), {"lib": "on"}) == before
    assert typed(lib="") == {}
    assert typed(lib="/b") == {"lib": {**before["lib"], "source": "/b"}}, "its target and services stay"
    assert typed(lib="/b:/y:rw")["lib"] == {**before["lib"], "source": "/b", "target": "/y", "write": True}
    assert typed(new="/b")["new"] == {**ON, "source": "/b", "target": "/mounts/new"}
    for wrong, part in (({"no": "on"}, "mounts.no is 'on': there is none of that name, but lib"),
                        ({"lib": "b"}, "mounts.lib.source is 'b': write an absolute path")):  # fmt: skip
        with pytest.raises(FleetError, match=part) as caught:
            typed(**wrong)
        assert caught.value.code == "STACK_MOUNT_INVALID"


def test_services_that_are_gone_are_forgotten() -> None:
    given = {"a": "/a", "b": {"source": "/b", "services": ["web", "gone"]}}
    assert _stack_mounts.still_known(given, {"web"}) == {"a": "/a", "b": {"source": "/b", "services": ["web"]}}


def config() -> dict[str, Any]:
    volumes = [{"type": "bind", "source": "/data/out", "target": "/out/"}]
    return {"services": {"web": {"volumes": volumes, "tmpfs": ["/tmp:size=1m"]}, "board": {}}}


def add(made: dict[str, Any], services: list[str], **given: Any) -> list[str]:
    return _stack_mounts.add(made, _stack_mounts.into(_stack_mounts.read(given), services), "ada")


def test_those_that_are_on_are_part_of_their_services(tmp_path: Path) -> None:
    made, source = config(), str(tmp_path)
    notes = add(made, ["board", "sleeping"], lib=f"{tmp_path}:/lib", off={"source": "/gone", "enabled": False})
    volume = {"type": "bind", "source": source, "target": "/lib", "bind": {"create_host_path": False}}
    assert made["services"]["board"]["volumes"] == [{**volume, "read_only": True}]
    assert made["services"]["web"] == config()["services"]["web"] and notes == []
    assert add(made, [], all=f"{tmp_path}:/all:rw") == []
    for name in ("board", "web"):
        assert made["services"][name]["volumes"][-1] == {**volume, "target": "/all"}
    (note,) = add(made, ["sleeping"], lib=source)
    assert "mount lib is on, and none of its services is: sleeping" in note


@pytest.mark.parametrize("target", ["/out", "/tmp"])
def test_a_target_that_the_stack_has_itself_is_refused(tmp_path: Path, target: str) -> None:
    with pytest.raises(FleetError, match=f"mounts.lib.target is '{target}', where web has .* already") as caught:
        add(config(), [], lib=f"{tmp_path}:{target}")
    assert caught.value.code == "STACK_MOUNT_INVALID"


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FleetError, match=r"mounts\.lib\.source is '/no/such', which is not on this host, or ada may"):
        add(config(), [], lib="/no/such", there=str(tmp_path))
    assert _stack_mounts.missing(_stack_mounts.read({"lib": {"source": "/no", "enabled": False}})) == []


def test_lines_for_people() -> None:
    assert _stack_mounts.line("lib", ON) == "mount lib is /a on /mounts/lib in all services, read only"
    some = {**ON, "services": ["web"], "write": True}
    assert _stack_mounts.line("lib", some) == "mount lib is /a on /mounts/lib in web"
    assert _stack_mounts.line("lib", {**ON, "enabled": False}) == "mount lib is off (/a)"
