"""Compose files as robotics projects publish them, each a site's own stack: deployed as it is, or refused with the reasons.

Their shape is upstream's (openpi's server and two examples, and the two training projects); images and programs are small.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from .conftest import ONE_USER, Hosts
from .site import Result, Site, stack_in_lab

HOST = "scn-upstream"
# Answers what a policy server or a simulator is asked for its health.
SERVE = """\
import http.server, os, sys
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(os.environ.get("SERVER_ARGS", "none").encode() + b" OK")
    def log_message(self, *args): pass
http.server.ThreadingHTTPServer(("0.0.0.0", int(sys.argv[1])), Answer).serve_forever()
"""
ASK = """\
import os, time, urllib.request
while True:
    try: said = urllib.request.urlopen("http://127.0.0.1:8000/healthz", timeout=5).read().decode(); break
    except OSError: time.sleep(0.2)
open("/data/episode", "w").write(said)
print("server says:", said, "MUJOCO_GL", os.environ.get("MUJOCO_GL"), flush=True)
time.sleep(1e6)
"""


def reservation(count: Any) -> dict[str, Any]:
    devices = [{"driver": "nvidia", "count": count, "capabilities": ["gpu"]}]
    return {"resources": {"reservations": {"devices": devices}}}


def image(base: str, *lines: str) -> str:
    return "\n".join([f"FROM {base}", *lines]) + "\n"


@pytest.fixture(scope="module")
def site(hosts: Hosts) -> Site:
    site = hosts.site(HOST)
    site.run().ok()
    return site


@pytest.fixture(scope="module")
def base() -> dict[str, Any]:
    return stack_in_lab()


def checkout(folder: Path, files: dict[str, str]) -> Path:
    """A clone with these files."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    for command in (
        ["init", "-q"],
        ["add", "."],
        ["-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "-qm", "a"],
    ):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return folder


def deploy(site: Site, base: dict[str, Any], name: str, **entry: Any) -> Result:
    whole = {"user": "trainer", "images": base["images"], **entry}
    site.set({**ONE_USER, "compose_stacks_wait_timeout": 40, "gpulab_stacks": {name: whole}})
    return site.run("playbooks/deploy.yml")


def result(run: Result) -> dict[str, Any]:
    task = next(each for each in reversed(run.tasks) if each["result"].get("results"))
    found: dict[str, Any] = task["result"]["results"][0]
    return found


def gone(site: Site, base: dict[str, Any], name: str) -> None:
    deploy(site, base, name, state="absent").ok()


def nothing_started(site: Site, name: str) -> bool:
    left = site.login("trainer", f"docker ps -aq --filter label=com.docker.compose.project={name}")
    return left == "" and "No such file" in site.login("trainer", f"ls gpulab/stacks/{name}/current 2>&1", check=False)


# --- openpi --------------------------------------------------------------------------------------------------


def openpi(base: dict[str, Any]) -> dict[str, str]:
    lab_base = base["settings"]["BASE_IMAGE"]
    server: dict[str, Any] = {
        "image": "openpi_server",
        "build": {"context": "../..", "dockerfile": "scripts/docker/serve_policy.Dockerfile"},
        "init": True,
        "tty": True,
        "network_mode": "host",
        "volumes": ["$PWD:/app", "${OPENPI_DATA_HOME:-~/.cache/openpi}:/openpi_assets"],
        "environment": ["SERVER_ARGS", "OPENPI_DATA_HOME=/openpi_assets", "IS_DOCKER=true"],
        "deploy": reservation(1),
    }

    def runtime(name: str) -> dict[str, Any]:
        return {
            "image": name,
            "depends_on": ["openpi_server"],
            "build": {"context": "../..", "dockerfile": f"examples/{name}/Dockerfile"},
            "init": True,
            "tty": True,
            "network_mode": "host",
            "privileged": True,
            "volumes": ["$PWD:/app", "../../data:/data"],
        }

    libero = runtime("libero")
    libero["volumes"].append("/tmp/.X11-unix:/tmp/.X11-unix:ro")
    libero["environment"] = ["CLIENT_ARGS", "DISPLAY=$DISPLAY", "MUJOCO_GL=${MUJOCO_GL:-egl}", "MUJOCO_EGL_DEVICE_ID=0",
                             "NVIDIA_DRIVER_CAPABILITIES=all", "PYOPENGL_PLATFORM=egl"]  # fmt: skip
    libero["deploy"] = reservation(1)
    logging_server = {**server, "environment": [*server["environment"], "OPENPI_FAST_TOKEN_LOG"]}
    run = image(lab_base, "WORKDIR /app", "CMD python3 examples/ask.py")
    return {
        "scripts/docker/compose.yml": yaml.safe_dump({"services": {"openpi_server": server}}),
        "scripts/docker/serve_policy.Dockerfile": image(lab_base, "WORKDIR /app", "CMD python3 scripts/serve.py 8000"),
        "scripts/serve.py": SERVE,
        "examples/ask.py": ASK,
        "examples/libero/compose.yml": yaml.safe_dump({"services": {"runtime": libero, "openpi_server": server}}),
        "examples/libero/Dockerfile": run,
        "examples/aloha_sim/compose.yml": yaml.safe_dump(
            {"services": {"runtime": runtime("aloha_sim"), "openpi_server": logging_server}}
        ),
        "examples/aloha_sim/Dockerfile": run,
    }


def test_openpis_server_needs_a_port_and_then_runs_as_it_is(site: Site, base: dict[str, Any], tmp_path: Path) -> None:
    file = str(checkout(tmp_path / "openpi", openpi(base)) / "scripts/docker/compose.yml")
    refused = deploy(site, base, "served", source=file)
    assert refused.rc != 0
    for part in ("STACK_HOST_NETWORK", "services.openpi_server.network_mode is host", "publish.openpi_server"):
        assert part in refused.failures
    assert nothing_started(site, "served")
    settings = {"SERVER_ARGS": "--env LIBERO"}
    done = result(deploy(site, base, "served", source=file, publish={"openpi_server": [8000]}, settings=settings).ok())
    assert any("openpi_server.network_mode: host became a network of the stack" in note for note in done["notes"])
    ask = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8000/healthz', timeout=5).read().decode())"
    assert site.login("trainer", f'python3 -c "{ask}"').strip() == "--env LIBERO OK"
    assert site.login("trainer", "docker exec served-openpi_server-1 nvidia-smi -L").count("GPU-") == 1
    gone(site, base, "served")


@pytest.mark.parametrize(
    ("example", "gpus"), [("libero", {"runtime", "openpi_server"}), ("aloha_sim", {"openpi_server"})]
)
def test_openpis_examples_run_as_they_are(
    site: Site, base: dict[str, Any], tmp_path: Path, example: str, gpus: set[str]
) -> None:
    name = example.replace("_", "-")
    file = str(checkout(tmp_path / "openpi", openpi(base)) / f"examples/{example}/compose.yml")
    done = result(deploy(site, base, name, source=file, publish={"openpi_server": [8000]}).ok())
    assert set(done["gpus"]) == gpus
    notes = "\n".join(done["notes"])
    for part in ("services.runtime.privileged: true became all capabilities", "network_mode: host became the network of",
                 "SERVER_ARGS"):  # fmt: skip
        assert part in notes, notes
    said = site.login("trainer", f"sleep 1; docker logs {name}-runtime-1 2>&1")
    assert "server says: none OK" in said, "localhost is the same for both"
    assert site.login("trainer", f"cat gpulab/data/{name}/data/episode") == "none OK", (
        "./data of the checkout is kept as data"
    )
    gone(site, base, name)


# --- a trainer and the browser that it learns from --------------------------------------------------------------


def browsergym(base: dict[str, Any], *server: str, training: tuple[str, ...] = ()) -> dict[str, str]:
    lab_base = base["settings"]["BASE_IMAGE"]
    compose: dict[str, Any] = {
        "version": "3.8",
        "services": {
            "browsergym": {
                "build": "./browsergym",
                "ports": ["8080:8080"],
                "healthcheck": {
                    "test": ["CMD", "curl", "-f", "http://localhost:8080/health"], "interval": "2s", "retries": 5,
                },
            },
            "training": {
                "build": "./training",
                "depends_on": {"browsergym": {"condition": "service_healthy"}},
                "environment": ["BROWSERGYM_URL=http://browsergym:8080", "HF_TOKEN=${HF_TOKEN}", "WANDB_API_KEY=${WANDB_API_KEY}"],
                "volumes": ["./logs:/workspace/logs", "../checkpoints:/workspace/checkpoints"],
                "deploy": reservation("all"),
            },
        },
    }  # fmt: skip
    fetch = 'import os, urllib.request as u; print(u.urlopen(os.environ["BROWSERGYM_URL"]).read().decode())'
    return {
        "docker/docker-compose.training.yml": yaml.safe_dump(compose),
        "docker/browsergym/Dockerfile": image(
            lab_base, "COPY serve.py /", *server, 'CMD ["python3", "/serve.py", "8080"]'
        ),
        "docker/browsergym/serve.py": SERVE,
        "docker/browsergym/curl": "#!/usr/bin/python3\nimport sys, urllib.request as u\nu.urlopen(sys.argv[-1], timeout=2)\n",
        "docker/training/Dockerfile": image(lab_base, "WORKDIR /workspace", "COPY train.py .", *training),
        "docker/training/train.py": f'{fetch}\nopen("checkpoints/last", "w").write("1")\n',
    }


def test_a_trainer_and_its_browser(site: Site, base: dict[str, Any], tmp_path: Path) -> None:
    curl = "COPY --chmod=755 curl /usr/bin/curl"
    file = str(checkout(tmp_path / "bg", browsergym(base, curl)) / "docker/docker-compose.training.yml")
    done = result(deploy(site, base, "bg", source=file).ok())
    assert set(done["gpus"]) == {"training"} and len(done["gpus"]["training"]) == 2
    assert any("8080 listens on 127.0.0.1 only" in note for note in done["notes"])
    assert "none OK" in site.login("trainer", "gpulab run bg training python3 train.py 2>&1")
    assert site.login("trainer", "cat gpulab/data/bg/checkpoints/last") == "1"
    gone(site, base, "bg")


def test_the_same_as_the_project_has_it(site: Site, base: dict[str, Any], tmp_path: Path) -> None:
    """Its image has no curl for the health check, and one COPY leaves the folder that it may copy from."""
    outside = ("COPY ../../pyproject.toml ../../uv.lock ./",)
    tree = checkout(tmp_path / "outside", browsergym(base, training=outside))
    refused = deploy(site, base, "bg", source=str(tree / "docker/docker-compose.training.yml"))
    assert refused.rc != 0
    assert "STACK_BUILD_FAILED" in refused.failures and "pyproject.toml" in refused.failures
    assert nothing_started(site, "bg")
    tree = checkout(tmp_path / "curl", browsergym(base))
    failed = deploy(site, base, "bg", source=str(tree / "docker/docker-compose.training.yml"))
    assert failed.rc != 0
    assert "browsergym" in failed.failures and "curl" in failed.failures, failed.failures
    assert nothing_started(site, "bg")


# --- driving: training, a simulator, an evaluation, a notebook --------------------------------------------------


def driving(base: dict[str, Any]) -> dict[str, str]:
    lab_base = base["settings"]["BASE_IMAGE"]
    common: dict[str, Any] = {
        "build": {"context": ".", "dockerfile": "Dockerfile.training"},
        "image": "e2ead-training:latest",
        "runtime": "nvidia",
        "ipc": "host",
        "ulimits": {"memlock": -1, "stack": 67108864},
        "environment": {
            "NVIDIA_VISIBLE_DEVICES": "all",
            "WANDB_API_KEY": "${WANDB_API_KEY:-}",
            "WANDB_PROJECT": "${WANDB_PROJECT:-e2ead-training}",
            "CHECKPOINT_DIR": "/data/.openclaw/workspace/model_checkpoints",
        },
        "volumes": [
            "./:/data/.openclaw/workspace",
            "./data:/data/.openclaw/workspace/data",
            "./out:/data/.openclaw/workspace/outputs",
            "./model_checkpoints:/data/.openclaw/workspace/model_checkpoints",
            "./wandb_logs:/home/trainer/wandb_logs",
        ],
    }
    services: dict[str, Any] = {
        "training": {**common, "container_name": "e2ead-training", "stdin_open": True, "tty": True},
        "carla": {
            "image": "carlasim/carla:0.9.15", "container_name": "e2ead-carla", "profiles": ["simulation"], "runtime": "nvidia",
            "command": "/bin/bash ./CarlaUE4.sh -RenderOffScreen -nosound", "ports": ["2000-2002:2000-2002"],
            "healthcheck": {"test": ["CMD-SHELL", "echo > /dev/tcp/127.0.0.1/2000"], "interval": "10s"},
        },
        "evaluation": {
            **common, "container_name": "e2ead-eval", "profiles": ["evaluation"],
            "depends_on": {"carla": {"condition": "service_healthy"}},
        },
        "jupyter": {
            **common, "container_name": "e2ead-jupyter", "profiles": ["notebook"], "ports": ["8888:8888"],
            "command": "python3 serve.py 8888",
        },
    }  # fmt: skip
    workspace = ("RUN useradd -m -u 1000 trainer && mkdir -p /home/trainer/wandb_logs", "USER trainer")
    return {
        "docker-compose.yml": yaml.safe_dump({"services": services}),
        "Dockerfile.training": image(lab_base, *workspace, "WORKDIR /data/.openclaw/workspace", 'CMD ["bash"]'),
        "serve.py": SERVE,
        ".gitignore": "data/\nout/\nmodel_checkpoints/\nwandb_logs/\n",
    }


def test_driving_with_its_profiles(site: Site, base: dict[str, Any], tmp_path: Path) -> None:
    source = str(checkout(tmp_path / "e2ead", driving(base)))
    done = result(
        deploy(site, base, "e2ead", source=source, profiles=["notebook"], gpus={"training": 1, "jupyter": 1}).ok()
    )
    notes = "\n".join(done["notes"])
    for part in ("8888 listens on 127.0.0.1", "services.training.ipc: host", "ulimits.memlock", "runtime"):
        assert part in notes, notes
    # The image's own user writes what the host's user can read.
    write = "docker exec e2ead-training sh -c 'echo 7 > $CHECKPOINT_DIR/step; id -u; nvidia-smi -L'"
    said = site.login("trainer", write)
    assert said.split()[0] == "1000" and said.count("GPU-") == 1
    assert site.login("trainer", "cat gpulab/data/e2ead/model_checkpoints/step").strip() == "7"
    ask = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8888/', timeout=5).read().decode())"
    assert "OK" in site.login("trainer", f'python3 -c "{ask}"')

    # Without the simulator, an evaluation cannot be; with it, its image has to come from somewhere.
    alone = deploy(site, base, "e2ead", source=source, profiles=["evaluation"], gpus={"training": 1, "evaluation": 1})
    assert alone.rc != 0 and "carla" in alone.failures, alone.failures
    both = deploy(
        site, base, "e2ead", source=source, profiles=["evaluation", "simulation"], gpus={"training": 1, "carla": 1}
    )
    assert both.rc != 0 and "STACK_IMAGE_MISSING" in both.failures and "carla" in both.failures, both.failures
    assert "e2ead-training" in site.login("trainer", "docker ps --format '{{.Names}}'"), "what ran goes on"
    gone(site, base, "e2ead")
