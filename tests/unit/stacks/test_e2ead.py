"""e2ead: what decides whether CARLA is ready, which processes train, and what is refused.

CARLA is a stand-in here (tests/scenarios/stacks/carla); its real client is held against it in the heavy tier.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[3]
STACK = ROOT / "stacks" / "e2ead"


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


carla = load(ROOT / "tests" / "scenarios" / "stacks" / "carla" / "server.py")
e2ead = load(STACK / "e2ead.py")


# --- CARLA's health check --------------------------------------------------------------------------------


@contextmanager
def stand_in(mode: str, version: str = "0.9.15") -> Iterator[int]:
    with carla.Server("127.0.0.1", 0, mode, version) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def probe(port: int) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "CARLA_PORT": str(port)}
    return subprocess.run(
        ["bash", str(STACK / "carla" / "answers.sh")], env=env, capture_output=True, text=True, check=False, timeout=30
    )


def test_carla_that_answers_version_and_map_is_ready() -> None:
    with stand_in("ready") as port:
        asked = probe(port)
    assert (asked.returncode, asked.stdout) == (0, "CARLA 0.9.15, map Carla/Maps/Town10HD_Opt\n")


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        ("loading", "CARLA 0.9.15: get_map_info is not answered yet: .........episode not ready"),
        ("silent", "no answer to version within 3 s"),
    ],
)
def test_an_open_port_is_not_ready(mode: str, said: str) -> None:
    with stand_in(mode) as port:
        asked = probe(port)
    assert asked.returncode == 1
    assert said in asked.stdout


def test_nobody_there_is_not_ready() -> None:
    with stand_in("ready") as port:
        pass
    asked = probe(port)
    assert asked.returncode == 1
    assert "refused" in asked.stdout


# --- CARLA's start ---------------------------------------------------------------------------------------


def start(tmp_path: Path, uid: int, arguments: str) -> subprocess.CompletedProcess[str]:
    """start.sh in a container that has no Vulkan driver of NVIDIA's, as this user."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "id").write_text(f"#!/bin/sh\necho {uid}\n")
    (programs / "id").chmod(0o755)
    (tmp_path / "CarlaUE4.sh").write_text('echo "started with $*"\n')
    env = {"PATH": f"{programs}:/usr/bin:/bin", "CARLA_HOME": str(tmp_path), "CARLA_ARGS": arguments}
    return subprocess.run(
        ["bash", str(STACK / "carla" / "start.sh")], env=env, capture_output=True, text=True, check=False, timeout=30
    )


def test_carla_is_not_started_where_it_would_end_without_a_word(tmp_path: Path) -> None:
    refused = start(tmp_path, 1000, "-RenderOffScreen")
    assert refused.returncode == 1
    assert "gpus: {carla: 1}" in refused.stderr


def test_carla_is_not_started_as_root(tmp_path: Path) -> None:
    assert "refuses to run as root" in start(tmp_path, 0, "-nullrhi").stderr


def test_carla_starts_without_pictures_where_they_are_not_wanted(tmp_path: Path) -> None:
    begun = start(tmp_path, 1000, "-nullrhi -quality-level=Low")
    ports = "-carla-rpc-port=2000 -carla-streaming-port=2001 -carla-primary-port=2002"
    assert begun.stdout == f"started with -nullrhi -quality-level=Low {ports}\n"


# --- what the containers start with ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "gpus", "number"), [("gpu", 1, 1), ("gpu", 4, 4), ("2", 4, 2), ("4", 4, 4), ("2", 0, 2)]
)
def test_processes_are_as_many_as_gpus_or_as_said(wanted: str, gpus: int, number: int) -> None:
    assert e2ead.processes(wanted, gpus) == number


@pytest.mark.parametrize(
    ("wanted", "gpus", "said"),
    [
        ("gpu", 0, "gpus: {training: 1, train: 1}"),
        ("2", 1, "this service has 1 GPU:"),
        ("8", 4, "this service has 4 GPUs:"),
        ("0", 1, "from 1 on"),
        ("all", 1, "'all': write gpu, or a number"),
    ],
)
def test_processes_that_cannot_be_are_refused(wanted: str, gpus: int, said: str) -> None:
    with pytest.raises(e2ead.Refused) as refused:
        e2ead.processes(wanted, gpus)
    assert said in str(refused.value)


def test_a_training_is_torchrun_of_a_module_or_a_file() -> None:
    env = {"NPROC_PER_NODE": "2", "TRAIN_MODULE": "mine.train", "TRAIN_ARGS": "--config 'a b.yaml'"}
    begin = ["torchrun", "--standalone", "--nproc-per-node=2"]
    assert e2ead.torchrun(env, 0, ["--epochs", "3"]) == [
        *begin,
        "-m",
        "mine.train",
        "--config",
        "a b.yaml",
        "--epochs",
        "3",
    ]
    assert e2ead.torchrun({**env, "TRAIN_MODULE": "mine/train.py", "TRAIN_ARGS": ""}, 0, []) == [
        *begin,
        "mine/train.py",
    ]


@pytest.mark.parametrize(("text", "number"), [("", 0), ("GPU-a", 1), ("GPU-a,GPU-b", 2), ("any", None)])
def test_given_gpus_are_counted(text: str, number: int | None) -> None:
    assert e2ead.given(text) == number


def test_gpus_and_a_torch_without_cuda_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = ModuleType("torch")
    torch.__dict__.update(
        cuda=type("", (), {"device_count": lambda: 0}), version=type("", (), {"cuda": None}), __version__="2+cpu"
    )
    monkeypatch.setitem(sys.modules, "torch", torch)
    assert e2ead.count_gpus("") == 0
    with pytest.raises(e2ead.Refused, match="set REQUIREMENTS to requirements"):
        e2ead.count_gpus("GPU-a")
    torch.__dict__["version"].cuda = "13.0"
    with pytest.raises(e2ead.Refused, match=r"GPU-a was given, and torch 2\+cpu sees 0"):
        e2ead.count_gpus("GPU-a")


def test_secrets_reach_the_process_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "HF_TOKEN").write_text("hf_abc\n")
    (tmp_path / "WANDB_API_KEY").write_text("")
    env = {"WANDB_ENTITY": "", "WANDB_PROJECT": "mine"}
    e2ead.complete(env, tmp_path)
    assert env == {"HF_TOKEN": "hf_abc", "WANDB_PROJECT": "mine", "WANDB_MODE": "offline"}
    (tmp_path / "WANDB_API_KEY").write_text("key")
    env = {}
    e2ead.complete(env, tmp_path)
    assert env == {"HF_TOKEN": "hf_abc", "WANDB_API_KEY": "key"}, "with a key W&B is online"


def test_folders_are_tried_before_a_training(tmp_path: Path) -> None:
    env = {name: str(tmp_path / name) for name in ("TRAIN_DATA_DIR", "OUTPUT_DIR", "CHECKPOINT_DIR")}
    e2ead.check_folders(env)
    (tmp_path / "file").touch()
    with pytest.raises(e2ead.Refused, match=r"CHECKPOINT_DIR: .*file/x cannot be written"):
        e2ead.check_folders({**env, "CHECKPOINT_DIR": str(tmp_path / "file" / "x")})


def test_two_trainings_do_not_write_to_one_folder(tmp_path: Path) -> None:
    lock = e2ead.reserve(tmp_path)
    assert os.get_inheritable(lock), "it is held by what takes this process's place"
    with pytest.raises(e2ead.Refused, match="another training writes to"):
        e2ead.reserve(tmp_path)
    os.close(lock)
    os.close(e2ead.reserve(tmp_path))
    e2ead.HELD.clear()


def test_what_rests_after_a_training_holds_nothing(tmp_path: Path) -> None:
    code = (
        f"import sys, importlib.util as u; s = u.spec_from_file_location('e2ead', {str(STACK / 'e2ead.py')!r});"
        "m = u.module_from_spec(s); s.loader.exec_module(m); from pathlib import Path; m.ALIVE = Path(sys.argv[1], 'alive');"
        "m.rest(lambda: m.reserve(Path(sys.argv[1])) and [sys.executable, '-c', 'print(input())'], 'rests')"
    )
    args = [sys.executable, "-u", "-c", code, str(tmp_path)]
    with subprocess.Popen(args, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdout.readline()  # the command, which has started when it asks
            with pytest.raises(e2ead.Refused):
                e2ead.reserve(tmp_path)
            process.stdin.write("trained\n")
            process.stdin.flush()
            assert [process.stdout.readline().strip() for _ in range(2)] == ["trained", "e2ead: rests"]
            os.close(e2ead.reserve(tmp_path))
            e2ead.HELD.clear()
            process.terminate()
            assert process.wait(timeout=20) == 0
        finally:
            process.kill()


def test_client_and_server_of_carla_have_to_be_the_same() -> None:
    e2ead.same_version("0.9.15", "0.9.15")
    with pytest.raises(e2ead.Refused, match=r"server is 0\.9\.15 and this client 0\.9\.16.*set CARLA_VERSION"):
        e2ead.same_version("0.9.16", "0.9.15")


def test_a_notebook_without_a_token_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    token = tmp_path / "token"
    token.write_text("")
    with pytest.raises(e2ead.Refused, match="0 characters"):
        e2ead.jupyter({"JUPYTER_TOKEN_FILE": str(token)})
    with pytest.raises(e2ead.Refused, match="No such file"):
        e2ead.jupyter({"JUPYTER_TOKEN_FILE": str(tmp_path / "none")})
    token.write_text("0123456789abcdef\n")
    env = {"JUPYTER_TOKEN_FILE": str(token), "JUPYTER_TOKEN": "e2ead-secure-token"}
    command = e2ead.jupyter(env)
    kept = Path(env["JUPYTER_TOKEN_FILE"])
    assert "JUPYTER_TOKEN" not in env, "it would win over the file"
    assert kept.read_text() == "0123456789abcdef", "a line's end would become part of the token"
    assert kept.stat().st_mode & 0o777 == 0o600
    assert "0123456789abcdef" not in " ".join(command)


def test_health_is_that_something_is_looked_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alive = tmp_path / "alive"
    monkeypatch.setattr(e2ead, "ALIVE", alive)
    assert e2ead.healthy(0.0) == "nothing has started yet"
    alive.touch()
    now = alive.stat().st_mtime
    assert e2ead.healthy(now + 5) == ""
    assert e2ead.healthy(now + 60) == "nothing was looked after for 60 s"
