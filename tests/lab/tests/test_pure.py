"""What can be said without a host."""

import datetime
import hashlib
import json
import tarfile
from pathlib import Path

import pytest

from .. import base, carry, identity, image, inventory, machine, records, system
from ..settings import LabError

SOURCES = """\
http://security.example/debian-security/|bookworm-security|main|Debian|Debian-Security
http://mirror.example/debian/|bookworm|main|Debian|Debian
https://download.example/linux/debian/|bookworm|stable|Docker|Docker CE
"""


def test_the_mirror_is_the_archive_and_neither_security_nor_a_vendor() -> None:
    assert carry.choose_mirror(carry.parse_targets(SOURCES)) == "http://mirror.example/debian"


def test_the_mirror_is_found_before_the_lists_were_ever_fetched() -> None:
    blank = "\n".join("|".join([*line.split("|")[:3], "", ""]) for line in SOURCES.splitlines())
    assert carry.choose_mirror(carry.parse_targets(blank)) == "http://mirror.example/debian"


def test_a_machine_that_knows_no_debian_archive_has_no_mirror() -> None:
    assert carry.choose_mirror(carry.parse_targets("http://a.example/ubuntu/|jammy|main|Ubuntu|Ubuntu\n")) is None


def test_only_settings_that_say_how_to_reach_an_archive_are_carried_over() -> None:
    dump = (
        'Acquire "";\nAcquire::http "";\nAcquire::http::Proxy "http://p.example:1";\nAcquire::Check-Date "false";\n'
        'Acquire::Languages:: "none";\nDPkg::Post-Invoke:: "rm -rf /x";\nDir::Cache::pkgcache "";\n'
    )
    assert carry.choose_settings(dump) == [
        'Acquire::http::Proxy "http://p.example:1";',
        'Acquire::Check-Date "false";',
        'Acquire::Languages:: "none";',
    ]


def test_the_digest_follows_sources_and_settings(tmp_path: Path) -> None:
    (tmp_path / "apt.conf.d").mkdir()
    seen = {carry.digest(tmp_path)}
    for leaf, content in (("sources.list", "deb x"), ("sources.list", "deb y"), ("apt.conf.d/1", "Acquire::x 1;")):
        (tmp_path / leaf).write_text(content)
        seen.add(carry.digest(tmp_path))
    assert len(seen) == 4
    assert carry.digest(tmp_path) in seen


@pytest.mark.parametrize(
    ("asked", "suite", "expected"),
    [
        (None, None, ("ubuntu-22.04", "bookworm")),
        (None, "trixie", ("native", "trixie")),
        ("debian-13", None, ("debian-13", "trixie")),
        ("ubuntu-24.04", None, ("ubuntu-24.04", "forky")),
        ("ubuntu-22.04", "trixie", ("ubuntu-22.04", "trixie")),
    ],
)
def test_identity_and_suite(asked: str | None, suite: str | None, expected: tuple[str, str]) -> None:
    assert identity.resolve(asked, suite) == expected


def test_an_unknown_identity_is_refused() -> None:
    with pytest.raises(LabError, match="one of native"):
        identity.resolve("ubuntu-20.04", None)


def test_a_native_host_keeps_its_own_release_file(tmp_path: Path) -> None:
    (tmp_path / "usr/lib").mkdir(parents=True)
    (tmp_path / "usr/lib/os-release").write_text("ID=debian\n")
    identity.pose(tmp_path, "native")
    assert (tmp_path / "usr/lib/os-release").read_text() == "ID=debian\n"


def test_another_week_recipe_or_setting_makes_another_base() -> None:
    assert base.week(datetime.date(2027, 1, 1)) == "2026W53"
    names = {
        base.cache_name("base", "bookworm", *rest)
        for rest in [
            ("a", "b", "c", "1"),
            ("A", "b", "c", "1"),
            ("a", "B", "c", "1"),
            ("a", "b", "C", "1"),
            ("a", "b", "c", "2"),
        ]
    }
    assert len(names) == 5


@pytest.mark.parametrize(
    ("mounts", "expected"),
    [
        ("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n", "/sys/fs/cgroup"),
        (
            "cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\nc /sys/fs/cgroup/unified cgroup2 rw 0 0\n",
            "/sys/fs/cgroup/unified",
        ),
        ("cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\n", None),
    ],
)
def test_the_cgroup_mount_is_found(mounts: str, expected: str | None) -> None:
    found = machine.cgroup_mount(mounts)
    assert (str(found) if found else None) == expected


def test_what_is_missing_comes_with_one_line_that_mends_it() -> None:
    found = [machine.Lack("no ip", "apt-get install iproute2", "iproute2"), machine.Lack("not root", "sudo")]
    found.append(machine.Lack("no gcc", "apt-get install gcc", "gcc"))
    assert machine.describe(found).splitlines()[-1] == "to mend: apt-get install -y gcc iproute2"


@pytest.mark.parametrize("name", ["", "A", "-a", "a-", "a_b", "a/b", "..", "a" * 41, "1a"])
def test_a_bad_name_is_refused(name: str) -> None:
    with pytest.raises(LabError):
        records.check_name(name)


def test_the_inventory_is_yaml() -> None:
    content = {"all": {"vars": {"a": "x: {{ y }}", "n": None}, "hosts": {"h": {"p": 1}}}}
    assert inventory.to_yaml(content) == ('all:\n  vars:\n    a: "x: {{ y }}"\n    n:\n  hosts:\n    h:\n      p: 1\n')


def test_half_written_json_reads_as_nothing(tmp_path: Path) -> None:
    (tmp_path / "a").write_text('{"a":')
    assert system.read_json(tmp_path / "a") is None


def test_a_lock_file_that_was_removed_protects_nobody(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with system.lock(path):
        assert system.is_locked(path)
        path.unlink()
        with system.lock(path, wait=False):
            assert system.is_locked(path)
    assert not system.is_locked(path)


def test_a_process_id_that_was_given_to_another_program_is_not_ours() -> None:
    assert system.process_runs(1) and not system.process_runs(1, "_supervise", "x")


def test_the_image_archive_names_its_only_layer_by_content(tmp_path: Path) -> None:
    tree = tmp_path / "tree.tar"
    tree.write_bytes(b"layer")
    image.write(tree, tmp_path / "a.tar", "lab/base:x")
    image.write(tree, tmp_path / "b.tar", "lab/base:x")
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    with tarfile.open(tmp_path / "a.tar") as archive:
        read = {member.name: content.read() for member in archive if (content := archive.extractfile(member))}
    manifest = json.loads(read["manifest.json"])[0]
    config = read[manifest["Config"]]
    assert manifest["RepoTags"] == ["lab/base:x"]
    assert manifest["Config"] == hashlib.sha256(config).hexdigest() + ".json"
    assert json.loads(config)["rootfs"]["diff_ids"] == ["sha256:" + hashlib.sha256(b"layer").hexdigest()]
