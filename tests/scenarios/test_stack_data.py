"""What containers write, and what the host's user can do with it, on a real engine."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from .conftest import ONE_USER, Hosts
from .site import LAB, ROOT, Site

HOST = f"{os.environ.get('PYTEST_XDIST_WORKER', 'scn')}-data"
CODE = "/opt/gpulab-test"
UTILS = "ansible_collections.gpulab.fleet.plugins.module_utils"
DATA = "/home/trainer/gpulab/data/notebook/work"
# jovyan is uid 1000 of the image; the engine's own probe image is the smallest there is with a Python.
DOCKERFILE = 'FROM {image}\nCOPY passwd /etc/passwd\nUSER jovyan\nENTRYPOINT ["{python}", "-c"]\n'


class Host:
    """A converged host with this collection's own helpers in a folder that its user can read."""

    def __init__(self, site: Site) -> None:
        self.site = site
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            tar.add(ROOT / "plugins" / "module_utils", f"{CODE}/{UTILS.replace('.', '/')}".lstrip("/"))
        subprocess.run(
            [str(LAB), "ssh", site.hosts[0], "tar -x -C / --no-same-owner"], input=archive.getvalue(), check=True
        )
        self.image, self.python = site.probe()

    def shell(self, command: str, check: bool = True) -> str:
        return self.site.login("trainer", command, check=check)

    def call(self, code: str) -> Any:
        """Runs Python as the user, with `user` and `project` at hand; what it gives to `answer` comes back."""
        head = (
            f"import json, sys; sys.path.insert(0, '{CODE}')\n"
            "from pathlib import Path\n"
            f"from {UTILS} import _all_ids, _compose, _image_integrity, _stack_data, _stack_places, _stack_purge, _userenv\n"
            f"from {UTILS}._errors import FleetError\n"
            f"from {UTILS}._stack_snapshot import Snapshots\n"
            "user = _userenv.account('trainer')\n"
            "project = _compose.Project(user, 'notebook', Path('/'))\n"
            "def answer(value): print('ANSWER', json.dumps(value))\n"
        )
        self.site.ssh(f"cat > {CODE}/ask.py <<'EOT'\n{head}{code}\nEOT")
        said = self.shell(f"python3 {CODE}/ask.py")
        return json.loads(said.rpartition("ANSWER ")[2])

    def container(self, code: str, image: str = "jovyan", check: bool = True) -> str:
        """Runs Python in a container that has the data folder at /shared."""
        self.site.ssh(f"cat > {CODE}/inside.py <<'EOT'\n{code}\nEOT")
        mounts = f"-v {DATA}:/shared -v {CODE}/inside.py:/inside.py:ro"
        entry = f"--entrypoint {self.python}"
        return self.shell(f"docker run --rm --network none {mounts} {entry} {image} /inside.py 2>&1", check)


@pytest.fixture(scope="module")
def host(hosts: Hosts) -> Host:
    site = hosts.site(HOST, ONE_USER)
    site.run().ok()
    host = Host(site)
    text = DOCKERFILE.format(
        image="$(docker images --format '{{.Repository}}:{{.Tag}}' gpulab/probe)", python=host.python
    )
    host.shell(
        f"mkdir -p ctx && echo jovyan:x:1000:100::/home:/bin/sh > ctx/passwd && cat > ctx/Dockerfile <<EOT\n{text}EOT"
    )
    host.shell("docker build -q -t jovyan ctx")
    return host


WRITE = """
import os
os.umask(0o077)
os.makedirs('/shared/run/deep', exist_ok=True)
open('/shared/run/plain', 'w').write('from the container')
os.close(os.open('/shared/run/deep/private', os.O_CREAT | os.O_WRONLY, 0o600))
os.chmod('/shared/run/deep/private', 0o600)
os.chmod('/shared/run/deep', 0o700)
print(os.getuid())
"""


def prepare(host: Host, image: str) -> list[str]:
    image_id = host.shell(f"docker inspect -f '{{{{.Id}}}}' {image}").strip()
    service = {"volumes": [{"type": "bind", "source": DATA, "target": "/shared"}]}
    config = {"services": {"notebook": service}}
    users = f"_stack_data.writers(project, {config!r}, {{'notebook': '{image_id}'}}, ['{DATA}'])['{DATA}']"
    code = f"answer(_stack_data.prepare(Path('{DATA}'), project.user, {users}))"
    actions: list[str] = host.call(code)
    return actions


def test_a_folder_of_a_container_that_runs_as_root_is_the_hosts_users(host: Host) -> None:
    assert prepare(host, host.image) == [f"make {DATA}"]
    assert host.container(WRITE, host.image).split() == ["0"]
    assert host.shell(f"cat {DATA}/run/plain && touch {DATA}/run/deep/private") == "from the container"
    assert host.shell(f"stat -c %U {DATA}/run/deep/private").strip() == "trainer"
    host.shell(f"rm -r {DATA}")


def test_both_sides_write_in_a_folder_of_a_container_with_a_user_of_its_own(host: Host) -> None:
    host.shell(f"mkdir -p {DATA}")
    assert "PermissionError" in host.container("open('/shared/x', 'w')", check=False), (
        "without it the container could not write"
    )
    assert prepare(host, "jovyan") == [f"let uid 1000 of the containers write {DATA}"]
    assert prepare(host, "jovyan") == []
    assert host.container(WRITE).split() == ["1000"]
    assert host.shell(f"stat -c %u {DATA}/run/plain").strip() == "100999"
    host.shell(
        f"echo and the host >> {DATA}/run/plain; umask 077; mkdir -p {DATA}/mine && echo more > {DATA}/mine/file"
    )
    said = host.container("print(open('/shared/mine/file', 'a').write('x'), open('/shared/run/plain').read())")
    assert said.split() == ["1", "from", "the", "containerand", "the", "host"]
    # What was made with a mode of its own is the container's alone, until it is repaired; without sudo.
    private = f"{DATA}/run/deep/private"
    assert "Permission denied" in host.shell(f"cat {private} 2>&1", check=False)
    done = host.call(f"answer(_stack_data.repair(Path('{DATA}'), user))")
    assert done["changed"] == 2, "the folder and the file in it"
    host.shell(f"echo seen >> {private} && rm {private}")
    assert host.call(f"answer(_stack_data.repair(Path('{DATA}'), user))")["changed"] == 0


def test_the_same_without_the_engine(host: Host) -> None:
    host.container(WRITE)
    systemctl = "XDG_RUNTIME_DIR=/run/user/1000 systemctl --user"
    host.shell(f"{systemctl} stop docker.service docker.socket 2>&1", check=False)
    try:
        assert host.call(f"answer(_stack_data.repair(Path('{DATA}'), user))")["changed"] >= 1
        host.shell(f"echo seen >> {DATA}/run/deep/private")
    finally:
        host.shell(f"{systemctl} start docker.service")


def test_an_image_that_a_power_cut_damaged_is_found_and_brought_in_again(host: Host) -> None:
    """The damage is done to one file of a layer, as a cut leaves it: known to the engine, and shorter than it was."""
    make = "mkdir -p img && head -c 3000000 /dev/urandom > img/weights && tar -C img -c weights | docker import - cut:1"
    image = host.shell(f"{make}; docker tag cut:1 cut:2; docker save cut:1 > cut.tar").splitlines()[0]
    root = host.shell("docker inspect -f '{{.GraphDriver.Data.UpperDir}}' cut:1").strip()
    intact = f"answer(_image_integrity.intact(project, '{image}'))"
    assert host.call(intact)
    cut = f"def work():\n    with open('{root}/weights', 'r+b') as file: file.truncate(1000000)\n    return {{}}\n"
    host.call(f"{cut}answer(_all_ids.as_all_ids(user, work))")
    assert not host.call(intact)
    host.shell("docker load -q < cut.tar")
    assert not host.call(intact), "loading it again does not mend it"
    assert host.call(f"answer(_image_integrity.mend(project, ['{image}']))") == ["remove damaged image cut:1, cut:2"]
    host.shell("docker load -q < cut.tar")
    assert host.call(intact)
    again = f"_image_integrity.mend(project, ['{image}']); answer(_image_integrity.unread(project, ['{image}']))"
    assert host.call(again) == [], "found whole, it is not read again"


def test_data_of_containers_come_back_from_a_snapshot_and_go_when_the_stack_is_named(host: Host) -> None:
    host.container(WRITE)
    host.shell("docker volume create --label com.docker.compose.project=notebook notebook_db")
    fill = '\'import os; open("/db/x", "w").write("rows"); os.chmod("/db/x", 0o600); os.chown("/db/x", 70, 70)\''
    run = f"docker run --rm --network none -v notebook_db:/db --entrypoint {host.python} {host.image} -c"
    host.site.ssh(f"cat > {CODE}/fill.sh <<'EOT'\n{run} {fill}\nEOT")
    host.shell(f"sh {CODE}/fill.sh")
    listing = (
        "import os, subprocess\n"
        "def work():\n"
        f"    places = ['{DATA}', str(project.api('/volumes/notebook_db')['Mountpoint'])]\n"
        "    look = 'cd $0 && find . -printf \"%p %U %G %m %s\\\\n\" | sort; find . -type f | sort | xargs sha256sum'\n"
        "    run = lambda place: subprocess.run(['sh', '-c', look, place], capture_output=True, text=True).stdout\n"
        "    return {place: run(place) for place in places}\n"
        "answer(_all_ids.as_all_ids(user, work))"
    )
    before = host.call(listing)
    assert any(" 70 70 600 4" in text for text in before.values()), before
    head = (
        "root = Path('/home/trainer/gpulab')\n"
        "copies = Snapshots(user, root, 'notebook')\n"
        f"parts = [*_stack_places.folders({{'WORK': '{DATA}'}}), *_stack_places.volumes(project)]\n"
    )
    name = host.call(f"{head}answer(copies.make(parts, '0001').id)")
    host.container("import os; os.unlink('/shared/run/plain'); open('/shared/new', 'w')")
    assert host.call(listing) != before
    assert len(host.call(f"{head}answer(copies.restore('{name}'))")) == 2
    assert host.call(listing) == before, "owners, modes and content"
    refused = "try: _stack_purge.purge(project, root, 'note')\nexcept FleetError as error: answer(error.detail)"
    said = host.call(f"{head}{refused}")
    assert "folder work" in said
    assert "volume notebook_db" in said
    assert host.call(listing) == before
    host.call(f"{head}answer(_stack_purge.purge(project, root, 'notebook'))")
    left = host.shell("ls gpulab/data gpulab/snapshots; docker volume ls -q")
    assert left.split() == ["gpulab/data:", "gpulab/snapshots:"]


COMPOSE = """
services:
  writer:
    build: .
    command: ["open('/shared/out', 'w').write('kept'); import time; time.sleep(1e6)"]
    stop_grace_period: 1s
    volumes: ["${WORK:-./data/work}:/shared"]
"""


def test_a_deploy_prepares_the_folders_of_a_stack_whose_image_has_its_own_user(host: Host, tmp_path: Path) -> None:
    (tmp_path / "compose.yml").write_text(COMPOSE)
    (tmp_path / "Dockerfile").write_text("FROM jovyan\n")
    (tmp_path / "stack.yml").write_text("data: {WORK: {folder: work}}\nno_health: [writer]\n")
    host.site.set({**ONE_USER, "gpulab_stacks": {"own": {"user": "trainer", "source": str(tmp_path)}}})
    place = "/home/trainer/gpulab/data/own/work"
    foreseen = host.site.run("playbooks/deploy.yml", "--check").ok()
    assert foreseen.changed
    done = host.site.run("playbooks/deploy.yml").ok()
    results = [each for task in done.tasks for each in [task["result"], *task["result"].get("results", [])]]
    actions = [action for each in results for action in each.get("actions", [])]
    assert f"let uid 1000 of the containers write {place}" in actions
    assert host.shell(f"cat {place}/out; stat -c %u {place}/out; echo mine >> {place}/out") == "kept100999\n"
    assert host.site.run("playbooks/deploy.yml").ok().changed == []


VOLUME = """
services:
  writer:
    build: .
    command: ["import time; open('/kept/out', 'a').write('x'); print(open('/kept/out').read(), flush=True); time.sleep(1e6)"]
    stop_grace_period: 1s
    environment: {WORD: "${WORD:-one}"}
    volumes: [kept:/kept]
volumes:
  kept: {labels: {a: b}}
"""


def test_a_new_volume_is_writable_for_an_image_with_its_own_user_and_then_left_alone(host: Host) -> None:
    """The image has no /kept: by itself the engine makes such a volume root's."""
    for name, text in {"compose.yml": VOLUME, "Dockerfile": "FROM jovyan\n"}.items():
        host.shell(f"mkdir -p vol; cat > vol/{name} <<'EOT'\n{text}\nEOT")
    made = "make volume vol_kept for uid 1000 of the containers"
    assert made in host.shell("gpulab deploy ./vol")
    assert host.shell("docker logs vol-writer-1").split() == ["x"]
    where = "docker volume inspect vol_kept -f '{{.Mountpoint}} {{.Labels}}'"
    assert "a:b" in host.shell(where) and "com.docker.compose.volume:kept" in host.shell(where)
    assert "WARN" not in host.shell("cd gpulab/stacks/vol/current && docker compose up -d 2>&1"), "it is Compose's own"
    # What is in it is the program's own affair from now on.
    path = host.shell(where).split()[0]
    chown = f"import os\ndef work():\n    os.chown('{path}', 0, 0)\n    os.chmod('{path}', 0o777)\n    return {{}}\n"
    host.call(f"{chown}answer(_all_ids.as_all_ids(user, work))")
    assert "volume vol_kept" not in host.shell("gpulab deploy vol --set WORD=two")
    assert host.shell(f"stat -c %U {path}").strip() == "trainer"
    assert host.shell("docker logs vol-writer-1").split() == ["xx"]
