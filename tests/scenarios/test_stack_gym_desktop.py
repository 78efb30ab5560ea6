"""The desktop used as a person uses it: seen by VNC and in a browser, drawn on from JupyterLab, and what befalls it."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .conftest import ONE_USER, Hosts
from .site import ROOT, Result, Site, lab, stack_in_lab, until

pytestmark = pytest.mark.heavy

HOST = f"{os.environ.get('PYTEST_XDIST_WORKER', 'scn')}-gym"
HERE = Path(__file__).parent
BOX = "gym_desktop-desktop-1"
DATA = "/home/trainer/gpulab/data/gym_desktop"
SECRETS = "/home/trainer/gpulab/secrets/gym_desktop"
VNC, WEB, JUPYTER = 25900, 26080, 28888  # where the tunnel ends on this machine
HEALTHY = "python3 /opt/desktop/healthy.py"
SQUAT = """
import os, socket, sys, time
mine = socket.socket()
mine.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
os.kill(int(sys.argv[1]), 9)
while True:
    try:
        mine.bind(("", 6080))
        break
    except OSError:
        pass
mine.listen()
time.sleep(600)
"""
CLIENT = ROOT / ".cache" / "desktop-client"


class Desktop:
    """The stack on a host, and its clients on this machine."""

    def __init__(self, site: Site, folder: Path) -> None:
        self.site, self.folder = site, folder
        self.secret: dict[str, str] = {}

    def deploy(self, *args: str, **changed: Any) -> Result:
        entry = stack_in_lab()
        settings = {**entry["settings"], "FRAMEWORK": "none", **changed.pop("settings", {})}
        self.site.set({**ONE_USER, "gpulab_stacks": {"gym_desktop": {**entry, **changed, "settings": settings}}})
        return self.site.run("playbooks/deploy.yml", *args)

    def sh(self, command: str, check: bool = True) -> str:
        return self.site.login("trainer", command, check=check)

    def inside(self, command: str, check: bool = True) -> str:
        return self.sh(f"docker exec {BOX} {command}", check)

    def well(self) -> bool:
        ask = "docker inspect -f '{{.State.Health.Status}}' " + BOX
        return self.sh(ask, check=False).strip() == "healthy"

    def programs(self) -> dict[str, str]:
        rows = self.inside("supervisorctl -c /opt/desktop/supervisord.conf status", check=False).splitlines()
        return {row.split()[0]: row.split()[1] + " " + row.split()[3].rstrip(",") for row in rows if "RUNNING" in row}

    def client(self, *words: str) -> list[str]:
        return [str(CLIENT / "bin" / "python"), str(HERE / "desktop_client.py"), *words]

    def picture(self, name: str, password: str | None = None) -> Path | None:
        """What somebody with a VNC viewer sees; None when they are not let in."""
        path = self.folder / f"{name}.png"
        see = [str(CLIENT / "bin" / "vncdo"), "-s", f"127.0.0.1::{VNC}", "-p", password or self.secret["VNC_PASSWORD"]]
        done = subprocess.run([*see, "capture", str(path)], capture_output=True, text=True, check=False, timeout=60)
        if done.returncode == 0:
            return path
        assert "password check failed" in done.stderr, done.stderr
        return None

    def look(self, *names: str) -> list[dict[str, Any]]:
        paths = [str(self.picture(name)) for name in names]
        done = subprocess.run(self.client("look", *paths), capture_output=True, text=True, check=True)
        found: list[dict[str, Any]] = json.loads(done.stdout)
        return found

    def run(self, code: str) -> subprocess.Popen[str]:
        """A cell in a kernel of JupyterLab."""
        words = self.client("run", f"http://127.0.0.1:{JUPYTER}", str(self.folder / "token"), code)
        return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def status(self, port: int, path: str, token: str = "") -> int:
        header = ["-H", f"Authorization: token {token}"] if token else []
        words = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", *header, f"http://127.0.0.1:{port}{path}"]
        return int(subprocess.run(words, capture_output=True, text=True, check=False).stdout)


@pytest.fixture(scope="module")
def desktop(hosts: Hosts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desktop]:
    if not (CLIENT / "bin" / "vncdo").exists():
        subprocess.run(["/usr/bin/python3", "-m", "venv", str(CLIENT)], check=True)
        pip = [str(CLIENT / "bin" / "python"), "-m", "pip", "install", "-qq", "--require-hashes"]
        subprocess.run([*pip, "-r", str(HERE / "desktop_client.txt")], check=True)
    site = hosts.site(HOST)
    site.run().ok()
    made = Desktop(site, tmp_path_factory.mktemp("desktop"))
    made.deploy().ok()
    for name in ("VNC_PASSWORD", "JUPYTER_TOKEN"):
        made.secret[name] = site.ssh(f"cat {SECRETS}/{name}")
    (made.folder / "token").write_text(made.secret["JUPYTER_TOKEN"], encoding="utf-8")
    listing = next(h for h in json.loads(lab("list", "--json")) if h["name"] == HOST)
    forward = [f"-L{mine}:127.0.0.1:{theirs}" for mine, theirs in ((VNC, 5900), (WEB, 6080), (JUPYTER, 8888))]
    options = ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR", "ServerAliveInterval=5")
    words = ["ssh", "-N", "-i", listing["identity_file"], *(f"-o{each}" for each in options), *forward]
    # The tunnel of somebody who reconnects: the host is rebooted on the way.
    loop = f"while sleep 1; do {' '.join(words)} root@{listing['ip']}; done"
    tunnel = subprocess.Popen(["sh", "-c", loop], start_new_session=True)
    until("the tunnel", lambda: made.status(WEB, "/vnc.html") == 200, 30)
    yield made
    os.killpg(tunnel.pid, 15)
    tunnel.wait()


def test_wrong_settings_are_refused_first(desktop: Desktop) -> None:
    for settings, said in (
        ({"RESOLUTION": "huge"}, "RESOLUTION is 'huge', not one of 1024x768"),
        ({"FRAMEWORK": "caffe"}, "FRAMEWORK is 'caffe', not one of none, torch"),
        ({"WEB_PORT": 0}, "WEB_PORT is 0, not a port"),
    ):
        refused = desktop.deploy(settings=settings)
        assert refused.rc != 0
        assert said in refused.failures
        assert refused.changed == []
    assert desktop.well()


def test_a_notebook_draws_on_the_desktop_and_vnc_shows_it(desktop: Desktop) -> None:
    before = desktop.look("empty")[0]
    assert (before["pole"], before["size"]) == (0, [1280, 800])
    cell = desktop.run("from cartpole import balance\nprint('reward', balance(1200))")
    try:
        until("the window", lambda: desktop.look("cartpole")[0]["pole"] > 300, 60)
        one, two = desktop.look("one", "two")
    finally:
        out, err = cell.communicate(timeout=240)
    assert cell.returncode == 0, err
    assert "reward 1200.0" in out, "the rule balances the pole"
    for seen in (one, two):
        assert seen["pole"] > 300 and seen["cart"] > 1000 and seen["paper"] > 150_000, seen
    assert one["sum"] != two["sum"], "it moves"
    until("an empty desktop", lambda: desktop.look("after")[0]["pole"] == 0, 30)


def test_nobody_gets_in_without_password_or_token(desktop: Desktop) -> None:
    assert desktop.picture("refused", "wrong") is None
    assert desktop.picture("cut", desktop.secret["VNC_PASSWORD"][:7]) is None
    assert desktop.status(JUPYTER, "/api/status") == 403
    assert desktop.status(JUPYTER, "/api/status", "wrong") == 403
    assert desktop.status(JUPYTER, "/api/status", desktop.secret["JUPYTER_TOKEN"]) == 200
    raised = desktop.run("raise ValueError('said')")
    assert raised.communicate(timeout=120)[1].strip() == "ValueError said"
    assert raised.returncode == 1
    seen = desktop.sh(
        f"docker inspect {BOX}; docker logs {BOX} 2>&1; ps -eo args; cat /proc/[0-9]*/environ 2>/dev/null | tr '\\0' ' '"
    )
    assert not [name for name, text in desktop.secret.items() if text in seen]
    listens = desktop.site.ssh("ss -ltnH | awk '{print $4}'").split()
    assert {each for each in listens if re.search(r":(5900|6080|8888)$", each)} == {
        f"127.0.0.1:{port}" for port in (5900, 6080, 8888)
    }


@contextlib.contextmanager
def browser(desktop: Desktop) -> Iterator[Callable[[str, str, str], dict[str, Any]]]:
    """A headless browser in the desktop's network: visit(NAME, what, word) is what desktop_page.py says of a page, and
    what is seen in its picture."""
    base = stack_in_lab()["settings"]["BASE_IMAGE"]
    recipe = (HERE / "stacks" / "browser" / "Dockerfile").read_text(encoding="utf-8")
    page = (HERE / "desktop_page.py").read_text(encoding="utf-8")

    def visit(name: str, what: str, word: str) -> dict[str, Any]:
        said = desktop.sh(f"docker exec -i {BOX} python3 - {what} {word} <<'E'\n{page}\nE")
        found: dict[str, Any] = json.loads(said.splitlines()[-1])
        path = desktop.folder / f"{name}.png"
        path.write_bytes(base64.b64decode(found.pop("picture")))
        done = subprocess.run(desktop.client("look", str(path)), capture_output=True, text=True, check=True)
        return {**found, **json.loads(done.stdout)[0]}

    desktop.sh(f"docker build -q -t browser --build-arg BASE_IMAGE={base} - <<'E'\n{recipe}\nE")
    desktop.sh(f"docker run -d --init --name browser --network container:{BOX} --shm-size 512m browser")
    try:
        there = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:9222/json/version').read())"
        until("the browser", lambda: "Browser" in desktop.inside(f'python3 -c "{there}"', check=False), 60)
        yield visit
    finally:
        desktop.sh("docker rm -f browser")


def test_the_web_page_in_a_browser(desktop: Desktop) -> None:
    with browser(desktop) as visit:
        wrong = visit("web-wrong", "desktop", "wrong")
        assert (wrong["typed"], wrong["connected"]) == (True, False)
        cell = desktop.run("from cartpole import balance\nbalance(3000)")
        try:
            until("the window", lambda: desktop.look("cartpole")[0]["pole"] > 300, 60)
            right = visit("web", "desktop", desktop.secret["VNC_PASSWORD"])
        finally:
            cell.kill()
            cell.wait()
        assert (right["loaded"], right["typed"], right["connected"]) == (True, True, True), right["status"]
        assert right["pole"] > 200 and right["paper"] > 100_000, right
    restart_kernels(desktop)


def restart_kernels(desktop: Desktop) -> None:
    """Whatever a cell that was left is still drawing goes."""
    desktop.inside("supervisorctl -c /opt/desktop/supervisord.conf restart jupyter")
    until("JupyterLab", lambda: desktop.status(JUPYTER, "/api") == 200, 90)


@pytest.mark.parametrize("name", ["xvfb", "x11vnc", "openbox", "pcmanfm", "web", "jupyter"])
def test_what_dies_is_started_again(desktop: Desktop, name: str) -> None:
    until("all programs", lambda: len(desktop.programs()) == 8, 60)
    before = desktop.programs()
    if name == "xvfb":  # what it leaves behind: the number of a process that lives
        desktop.inside("sh -c \"rm -f /tmp/.X1-lock; printf '%10d\\n' 1 > /tmp/.X1-lock\"")
    desktop.inside(f"kill -KILL {before[name].split()[1]}")
    until("another one", lambda: len(desktop.programs()) == 8 and desktop.programs()[name] != before[name], 90)
    until("an answer of each", lambda: "well" in desktop.inside(f"sh -c '{HEALTHY} && echo well'", check=False), 60)


def test_what_cannot_be_kept_running_ends_the_container_and_the_engine_starts_it(desktop: Desktop) -> None:
    started = "docker inspect -f '{{.State.StartedAt}} {{.RestartCount}}' " + BOX
    before = desktop.sh(started)
    # Somebody else has the web page's port: websockify cannot have it, however often it is started.
    pid = desktop.programs()["web"].split()[1]
    desktop.sh(f"docker exec -d {BOX} python3 -c '{SQUAT}' {pid}")
    until("another start", lambda: desktop.sh(started) != before, 180)
    until("a healthy desktop", desktop.well, 180)


def test_upgrade_back_reboot_and_the_data_are_there(desktop: Desktop) -> None:
    desktop.inside("sh -c 'echo mine >> /root/notebooks/cartpole.py; echo kept > /logs/note; id -u > /root/who'")
    mine = desktop.sh(
        f"tail -n 1 {DATA}/home/notebooks/cartpole.py; cat {DATA}/logs/note {DATA}/home/who; stat -c %U {DATA}/logs/note"
    )
    assert mine.split() == ["mine", "kept", "0", "trainer"]
    desktop.deploy(settings={"RESOLUTION": "1024x768"}).ok()
    assert desktop.look("smaller")[0]["size"] == [1024, 768]
    assert desktop.site.run("playbooks/deploy.yml").ok().changed == []
    desktop.site.run("playbooks/rollback.yml", "-e", "gpulab_stack=gym_desktop").ok()
    assert desktop.look("as before")[0]["size"] == [1280, 800], "and the password is the same"
    lab("reboot", HOST)
    until("a healthy desktop", desktop.well, 240)
    until("the desktop", lambda: desktop.status(WEB, "/vnc.html") == 200, 60)
    assert desktop.look("after a reboot")[0]["size"] == [1280, 800]
    assert desktop.sh(f"tail -n 1 {DATA}/home/notebooks/cartpole.py; cat {DATA}/logs/note").split() == ["mine", "kept"]
    desktop.site.run("playbooks/verify.yml").ok()  # without it no stack with a GPU is deployed in this boot


def test_a_password_that_vnc_would_cut_is_refused_and_the_desktop_stays(desktop: Desktop) -> None:
    refused = desktop.deploy(secrets={"VNC_PASSWORD": "longer than eight"})
    assert refused.rc != 0
    assert "has 17 characters, VNC knows 8 at most" in refused.failures
    assert desktop.well()
    assert desktop.picture("still") is not None


def test_torch_from_a_wheel_that_was_brought_along_and_its_curves(desktop: Desktop) -> None:
    wheels = ROOT / ".cache" / "wheels"
    if not list(wheels.glob("torch-2.13.0+cpu-cp311-*.whl")):
        fetch = ["/usr/bin/python3", "-m", "pip", "download", "-qq", "--no-deps", "--python-version", "3.11"]
        subprocess.run([*fetch, "--only-binary=:all:", "torch==2.13.0", "-d", str(wheels)], check=True)
    listing = next(h for h in json.loads(lab("list", "--json")) if h["name"] == HOST)
    to = f"root@{listing['ip']}:/srv/wheels/"
    desktop.site.ssh("mkdir -p /srv/wheels")
    options = [
        "-i",
        listing["identity_file"],
        "-oStrictHostKeyChecking=no",
        "-oUserKnownHostsFile=/dev/null",
        "-oLogLevel=ERROR",
    ]
    subprocess.run(["scp", "-q", *options, *map(str, wheels.glob("torch-*.whl")), to], check=True)
    settings = {"FRAMEWORK": "torch-cpu", "WHEELS": "/srv/wheels", "COMPOSE_PROFILES": "tensorboard"}
    desktop.deploy(settings=settings).ok()
    cell = desktop.run(
        "import torch\nfrom torch.utils.tensorboard import SummaryWriter\n"
        "layer, curve = torch.nn.Linear(4, 2), SummaryWriter('/logs/first')\n"
        "best = torch.optim.SGD(layer.parameters(), 0.1)\n"
        "for step in range(50):\n"
        "    loss = layer(torch.ones(8, 4)).square().mean(); best.zero_grad(); loss.backward(); best.step()\n"
        "    curve.add_scalar('loss', loss.item(), step)\n"
        "curve.close()\nprint('learnt', loss.item() < 1e-3)"
    )
    out, err = cell.communicate(timeout=240)
    assert "learnt True" in out, err
    ask = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:6006/data/runs').read().decode())"
    until("the curve", lambda: "first" in desktop.sh(f'python3 -c "{ask}"', check=False), 60)
    with browser(desktop) as visit:
        page = visit("tensorboard", "curves", "http://tensorboard:6006/")
    assert page["loaded"] and "loss" in page["text"] and "first" in page["text"], page
    assert page["run"] > 500, "a line, not only the dots beside the run's name"


def test_hardened(desktop: Desktop) -> None:
    status = desktop.inside("cat /proc/1/status")
    assert re.search(r"CapBnd:\s+0+\n", status)
    assert re.search(r"NoNewPrivs:\s+1\n", status)
    assert "Read-only file system" in desktop.inside("touch /opt/x 2>&1", check=False) + desktop.inside(
        "sh -c 'touch /opt/x 2>&1'", False
    )


def test_gone_with_everything(desktop: Desktop) -> None:
    desktop.site.run("playbooks/undeploy.yml", "-e", "gpulab_stack=gym_desktop").ok()
    assert desktop.site.ssh(f"cat {SECRETS}/VNC_PASSWORD") == desktop.secret["VNC_PASSWORD"]
    purge = ("-e", "gpulab_stack=gym_desktop", "-e", "gpulab_purge=gym_desktop")
    desktop.site.run("playbooks/undeploy.yml", *purge).ok()
    assert desktop.site.ssh(f"ls {SECRETS} {DATA} 2>/dev/null", check=False) == ""
