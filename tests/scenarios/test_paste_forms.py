"""What people paste to get a GPU: each form works, or is refused in a way that a person notices.

The worst case is a form that starts a container without a GPU and says nothing (Compose 2.26, `gpus: all`).
The expectations here are the table in docs/gpu-forms.md.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator

import pytest
import yaml

from .conftest import Hosts
from .site import Site

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


def test_nothing_is_left_to_do(engine: tuple[str, Site]) -> None:
    _, site = engine
    assert site.run("site.yml", "--check").ok().changed == []
    assert site.run().ok().changed == []
