"""The record on disk."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.gpulab.fleet.plugins.module_utils._findings import finding
from ansible_collections.gpulab.fleet.plugins.modules import gpu_proof

RECORD: dict[str, Any] = {"verdict": "pass", "users": {"ann": {"steps": [{"name": "visible", "seconds": 0.2}]}}}


def keeper(tmp_path: Path) -> gpu_proof.Keeper:
    return gpu_proof.Keeper(tmp_path / "lib" / "proof.json", tmp_path / "facts.d" / "gpulab.fact")


def test_kept_once(tmp_path: Path) -> None:
    first = keeper(tmp_path)
    assert first.differs(RECORD)
    first.keep(RECORD)
    assert not keeper(tmp_path).differs(RECORD)
    assert json.loads((tmp_path / "facts.d/gpulab.fact").read_text())["proof"] == RECORD
    assert (tmp_path / "lib/proof.json").stat().st_mode & 0o777 == 0o644


def test_times_do_not_count(tmp_path: Path) -> None:
    keeper(tmp_path).keep(RECORD)
    later = {**RECORD, "users": {"ann": {"steps": [{"name": "visible", "seconds": 7.0}]}}}
    assert not keeper(tmp_path).differs(later)


def test_a_lost_fact_is_written_again(tmp_path: Path) -> None:
    keeper(tmp_path).keep(RECORD)
    (tmp_path / "facts.d/gpulab.fact").unlink()
    assert keeper(tmp_path).differs(RECORD)


def test_other_facts_stay(tmp_path: Path) -> None:
    (tmp_path / "facts.d").mkdir()
    (tmp_path / "facts.d/gpulab.fact").write_text('{"stacks": 1}')
    keeper(tmp_path).keep(RECORD)
    assert json.loads((tmp_path / "facts.d/gpulab.fact").read_text()) == {"stacks": 1, "proof": RECORD}
    keeper(tmp_path).keep({})
    assert json.loads((tmp_path / "facts.d/gpulab.fact").read_text()) == {"stacks": 1}


def test_no_record_without_a_gpu(tmp_path: Path) -> None:
    assert not keeper(tmp_path).differs({})
    keeper(tmp_path).keep(RECORD)
    assert keeper(tmp_path).differs({})
    keeper(tmp_path).keep({})
    assert not (tmp_path / "lib/proof.json").exists()
    assert not (tmp_path / "facts.d/gpulab.fact").exists()


@pytest.mark.parametrize("damage", ["", "{", "[]", "null"])
def test_a_damaged_record_is_replaced(tmp_path: Path, damage: str) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/proof.json").write_text(damage)
    assert keeper(tmp_path).differs(RECORD)


def test_the_difference_is_shown_without_times(tmp_path: Path) -> None:
    diff = keeper(tmp_path).diff(RECORD)
    assert diff["before"] == ""
    assert "visible" in diff["after"]
    assert "seconds" not in diff["after"]


def test_a_failure_tells_cause_and_remedy_first() -> None:
    text = gpu_proof.explain(
        [finding("CUDA_UNKNOWN", "GPU-a: 999"), finding("NO_GPU", "x")], ["FAIL    containers of ann"]
    )
    assert text.index("cause:") < text.index("remedy:") < text.index("FAIL    containers")
    assert "NO_GPU" not in text


@pytest.mark.parametrize(
    ("answer", "version"),
    [("ii 1.20.0-1", "1.20.0-1"), ("hi 1.20.0-1", "1.20.0-1"), ("rc 1.20.0-1", None), ("un ", None), ("", None)],
)
def test_the_toolkit_s_version_is_known_on_hold_too(
    monkeypatch: pytest.MonkeyPatch, answer: str, version: str | None
) -> None:
    monkeypatch.setattr("subprocess.run", lambda *_args, **_options: SimpleNamespace(stdout=answer))
    assert gpu_proof.toolkit_version() == version
