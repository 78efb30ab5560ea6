"""What makes a new release, and what does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpulab.fleet.plugins.module_utils import _release_make, _stack_gpus
from ansible_collections.gpulab.fleet.plugins.module_utils._deploy_plan import Handed, Plan
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._release import Store
from ansible_collections.gpulab.fleet.plugins.module_utils._userenv import Account

MOUNT: dict[str, Any] = {"source": "/a", "target": "/b", "services": [], "write": False, "enabled": True}


def inputs(tmp_path: Path, plan: Plan) -> str:
    user = Account("ada", 1000, 1000, tmp_path)
    nobody: Any = None
    store = Store(tmp_path, "robot")
    store.folder.mkdir(parents=True, exist_ok=True)
    store.keep_salt("salt")
    making = _release_make.Making(store, user, nobody, plan, Handed(), False, "ada")
    return making.inputs()


@pytest.mark.parametrize(("gpus", "same"), [({}, True), ({"web": 0}, True), ({"web": 1}, False)])
def test_a_proof_that_goes_matters_only_to_those_with_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpus: dict[str, Any], same: bool
) -> None:
    monkeypatch.setattr(_stack_gpus, "proven", lambda _user: (["GPU-a"], ["GPU-a"]))
    before = inputs(tmp_path, Plan(gpus=gpus))

    def unproven(_user: str) -> None:
        raise FleetError("STACK_GPU_UNPROVEN", "rebooted")

    monkeypatch.setattr(_stack_gpus, "proven", unproven)
    assert (inputs(tmp_path, Plan(gpus=gpus)) == before) is same


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (Plan(settings={"A": "1"}), Plan(settings={"A": "2"})),
        (Plan(secrets={"T": "1"}), Plan(secrets={"T": "2"})),
        (Plan(files={"a": {"sha256": "1", "mode": 420}}), Plan(files={"a": {"sha256": "1", "mode": 493}})),
        (Plan(profiles=["x"]), Plan()),
        (Plan(checks=[{"url": "http://x"}]), Plan()),
        (Plan(mounts={"lib": MOUNT}), Plan()),
        (Plan(mounts={"lib": MOUNT}), Plan(mounts={"lib": {**MOUNT, "enabled": False}})),
    ],
)
def test_what_makes_a_new_release(tmp_path: Path, one: Plan, two: Plan) -> None:
    assert inputs(tmp_path, one) == inputs(tmp_path, one)
    assert inputs(tmp_path, one) != inputs(tmp_path, two)


def test_a_word_on_why_makes_none(tmp_path: Path) -> None:
    assert inputs(tmp_path, Plan(why="a")) == inputs(tmp_path, Plan(why="b"))
