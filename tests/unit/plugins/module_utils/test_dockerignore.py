"""What does not have to travel because no build sees it."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.gpulab.fleet.plugins.module_utils import _dockerignore


@pytest.mark.parametrize(
    ("text", "out", "stays"),
    [
        ("*.pt", ["a.pt"], ["sub/a.pt", "a.py"]),
        ("**/*.pt", ["a.pt", "sub/deep/a.pt"], ["a.ptx"]),
        ("data", ["data", "data/x/y"], ["database", "src/data/x"]),
        ("/data/", ["data/x"], ["src/data/x"]),
        ("**/__pycache__", ["__pycache__/a", "a/b/__pycache__/c"], ["a/pycache"]),
        ("logs/**", ["logs/a", "logs/a/b"], ["log/a"]),
        ("a?c/[xy].txt", ["abc/x.txt"], ["abc/z.txt", "a/c/x.txt"]),
        ("[^a]*.txt", ["b.txt"], ["a.txt"]),
        ("*\n!keep\n!src", ["a", "b/c"], ["keep", "src/x"]),
        ("src\n!src/keep.py\nsrc/keep.py", ["src/keep.py"], []),
        ("# no\n\n  \n", [], ["# no", "x"]),
        ("\\#odd\na\\*b", ["#odd", "a*b"], ["aXb"]),
        ("\ufefffirst", ["first"], []),
        (".", [], ["a"]),
        ("a+b(c)", ["a+b(c)"], ["aab(c)"]),
    ],
)
def test_patterns(text: str, out: list[str], stays: list[str]) -> None:
    ignored = _dockerignore.Ignored(text)
    assert [path for path in out if path not in ignored] == []
    assert [path for path in stays if path in ignored] == []


def services(*entries: dict[str, Any]) -> dict[str, Any]:
    return {"services": {str(number): entry for number, entry in enumerate(entries)}}


@pytest.mark.parametrize(
    ("build", "where", "found"),
    [
        (".", "", [("", "Dockerfile")]),
        ("./sim", "", [("sim", "sim/Dockerfile")]),
        ({"context": "../..", "dockerfile": "scripts/docker/x.Dockerfile"}, "scripts/docker", [("", "scripts/docker/x.Dockerfile")]),
        ({"dockerfile": "x.Dockerfile"}, "docker", [("docker", "docker/x.Dockerfile")]),
        ("https://example.org/a.git", "", []),
        ("..", "", []),
        ("${CONTEXT:-.}", "", None),
        ({"context": ".", "additional_contexts": {"checkout": "${SOURCE:-.}"}}, "", None),
        ({"context": ".", "additional_contexts": ["base=docker-image://x"]}, "", [("", "Dockerfile")]),
    ],
)  # fmt: skip
def test_builds(build: Any, where: str, found: Any) -> None:
    assert _dockerignore.builds(services({"build": build}, {"image": "x"}), where) == found


@pytest.mark.parametrize(
    ("volume", "where", "found"),
    [
        ("./src:/app", "", ["src"]),
        ("../source:/x", "docker", ["source"]),
        ("$PWD:/app", "scripts/docker", [""]),
        ("${PWD}/src:/app", "scripts/docker", ["src"]),
        ("cache:/c", "", []),
        ("/data:/d", "", []),
        ("~/.cache:/c", "", []),
        ("../..:/d", "", []),
        ("${LOGS:-./data/logs}:/l", "", ["data/logs"]),
        ("${ANY}:/l", "", [""]),
        ({"type": "bind", "source": "src", "target": "/app"}, "", ["src"]),
        ({"type": "volume", "source": "src", "target": "/app"}, "", []),
    ],
)
def test_mounted(volume: Any, where: str, found: list[str]) -> None:
    assert _dockerignore.mounted(services({"volumes": [volume]}), where) == found


def test_needless() -> None:
    files = dict.fromkeys(["Dockerfile", ".dockerignore", "src/a.py", "weights/a.pt", "docs/x.md", "cfg/y"])
    texts = {".dockerignore": "weights\ndocs\ncfg\nDockerfile\n.dockerignore"}
    build = [("", "Dockerfile")]
    assert _dockerignore.needless(files, texts, build, ["cfg"]) == {"weights/a.pt", "docs/x.md"}
    assert _dockerignore.needless(files, texts, build, [""]) == set()
    assert _dockerignore.needless(files, texts, [], []) == set(), "without a build nothing is left out"
    assert _dockerignore.needless(files, texts, [*build, ("docs", "docs/Dockerfile")], []) == {"weights/a.pt", "cfg/y"}
    own = {**texts, "Dockerfile.dockerignore": "src"}
    assert _dockerignore.needless(files, own, build, []) == {"src/a.py"}
