"""e2ead with its real software: torch on two CPU processes, W&B, TensorBoard, JupyterLab, CARLA's client.

CARLA's server is a stand-in (stacks/carla): its RPC without a world behind it.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from . import torch_wheel
from .conftest import ONE_USER, Hosts
from .site import LAB, ROOT, Result, Site, lab, stack_in_lab, until
from .stacks.carla import server as stand_in

pytestmark = pytest.mark.heavy

HOST = f"{os.environ.get('PYTEST_XDIST_WORKER', 'scn')}-e2ead"
DATA = "/home/trainer/gpulab/data/e2ead"
CARLA = "0.9.16"
SERVICES = ("training", "train", "carla", "evaluation", "jupyter")


class Lab:
    """The stack on a host without GPUs that torch could use."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.entry = stack_in_lab()
        self.entry["settings"] |= {
            "EVALUATION_BASE_IMAGE": self.entry["settings"]["BASE_IMAGE"],
            "REQUIREMENTS": "requirements-cpu.txt",
            "WHEELS": "/home/trainer/wheels",
            "NPROC_PER_NODE": "2",
            "SHM_SIZE": "256m",
            "CARLA_VERSION": CARLA,
            "CARLA_IMAGE": "lab/carla",
            "CARLA_ARGS": "-nullrhi",
            # The stand-in has no roads: the evaluation gets as far as the name of the map.
            "EVALUATION_ARGS": "--routes 0",
        }
        self.entry["gpus"] = dict.fromkeys(SERVICES, 0)

    def deploy(self, gpus: dict[str, Any] | None = None, **settings: Any) -> Result:
        entry = {**self.entry, "gpus": {**self.entry["gpus"], **(gpus or {})}}
        entry["settings"] = {**self.entry["settings"], **settings}
        self.site.set({**ONE_USER, "gpulab_stacks": {"e2ead": entry}})
        return self.site.run("playbooks/deploy.yml")

    def sh(self, command: str, check: bool = True) -> str:
        return self.site.login("trainer", command, check=check)

    def latest(self) -> str:
        return self.sh(f"readlink {DATA}/model_checkpoints/latest", check=False).strip()

    def current(self) -> str:
        return self.sh("basename $(readlink gpulab/stacks/e2ead/current)").strip()

    def health(self, service: str) -> str:
        return self.sh(f"docker inspect -f '{{{{.State.Health.Status}}}}' e2ead-{service}-1", check=False).strip()


@pytest.fixture(scope="module")
def stack(hosts: Hosts) -> Lab:
    site = hosts.site(HOST)
    site.run().ok()
    site.login("trainer", "mkdir -p wheels carla")
    for source, target in [
        *((wheel, f"wheels/{wheel.name}") for wheel in torch_wheel.fetched()),
        *(
            (path, f"carla/{path.name}")
            for path in (Path(__file__).parent / "stacks" / "carla").iterdir()
            if path.is_file()
        ),
    ]:
        with source.open("rb") as file:
            subprocess.run([str(LAB), "ssh", HOST, f"cat > /home/trainer/{target}"], stdin=file, check=True)
    return Lab(site)


@pytest.mark.parametrize(
    ("gpus", "settings", "said"),
    [
        ({"training": 3}, {}, "training asks for 3; the user has 2"),
        ({}, {"CARLA_CLIENT_VERSION": "0.9.15"}, "no setting CARLA_CLIENT_VERSION; there are: "),
        ({}, {"REQUIREMENTS": "mine.txt"}, "REQUIREMENTS is 'mine.txt', not one of requirements.txt"),
        ({}, {"CARLA_PORT": 70000}, "CARLA_PORT is 70000, not a port"),
        ({"trainer": 1}, {}, "gpus names the service trainer"),
        (
            {"carla": 1},
            {"COMPOSE_PROFILES": "simulation", "CARLA_ARGS": "-RenderOffScreen"},
            "nvidia_icd.json (Vulkan)",
        ),
    ],
)
def test_wrong_settings_are_refused_before_anything(
    stack: Lab, gpus: dict[str, Any], settings: dict[str, Any], said: str
) -> None:
    refused = stack.deploy(gpus, **settings)
    assert refused.rc != 0
    assert said in refused.failures
    assert "gpulab/e2ead" not in stack.sh("docker images")


def test_it_comes_up(stack: Lab) -> None:
    stack.deploy(COMPOSE_PROFILES="notebook,tensorboard").ok()
    assert [stack.health(name) for name in ("training", "jupyter", "tensorboard")] == ["healthy"] * 3
    again = stack.deploy(COMPOSE_PROFILES="notebook,tensorboard").ok()
    assert again.changed == []
    status = json.loads(stack.sh("gpulab status e2ead --json"))
    assert {each["addresses"][0] for each in status["stacks"][0]["services"] if each["addresses"]} == {
        "127.0.0.1:8888",
        "127.0.0.1:6006",
    }
    assert stack.sh("docker exec e2ead-training-1 id -un").strip() == "trainer"


def test_the_projects_own_tests_pass_inside(stack: Lab) -> None:
    said = stack.sh("gpulab shell e2ead training pytest -q -p no:cacheprovider tests 2>&1")
    assert "7 passed" in said


def test_two_processes_train_and_leave_their_work_to_the_hosts_user(stack: Lab) -> None:
    said = stack.sh("gpulab run e2ead train --epochs 2 2>&1")
    assert "on 2 processes (cpu)" in said
    losses = [float(each) for each in re.findall(r"loss ([\d.]+)", said)]
    assert losses[1] < losses[0]
    assert stack.latest() == "step_00000078"
    model = f"{DATA}/model_checkpoints/latest/model.pt"
    assert stack.site.ssh(f"stat -c %u {model}").strip() == "100999", "written by trainer, uid 1000 of the container"
    assert int(stack.sh(f"cat {model} | wc -c")) > 10000, "and read by the host's user"
    stack.sh(f"touch {DATA}/model_checkpoints/latest/mine && rm {DATA}/model_checkpoints/latest/mine")
    assert "events.out.tfevents" in stack.sh(f"ls {DATA}/out/tensorboard")
    assert "offline-run-" in stack.sh(f"ls {DATA}/wandb_logs/wandb")
    assert "driving_20000_1.npz" in stack.sh(f"ls {DATA}/data/training")
    fetch = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:6006/data/runs').read().decode())"
    until("TensorBoard", lambda: "tensorboard" in stack.sh(f'python3 -c "{fetch}"'), 60)


def test_a_training_that_is_stopped_goes_on_where_it_was(stack: Lab) -> None:
    before = stack.latest()
    container = stack.sh("gpulab run -d e2ead train --epochs 500 2>/dev/null").split()[-1]
    until("a checkpoint", lambda: stack.latest() > before, 180)
    said = stack.sh("gpulab run e2ead train 2>&1; echo status $?")
    assert "another training writes to" in said
    assert "status 1" in said
    stack.sh(f"docker stop {container}")
    said = stack.sh(f"docker logs {container} 2>&1")
    stack.sh(f"docker rm {container}")
    stopped = re.search(r"told to stop: step (\d+) is saved", said)
    assert stopped, said[-3000:]
    assert stack.latest() == f"step_{int(stopped[1]):08d}"
    said = stack.sh("gpulab run e2ead train --epochs 1 2>&1")
    assert f"resumed from step {stopped[1]} " in said


def test_a_training_that_fails_says_so_by_its_exit_status(stack: Lab) -> None:
    said = stack.sh("gpulab run e2ead train --config none.yaml 2>&1; echo status $?")
    assert "none.yaml" in said
    assert "status 0" not in said
    said = stack.sh("docker exec -e NPROC_PER_NODE=gpu e2ead-training-1 e2ead train 2>&1; echo status $?")
    assert "give it some (gpus: {training: 1, train: 1})" in said
    assert "status 1" in said


CELL = """
import json, sys, uuid, urllib.request, urllib.error, websocket
base, token = 'http://127.0.0.1:8888', open('/run/secrets/JUPYTER_TOKEN').read()
def ask(path, data=None, token=token):
    request = urllib.request.Request(base + path, data, {'Authorization': 'token ' + token} if token else {})
    try:
        return urllib.request.urlopen(request, timeout=30)
    except urllib.error.HTTPError as error:
        return error
print([ask('/api/status', token=each).status for each in ('', 'e2ead-secure-token', token)])
kernel = json.load(ask('/api/kernels', b'{}'))['id']
socket = websocket.create_connection(f'ws://127.0.0.1:8888/api/kernels/{kernel}/channels', timeout=120,
                                     header=['Authorization: token ' + token])
code = '''
from training.sft.waypoint_model import WaypointPolicy
model = WaypointPolicy.load_from_checkpoint("/data/.openclaw/workspace/model_checkpoints/latest/model.pt")
import torch
print("waypoints", tuple(model.eval()(torch.zeros(1, 8)).shape))
open("notebooks/from-a-cell.txt", "w").write("kept")
'''
number = uuid.uuid4().hex
socket.send(json.dumps({'header': {'msg_id': number, 'msg_type': 'execute_request', 'username': '', 'session': number,
                                   'version': '5.3'}, 'parent_header': {}, 'metadata': {}, 'channel': 'shell', 'buffers': [],
                        'content': {'code': code, 'silent': False}}))
while True:
    message = json.loads(socket.recv())
    if message['parent_header'].get('msg_id') != number:
        continue
    if message['msg_type'] in ('stream', 'error'):
        print(message['content'].get('text') or message['content'])
    if message['msg_type'] == 'execute_reply':
        break
"""


def test_the_notebook_wants_its_token_and_runs_a_cell(stack: Lab) -> None:
    stack.site.ssh(f"cat > /home/trainer/cell.py <<'EOT'\n{CELL}\nEOT")
    said = stack.sh("gpulab shell e2ead jupyter python3 - < cell.py 2>&1")
    assert "[403, 403, 200]" in said
    assert "waypoints (1, 8, 2)" in said
    assert stack.sh(f"cat {DATA}/notebooks/from-a-cell.txt") == "kept"
    token = stack.sh("cat gpulab/secrets/e2ead/JUPYTER_TOKEN")
    assert len(token) == 32
    shown = stack.sh(
        "docker inspect e2ead-jupyter-1; docker logs e2ead-jupyter-1 2>&1; cat gpulab/stacks/e2ead/current/*"
    )
    assert token not in shown
    refused = stack.sh("docker exec -e JUPYTER_TOKEN_FILE=/dev/null e2ead-jupyter-1 e2ead jupyter 2>&1; echo status $?")
    assert "does not start without a token" in refused
    assert "status 1" in refused


def test_carlas_own_client_and_the_health_check_judge_alike(tmp_path: Path) -> None:
    """The stand-in is held against the real client here; the health check against both."""
    client = ROOT / ".cache" / f"carla-client-{CARLA}"
    python = client / "bin" / "python"
    if not (client / "ready").exists():
        subprocess.run(["/usr/bin/python3", "-m", "venv", "--clear", str(client)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-qq", f"carla=={CARLA}"], check=True)
        (client / "ready").touch()
    ask = (
        "import carla, sys; c = carla.Client('127.0.0.1', int(sys.argv[1])); c.set_timeout(3.0);"
        "print(c.get_server_version(), c.get_world().get_map().name)"
    )
    verdicts = {}
    for mode in ("ready", "loading", "silent"):
        with stand_in.Server("127.0.0.1", 0, mode, CARLA) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            port = str(server.server_address[1])
            real = subprocess.run(
                [str(python), "-c", ask, port], capture_output=True, text=True, check=False, timeout=60
            )
            probe = ["bash", str(ROOT / "stacks" / "e2ead" / "carla" / "answers.sh")]
            ours = subprocess.run(
                probe, env={**os.environ, "CARLA_PORT": port}, capture_output=True, text=True, check=False
            )
            server.shutdown()
        verdicts[mode] = (real.returncode == 0, ours.returncode == 0)
        if mode == "ready":
            assert f"{CARLA} {stand_in.MAP}" in real.stdout, real.stderr
            assert ours.stdout == f"CARLA {CARLA}, map {stand_in.MAP}\n"
    assert verdicts == {"ready": (True, True), "loading": (False, False), "silent": (False, False)}


def carla_image(stack: Lab, name: str, says: str) -> None:
    base = stack.entry["settings"]["BASE_IMAGE"]
    stack.sh(f"docker build -q -t {name}:{CARLA} --build-arg BASE_IMAGE={base} --build-arg VERSION={says} carla")


def test_evaluation_waits_for_carla_and_has_its_version(stack: Lab) -> None:
    carla_image(stack, "lab/carla", CARLA)
    stack.deploy(COMPOSE_PROFILES="notebook,evaluation").ok()
    assert [stack.health(name) for name in ("training", "jupyter", "carla", "evaluation")] == ["healthy"] * 4
    result = f"{stack.latest()}.json"
    until("a result", lambda: result in stack.sh(f"ls {DATA}/out/evaluation", check=False), 60)
    said = stack.sh("docker logs e2ead-evaluation-1 2>&1")
    assert f"CARLA {CARLA} answers, and the client is the same" in said
    assert f"CARLA shows {stand_in.MAP}" in said
    assert stack.sh("docker exec e2ead-carla-1 id -un").strip() == "carla"


def test_a_carla_of_another_version_is_refused_and_what_ran_runs_again(stack: Lab) -> None:
    carla_image(stack, "lab/other-carla", "0.9.15")
    before = stack.current()
    refused = stack.deploy(COMPOSE_PROFILES="notebook,evaluation", CARLA_IMAGE="lab/other-carla")
    assert refused.rc != 0
    assert f"server is 0.9.15 and this client {CARLA}" in refused.failures
    assert f"Release {before} runs again" in refused.failures
    assert stack.current() == before
    assert stack.health("evaluation") == "healthy"


def test_gpus_that_the_packages_cannot_use_are_refused(stack: Lab) -> None:
    """The host's GPUs are simulated, and torch is built without CUDA."""
    before = stack.current()
    refused = stack.deploy({"training": 1}, COMPOSE_PROFILES="notebook,evaluation")
    assert refused.rc != 0
    assert "is a build without CUDA: set REQUIREMENTS to requirements.txt" in refused.failures
    assert stack.current() == before


def test_upgrade_rollback_reboot_and_the_data_are_there(stack: Lab) -> None:
    before, first = stack.latest(), stack.current()
    epochs = "--config configs/sft_waypoint_bc.yaml --epochs 1000"
    stack.deploy(COMPOSE_PROFILES="notebook", TRAIN_ON_START=True, TRAIN_ARGS=epochs).ok()
    assert stack.health("carla") != "healthy", "a profile that is no longer asked for is gone"
    until("the training goes on by itself", lambda: stack.latest() > before, 180)
    token = stack.sh("cat gpulab/secrets/e2ead/JUPYTER_TOKEN")
    lab("reboot", HOST)
    reached = stack.latest()
    until("the training after a reboot", lambda: stack.latest() > reached, 240)
    assert stack.sh("docker logs e2ead-training-1 2>&1").count("resumed from step") >= 2
    stack.sh("gpulab rollback e2ead")
    assert stack.current() == first
    assert stack.health("training") == "healthy"
    kept = stack.latest()
    assert kept >= reached
    time.sleep(5)
    assert stack.latest() == kept, "the release before does not train by itself"
    assert stack.sh(f"cat {DATA}/notebooks/from-a-cell.txt") == "kept"
    assert stack.sh("cat gpulab/secrets/e2ead/JUPYTER_TOKEN") == token
