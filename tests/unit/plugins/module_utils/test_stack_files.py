"""What is shipped, and the two files that are written beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.gpulab.fleet.plugins.module_utils import _stack_files as layout


class Loader(yaml.SafeLoader):
    pass


def overridden(loader: yaml.SafeLoader, node: yaml.SequenceNode) -> list[Any]:
    return list(loader.construct_sequence(node, deep=True))


Loader.add_constructor("!override", overridden)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("plain-1.0/x:y@z,=", "plain-1.0/x:y@z,="),
        ("", ""),
        ("two words", "'two words'"),
        ("$HOME and #", "'$HOME and #'"),
        ("it's $5", '"it\'s \\$5"'),
        ('say "it\'s"', '"say \\"it\'s\\""'),
        ("a\nb", '"a\\nb"'),
        ("back\\slash's", '"back\\\\slash\'s"'),
    ],
)
def test_dotenv_says_exactly_that(text: str, written: str) -> None:
    assert layout.dotenv({"A": text}) == f"A={written}\n"


def test_shipped_leaves_out_what_a_person_left(tmp_path: Path) -> None:
    for name in ("compose.yml", ".env", ".env.example", "secrets/T", "data/x", "app/run.sh", "app/__pycache__/a.pyc"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(name, encoding="utf-8")
    (tmp_path / "app" / "run.sh").chmod(0o755)
    found = layout.shipped(tmp_path)
    assert list(found) == [".env.example", "app/run.sh", "compose.yml"]
    assert [found[name]["mode"] for name in found] == [0o644, 0o755, 0o644]
    assert found["compose.yml"]["sha256"] == layout.checksum(tmp_path / "compose.yml")


CONFIG: dict[str, Any] = {
    "services": {
        "web": {
            "ports": [{"target": 80, "published": "8080"}, {"target": 81, "published": "81", "host_ip": "0.0.0.0"}]
        },
        "kept": {"ports": [{"target": 80, "published": "8080", "host_ip": "127.0.0.1"}]},
        "work": {"secrets": [{"source": "T", "target": "/run/secrets/T"}, {"source": "U"}]},
    }
}


def written(gpus: dict[str, list[str]], digests: dict[str, str]) -> dict[str, Any]:
    text = layout.override("s", CONFIG, gpus, digests)
    services: dict[str, Any] = yaml.load(text, Loader=Loader)["services"]
    return services


def test_ports_without_an_address_stay_on_the_host() -> None:
    services = written({}, {})
    assert [port["host_ip"] for port in services["web"]["ports"]] == ["127.0.0.1", "0.0.0.0"]
    assert "ports" not in services["kept"]
    assert "ports: !override" in layout.override("s", CONFIG, {}, {})


def test_gpus_are_given_in_the_form_that_every_version_takes() -> None:
    services = written({"work": ["GPU-a", "GPU-b"]}, {})
    assert services["work"]["deploy"]["resources"]["reservations"]["devices"] == [
        {"driver": "cdi", "device_ids": ["nvidia.com/gpu=GPU-a", "nvidia.com/gpu=GPU-b"], "capabilities": ["gpu"]}
    ]
    assert services["work"]["environment"] == {"GPULAB_GPUS": "GPU-a,GPU-b"}
    assert "deploy" not in services["web"]


def test_a_changed_secret_changes_the_services_that_use_it_and_no_other() -> None:
    one, two, none = written({}, {"T": "1"}), written({}, {"T": "2"}), written({}, {})
    assert one["work"]["labels"] != two["work"]["labels"] != none["work"]["labels"]
    assert one["web"] == two["web"] == none["web"]
