"""What people paste to get a GPU: each form works, or is refused in a way that a person notices.

The worst case is a form that starts a container without a GPU and says nothing (Compose 2.26, `gpus: all`).
The expectations here are the table in docs/gpu-forms.md.
"""

from __future__ import annotations

import base64
import json
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.gpulab.fleet.plugins.module_utils._host_program import PACKAGE
from ansible_collections.gpulab.fleet.plugins.plugin_utils import _command_archive

from .conftest import Hosts
from .site import ROOT, Site

WORKS = "works"
REFUSED = "refused"
SILENT = "silently gives no GPU"

LOOK = (
    "import os, sys; "
    "sys.stdout.write('nodes=%d' % len([n for n in os.listdir('/dev') if n[:6] == 'nvidia' and n[6:].isdigit()]))"
)

# 26.1.5 with what was current beside it
COMPANIONS = {"26.1.5": {"containerd": "1.7.24", "compose": "2.26.1", "buildx": "0.13.1"}}

# form -> what a person types, and the outcome on each engine
RUN = [
    ("--device nvidia.com/gpu=0", {"28.5.2": WORKS, "26.1.5": WORKS}),
    ("--device nvidia.com/gpu=GPU-12345678-1234-1234-1234-123456780001", {"28.5.2": WORKS, "26.1.5": WORKS}),
    ("--device nvidia.com/gpu=all", {"28.5.2": WORKS, "26.1.5": WORKS}),
    ("--gpus all", {"28.5.2": REFUSED, "26.1.5": REFUSED}),
    ("--gpus 1", {"28.5.2": REFUSED, "26.1.5": REFUSED}),
    ("--runtime=nvidia -e NVIDIA_VISIBLE_DEVICES=all", {"28.5.2": WORKS, "26.1.5": WORKS}),
]
COMPOSE = [
    (
        "deploy: {resources: {reservations: {devices: "
        "[{driver: cdi, device_ids: ['nvidia.com/gpu=0'], capabilities: [gpu]}]}}}",
        {"28.5.2": WORKS, "26.1.5": WORKS},
    ),
    ("devices: ['nvidia.com/gpu=0']", {"28.5.2": WORKS, "26.1.5": REFUSED}),
    ("gpus: all", {"28.5.2": REFUSED, "26.1.5": SILENT}),
    (
        "deploy: {resources: {reservations: {devices: [{driver: nvidia, count: 1, capabilities: [gpu]}]}}}",
        {"28.5.2": REFUSED, "26.1.5": REFUSED},
    ),
    ("{runtime: nvidia, environment: {NVIDIA_VISIBLE_DEVICES: all}}", {"28.5.2": WORKS, "26.1.5": WORKS}),
]


@pytest.fixture(scope="module", params=["28.5.2", "26.1.5"])
def engine(request: pytest.FixtureRequest, hosts: Hosts) -> Iterator[tuple[str, Site]]:
    version = str(request.param)
    site = hosts.site(f"scn-forms{version[:2]}")
    pins = {"engine": version, **COMPANIONS.get(version, {})}
    users = {"trainer": {"gpus": "all"}, "guest": {"gpus": [1]}, "bare": {"create": True}}
    site.set({"gpulab_users": users, **{f"rootless_docker_{k}_version": v for k, v in pins.items()}})
    site.run().ok()
    yield version, site


def outcome(site: Site, command: str) -> tuple[str, str]:
    """What the person got: a GPU, an error, or (the worst) a container without one."""
    out = site.login("trainer", f"{{ {command} ; }} 2>&1; echo rc=$?", check=False)
    if "nodes=" in out:
        return (SILENT if "nodes=0" in out else WORKS), out
    return REFUSED, out


@pytest.mark.parametrize(("form", "expected"), RUN, ids=[form for form, _ in RUN])
def test_docker_run(engine: tuple[str, Site], form: str, expected: dict[str, str]) -> None:
    version, site = engine
    image, python = site.probe()
    got, out = outcome(site, f'docker run --rm --network none {form} --entrypoint {python} {image} -c "{LOOK}"')
    assert got == expected[version], out


@pytest.mark.parametrize(("form", "expected"), COMPOSE, ids=[form for form, _ in COMPOSE])
def test_compose(engine: tuple[str, Site], form: str, expected: dict[str, str]) -> None:
    version, site = engine
    image, python = site.probe()
    service = {"image": image, "network_mode": "none", "entrypoint": [python, "-c", LOOK]}
    project = yaml.safe_dump({"services": {"ask": {**service, **yaml.safe_load(form)}}})
    folder = "/home/trainer/paste"
    packed = base64.b64encode(project.encode()).decode()
    site.login("trainer", f"mkdir -p {folder}; echo {packed} | base64 -d > {folder}/compose.yml")
    got, out = outcome(site, f"cd {folder}; docker compose up --no-log-prefix")
    site.login("trainer", f"cd {folder}; docker compose down -t 1", check=False)
    assert got == expected[version], out


WHICH = "import os, sys; sys.stdout.write(repr(sorted(n for n in os.listdir('/dev') if n[6:].isdigit())))"
UUID = "GPU-12345678-1234-1234-1234-12345678000"


@pytest.mark.parametrize(
    ("visible", "got"),
    [
        ("all", "['nvidia1']"),
        ("1", "['nvidia1']"),
        (f"{UUID}1", "['nvidia1']"),
        ("0", "unresolvable CDI devices nvidia.com/gpu=0"),
        (f"{UUID}0", f"unresolvable CDI devices nvidia.com/gpu={UUID}0"),
    ],
)
def test_the_runtime_gives_a_user_only_their_own_gpus(engine: tuple[str, Site], visible: str, got: str) -> None:
    _, site = engine
    image, python = site.probe("guest")
    run = f"docker run --rm --network none --runtime=nvidia -e NVIDIA_VISIBLE_DEVICES={visible} --entrypoint {python}"
    assert got in site.login("guest", f'{run} {image} -c "{WHICH}" 2>&1', check=False)


def test_a_device_that_is_named_wins_over_the_runtimes_all(engine: tuple[str, Site]) -> None:
    """How a stack's own `runtime: nvidia` and the GPU that the stack was given go together."""
    _, site = engine
    image, python = site.probe()
    run = "docker run --rm --network none --runtime=nvidia -e NVIDIA_VISIBLE_DEVICES=all --device nvidia.com/gpu=1"
    assert "['nvidia1']" in site.login("trainer", f'{run} --entrypoint {python} {image} -c "{WHICH}" 2>&1', check=False)


def test_who_has_no_gpus_has_no_such_runtime(engine: tuple[str, Site]) -> None:
    _, site = engine
    runtimes = site.login("bare", "docker info --format '{{json .Runtimes}}'")
    assert '"runc"' in runtimes and '"nvidia"' not in runtimes


# What a stack's Compose file is made into (docs/compose-files.md), on the same hosts.

FOLDER = "/home/trainer/adapt"
PROGRAM = "/home/trainer/adapt.pyz"


@pytest.fixture(scope="module")
def adapting(engine: tuple[str, Site], tmp_path_factory: pytest.TempPathFactory) -> Site:
    """The host with the collection's reader and adapter of Compose files on it."""
    _, site = engine
    archive = tmp_path_factory.mktemp("adapt") / "adapt.pyz"
    program = Path(__file__).with_name("adapt_on_host.py")
    texts: dict[str, str] = {}
    for name in _command_archive.imported(program.read_text(encoding="utf-8")):
        texts |= _command_archive.parts(name)
    packages = PACKAGE.split(".")
    with zipfile.ZipFile(archive, "w") as made:
        made.write(program, "__main__.py")
        for depth in range(len(packages)):
            made.writestr("/".join([*packages[: depth + 1], "__init__.py"]), "")
        for name, text in texts.items():
            made.writestr(f"{'/'.join(packages)}/{name}.py", text)
    site.ad_hoc("gpu_hosts", "-m", "ansible.builtin.copy", "-a", f"src={archive} dest={PROGRAM} mode=0644")
    for stack in ("quickstart", "openpi"):
        source = ROOT / "stacks" / stack
        for name in ("compose.yml", "stack.yml"):
            put(site, f"/home/trainer/{stack}/{name}", (source / name).read_text(encoding="utf-8"))
    return site


def put(site: Site, path: str, text: str) -> None:
    packed = base64.b64encode(text.encode()).decode()
    site.login("trainer", f"mkdir -p {path.rpartition('/')[0]}; echo {packed} | base64 -d > {path}")


def adapted(site: Site, services: dict[str, Any], publish: dict[str, list[int]]) -> dict[str, Any]:
    site.login("trainer", f"cd {FOLDER} && docker compose -f adapted.yml down -t 0; rm -rf {FOLDER}", check=False)
    put(site, f"{FOLDER}/compose.yml", yaml.safe_dump({"services": services}))
    said = site.login("trainer", f"python3 {PROGRAM} up {FOLDER} {UUID}1 {json.dumps(json.dumps(publish))} 2>&1")
    answer: dict[str, Any] = json.loads(said)
    return answer


def logs(site: Site, wanted: str) -> str:
    """The services' output, as soon as the wanted text is in it."""
    deadline = time.monotonic() + 20
    while True:
        said = site.login("trainer", f"cd {FOLDER}; docker compose -f adapted.yml logs --no-log-prefix 2>&1")
        if wanted in said or time.monotonic() > deadline:
            return said
        time.sleep(0.5)


@pytest.mark.parametrize("form", [form for form, _ in COMPOSE])
def test_a_stack_may_ask_in_any_form(adapting: Site, form: str) -> None:
    """Those that are refused or silent above as well."""
    image, python = adapting.probe()
    look = WHICH.replace("sys.stdout.write(repr(", "print((")  # a line that does not end is not in the log
    service = {"image": image, "network_mode": "none", "entrypoint": [python, "-c", look], **yaml.safe_load(form)}
    answer = adapted(adapting, {"ask": service}, {})
    assert answer["asked"]["ask"] in ("all", 1, [0])
    assert "became a CDI request" in answer["notes"][0]
    assert "['nvidia1']" in logs(adapting, "nvidia")


SERVE = (
    "import os, _socket as S, sys\ns = S.socket(); s.bind(('0.0.0.0', 8000)); s.listen(5)\n"
    "while True: S.socket(fileno=s._accept()[0]).send(b'policy of ' + os.environ.get('WHO', '?').encode() + bytes([10]))"
)
ASK = (
    "import os, time, _socket as S\nwhile True:\n try:\n  s = S.socket(); s.connect(('127.0.0.1', 8000)); break\n"
    " except OSError: time.sleep(0.2)\n"
    "print('answer:', s.recv(99).decode().strip(), sorted(n for n in os.listdir('/dev') if n[6:].isdigit()), flush=True)\n"
    "time.sleep(60)"
)


def robot(adapting: Site) -> dict[str, Any]:
    """A policy server and a simulator as robotics projects write them: the host's network, privileged, all GPUs."""
    image, python = adapting.probe()
    return {
        "server": {
            "image": image, "entrypoint": [python, "-c", SERVE], "network_mode": "host", "init": True, "tty": True,
            "volumes": ["$PWD:/app", "~/.cache/policy:/assets"], "environment": ["SERVER_ARGS", "WHO=pi"],
            "deploy": {"resources": {"reservations": {"devices": [{"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}]}}},
        },
        "simulator": {
            "image": image, "entrypoint": [python, "-c", ASK], "network_mode": "host", "privileged": True, "pid": "host",
            "ipc": "host", "depends_on": ["server"], "runtime": "nvidia", "environment": {"NVIDIA_VISIBLE_DEVICES": "all"},
            "ulimits": {"memlock": -1, "stack": 67108864}, "mem_limit": "8g", "cpus": 1.5, "pids_limit": 4096,
        },
    }  # fmt: skip


def test_services_on_the_hosts_network_reach_each_other_and_are_reached(adapting: Site) -> None:
    answer = adapted(adapting, robot(adapting), {"server": [8000]})
    assert answer["asked"] == {"server": 1, "simulator": "all"}
    assert "answer: policy of pi ['nvidia1']" in logs(adapting, "answer:"), "and only the GPU that was handed out"
    ask = "import socket; print(socket.create_connection(('127.0.0.1', 8000)).recv(99))"
    assert "policy of pi" in adapting.login("trainer", f'python3 -c "{ask}"')


def test_what_cannot_run_is_said_before_anything_starts(adapting: Site) -> None:
    services = robot(adapting)
    services["server"]["devices"] = ["/dev/ttyUSB9:/dev/ttyUSB9"]
    with pytest.raises(AssertionError, match="/dev/ttyUSB9 is not on this host"):
        adapted(adapting, services, {"server": [8000]})
    del services["server"]["devices"]
    with pytest.raises(AssertionError, match="STACK_HOST_NETWORK"):
        adapted(adapting, services, {})
    assert adapting.login("trainer", "docker ps -aq --filter label=com.docker.compose.project=adapt") == ""


def test_compose_reads_the_shipped_stacks_as_pyyaml_does(adapting: Site) -> None:
    said = adapting.login("trainer", f"python3 {PROGRAM} read /home/trainer/quickstart /home/trainer/openpi")
    for stack, (compose, described) in zip(("quickstart", "openpi"), json.loads(said), strict=True):
        folder = ROOT / "stacks" / stack
        assert compose == yaml.safe_load((folder / "compose.yml").read_text(encoding="utf-8")), stack
        assert described == yaml.safe_load((folder / "stack.yml").read_text(encoding="utf-8")), stack


def test_nothing_is_left_to_do(engine: tuple[str, Site]) -> None:
    _, site = engine
    assert site.run("site.yml", "--check").ok().changed == []
    assert site.run().ok().changed == []
