"""After reset.yml a host is what it was before site.yml."""

from __future__ import annotations

from typing import Any


def test_nothing_differs_that_nothing_explains(host: Any) -> None:
    seen = host.run("python3 /run/manifest.py > /run/manifest-after.json")
    assert seen.rc == 0, seen.stderr
    compared = host.run("python3 /run/manifest.py /run/manifest-before.json /run/manifest-after.json")
    print(compared.stdout)
    assert compared.rc == 0, compared.stdout


def test_the_comparison_can_fail(host: Any) -> None:
    """One made-up file in the manifest from before, and it says so."""
    edit = "import json; d = json.load(open('/run/manifest-before.json')); d['file']['/etc/gone'] = 'x'; print(json.dumps(d))"
    compared = host.run(
        f'python3 -c "{edit}" > /run/manifest-other.json; '
        "python3 /run/manifest.py /run/manifest-other.json /run/manifest-before.json"
    )
    assert compared.rc == 1
    assert "UNEXPLAINED file:/etc/gone" in compared.stdout


def test_no_journal_is_left(host: Any) -> None:
    assert not host.file("/var/lib/gpulab").exists
