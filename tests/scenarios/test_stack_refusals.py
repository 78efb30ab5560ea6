"""Deploys with a mistake on a real host: each is refused with what is wrong and what to do, and what runs goes on untouched."""

from __future__ import annotations

import copy
import io
import json
import subprocess
import tarfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import yaml

from .conftest import ONE_USER
from .site import LAB, Site, lab

GPUS = [f"GPU-12345678-1234-1234-1234-12345678000{number}" for number in (0, 1)]
HELD = "/var/lib/gpulab/holders/1001"
GUESTS = {"schema": 1, "stacks": {"theirs": {"server": {"gpus": [GPUS[1]], "since": "2026-01-02T03:04:05Z"}}}}
NEW_CUDA = {"config": {"Env": ["NVIDIA_REQUIRE_CUDA=cuda>=99.0 brand=tesla,driver>=470"]}}

Change = Callable[[dict[str, Any], dict[str, Any]], None]  # of compose.yml and stack.yml


def service(**parts: Any) -> Change:
    """The stack's service with these parts as well."""
    return lambda compose, _stack: compose["services"]["web"].update(parts)


def compose(**parts: Any) -> Change:
    return lambda whole, _stack: whole.update(parts)


def stack(**parts: Any) -> Change:
    return lambda _compose, whole: whole.update(parts)


def both(*changes: Change) -> Change:
    def change(file: dict[str, Any], definition: dict[str, Any]) -> None:
        for each in changes:
            each(file, definition)

    return change


def listening(user: str, port: int, kind: str = "STREAM") -> dict[str, str]:
    """Somebody's program has a port of 127.0.0.1 while the case runs."""
    code = (
        f"import socket, time; s = socket.socket(socket.AF_INET, socket.SOCK_{kind}); s.bind((chr(49) + '27.0.0.1', {port}));"
        f"{' s.listen();' if kind == 'STREAM' else ''} open('/tmp/listens', 'w'); time.sleep(600)"
    )
    before = f'rm -f /tmp/listens; runuser -u {user} -- python3 -c "{code}" >/dev/null 2>&1 & echo $! > /run/listener; '
    return {
        "before": before + "until [ -e /tmp/listens ]; do sleep 0.05; done",
        "after": "pkill -P $(cat /run/listener); rm -f /tmp/listens",
    }


def moved(path: str) -> dict[str, str]:
    return {"before": f"mv {path} {path}.away", "after": f"mv {path}.away {path}"}


HOLDS = {"before": f"echo '{json.dumps(GUESTS)}' > {HELD}; chown guest: {HELD}", "after": f"rm {HELD}"}
GPU = {"arguments": ["--gpus", "web=1"]}

# What is wrong -> how the stack's files differ, what else the case needs, the finding's code, what the text names.
MISTAKES: dict[str, tuple[Change | None, dict[str, Any], str, list[str]]] = {
    # stack.yml
    "an unknown part": (stack(volumes={}), {}, "STACK_INVALID", ["volumes", "settings"]),
    "a data folder elsewhere": (
        stack(data={"D": {"folder": "../../etc"}}), {}, "STACK_INVALID", ["data.D.folder", "'../../etc'"],
    ),
    "a secret's name with a path": (stack(secrets={"../T": {}}), {}, "STACK_INVALID", ["secrets.../T"]),
    "GPUs of no service": (stack(gpus={"trainer": 1}), {}, "STACK_INVALID", ["trainer", "web"]),
    "no health check": (stack(no_health=[]), {}, "STACK_HEALTH_UNKNOWN", ["web"]),
    # compose.yml
    "broken YAML": (None, {"files": {"compose.yml": "services: [\n"}}, "STACK_COMPOSE_INVALID", ["compose.yml", "line"]),
    "no mapping": (None, {"files": {"compose.yml": "- web\n"}}, "STACK_COMPOSE_INVALID", ["compose.yml", "mapping"]),
    "an unknown Compose key": (service(imgae="x"), {}, "STACK_COMPOSE_INVALID", ["web", "imgae"]),
    "a dependency on nothing": (service(depends_on=["db"]), {}, "STACK_COMPOSE_INVALID", ["web", "db"]),
    "a dependency on a profile that is off": (
        both(
            lambda file, _stack: file["services"].update(db={"image": "x", "profiles": ["db"]}),
            service(depends_on=["db"]),
        ),
        {}, "STACK_COMPOSE_INVALID", ["web", "db"],
    ),
    "a variable that has to be set": (
        service(environment={"A": "${MUST:?say what}"}), {}, "STACK_COMPOSE_INVALID", ["MUST", "say what"],
    ),
    "the same without a stack.yml": (
        service(environment={"A": "${MUST:?say what}"}), {"files": {"stack.yml": None}}, "STACK_SETTING_INVALID", ["MUST"],
    ),
    "a volume without a name": (service(volumes=["/work"]), {}, "STACK_VOLUME_ANONYMOUS", ["/work", "web"]),
    "a secret's file that is not there": (
        both(compose(secrets={"KEY": {"file": "./secrets/key"}}), service(secrets=["KEY"])),
        {}, "STACK_FILE_MISSING", ["secrets.KEY.file", "secrets/key"],
    ),
    "an environment file that stays behind": (
        service(env_file=".env"), {"files": {".env": "A=1\n"}}, "STACK_FILE_MISSING", [".env"],
    ),
    "a network that nobody made": (
        both(compose(networks={"lan": {"external": True}}), service(networks=["lan"])),
        {}, "STACK_EXTERNAL_MISSING", ["networks.lan"],
    ),
    "a device that is not there": (service(devices=["/dev/robot0"]), {}, "STACK_NEEDS_ROOT", ["/dev/robot0"]),
    # what was typed
    "a stack that is not there": (None, {"target": "nowhere"}, "STACK_NOT_HERE", ["nowhere", "good"]),
    "a folder that is not there": (None, {"target": "./nowhere"}, "STACK_UNKNOWN", ["nowhere"]),
    "a setting that is not there": (None, {"arguments": ["--set", "WEB=1"]}, "STACK_SETTING_INVALID", ["WEB", "WEB_PORT"]),
    "a port that is none": (None, {"arguments": ["--set", "WEB_PORT=http"]}, "STACK_SETTING_INVALID", ["WEB_PORT", "'http'"]),
    "a name with a path": (None, {"arguments": ["--name", "../other"]}, "STACK_SETTING_INVALID", ["../other", "--name"]),
    "a profile that is not there": (
        None, {"arguments": ["--set", "COMPOSE_PROFILES=$(id)"]}, "STACK_SETTING_INVALID", ["$(id)", "COMPOSE_PROFILES"],
    ),
    # ports
    "a port of another user's": (None, {**listening("guest", 8080 + 1), "arguments": ["--set", "WEB_PORT=8081"]},
                                 "STACK_PORT_TAKEN", ["127.0.0.1:8081", "WEB_PORT", "guest"]),
    "a port of UDP": (service(ports=["8083:8000/udp"]), listening("guest", 8083, "DGRAM"),
                      "STACK_PORT_TAKEN", ["127.0.0.1:8083/udp", "guest"]),
    "a port of another stack": (None, {"arguments": ["--set", "WEB_PORT=8090"]}, "STACK_PORT_TAKEN", ["8090", "other"]),
    "one port for two": (
        lambda file, _stack: file["services"].update(two={**copy.deepcopy(file["services"]["web"]), "secrets": []}),
        {}, "STACK_PORT_TAKEN", ["8080", "two", "web"],
    ),
    "a port for root": (None, {"arguments": ["--set", "WEB_PORT=80"]}, "STACK_PORT_PRIVILEGED", ["80", "web"]),
    "an address of another host": (
        service(ports=["192.0.2.7:8084:8000"]), {}, "STACK_ADDRESS_UNKNOWN", ["192.0.2.7:8084", "web"],
    ),
    # secrets
    "a secret that has to be given": (stack(secrets={"KEY": {"required": True}}), {}, "STACK_SECRET_INVALID", ["KEY", "--secret"]),
    "a secret's file that is nowhere": (None, {"arguments": ["--secret", "TOKEN=/no/token"]}, "STACK_SECRET_INVALID", ["/no/token"]),
    "a secret of nothing": (None, {"arguments": ["--secret", "TOKEN=/dev/null"]}, "STACK_SECRET_INVALID", ["TOKEN", "empty"]),
    # GPUs
    "an index beyond the last": (service(gpus=[{"device_ids": ["7"]}]), {}, "STACK_GPUS_SHORT", ["gpus.web", "7", GPUS[0]]),
    "a GPU of another host": (None, {"arguments": ["--gpus", "web=GPU-99"]}, "STACK_GPUS_SHORT", ["GPU-99", GPUS[1]]),
    "more than there are": (None, {"arguments": ["--gpus", "web=3"]}, "STACK_GPUS_SHORT", ["gpus.web", "3", GPUS[0]]),
    "a GPU of another stack": (None, {"arguments": ["--gpus", f"web={GPUS[0]}"]}, "GPU_HELD", [GPUS[0], "other", "trainer"]),
    "a GPU of another user": (None, {**HOLDS, "arguments": ["--gpus", f"web={GPUS[1]}"]}, "GPU_HELD", [GPUS[1], "guest", "theirs"]),
    "no GPU that is free": (None, {**HOLDS, **GPU}, "GPU_HELD", [*GPUS, "gpus.web"]),
    "no proof": (None, {**moved("/var/lib/gpulab/proof.json"), **GPU}, "STACK_GPU_UNPROVEN", ["/var/lib/gpulab/proof.json"]),
    "a proof of an earlier boot": (
        None, {**moved("/run/gpulab/proof.json"), **GPU}, "STACK_GPU_UNPROVEN", ["an earlier boot", "/run/gpulab/proof.json"],
    ),
    # images
    "an image that cannot be had": (service(image="127.0.0.1:9/none:1"), {}, "STACK_IMAGE_MISSING", ["127.0.0.1:9/none:1"]),
    "another processor": (service(image="lab/arm:1"), {}, "STACK_IMAGE_ARCHITECTURE", ["web", "lab/arm:1", "arm64", "amd64"]),
    "a newer CUDA than the driver's": (
        service(image="lab/cuda:1"), {"arguments": ["--gpus", f"web={GPUS[1]}"]}, "STACK_CUDA_TOO_NEW", ["lab/cuda:1", "99.0", "12.4"],
    ),
    "a build that fails": (
        service(build={"dockerfile_inline": "FROM lab/cuda:1\nRUN [\"/no/such\"]\n"}), {}, "STACK_BUILD_FAILED", ["/no/such"],
    ),
    "a full disk": (
        service(image="127.0.0.1:9/none:1"), {"full": True}, "STACK_DISK_ROOM", ["free"],
    ),
}  # fmt: skip


def image(path: Path, name: str, **config: Any) -> Path:
    """What `docker save` makes of an image with one empty layer."""
    layer = io.BytesIO()
    tarfile.open(fileobj=layer, mode="w").close()
    diff = f"sha256:{sha256(layer.getvalue()).hexdigest()}"
    whole = {
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [diff]},
        "config": {},
        **config,
    }
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    files = {"manifest.json": json.dumps(manifest).encode(), "config.json": json.dumps(whole).encode()}
    with tarfile.open(path, "w") as archive:
        for member, data in {**files, "layer.tar": layer.getvalue()}.items():
            entry = tarfile.TarInfo(member)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


class Refusing:
    """A host on which the stacks `good` and `other` run."""

    def __init__(self, site: Site, folder: Path) -> None:
        self.site, self.folder = site, folder
        self.image = "gpulab/probe:" + site.login("trainer", "docker images gpulab/probe --format {{.Tag}}").strip()
        self.python = site.ssh("readlink -f /usr/bin/python3").strip()
        self.put(Path(__file__).with_name("refusals.py").read_bytes(), "/root/refusals.py")
        for name, config in (("lab/arm:1", {"architecture": "arm64"}), ("lab/cuda:1", NEW_CUDA)):
            self.put(image(folder / "image.tar", name, **config).read_bytes(), "/tmp/image.tar")
            site.login("trainer", "docker load -q -i /tmp/image.tar")

    def put(self, data: bytes, path: str) -> None:
        subprocess.run([str(LAB), "ssh", self.site.hosts[0], f"cat > {path}"], input=data, check=True)

    def files(self, change: Change | None = None) -> dict[str, str | None]:
        wait = "import time\nwhile True: time.sleep(9)"
        web = {
            "image": self.image, "entrypoint": [self.python, "-c"], "command": [wait], "init": True, "secrets": ["TOKEN"],
            "ports": ["${WEB_PORT:-8080}:8000"], "volumes": ["${NOTES:-./data/notes}:/notes"],
            "environment": {"WORD": "${WORD:-one}"}, "stop_grace_period": "1s",
        }  # fmt: skip
        compose = {"services": {"web": web}, "secrets": {"TOKEN": {"file": "${TOKEN_FILE:-/dev/null}"}}}
        stack: dict[str, Any] = {
            "settings": {"WEB_PORT": {"type": "port", "default": 8080}, "WORD": {"default": "one"},
                         "COMPOSE_PROFILES": {"default": ""}},
            "data": {"NOTES": {"folder": "notes"}}, "secrets": {"TOKEN": {}}, "no_health": ["web"],
        }  # fmt: skip
        if change:
            change(compose, stack)
        return {"compose.yml": yaml.safe_dump(compose), "stack.yml": yaml.safe_dump(stack)}

    def case(self, name: str, change: Change | None = None, **parts: Any) -> dict[str, Any]:
        return {"name": name, **parts, "files": {**self.files(change), **parts.get("files", {})}}

    def run(self, cases: list[dict[str, Any]]) -> dict[str, Any]:
        done = subprocess.run(
            [str(LAB), "ssh", self.site.hosts[0], "python3 /root/refusals.py"],
            input=json.dumps(cases).encode(), capture_output=True, check=True,
        )  # fmt: skip
        found: dict[str, Any] = json.loads(done.stdout)
        return found


@pytest.fixture(scope="module")
def host(main_host: Site, tmp_path_factory: pytest.TempPathFactory) -> Refusing:
    lab("restore", main_host.hosts[0], "converged")
    main_host.run("playbooks/verify.yml").ok()  # the snapshot's proof is of an earlier boot
    host = Refusing(main_host, tmp_path_factory.mktemp("refusals"))
    other = host.case("other", arguments=["--name", "other", "--set", "WEB_PORT=8090", "--gpus", f"web={GPUS[0]}"])
    done = host.run([host.case("good"), other])
    assert [each["rc"] for each in done.values()] == [0, 0], done
    return host


@pytest.fixture(scope="module")
def refused(host: Refusing) -> dict[str, Any]:
    return host.run([host.case(name, change, **parts) for name, (change, parts, _code, _names) in MISTAKES.items()])


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_refused_and_nothing_is_stopped(refused: dict[str, Any], name: str) -> None:
    seen = refused[name]
    _change, _parts, code, names = MISTAKES[name]
    assert seen["rc"] == 3, seen
    found = seen["answer"]["finding"]
    assert found["code"] == code, found
    text = found["evidence"] + found["remedy"]
    for part in names:
        assert part in text, found
    assert found["remedy"] and "{" + "stack}" not in text
    assert "Traceback" not in seen["said"]
    assert seen["changed"] == {}


# --- by the inventory ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def entries(host: Refusing) -> dict[str, dict[str, Any]]:
    """What the inventory's deploy says of each wrong entry: one run for all of them."""
    source = host.folder / "good"
    source.mkdir()
    for name, text in host.files(stack(secrets={"TOKEN": {}, "KEY": {"required": True}})).items():
        (source / name).write_text(str(text), encoding="utf-8")
    arm = image(host.folder / "arm.tar", "lab/arm:2", architecture="arm64")
    (host.folder / "broken.tar").write_bytes(b"\x1f\x8b\x08 broken")
    entry = {"user": "trainer", "source": str(source), "secrets": {"KEY": "hunter2"}, "settings": {"WEB_PORT": 8077}}
    wrong: dict[str, dict[str, Any]] = {
        "arm": {"images": [{"name": "lab/arm:2", "archive": str(arm)}]},
        "damaged": {"images": [{"name": "lab/x:1", "archive": str(host.folder / "broken.tar")}]},
        "option": {"images": [{"name": "--help", "archive": str(arm)}]},
        "key": {"profile": ["x"]},
        "profile": {"profiles": ["$(id)"]},
        "publish": {"publish": {"web": ["eighty"]}},
        "check": {"checks": [{"port": 8000}]},
        "secret": {"secrets": {}},
        "service": {"gpus": {"../web": 1}},
        "nowhere": {"source": "./nowhere"},
        "many": {"gpus": {"web": 9}},
        "../good": {"state": "absent"},
    }
    host.site.set({**ONE_USER, "gpulab_stacks": {name: {**entry, **parts} for name, parts in wrong.items()}})
    before = host.site.login("trainer", "docker ps -aq --no-trunc; find gpulab -type f")
    run = host.site.run("playbooks/deploy.yml")
    results = next(task["result"]["results"] for task in run.tasks if task["failed"])
    assert host.site.login("trainer", "docker ps -aq --no-trunc; find gpulab -type f") == before
    assert "hunter2" not in run.raw + run.stderr
    return {each["stack"]: each for each in results}


@pytest.mark.parametrize(
    ("name", "code", "parts"),
    [
        ("arm", "STACK_IMAGE_ARCHITECTURE", ["images: lab/arm:2", "arm64", "amd64"]),
        ("damaged", "STACK_ARCHIVE_INVALID", ["broken.tar"]),
        ("option", "STACK_ARCHIVE_INVALID", ["'--help'"]),
        ("key", "STACK_SETTING_INVALID", ["gpulab_stacks.key.profile", "profiles"]),
        ("profile", "STACK_SETTING_INVALID", ["gpulab_stacks.profile.profiles", "$(id)"]),
        ("publish", "STACK_SETTING_INVALID", ["gpulab_stacks.publish.publish.web[0]", "'eighty'"]),
        ("check", "STACK_SETTING_INVALID", ["gpulab_stacks.check.checks[0]", "'port': 8000"]),
        ("secret", "STACK_SECRET_INVALID", ["KEY", "gpulab_stacks.secret.secrets"]),
        ("service", "STACK_SETTING_INVALID", ["../web", "web"]),
        ("nowhere", "STACK_UNKNOWN", ["nowhere", "compose.yml"]),
        ("many", "STACK_GPUS_SHORT", ["gpus.web", "9", GPUS[0]]),
        ("../good", "STACK_SETTING_INVALID", ["'../good'"]),
    ],
)
def test_a_wrong_entry_is_refused(entries: dict[str, dict[str, Any]], name: str, code: str, parts: list[str]) -> None:
    found = entries[name]["finding"]
    assert found["code"] == code and found["remedy"], found
    for part in parts:
        assert part in found["evidence"] + found["remedy"], found


# --- what a deploy takes from a folder, and from the deploy before ---------------------------------------------------


def test_an_override_is_merged_as_compose_does_it(host: Refusing) -> None:
    def deploy(word: str) -> dict[str, Any]:
        over = {"services": {"web": {"environment": {"OVER": word}, "ports": ["8071:9000"]}}}
        files = {"compose.override.yml": yaml.safe_dump(over), ".env": "COMPOSE_FILE=compose.yml\n"}
        (done,) = host.run(
            [host.case("over", arguments=["--name", "over", "--set", "WEB_PORT=8070"], files=files)]
        ).values()
        assert done["rc"] == 0, done
        answer: dict[str, Any] = done["answer"]
        return answer

    first = deploy("one")
    assert any("compose.override.yml is merged" in note for note in first["notes"])
    assert any("COMPOSE_FILE=compose.yml" in note for note in first["notes"])
    assert not deploy("one")["changed"]
    assert deploy("two")["release"] == "0002", "the override counts"
    runs = json.loads(host.site.login("trainer", "docker inspect over-web-1"))[0]
    assert "OVER=two" in runs["Config"]["Env"] and set(runs["NetworkSettings"]["Ports"]) == {"8000/tcp", "9000/tcp"}
    plain = "cd cases/good && rm .env && WEB_PORT=8070 docker compose config --format json"
    (web,) = json.loads(host.site.login("trainer", plain))["services"].values()
    assert web["environment"]["OVER"] == "two" and [port["target"] for port in web["ports"]] == [8000, 9000]
    host.site.login("trainer", "gpulab undeploy over")


def test_what_the_inventory_asked_for_goes_on(host: Refusing) -> None:
    source = host.folder / "served"
    source.mkdir()
    alone = {"network_mode": "host", "ports": []}
    board = {"image": host.image, "entrypoint": [host.python, "-c"], "command": ["import time; time.sleep(999)"]}
    change = both(
        service(**alone), lambda file, _stack: file["services"].update(board={**board, "profiles": ["board"]})
    )
    for name, text in host.files(both(change, stack(no_health=[]))).items():
        (source / name).write_text(str(text), encoding="utf-8")
    entry = {
        "user": "trainer", "source": str(source), "publish": {"web": ["8060:8000"]}, "profiles": ["board"],
        "no_health": ["web", "board"], "checks": [{"service": "web", "command": [host.python, "-c", "pass"]}],
        "settings": {"WORD": "one"}, "keep": 4,
    }  # fmt: skip
    host.site.set({**ONE_USER, "gpulab_stacks": {"served": entry}})
    host.site.run("playbooks/deploy.yml").ok()
    before = json.loads(host.site.login("trainer", "cat gpulab/stacks/served/current/release.json"))
    assert json.loads(host.site.login("trainer", "gpulab deploy served --json"))["changed"] is False
    said = json.loads(host.site.login("trainer", "gpulab deploy served --set WORD=two --json"))
    assert said["release"] == "0002" and {each["service"] for each in said["services"]} == {"web", "board"}
    after = json.loads(host.site.login("trainer", "cat gpulab/stacks/served/current/release.json"))
    assert after["settings"]["WORD"] == "two"
    assert after["ports"] == before["ports"] == [["127.0.0.1", 8060, "web", "tcp"]]
    for part in ("profiles", "checks", "wait_timeout"):
        assert after[part] == before[part] and before[part]
    assert {**after["given"], "settings": {"WORD": "one"}} == {**before["given"], "publish": {"web": ["8060:8000"]}}
    assert "8060" in host.site.login("trainer", "docker ps --filter name=served --format '{{.Ports}}'")
    host.site.login("trainer", "gpulab undeploy served")
