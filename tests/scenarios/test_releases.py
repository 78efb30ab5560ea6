"""A stack's releases on a real host: deployed, refused, taken back; what runs and what is kept after each."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from .conftest import ONE_USER
from .site import Site, lab
from .small_stack import FOLDER, SOURCE, Small


@pytest.fixture(scope="module")
def small(main_host: Site, tmp_path_factory: pytest.TempPathFactory) -> Small:
    lab("restore", main_host.hosts[0], "converged")
    return Small(main_host, tmp_path_factory.mktemp("stack"))


def test_check_mode_says_what_then_happens_and_keeps_nothing(small: Small) -> None:
    said = small.result(small.deploy("--check", "--diff").ok())
    assert {"build web", "create web", "create side", "release 0001"} <= set(said["actions"])
    assert "to-be-built" in said["diff"][-1]["after"]
    assert "No such file" in small.sh(f"ls {FOLDER} 2>&1", check=False)


def test_a_first_deploy_that_fails_leaves_nothing_running(small: Small) -> None:
    failed = small.deploy(settings={"MODE": "exit"})
    assert failed.rc != 0
    assert "Nothing of this stack ran before, and nothing runs now" in failed.failures
    assert "this version cannot start" in failed.failures, "the service's own last words"
    assert small.containers() == {}
    assert small.current() == ""
    why = json.loads(small.sh(f"cat {FOLDER}/releases/0001/failed.json"))
    assert why["code"] == "STACK_UNHEALTHY"
    assert "this version cannot start" in small.sh(f"cat {FOLDER}/releases/0001/logs/small-web-1.log")


def test_deploy_then_no_change(small: Small) -> None:
    done = small.result(small.deploy(secrets={"TOKEN": "sesame"}).ok())
    assert done["release"] == "0002"
    assert small.says() == "version 1 word one secret sesame"
    again = small.result(small.deploy(secrets={"TOKEN": "sesame"}).ok())
    assert (again["changed"], again["actions"], again["release"]) == (False, [], "0002")
    assert "docker compose" not in small.sh(f"cd {FOLDER}/current && docker compose ps --format json")
    inside = small.sh(f"cd {FOLDER}/current && docker compose exec -T web cat /version").strip()
    assert inside == "1", "plain Compose works in the current release"
    assert "sesame" not in small.sh("docker inspect small-web-1") + small.sh(f"cat {FOLDER}/current/*")


def test_a_secret_that_is_generated_is_in_its_file_and_nowhere_else(small: Small) -> None:
    again = small.deploy("--diff", "-vvv", secrets={"TOKEN": "sesame"}).ok()
    path = "/home/trainer/gpulab/secrets/small/KEY"
    assert small.result(again)["secret_files"] == {"KEY": path}
    key = small.sh(f"cat {path}")
    assert len(key) == 12, "and no line break behind it"
    assert small.sh("docker exec small-web-1 cat /run/secrets/KEY") == key
    assert small.sh(f"stat -c '%a %U' {path}").split() == ["600", "trainer"]
    assert f"KEY is in {path}" in small.sh("gpulab status small")
    shown = small.sh("docker inspect small-web-1; docker logs small-web-1 2>&1; gpulab status small --json")
    files = small.sh(f"cat {FOLDER}/current/* {FOLDER}/current/.env {FOLDER}/history")
    journal = small.site.ssh("journalctl --no-pager --since -10min | cat")
    assert not [text for text in (shown, files, journal, again.raw, again.stderr) if key in text]


def test_only_what_changed_is_restarted(small: Small) -> None:
    before = small.containers()
    check = small.result(small.deploy("--check", "--diff", secrets={"TOKEN": "sesame"}, settings={"SIDE_WORD": "new"}))
    assert check["actions"] == ["recreate side", "release 0003"]
    assert "WORD: new" in check["diff"][0]["after"]
    small.deploy(secrets={"TOKEN": "sesame"}, settings={"SIDE_WORD": "new"}).ok()
    after = small.containers()
    assert after["web"] == before["web"]
    assert after["side"] != before["side"]
    # A changed secret changes nothing that Compose looks at.
    small.deploy(secrets={"TOKEN": "opened"}, settings={"SIDE_WORD": "new"}).ok()
    assert small.containers()["side"] == after["side"]
    assert small.says().endswith("secret opened")


@pytest.mark.parametrize("mode", ["exit", "hang", "sick"])
def test_a_deploy_that_fails_leaves_the_old_release_running(small: Small, mode: str) -> None:
    before, current, data = small.says(), small.current(), small.sh("cat gpulab/data/small/notes/starts")
    failed = small.deploy(secrets={"TOKEN": "opened"}, settings={"SIDE_WORD": "new", "MODE": mode, "WORD": mode})
    assert failed.rc != 0
    assert f"Release {current} runs again" in failed.failures
    assert (small.says(), small.current()) == (before, current)
    assert small.sh("cat gpulab/data/small/notes/starts").startswith(data), "data only grow"
    assert "runs again" in small.history()[-1]
    assert not small.sh(f"ls {FOLDER}/unfinished.json 2>/dev/null", check=False)


def test_an_upgrade_and_back_without_a_build(small: Small) -> None:
    small.version(2)
    small.deploy(secrets={"TOKEN": "opened"}, settings={"SIDE_WORD": "new"}).ok()
    assert small.says().startswith("version 2")
    upgraded = small.current()
    small.sh("docker image prune -f; docker builder prune -af")
    back = small.site.ad_hoc(
        "gpu_hosts", "-b", "-m", "gpulab.fleet.compose_release", "-a", "name=small user=trainer state=rolled_back"
    )
    assert "CHANGED" in back
    assert "small-side-1\n    - " not in back, "what is the same in both is not touched"
    assert small.says() == "version 1 word one secret opened"
    assert int(small.current()) < int(upgraded)
    small.site.ad_hoc(
        "gpu_hosts", "-b", "-m", "gpulab.fleet.compose_release",
        "-a", f"name=small user=trainer state=rolled_back release={upgraded}",
    )  # fmt: skip
    assert small.says().startswith("version 2")


def test_a_killed_run_goes_back_when_the_next_one_comes(small: Small) -> None:
    before, current = small.says(), small.current()
    small.set(secrets={"TOKEN": "opened"}, settings={"SIDE_WORD": "new", "MODE": "hang"})
    run = subprocess.Popen(
        small.site.command("playbooks/deploy.yml"), env=small.site.environment(),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while "switching" not in small.sh(f"cat {FOLDER}/unfinished.json 2>/dev/null", check=False):
        assert time.monotonic() < deadline
        time.sleep(0.3)
    time.sleep(2)
    busy = small.deploy(secrets={"TOKEN": "opened"})
    assert "deploy by root@" in busy.failures, "the second is told who holds the stack"
    holder = json.loads(small.sh("cat gpulab/stacks/.locks/small"))
    small.sh(f"kill -KILL {holder['pid']}")
    run.wait(timeout=60)
    assert small.says() != before, "cut off in the middle"
    settled = small.result(small.deploy(secrets={"TOKEN": "opened"}, settings={"SIDE_WORD": "new"}).ok())
    assert settled["actions"][0] == "settle a deploy that was cut off"
    assert (small.says(), small.current()) == (before, current)


def test_a_service_that_renders_is_refused_where_the_driver_has_no_graphics(small: Small) -> None:
    small.site.run("playbooks/verify.yml").ok()  # the snapshot's proof is of an earlier boot
    before, described = small.containers(), small.source / "stack.yml"
    plain = described.read_text(encoding="utf-8")
    described.write_text(plain.replace("gpus: {web: 0}", "gpus: {web: 1}") + "graphics: [web]\n", encoding="utf-8")
    try:
        refused = small.deploy()
    finally:
        described.write_text(plain, encoding="utf-8")
    assert "STACK_GRAPHICS_MISSING" in refused.failures and "10_nvidia.json (EGL)" in refused.failures
    assert "libnvidia-gl-" in refused.failures, "the remedy"
    assert small.containers() == before


def test_what_is_kept_and_what_goes(small: Small) -> None:
    for word in ("a", "b", "c"):
        small.deploy(secrets={"TOKEN": word}, settings={"WORD": word}).ok()
    good = [
        each
        for each in small.releases()
        if not small.sh(f"ls {FOLDER}/releases/{each}/failed.json 2>/dev/null", check=False)
    ]
    assert len(good) == 3
    records = [json.loads(small.sh(f"cat {FOLDER}/releases/{each}/release.json")) for each in small.releases()]
    secrets = {f"{name}.{digest}" for record in records for name, digest in record["secrets"].items()}
    assert set(small.sh(f"ls {FOLDER}/secrets").split()) == secrets
    tags = small.sh("docker images --format '{{.Repository}}:{{.Tag}}' | grep gpulab/small-web").split()
    needed = {service["tag"] for record in records for service in record["services"].values()}
    assert set(tags) <= needed


def test_a_checkout_with_its_compose_file_further_down(small: Small, tmp_path: Path) -> None:
    """As openpi has it: the file in a folder of its own, the tree mounted as $PWD, no stack.yml."""
    tree = tmp_path / "checkout"
    (tree / "scripts").mkdir(parents=True)
    (tree / "serve.py").write_text((SOURCE / "serve.py").read_text(encoding="utf-8"), encoding="utf-8")
    (tree / ".gitignore").write_text("*.ckpt\n", encoding="utf-8")
    (tree / "large.ckpt").write_text("stays here", encoding="utf-8")
    service = {
        "image": small.entry["settings"]["BASE_IMAGE"],
        "command": ["python3", "/app/serve.py"],
        "environment": ["WORD=${WORD:-deep}"],
        "init": True,
        "volumes": ["$PWD:/app"],
        "ports": ["8085:8000"],
        "deploy": {
            "resources": {"reservations": {"devices": [{"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}]}}
        },
    }
    (tree / "scripts" / "compose.yml").write_text(yaml.safe_dump({"services": {"web": service}}), encoding="utf-8")
    for command in (
        ["init", "-q"],
        ["add", "."],
        ["-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "-qm", "a"],
    ):
        subprocess.run(["git", *command], cwd=tree, check=True)
    deep = {"user": "trainer", "source": str(tree / "scripts/compose.yml"), "images": small.entry["images"]}
    small.site.set({**ONE_USER, "gpulab_stacks": {"deep": deep}})
    small.site.run("playbooks/verify.yml").ok()
    said = small.result(small.site.run("playbooks/deploy.yml").ok())
    assert any("driver: nvidia" in note for note in said["notes"]), said["notes"]
    assert small.says(8085).startswith("version - word deep")
    inside = small.sh("docker exec deep-web-1 sh -c 'ls /app; nvidia-smi -L'")
    assert "serve.py" in inside and "large.ckpt" not in inside
    assert inside.count("GPU-") == 1
    record = json.loads(small.sh("cat gpulab/stacks/deep/current/release.json"))
    assert len(record["source"]["commit"]) == 40 and record["source"]["dirty"] is False
    # Of a changed tree only what changed travels; a variable of the file can be set.
    (tree / "new.txt").write_text("new", encoding="utf-8")
    small.site.set({**ONE_USER, "gpulab_stacks": {"deep": {**deep, "settings": {"WORD": "deeper"}}}})
    small.site.run("playbooks/deploy.yml").ok()
    assert small.says(8085).startswith("version - word deeper")
    assert "+new" in small.sh("cat gpulab/stacks/deep/current/source.diff")
    small.site.set({**ONE_USER, "gpulab_stacks": {"deep": {**deep, "state": "absent"}}})
    small.site.run("playbooks/deploy.yml").ok()


def test_a_folder_of_the_host_that_an_image_is_built_from_counts(small: Small) -> None:
    plain = {name: (small.source / name).read_text(encoding="utf-8") for name in ("compose.yml", "Dockerfile")}
    beside = "build: {context: ., additional_contexts: {beside: /home/trainer/beside}, args:"
    (small.source / "compose.yml").write_text(
        plain["compose.yml"].replace("build: {context: ., args:", beside), "utf-8"
    )
    (small.source / "Dockerfile").write_text(plain["Dockerfile"] + "COPY --from=beside word /word\n", "utf-8")
    try:
        small.sh("mkdir beside; echo first > beside/word")
        small.deploy().ok()
        assert small.result(small.deploy().ok())["changed"] is False
        small.sh("echo second > beside/word")
        assert "build web" in small.result(small.deploy().ok())["actions"]
        assert small.sh("docker exec small-web-1 cat /word").strip() == "second"
    finally:
        for name, text in plain.items():
            (small.source / name).write_text(text, encoding="utf-8")


def test_undeploy_keeps_data(small: Small) -> None:
    starts = small.sh("cat gpulab/data/small/notes/starts")
    gone = small.result(small.deploy(state="absent").ok())
    assert gone["changed"]
    assert small.containers() == {}
    assert "No such file" in small.sh(f"ls {FOLDER} 2>&1", check=False)
    assert small.sh("cat gpulab/data/small/notes/starts") == starts
    images = small.sh("docker images")
    assert "gpulab/small" not in images and "small-web" not in images
    assert not small.result(small.deploy(state="absent").ok())["changed"]
