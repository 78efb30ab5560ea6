"""A release's compose.yml: everything pinned that could change under it, and nothing lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpulab.fleet.plugins.module_utils import _release_compose as composing
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError

TREE = Path("/tree")


def bind(source: str, target: str = "/t") -> dict[str, Any]:
    return {"type": "bind", "source": source, "target": target}


def config(**services: dict[str, Any]) -> dict[str, Any]:
    return {"name": "s", "services": services}


def finished(services: dict[str, dict[str, Any]], **given: Any) -> dict[str, Any]:
    whole = {"images": {name: f"gpulab/s-{name}:1" for name in services}, "secrets": {}, "moved": {}}
    top = given.pop("top", {})
    made: dict[str, Any] = composing.finish("s", {**config(**services), **top}, **{**whole, **given})
    return made


def test_what_could_change_is_pinned() -> None:
    service = {"build": {"context": "/tree"}, "pull_policy": "always", "develop": {"watch": []}, "image": "x:latest"}
    made = finished({"web": service})["services"]["web"]
    assert made == {"image": "gpulab/s-web:1", "labels": {"gpulab.stack": "s"}}
    assert service["image"] == "x:latest", "what was given is not changed"


def test_published_ports() -> None:
    ports = [
        {"target": 80, "published": "8080", "host_ip": "127.0.0.1", "protocol": "tcp"},
        {"target": 53, "published": "5353", "protocol": "udp"},
        {"target": 81},
    ]
    expected = [["127.0.0.1", 8080, "web", "tcp"], ["127.0.0.1", 5353, "web", "udp"]]
    assert composing.published(config(web={"ports": ports})) == expected


def test_only_a_service_that_uses_a_changed_secret_changes() -> None:
    services: dict[str, dict[str, Any]] = {"work": {"secrets": [{"source": "T"}]}, "web": {"secrets": ["U"]}}
    one = finished(services, secrets={"T": "1"})["services"]
    two = finished(services, secrets={"T": "2"})["services"]
    assert one["web"] == two["web"]
    assert one["work"] != two["work"]


def test_mounts_of_the_tree_stand_for_their_content() -> None:
    shipped = {"conf/a": {"sha256": "1", "mode": 420}, "b.yml": {"sha256": "2", "mode": 420}}
    services = {"web": {"volumes": [bind("/tree/conf"), bind("/tree/b.yml"), bind("/tree/data/x"), bind("/else")]}}
    whole = {**config(**services), "configs": {"c": {"file": "/tree/b.yml"}}}
    pins = composing.mounted_files(whole, TREE, shipped)
    assert pins == {"/tree/conf": "conf", "/tree/b.yml": "b.yml"}
    assert composing.loose_binds(whole, TREE, pins) == {"/tree/data/x": "data/x"}
    made = finished(services, top={"configs": {"c": {"file": "/tree/b.yml"}}}, moved={"/tree/b.yml": "/kept/b.yml"})
    assert [volume["source"] for volume in made["services"]["web"]["volumes"]][1] == "/kept/b.yml"
    assert made["configs"]["c"]["file"] == "/kept/b.yml"
    changed = {**shipped, "b.yml": {"sha256": "3", "mode": 420}}
    assert composing.part_digest("conf", shipped) == composing.part_digest("conf", changed)
    assert composing.part_digest("b.yml", shipped) != composing.part_digest("b.yml", changed)


def test_a_changed_file_behind_a_secret_changes_its_service() -> None:
    services: dict[str, dict[str, Any]] = {"work": {"secrets": [{"source": "T"}]}}
    top = {"secrets": {"T": {"file": "/tree/token"}}}
    one = finished(services, top=top, moved={"/tree/token": "/mounts/1/token"})
    two = finished(services, top=top, moved={"/tree/token": "/mounts/2/token"})
    assert one["services"] != two["services"]
    assert one["secrets"]["T"]["file"] == "/mounts/1/token"


@pytest.mark.parametrize(
    ("service", "image", "found"),
    [
        ({"volumes": [{"type": "volume", "target": "/a"}]}, [], ["/a"]),
        ({"volumes": [{"type": "volume", "source": "v", "target": "/a"}]}, ["/a"], []),
        ({"volumes": [{"type": "tmpfs", "target": "/a"}]}, ["/a/"], []),
        ({"tmpfs": ["/a:size=1m"]}, ["/a"], []),
        ({}, ["/var/lib/x"], ["/var/lib/x"]),
        ({"volumes": [bind("/h", "/var/lib/x/")]}, ["/var/lib/x"], []),
    ],
)
def test_anonymous_volumes_are_found(service: dict[str, Any], image: list[str], found: list[str]) -> None:
    assert composing.anonymous(config(s=service), {"s": image}) == [("s", path) for path in found]


def test_profiles_and_one_off_services() -> None:
    whole = config(
        web={}, page={"profiles": ["pages"]}, train={"profiles": ["training"]}, other={"profiles": ["other"]}
    )
    kept = composing.keep_services(whole, ["pages"], ["train"])
    assert sorted(kept["services"]) == ["page", "train", "web"]
    assert kept["services"]["train"]["profiles"] == ["run"]
    assert whole["services"]["train"] == {"profiles": ["training"]}
    with pytest.raises(FleetError) as error:
        composing.keep_services(whole, [], ["nothing"])
    assert "nothing" in error.value.detail


def test_what_is_built_does_not_depend_on_where_the_tree_lies() -> None:
    shipped = {"Dockerfile": {"sha256": "1", "mode": 420}}

    def made(tree: str, **args: str) -> str:
        service = {"build": {"context": tree, "dockerfile": "Dockerfile", "args": args}}
        return composing.build_digest(service, Path(tree), shipped, [])

    assert made("/one") == made("/two")
    assert made("/one") != made("/one", BASE="x")
    other = {"Dockerfile": {"sha256": "2", "mode": 420}}
    service = {"build": {"context": "/one"}}
    assert composing.build_digest(service, Path("/one"), shipped, []) != composing.build_digest(
        service, Path("/one"), other, []
    )


def test_what_is_built_depends_on_folders_beside_the_tree() -> None:
    build = {
        "context": "/tree",
        "additional_contexts": {"wheels": "/srv/wheels", "base": "docker-image://x", "own": "/tree/x"},
    }
    assert composing.outside({"build": build}, Path("/tree")) == ["/srv/wheels"]

    def made(state: str) -> str:
        return composing.build_digest({"build": build}, Path("/tree"), {}, [], {"/srv/wheels": state})

    assert made("a") == made("a") != made("b")


def test_named_volumes_by_the_engines_name() -> None:
    volume = {"type": "volume", "source": "v", "target": "/v"}
    whole = {**config(web={"volumes": [volume]}), "volumes": {"v": {"name": "s_v"}}}
    assert composing.named_volumes(whole) == ["s_v"]


def test_what_a_service_depends_on_is_on() -> None:
    db = {"profiles": ["db"]}
    web = {"depends_on": {"db": {"condition": "service_started", "required": True}}}
    with pytest.raises(FleetError, match=r"services\.web depends on db, which is off: name one of its profiles \(db\)"):
        composing.keep_services(config(web=web, db=db), [], [])
    assert set(composing.keep_services(config(web=web, db=db), ["db"], [])["services"]) == {"web", "db"}
    optional = {"depends_on": {"db": {"condition": "service_started", "required": False}}}
    assert composing.keep_services(config(web=optional, db=db), [], [])["services"]["web"] == {"depends_on": {}}
