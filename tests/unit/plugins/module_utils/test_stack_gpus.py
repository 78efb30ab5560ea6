"""Who gets which GPU, and when nobody does."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpulab.fleet.plugins.module_utils import _stack_gpus
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError

HOST = ["GPU-a", "GPU-b", "GPU-c"]


@pytest.mark.parametrize(
    ("requests", "before", "elsewhere", "given"),
    [
        ({"x": 1}, {}, [], {"x": ["GPU-a"]}),
        ({"x": 0, "y": "none"}, {}, [], {}),
        ({"x": "all"}, {}, [], {"x": ["GPU-a", "GPU-b", "GPU-c"]}),
        ({"x": [1]}, {}, [], {"x": ["GPU-b"]}),
        ({"x": ["GPU-c", "0"]}, {}, [], {"x": ["GPU-c", "GPU-a"]}),
        ({"x": 1, "y": 1}, {}, [], {"x": ["GPU-a"], "y": ["GPU-b"]}),
        ({"x": 1}, {}, ["GPU-a"], {"x": ["GPU-b"]}),
        ({"x": 2}, {}, ["GPU-a", "GPU-a", "GPU-b"], {"x": ["GPU-c", "GPU-b"]}),
        ({"x": 1}, {"x": ["GPU-c"]}, ["GPU-c"], {"x": ["GPU-c"]}),
        ({"x": 1}, {"x": ["GPU-gone"]}, [], {"x": ["GPU-a"]}),
        ({"x": 2}, {"x": ["GPU-c"]}, [], {"x": ["GPU-c", "GPU-a"]}),
        ({"x": 1, "y": ["GPU-a"]}, {}, [], {"x": ["GPU-b"], "y": ["GPU-a"]}),
    ],
)
def test_assign(
    requests: dict[str, Any], before: dict[str, list[str]], elsewhere: list[str], given: dict[str, list[str]]
) -> None:
    assert _stack_gpus.assign(requests, HOST, HOST, before, elsewhere) == given


@pytest.mark.parametrize(
    ("request_", "mine"),
    [(4, HOST), ([2], HOST[:2]), (["GPU-c"], HOST[:2]), (["GPU-x"], HOST), ([7], HOST), ("all", []), (1, [])],
)
def test_more_than_there_is(request_: Any, mine: list[str]) -> None:
    with pytest.raises(FleetError) as caught:
        _stack_gpus.assign({"x": request_}, mine, HOST, {}, [])
    assert caught.value.code == "STACK_GPUS_SHORT"


@pytest.mark.parametrize(
    ("request_", "given"), [(1, ["GPU-b"]), (2, ["GPU-b", "GPU-c"]), (["GPU-b"], ["GPU-b"]), (0, None)]
)
def test_what_others_hold_for_themselves_is_passed_over(request_: Any, given: list[str] | None) -> None:
    found = _stack_gpus.assign({"x": request_}, HOST, HOST, {"x": ["GPU-a"]}, [], {"GPU-a": "mara's stack y"})
    assert found.get("x") == given


@pytest.mark.parametrize("request_", [3, "all", ["GPU-a"], [0]])
def test_what_others_hold_is_refused_by_name(request_: Any) -> None:
    with pytest.raises(FleetError, match=r"GPU-a is held by mara's stack y.*free: GPU-b, GPU-c") as caught:
        _stack_gpus.assign({"x": request_}, HOST, HOST, {}, [], {"GPU-a": "mara's stack y"})
    assert caught.value.code == "GPU_HELD"


def test_an_index_counts_the_hosts_gpus_not_the_users() -> None:
    assert _stack_gpus.assign({"x": [2]}, ["GPU-c"], HOST, {}, []) == {"x": ["GPU-c"]}


@pytest.mark.parametrize("request_", [-1, 1.5, True, "two", "-1", "1.5", [True], {"count": 1}])
def test_requests_of_no_form(request_: Any) -> None:
    with pytest.raises(FleetError, match="not all, a number, or a list"):
        _stack_gpus.check_request("x", request_)


def record(tmp_path: Path, **changes: Any) -> tuple[Path, Path]:
    spec = tmp_path / "nvidia.json"
    spec.write_text("spec", encoding="utf-8")
    mine = {
        "verdict": "pass",
        "gpus": ["GPU-b"],
        "specs": {str(spec): sha256(b"spec").hexdigest()},
        "steps": [{"name": "visible", "gpu": "GPU-b", "verdict": "pass"}],
        **changes,
    }
    proof, boot = tmp_path / "proof.json", tmp_path / "boot.json"
    proof.write_text(json.dumps({"gpus": [{"uuid": gpu} for gpu in HOST], "users": {"u": mine}}), encoding="utf-8")
    boot.write_text("{}", encoding="utf-8")
    return proof, boot


def test_proven(tmp_path: Path) -> None:
    assert _stack_gpus.proven("u", *record(tmp_path)) == (["GPU-b"], HOST)


@pytest.mark.parametrize(
    ("changes", "user", "said"),
    [
        ({}, "other", "no GPU was proven for other"),
        (
            {"verdict": "fail", "steps": [{"name": "compute", "gpu": "GPU-b", "verdict": "fail", "detail": "wrong"}]},
            "u",
            r"step compute of GPU-b: fail \(wrong\)",
        ),
        ({"verdict": "unknown", "steps": []}, "u", "verdict for u is unknown: no step was run"),
        ({"specs": {"/nonexistent": "0"}}, "u", "/nonexistent is not what was proven"),
    ],
)
def test_not_proven(tmp_path: Path, changes: dict[str, Any], user: str, said: str) -> None:
    proof, boot = record(tmp_path, **changes)
    with pytest.raises(FleetError, match=said) as caught:
        _stack_gpus.proven(user, proof, boot)
    assert caught.value.code == "STACK_GPU_UNPROVEN"


def test_a_proof_holds_for_one_boot(tmp_path: Path) -> None:
    proof, boot = record(tmp_path)
    boot.unlink()
    with pytest.raises(FleetError, match="earlier boot"):
        _stack_gpus.proven("u", proof, boot)


def test_a_proof_holds_for_one_spec(tmp_path: Path) -> None:
    proof, boot = record(tmp_path)
    (tmp_path / "nvidia.json").write_text("another", encoding="utf-8")
    with pytest.raises(FleetError, match="not what was proven"):
        _stack_gpus.proven("u", proof, boot)


def test_no_record(tmp_path: Path) -> None:
    with pytest.raises(FleetError, match="No such file"):
        _stack_gpus.proven("u", tmp_path / "none", tmp_path / "none")


def test_a_count_as_text_and_a_gpu_that_is_named_twice() -> None:
    assert _stack_gpus.assign({"x": "2"}, ["GPU-a", "GPU-b"], HOST, {}, []) == {"x": ["GPU-a", "GPU-b"]}
    assert _stack_gpus.assign({"x": [0, "GPU-a"]}, ["GPU-a"], ["GPU-a"], {}, []) == {"x": ["GPU-a"]}
    nothing: tuple[Any, ...] = ("0", 0, "none", [], None)
    assert not any(_stack_gpus.wanted(each) for each in nothing)
