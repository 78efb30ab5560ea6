"""rootless_docker_host: when a root engine is refused, kept or kept from ever starting."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.gpulab.fleet.plugins.module_utils._command_host import LAUNCHER
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._guarded import UNATTENDED, UNATTENDED_TEXT
from ansible_collections.gpulab.fleet.plugins.module_utils._host_program import PROGRAM, stands_for
from ansible_collections.gpulab.fleet.plugins.module_utils._journal import FILE, TREE, UNIT, Journal
from ansible_collections.gpulab.fleet.plugins.modules import rootless_docker_host as module_under_test
from ansible_collections.gpulab.fleet.plugins.modules.rootless_docker_host import (
    APPARMOR_PROFILE,
    DELEGATION,
    UNITS,
    Host,
    parse_show,
    to_mask,
)
from ansible_collections.gpulab.fleet.plugins.plugin_utils._command_archive import archive

ABSENT = ("not-found", "inactive", "")
MASKED = ("masked", "inactive", "masked")
RUNNING = ("loaded", "active", "enabled")
OFF = ("loaded", "inactive", "disabled")
DROP_IN = "etc/systemd/system/user@.service.d/gpulab-delegate.conf"


def show(**units: tuple[str, str, str]) -> str:
    """What systemctl answers; units that are not named are absent."""
    blocks = []
    for name in UNITS:
        load, active, file = units.get(name.replace(".", "_"), ABSENT)
        blocks.append(f"Id={name}\nLoadState={load}\nActiveState={active}\nUnitFileState={file}\n")
    return "\n".join(blocks)


class Failed(Exception):
    pass


def host(root: Path, answer: str, check: bool = False, **params: Any) -> tuple[Host, list[list[str]]]:
    calls: list[list[str]] = []

    def run(argv: list[str], check_rc: bool) -> tuple[int, str, str]:
        assert check_rc or argv[1] == "reset-failed"  # which fails for units that are not loaded
        if argv[1:2] != ["show"]:
            calls.append(argv)
        return 0, answer, ""

    def fail(**result: Any) -> None:
        raise Failed(result["msg"])

    module: Any = SimpleNamespace(
        params={
            "rootful": "refuse",
            "guard": False,
            "proxy": {},
            "users": [],
            "may_create": [],
            "docker_host": False,
            "command": None,
            **params,
        },
        check_mode=check,
        no_log_values=set(),
        run_command=run,
        fail_json=fail,
    )
    return Host(module, root), calls


@pytest.mark.parametrize(
    ("units", "masked"),
    [
        ({}, ["docker.service", "docker.socket", "containerd.service"]),
        ({"docker_service": OFF, "docker_socket": OFF}, ["docker.service", "docker.socket", "containerd.service"]),
        # rootless by Docker's own instructions: containerd was left running, and may be somebody else's
        (
            {"docker_service": OFF, "docker_socket": OFF, "containerd_service": RUNNING},
            ["docker.service", "docker.socket"],
        ),
        ({"docker_service": MASKED, "docker_socket": MASKED, "containerd_service": MASKED}, []),
    ],
)
def test_units_that_are_masked(units: dict[str, tuple[str, str, str]], masked: list[str]) -> None:
    assert to_mask(parse_show(show(**units))) == masked


def test_fresh_host_then_nothing_more(tmp_path: Path) -> None:
    first, calls = host(tmp_path, show())
    result = first.converge()
    assert result["changed"]
    assert not result["rootful"]
    assert (tmp_path / DROP_IN).read_text() == DELEGATION
    assert ["systemctl", "mask", "docker.service", "docker.socket", "containerd.service"] in calls
    assert calls[-1] == ["systemctl", "daemon-reload"]
    second, calls = host(tmp_path, show(docker_service=MASKED, docker_socket=MASKED, containerd_service=MASKED))
    assert second.converge() == {
        "changed": False,
        "actions": [],
        "diff": [],
        "rootful": False,
        "was_rootful": "",
        "missing_users": [],
    }
    assert calls == []


def test_check_mode_predicts_the_same_and_writes_nothing(tmp_path: Path) -> None:
    checked, calls = host(tmp_path, show(), check=True)
    predicted = checked.converge()
    assert calls == []
    assert list(tmp_path.iterdir()) == []
    done = host(tmp_path, show())[0].converge()
    assert predicted == done


@pytest.mark.parametrize(
    "units",
    [{"docker_service": RUNNING}, {"docker_socket": RUNNING}, {"docker_service": ("loaded", "inactive", "enabled")}],
)
@pytest.mark.parametrize("check", [True, False])
def test_a_root_engine_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, units: dict[str, tuple[str, str, str]], check: bool
) -> None:
    monkeypatch.setattr(module_under_test, "get", lambda _path, _question: {"DockerRootDir": "/data/docker"})
    monkeypatch.setattr(module_under_test, "container_names", lambda _path, everything: ["db", "web"])
    refused, calls = host(tmp_path, show(**units), check)
    with pytest.raises(Failed) as caught:
        refused.converge()
    said = str(caught.value)
    assert "ROOTFUL_ENGINE" in said
    if units.get("docker_service", OFF)[1] == "active":
        assert "containers: db, web; data root /data/docker" in said
    else:
        # Asking through the socket would start the engine.
        assert "it is not running; data root /var/lib/docker" in said
    assert calls == []
    assert list(tmp_path.iterdir()) == []


def test_the_data_root_of_an_engine_that_is_off(tmp_path: Path) -> None:
    (tmp_path / "etc/docker").mkdir(parents=True)
    (tmp_path / "etc/docker/daemon.json").write_text('{"data-root": "/srv/docker"}')
    with pytest.raises(Failed, match="/srv/docker"):
        host(tmp_path, show(docker_socket=RUNNING))[0].converge()


def test_a_root_engine_that_is_kept(tmp_path: Path) -> None:
    kept, calls = host(tmp_path, show(docker_service=RUNNING, containerd_service=OFF), rootful="keep")
    assert kept.converge()["rootful"]
    assert calls == [["systemctl", "daemon-reload"]]


def test_keep_masks_where_there_is_nothing_to_keep(tmp_path: Path) -> None:
    _, calls = (pair := host(tmp_path, show(), rootful="keep"))
    assert not pair[0].converge()["rootful"]
    assert calls[0][1] == "mask"


@pytest.mark.parametrize("check", [True, False])
def test_a_root_engine_is_ended_where_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, check: bool
) -> None:
    monkeypatch.setattr(module_under_test, "get", lambda _path, _question: {"DockerRootDir": "/data/docker"})
    monkeypatch.setattr(module_under_test, "container_names", lambda _path, everything: ["db", "web"])
    units = {"docker_service": RUNNING, "docker_socket": RUNNING, "containerd_service": RUNNING}
    ended, calls = host(tmp_path, show(**units), check, rootful="remove")
    result = ended.converge()
    assert "containers: db, web; data root /data/docker" in result["was_rootful"]
    assert not result["rootful"]
    stopped = [action for action in result["actions"] if action.startswith(("stopped", "masked"))]
    assert stopped == [
        "stopped docker.socket, docker.service",
        "stopped containerd.service",
        "masked docker.service, docker.socket, containerd.service",
    ]
    if check:
        assert calls == []
        return
    # The socket first: it would start the engine again.
    assert ["systemctl", "disable", "--now", "docker.socket", "docker.service"] in calls
    assert Journal().entries(UNIT) == dict.fromkeys(
        ("docker.socket", "docker.service", "containerd.service"), "enabled"
    )


def test_a_containerd_that_others_use_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module_under_test, "get", lambda _path, _question: {})
    (tmp_path / "run/containerd/io.containerd.runtime.v2.task/default/job").mkdir(parents=True)
    ended, calls = host(tmp_path, show(docker_service=RUNNING, containerd_service=RUNNING), rootful="remove")
    ended.converge()
    assert not [call for call in calls if "containerd.service" in call]


def test_a_unit_of_somebodys_own_is_switched_off_and_not_masked(tmp_path: Path) -> None:
    text = show(docker_service=RUNNING).replace(
        "Id=docker.service\n", "Id=docker.service\nFragmentPath=/etc/systemd/system/docker.service\n"
    )
    ended, calls = host(tmp_path, text, rootful="remove")
    ended.converge()
    assert ["systemctl", "disable", "--now", "docker.service"] in calls
    assert ["systemctl", "mask", "docker.socket", "containerd.service"] in calls


def test_a_kubernetes_node_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FleetError, match="KUBERNETES_NODE"):
        host(tmp_path, show(containerd_service=RUNNING, kubelet_service=RUNNING))[0].converge()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("params", "code"),
    [({"users": ["no-such-user"]}, "USER_MISSING"), ({"users": ["root"]}, "USER_IS_ROOT")],
)
def test_users_are_looked_at_first(tmp_path: Path, params: dict[str, Any], code: str) -> None:
    with pytest.raises(FleetError) as caught:
        host(tmp_path, show(), **params)[0].converge()
    assert caught.value.code == code
    assert list(tmp_path.iterdir()) == []


def test_users_that_may_be_made(tmp_path: Path) -> None:
    result = host(tmp_path, show(), users=["daemon"], may_create=["no-such-user", "bin"])[0].converge()
    assert result["missing_users"] == ["no-such-user"]


@pytest.mark.parametrize(
    ("switch", "profile", "written"),
    [
        (None, None, False),
        ("0", None, False),
        ("1", None, True),
        ("1", "profile rootlesskit /usr/bin/rootlesskit flags=(unconfined) { userns, }", False),  # Ubuntu's own
        ("1", "profile x /usr/bin/x {}", True),
    ],
)
def test_apparmor(tmp_path: Path, switch: str | None, profile: str | None, written: bool) -> None:
    (tmp_path / "etc/apparmor.d/abi").mkdir(parents=True)
    if switch is not None:
        knob = tmp_path / "proc/sys/kernel/apparmor_restrict_unprivileged_userns"
        knob.parent.mkdir(parents=True)
        knob.write_text(f"{switch}\n")
    if profile:
        (tmp_path / "etc/apparmor.d/rootlesskit").write_text(profile)
    done, calls = host(tmp_path, show())
    done.converge()
    ours = tmp_path / "etc/apparmor.d/gpulab-rootlesskit"
    assert ours.exists() is written
    assert (["apparmor_parser", "-r", str(ours)] in calls) is written
    if written:
        assert ours.read_text() == APPARMOR_PROFILE
        assert not host(tmp_path, show())[0].put("etc/apparmor.d/gpulab-rootlesskit", APPARMOR_PROFILE)


def test_what_is_changed_is_in_the_journal(tmp_path: Path) -> None:
    first, _ = host(tmp_path, show(docker_service=OFF))
    first.converge()
    assert Journal().entries(UNIT) == {"docker.service": "disabled", "docker.socket": "", "containerd.service": ""}
    assert Journal().entries(FILE) == {str(tmp_path / DROP_IN): None}


def test_unattended_upgrades_are_barred_and_let_in_again_by_the_same_switch(tmp_path: Path) -> None:
    masked = show(docker_service=MASKED, docker_socket=MASKED, containerd_service=MASKED)
    path = tmp_path / UNATTENDED
    assert host(tmp_path, masked, guard=True)[0].converge()["changed"]
    assert path.read_text() == UNATTENDED_TEXT
    assert str(path) in Journal().entries(FILE)
    assert not host(tmp_path, masked, guard=True)[0].converge()["changed"]
    assert host(tmp_path, masked, check=True)[0].converge()["changed"] and path.exists()
    assert host(tmp_path, masked)[0].converge()["changed"] and not path.exists()
    assert str(path) not in Journal().entries(FILE)
    assert not host(tmp_path, masked)[0].converge()["changed"]


PEM = "-----BEGIN CERTIFICATE-----\nMII=\n-----END CERTIFICATE-----"
PROXY = {"http": "http://me:hunter2@proxy:3128", "ca": f"{PEM}\n{PEM}\n"}
APT_PROXY = "etc/apt/apt.conf.d/95gpulab-proxy"
MASKED_UNITS = {"docker_service": MASKED, "docker_socket": MASKED, "containerd_service": MASKED}


def make_store(root: Path) -> None:
    """What update-ca-certificates --fresh does."""
    store = root / "etc/ssl/certs"
    for link in store.glob("*.pem"):
        link.unlink()
    own = sorted((root / "usr/local/share/ca-certificates").glob("*.crt"))
    for certificate in own:
        (store / f"{certificate.stem}.pem").symlink_to(certificate)
    (store / "ca-certificates.crt").write_text("all of them\n" + "".join(path.read_text() for path in own))


def test_a_proxy_and_its_authorities_come_and_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = tmp_path / "etc/ssl/certs"
    store.mkdir(parents=True)
    make_store(tmp_path)
    monkeypatch.setattr(module_under_test, "UPDATE", "/bin/true")
    predicted = host(tmp_path, show(**MASKED_UNITS), check=True, proxy=PROXY)[0].converge()
    first, calls = host(tmp_path, show(**MASKED_UNITS), proxy=PROXY)
    done = first.converge()
    assert predicted == done
    assert "hunter2" not in str(done)
    assert ["/bin/true", "--fresh"] in calls
    apt = tmp_path / APT_PROXY
    assert 'Acquire::https::Proxy "http://me:hunter2@proxy:3128";' in apt.read_text()
    assert apt.stat().st_mode & 0o777 == 0o600
    names = [f"usr/local/share/ca-certificates/gpulab-{number}.crt" for number in (1, 2)]
    assert all((tmp_path / name).read_text() == f"{PEM}\n" for name in names)
    # Not the store: it is made anew when ours are gone.
    assert not any(name.startswith(str(store)) for name in Journal().entries(FILE))
    killed, calls = host(tmp_path, show(**MASKED_UNITS), proxy=PROXY)
    assert killed.converge()["actions"] == ["made the trust store anew"]
    make_store(tmp_path)
    second, calls = host(tmp_path, show(**MASKED_UNITS), proxy=PROXY)
    assert not second.converge()["changed"]
    gone, calls = host(tmp_path, show(**MASKED_UNITS))
    assert gone.converge()["changed"]
    assert ["/bin/true", "--fresh"] in calls
    assert not apt.exists() and not any((tmp_path / name).exists() for name in names)
    assert host(tmp_path, show(**MASKED_UNITS))[0].converge()["actions"] == ["made the trust store anew"]
    make_store(tmp_path)
    assert not host(tmp_path, show(**MASKED_UNITS))[0].converge()["changed"]


def test_an_authority_needs_its_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module_under_test, "UPDATE", "/no/such")
    with pytest.raises(FleetError, match="CA_TOOL_MISSING"):
        host(tmp_path, show(), proxy={"ca": PEM})[0].converge()


def test_docker_host_comes_and_goes_with_its_variable(tmp_path: Path) -> None:
    stacks = [tmp_path / "etc/pam.d" / f"common-{kind}" for kind in ("session", "session-noninteractive")]
    stacks[0].parent.mkdir(parents=True)
    for stack in stacks:
        stack.write_text("session required pam_unix.so\n")
    answer = show(docker_service=MASKED, docker_socket=MASKED, containerd_service=MASKED)
    on: dict[str, Any] = {"docker_host": True, "may_create": ["mara"]}
    names, profile = tmp_path / "etc/gpulab/docker-users", tmp_path / "usr/share/pam-configs/gpulab"

    assert host(tmp_path, answer, check=True, **on)[0].converge()["changed"] and not names.exists()
    it, calls = host(tmp_path, answer, **on)
    it.converge()
    assert names.read_text() == "mara\n" and ["pam-auth-update", "--package"] in [call[2:] for call in calls]
    assert str(profile) in Journal().entries(FILE)
    for stack in stacks:  # what pam-auth-update does
        stack.write_text(stack.read_text() + profile.read_text())
    assert not host(tmp_path, answer, **on)[0].converge()["changed"]

    it, calls = host(tmp_path, answer)
    it.converge()
    assert not names.exists() and not profile.exists()
    assert ["pam-auth-update", "--package", "--remove", "gpulab"] in [call[2:] for call in calls]
    for stack in stacks:
        stack.write_text("session required pam_unix.so\n")
    assert not host(tmp_path, answer)[0].converge()["changed"]


def test_the_command_is_brought_once_and_kept_as_it_is(tmp_path: Path) -> None:
    masked = show(docker_service=MASKED, docker_socket=MASKED, containerd_service=MASKED)
    sent = tmp_path / "sent"
    data = archive()
    sent.write_bytes(data)
    command: dict[str, Any] = {"sha256": sha256(data).hexdigest(), "file": None}
    whole = {**command, "file": str(sent)}
    root = tmp_path / "root"
    root.mkdir()

    assert host(root, masked, command=command)[0].converge()["needs"] == ["command"]
    assert list(root.iterdir()) == [], "nothing is done before it is here"
    predicted = host(root, masked, check=True, command=command)[0].converge()
    assert list(root.iterdir()) == []
    assert host(root, masked, command=whole)[0].converge() == predicted
    program, launcher, folder = (root / name for name in (PROGRAM, LAUNCHER, "var/lib/gpulab/holders"))
    assert stands_for(program) == command["sha256"] and launcher.stat().st_mode & 0o777 == 0o755
    assert folder.stat().st_mode & 0o7777 == 0o1777
    assert {str(program), str(launcher)} <= set(Journal().entries(FILE)) and str(folder) in Journal().entries(TREE)
    assert not host(root, masked, command=command)[0].converge()["changed"]

    program.write_bytes(b"older")
    launcher.chmod(0o644)
    folder.chmod(0o755)
    assert "needs" in host(root, masked, command=command)[0].converge()
    assert len(host(root, masked, command=whole)[0].converge()["actions"]) == 3
    assert not host(root, masked, command=command)[0].converge()["changed"]


def test_a_command_that_arrives_broken_is_not_installed(tmp_path: Path) -> None:
    sent = tmp_path / "sent"
    sent.write_bytes(b"half")
    command = {"sha256": sha256(b"whole").hexdigest(), "file": str(sent)}
    with pytest.raises(FleetError, match="COMMAND_ARRIVED_BROKEN"):
        host(tmp_path, show(), command=command)[0].converge()
    assert not (tmp_path / PROGRAM).exists()
