"""A fleet run: what check mode promises, what a second run does, the same from an installed collection."""

from __future__ import annotations

import subprocess
from pathlib import Path

from .site import ROOT, Site

PROOF_TASKS = ("Prove the GPUs from inside containers", "Judge and record the proof")


def test_check_mode_tells_the_truth_on_a_fresh_host(fresh: Site) -> None:
    promised = fresh.run("site.yml", "--check", "--diff").ok()
    assert promised.changed, "a fresh host must show changes"
    assert fresh.ssh("ls /etc/apt/keyrings/docker.asc 2>&1 || true").strip().endswith("No such file or directory")
    done = fresh.run().ok()
    # The proof is not run in check mode, so what it makes (its image, its record) cannot be promised.
    proof = {f"{fresh.hosts[0]}: gpulab.fleet.gpu_verify : {task}" for task in PROOF_TASKS}
    assert set(promised.changed) == set(done.changed) - proof
    assert proof <= set(done.changed)


def test_second_run_and_its_check_change_nothing(converged: Site) -> None:
    for args in ((), ("--check", "--diff")):
        result = converged.run("site.yml", *args).ok()
        assert result.changed == []


def test_installed_collection_does_what_the_clone_does(converged: Site, tmp_path: Path) -> None:
    bin_ = Path(converged.command("x")[0]).parent
    env = converged.environment()
    subprocess.run(
        [bin_ / "ansible-galaxy", "collection", "build", "--output-path", tmp_path, ROOT],
        check=True, capture_output=True, env=env, cwd=tmp_path,
    )  # fmt: skip
    (tarball,) = tmp_path.glob("gpulab-fleet-*.tar.gz")
    listing = subprocess.run(["tar", "tzf", tarball], check=True, capture_output=True, text=True).stdout.split()
    assert not [name for name in listing if name.split("/")[0] in ("collections", "tests", "molecule", ".venv", ".ci")]
    subprocess.run(
        [bin_ / "ansible-galaxy", "collection", "install", "--no-deps", "-p", tmp_path / "collections", tarball],
        check=True, capture_output=True, env=env, cwd=tmp_path,
    )  # fmt: skip
    result = converged.run(
        "gpulab.fleet.site", "--check", cwd=tmp_path, ANSIBLE_COLLECTIONS_PATH=str(tmp_path / "collections")
    )
    assert result.ok().changed == []
