"""A working tree as it travels: with git's rules, without them, and what is noted down of it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpulab.fleet.plugins.module_utils import _working_tree
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError

SETTINGS = {
    "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null", "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b",
    "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b",
}  # fmt: skip


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), "-c", "protocol.file.allow=always", *arguments],
        capture_output=True, text=True, check=False, env={**os.environ, **SETTINGS},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with a submodule, and with what a person leaves lying about."""
    inner = tmp_path / "inner"
    inner.mkdir()
    git(inner, "init", "-q", "-b", "main")
    write(inner, lib_dot_py="x = 1\n", _dot_gitignore="*.o\n")
    git(inner, "add", "-A")
    git(inner, "commit", "-qm", "one")
    top = tmp_path / "top"
    top.mkdir()
    git(top, "init", "-q", "-b", "work")
    write(top, a_dot_py="one\n", data__tracked="t\n", _dot_gitignore="*.log\nout/\n", gone="g\n")
    (top / "run.sh").write_text("#!/bin/sh\n")
    (top / "run.sh").chmod(0o755)
    git(top, "submodule", "add", "-q", str(inner), "third_party/inner")
    git(top, "add", "-A")
    git(top, "commit", "-qm", "one")
    return top


def test_a_clean_checkout(checkout: Path) -> None:
    tree = _working_tree.look(checkout)
    assert list(tree.files) == sorted(
        [".gitignore", ".gitmodules", "a.py", "data/tracked", "gone", "run.sh", "third_party/inner/.gitignore",
         "third_party/inner/lib.py"]
    )  # fmt: skip
    assert tree.files["run.sh"]["mode"] == 0o755
    assert tree.files["a.py"]["mode"] == 0o644
    head = git(checkout, "rev-parse", "HEAD").strip()
    assert {key: tree.source[key] for key in ("kind", "commit", "branch", "dirty")} == {
        "kind": "folder", "commit": head, "branch": "work", "dirty": False}  # fmt: skip
    assert (tree.diff, tree.notes) == ("", [])


def test_what_a_person_changed_travels_and_is_noted_down(checkout: Path) -> None:
    before = git(checkout, "status", "--porcelain=v2")
    write(checkout, a_dot_py="two\n", new_dot_py="n\n", third_party__inner__more_dot_py="m\n", x_dot_log="l", out__y="o",
          third_party__inner__b_dot_o="o", secrets__key="k", data__mine="d", _dot_env="PASSWORD=1\n")  # fmt: skip
    (checkout / "gone").unlink()
    tree = _working_tree.look(checkout)
    assert {"new.py", "third_party/inner/more.py", "a.py"} <= set(tree.files)
    assert not {"x.log", "out/y", "third_party/inner/b.o", "secrets/key", "data/mine", ".env", "gone"} & set(tree.files)
    assert not [name for name in tree.files if ".git" in name.split("/")]
    assert tree.source["dirty"] is True
    assert "-one\n+two\n" in tree.diff
    assert "+++ b/new.py" in tree.diff
    assert "PASSWORD" not in tree.diff
    assert "# third_party/inner is a submodule with changes of its own" in tree.diff
    (checkout / "new.py").unlink()
    git(checkout, "checkout", "-q", ".")
    (checkout / "patch").write_text(tree.diff)
    git(checkout, "apply", "patch")
    assert (checkout / "a.py").read_text() == "two\n"
    assert (checkout / "new.py").read_text() == "n\n"
    assert not (checkout / "gone").exists()
    assert before == ""


def test_secrets_are_not_in_the_difference(checkout: Path) -> None:
    write(checkout, deploy_dot_key="old\n", cfg__wandb_token_dot_txt="old\n")
    git(checkout, "add", "-A", "-f")
    git(checkout, "commit", "-qm", "two")
    write(checkout, deploy_dot_key="hunter1\n", cfg__wandb_token_dot_txt="hunter2\n", a_dot_py="key = 'hunter3'\n",
          new_dot_py="hunter3\n", id_rsa="hunter4\n")  # fmt: skip
    diff = _working_tree.look(checkout, hide=["hunter3", ""]).diff
    assert "hunter" not in diff
    assert "+key = '********'" in diff
    for name in ("deploy.key", "cfg/wandb_token.txt", "id_rsa"):
        assert f"# {name} differs too" in diff


def test_a_folder_inside_a_checkout_is_only_that_folder(checkout: Path) -> None:
    write(checkout, stacks__one__compose_dot_yml="services: {}\n", stacks__one__token_dot_py="1\n")
    git(checkout, "add", "-A")
    git(checkout, "commit", "-qm", "two")
    assert not _working_tree.look(checkout / "stacks" / "one").source["dirty"]
    write(checkout, a_dot_py="elsewhere\n")
    assert not _working_tree.look(checkout / "stacks" / "one").source["dirty"], "what lies outside does not count"
    write(checkout, stacks__one__compose_dot_yml="services: {a: }\n", stacks__one__token_dot_py="hunter\n")
    tree = _working_tree.look(checkout / "stacks" / "one")
    assert list(tree.files) == ["compose.yml", "token.py"]
    assert "a/compose.yml" in tree.diff and "hunter" not in tree.diff and "elsewhere" not in tree.diff


def test_a_folder_that_its_checkout_ignores_is_a_plain_one(checkout: Path) -> None:
    write(checkout, out__a="1", out__b_dot_log="2")
    tree = _working_tree.look(checkout / "out")
    assert list(tree.files) == ["a", "b.log"]
    assert tree.source["commit"] == ""


def test_a_submodule_that_is_not_there_is_named(checkout: Path, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", str(checkout), str(clone))
    tree = _working_tree.look(clone)
    assert not [name for name in tree.files if name.startswith("third_party/")]
    assert tree.notes == [
        "submodule third_party/inner is not checked out and not shipped: git submodule update --init third_party/inner"
    ]


def test_nothing_of_the_repository_is_run(checkout: Path, tmp_path: Path) -> None:
    trap = tmp_path / "ran"
    script = write(tmp_path, trap_dot_sh=f"#!/bin/sh\ntouch {trap}\n") / "trap.sh"
    script.chmod(0o755)
    for key in ("core.fsmonitor", "diff.external", "diff.x.command", "diff.x.textconv"):
        git(checkout, "config", key, str(script))
    write(checkout, _dot_gitattributes="* diff=x\n", a_dot_py="two\n")
    trap.unlink(missing_ok=True)
    assert "+two" in _working_tree.look(checkout).diff
    assert not trap.exists()


def test_no_commit_yet(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    tree = _working_tree.look(write(tmp_path, a="1"))
    assert (list(tree.files), tree.source["commit"], tree.source["dirty"]) == (["a"], "", True)
    assert tree.diff == "# no commit yet\n"


def test_a_plain_folder_and_its_links(tmp_path: Path) -> None:
    outside = write(tmp_path / "elsewhere", big="b", one="1")
    top = write(tmp_path / "top", a="1", sub__b="2", data__d="4", _dot_env="5")
    write(top / "__pycache__", x="3")
    (top / "link").symlink_to("a")
    (top / "folder").symlink_to("sub")
    (top / "dataset").symlink_to(outside)
    (top / "single").symlink_to(outside / "one")
    (top / "loop").symlink_to(".")
    (top / "nothing").symlink_to("not-there")
    os.mkfifo(top / "pipe")
    tree = _working_tree.look(top)
    assert list(tree.files) == ["a", "folder/b", "link", "single", "sub/b"]
    assert tree.files["folder/b"] == tree.files["sub/b"]
    text = "\n".join(tree.notes)
    assert "single is a link to" in text
    for name in ("dataset", "nothing", "loop"):
        assert f"{name} is a link to" in text
    assert tree.source["commit"] == ""


def test_what_no_build_sees_stays_behind(tmp_path: Path) -> None:
    top = write(tmp_path, src__a="1", weights__w="2", _dot_dockerignore="weights\ndocker\n", docker__Dockerfile="FROM x\n",
                docker__compose_dot_yml="", docker__stack_dot_yml="")  # fmt: skip
    service = {"build": {"context": "..", "dockerfile": "docker/Dockerfile"}}
    compose: dict[str, Any] = {"services": {"a": service}}
    found = _working_tree.look(top, compose, "docker").files
    assert list(found) == [".dockerignore", "docker/Dockerfile", "docker/compose.yml", "docker/stack.yml", "src/a"]
    compose["services"]["b"] = {"volumes": ["$PWD:/app"]}
    assert "weights/w" in _working_tree.look(top, compose, "docker").files


def test_an_unreadable_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, a="1")

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(FleetError, match="Permission denied") as error:
        _working_tree.look(tmp_path)
    assert error.value.code == "STACK_SOURCE_UNREADABLE"


def test_a_mutable_source_is_only_noted_down(checkout: Path, tmp_path: Path) -> None:
    write(checkout, a_dot_py="two\n")
    tree = _working_tree.mutable(checkout)
    assert (tree.files, tree.source["kind"], tree.source["dirty"]) == ({}, "mutable", True)
    assert "+two" in tree.diff
    plain = _working_tree.mutable(write(tmp_path / "plain", a="1"))
    assert plain.source["commit"] == ""
    assert "no git checkout" in plain.notes[0]


def test_what_a_rollback_says_of_a_mutable_source(checkout: Path) -> None:
    then = _working_tree.mutable(checkout).source
    diff = Path("/x/source.diff")
    assert "it is what it was" in _working_tree.rollback_words(then, diff, _working_tree.state(checkout))[1]
    write(checkout, a_dot_py="two\n")
    dirty = _working_tree.mutable(checkout).source
    words = _working_tree.rollback_words(dirty, diff, _working_tree.state(checkout))
    assert "stays as it is now" in words[0]
    assert "with local changes" in words[1] and f"apply {diff}" in words[1]
    words = _working_tree.rollback_words(then, diff, _working_tree.state(checkout))
    assert "checkout" in words[1] and "apply" not in words[1]
    assert "nobody noted down" in _working_tree.rollback_words({"path": "/p", "commit": ""}, diff, {})[1]
