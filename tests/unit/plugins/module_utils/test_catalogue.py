"""The catalogue of findings: one form, one tone, nothing dead, and its page current."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.gpulab.fleet.plugins.module_utils._catalogue import catalogue
from ansible_collections.gpulab.fleet.plugins.module_utils._findings import SEVERITIES, finding

ROOT = Path(__file__).parents[4]
LAYERS = ("inventory", "host", "packages", "engine", "users", "driver", "toolkit", "proof", "stacks")


@pytest.mark.parametrize("code", catalogue())
def test_entry_has_the_form(code: str) -> None:
    entry = catalogue()[code]
    assert list(entry) == ["layer", "severity", "title", "cause", "remedy"]
    assert re.fullmatch(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)+", code)
    assert entry["layer"] in LAYERS
    assert entry["severity"] in SEVERITIES
    assert len(entry["title"]) <= 100
    assert not entry["title"].endswith(".")
    assert "{" not in entry["title"]
    assert entry["cause"].endswith(".")
    assert all(entry[part] == entry[part].strip() and "\n" not in entry[part] for part in ("title", "cause", "remedy"))


@pytest.mark.parametrize("code", catalogue())
def test_placeholders_can_be_filled(code: str) -> None:
    found = finding(code, "seen")
    assert found["code"] == code
    assert "{{" not in found["remedy"] + found["cause"]


def test_every_code_that_is_raised_is_there() -> None:
    code = re.compile(r'"((?:STACK|RELEASE|CLI|GPU|USER|SETTING|IMAGE|PROOF|ENGINE)_[A-Z_]+)"')
    texts = [
        path.read_text(encoding="utf-8") for path in (ROOT / "plugins").rglob("*.py") if path.name != "_catalogue.py"
    ]
    raised = {each for text in texts for each in code.findall(text)}
    assert len(raised) > 80
    assert raised <= set(catalogue())


def test_layers_are_in_order() -> None:
    seen = [entry["layer"] for entry in catalogue().values()]
    assert seen == sorted(seen, key=LAYERS.index)


def test_nothing_is_dead() -> None:
    sources = [path for path in (ROOT / "plugins").rglob("*.py") if path.name != "_catalogue.py"]
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    assert [code for code in catalogue() if not re.search(rf'"{code}"', text)] == []


def test_nothing_is_raised_that_is_not_here() -> None:
    """A code without an entry would end as a KeyError, on the day on which somebody needs it."""
    raised = re.compile(
        r'(?:FleetError|finding)\(\s*"([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)"|"((?:STACK|RELEASE|SNAPSHOT)_[A-Z_]+)"'
    )
    sources = sorted((ROOT / "plugins").rglob("*.py"))
    found = {
        code: path.name
        for path in sources
        for pair in raised.findall(path.read_text(encoding="utf-8"))
        for code in pair
        if code
    }
    assert {code: name for code, name in found.items() if code not in catalogue()} == {}
    assert len(found) > 50


def test_no_title_twice() -> None:
    titles = [entry["title"] for entry in catalogue().values()]
    assert len(titles) == len(set(titles))


def test_the_page_is_current() -> None:
    run = subprocess.run(
        [sys.executable, "tests/tools/findings_doc.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
