"""Whatever happens to a host while stacks are deployed on it: afterwards one release runs whole, and nothing is left."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from .fake_host import Host

SEQUENCES = 320
FATES = ["kill", "kill", "power cut", "power cut", "disk full", "engine away", "interrupt", "second run"]


class Sequence:
    """A random life of a host, told as it goes."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch, seed: int) -> None:
        self.rng = Random(seed)
        self.host = Host(folder, patch, self.rng)
        self.told: list[str] = []

    def live(self, length: int) -> None:
        for _ in range(length):
            self.one()

    def one(self) -> None:
        rng, host = self.rng, self.host
        verb = rng.choice(["deploy"] * 5 + ["bad deploy"] * 3 + ["rollback"] * 3 + ["undeploy", "engine", "power"])
        fate = rng.choice(FATES) if rng.random() < 0.6 else ""
        at = int(rng.triangular(1, 160, 60)) if fate else 0
        before = host.store.current()
        if verb == "engine":
            host.machine.restart()
            ended = "done"
        elif verb == "power":
            host.machine.power_cut()
            ended = host.settle(fate, at)
        elif verb == "rollback":
            ended = host.run(lambda run: run.rollback(), fate, at)
        elif verb == "undeploy":
            ended = host.run(lambda run: run.undeploy(), fate, at)
        else:
            mode = "serve" if verb == "deploy" else rng.choice(["exit", "sick", "hang"])
            plan = host.plan(
                rng.randint(1, 3), rng.choice("xy"), rng.randint(0, 1), MODE=mode, WORD=rng.choice("abc"), SIDE=rng.choice("pq")
            )  # fmt: skip
            ended = host.deploy(plan, fate, at)
        fate = fate if fate in host.befell else ""
        self.told.append(f"{verb} [{fate} at {at}]: {ended}")
        if fate and fate != "second run":
            again = rng.random() < 0.25
            self.told.append(
                f"  settle: {host.settle(rng.choice(['kill', 'power cut']) if again else '', rng.randint(1, 60))}"
            )
            if again:
                self.told.append(f"  settle again: {host.settle()}")
        after = host.store.current()
        if after and fate and after.id not in host.ran and not after.failed and after.settings["MODE"] == "serve":
            host.ran.add(after.id)
        self.judge(verb, fate, ended, before.id if before else "", after.id if after else "")
        host.befell.clear()

    def judge(self, verb: str, fate: str, ended: str, before: str, after: str) -> None:
        wrong = self.host.wrong()
        if verb == "bad deploy" and after != before:
            wrong.append(f"a release that is not well became current: {after}")
        if ended not in ("done", "cut", "interrupted") and after != before and fate != "disk full":
            wrong.append(f"{ended}, and current is {after} instead of {before}")
        if verb == "deploy" and not fate and ended != "done":
            wrong.append(f"a good deploy ended with {ended}")
        if after and after not in self.host.ran:
            wrong.append(f"{after} runs and never passed the gate")
        assert not wrong, "\n".join([*self.told, *wrong])


@pytest.fixture
def folder() -> Iterator[Path]:
    """In memory where there is such a place: hundreds of hosts are made here."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as made:
        yield Path(made)


@pytest.mark.parametrize("part", range(8))
def test_whatever_happens_one_release_runs_whole_and_nothing_is_left(
    part: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: Counter[str] = Counter()
    for seed in range(part * SEQUENCES // 8, (part + 1) * SEQUENCES // 8):
        with monkeypatch.context() as patch:
            life = Sequence(folder / str(seed), patch, seed)
            try:
                life.live(6)
            except AssertionError as error:
                raise AssertionError(f"seed {seed}\n{error}") from None
        seen.update(line.partition("[")[2].partition(" at")[0] for line in life.told)
    assert all(seen[fate] > 3 for fate in set(FATES)), seen
