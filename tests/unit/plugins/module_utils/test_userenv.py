"""Acting as a user: really that user, results and errors come back."""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._userenv import Account, account, as_user

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")

NOBODY = pwd.getpwnam("nobody")
USER = Account("nobody", NOBODY.pw_uid, NOBODY.pw_gid, Path("/nonexistent"))


def who() -> dict[str, Any]:
    return {"uid": list(os.getresuid()), "gid": list(os.getresgid()), "env": dict(os.environ), "cwd": str(Path.cwd())}


def test_the_work_is_done_by_the_user_for_good() -> None:
    os.environ["ROOTS_SECRET"] = "x"
    seen = as_user(USER, who)
    assert seen["uid"] == [USER.uid] * 3
    assert seen["gid"] == [USER.gid] * 3
    assert seen["env"]["XDG_RUNTIME_DIR"] == f"/run/user/{USER.uid}"
    assert seen["env"]["DBUS_SESSION_BUS_ADDRESS"] == f"unix:path=/run/user/{USER.uid}/bus"
    assert "ROOTS_SECRET" not in seen["env"]
    assert seen["cwd"] == "/"
    assert os.geteuid() == 0

    def go_back() -> dict[str, Any]:
        os.setuid(0)
        return {}

    with pytest.raises(RuntimeError, match="not permitted"):
        as_user(USER, go_back)


def test_root_s_files_are_out_of_reach(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.touch(0o600)
    with pytest.raises(RuntimeError, match="Permission denied"):
        as_user(USER, lambda: {"text": secret.read_text()})


def test_errors_come_back_with_their_code() -> None:
    def fail() -> dict[str, Any]:
        raise FleetError("DAEMON_JSON_INVALID", "f:1:1")

    with pytest.raises(FleetError) as caught:
        as_user(USER, fail)
    assert (caught.value.code, caught.value.detail) == ("DAEMON_JSON_INVALID", "f:1:1")


def test_a_child_that_is_killed_is_an_error() -> None:
    def die() -> dict[str, Any]:
        os.kill(os.getpid(), 9)
        return {}

    with pytest.raises(RuntimeError, match="killed"):
        as_user(USER, die)


@pytest.mark.parametrize(("name", "code"), [("no-such-user", "USER_MISSING"), ("root", "USER_IS_ROOT")])
def test_accounts_that_will_not_do(name: str, code: str) -> None:
    with pytest.raises(FleetError) as caught:
        account(name)
    assert caught.value.code == code
