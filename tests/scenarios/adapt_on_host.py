"""Runs on a lab host, as a stack's user: reads Compose files as the collection does, and starts what it makes of them.

read FOLDER...            prints what each folder's files say, as JSON
up FOLDER GPU PUBLISH     adapts the folder's Compose file, with the GPU for who asks, and starts it; prints asked and notes
"""

import json
import os
import pwd
import subprocess
import sys
from pathlib import Path

from ansible_collections.gpulab.fleet.plugins.module_utils import (
    _compose_adapt,
    _docker_api,
    _userenv,
    _yaml_by_compose,
)
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError


def up(folder: str, gpu: str, publish: str) -> None:
    user = _userenv.account(pwd.getpwuid(os.getuid()).pw_name)
    found = _yaml_by_compose.locate(Path(folder))
    tree, file = found.tree, found.compose
    environment = {**user.environment(), "DOCKER_HOST": f"unix://{user.socket}", "PWD": str(tree)}

    def compose(*argv: str) -> str:
        done = subprocess.run(
            ["docker", "compose", *argv], env=environment, cwd=tree, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            sys.exit(f"docker compose {argv[2]}: {done.stderr}")
        return done.stdout

    config = json.loads(compose("-f", str(file), "config", "--format", "json"))
    asked = _compose_adapt.requests(config)
    engine = _docker_api.get(str(user.socket), "/version")["Version"]
    info = _docker_api.get(str(user.socket), "/info")
    host = _compose_adapt.Host.read(user, engine, info)
    try:
        adapted, notes = _compose_adapt.adapt(config, host, {name: [gpu] for name in asked}, json.loads(publish))
    except FleetError as error:
        sys.exit(f"{error}")
    made = tree / "adapted.yml"
    made.write_text(json.dumps(adapted), encoding="utf-8")
    compose("-f", str(made), "up", "--detach")
    print(json.dumps({"asked": asked, "notes": notes}))


def read(*folders: str) -> None:
    user = _userenv.account(pwd.getpwuid(os.getuid()).pw_name)
    run = _yaml_by_compose.run_as(user)
    print(json.dumps([_yaml_by_compose.read(_yaml_by_compose.locate(Path(each)).compose, run) for each in folders]))


if __name__ == "__main__":
    (up if sys.argv[1] == "up" else read)(*sys.argv[2:])
