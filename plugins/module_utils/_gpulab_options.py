# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The command line of `gpulab`: its verbs, their options, their help."""

from __future__ import annotations

import argparse

WHAT = "Your stacks and GPUs on this host, without sudo and without Ansible."
EXIT = """\
exit status:
  0  done, or everything is well
  1  something is not well: a stack, a proof
  2  wrong use
  3  refused or failed; what, why and the remedy are on standard error
  shell and run: the status of the command in the container

`docker compose` works as usual in a stack's current folder (gpulab status).
"""


def count(text: str) -> int:
    """A number from 1 on: keeping none would remove what was just made."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return int(text)


def parser() -> argparse.ArgumentParser:
    whole = argparse.ArgumentParser(
        prog="gpulab", description=WHAT, epilog=EXIT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = whole.add_subparsers(dest="verb", metavar="VERB", title="verbs")

    def verb(name: str, text: str, as_json: bool = False) -> argparse.ArgumentParser:
        made = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        if as_json:
            made.add_argument("--json", action="store_true", help="for programs")
        return made

    status = verb("status", "what runs, of which release, and whether it is well", True)
    status.add_argument("stack", nargs="?", metavar="STACK", help="one stack only")

    verb("gpus", "who holds which GPU since when, and what runs on it, of all users", True)

    verify = verb("verify", "prove your GPUs in containers of your own engine, now", True)
    verify.add_argument("--recorded", action="store_true", help="show what was proven last and whether it still holds")

    history = verb("history", "what was deployed when, by whom and why")
    history.add_argument("stack", metavar="STACK")

    logs = verb("logs", "what a stack's services said")
    logs.add_argument("stack", metavar="STACK")
    logs.add_argument("service", nargs="?", metavar="SERVICE")
    logs.add_argument("-f", "--follow", action="store_true", help="go on as more is said")
    logs.add_argument("-n", "--tail", metavar="LINES", help="the last lines only")
    logs.add_argument("--since", metavar="TIME", help="10m, 2h or a date")
    logs.add_argument("--release", metavar="RELEASE", help="what was kept of a release that failed")

    shell = verb("shell", "a shell, or a command, in a service's running container")
    shell.add_argument("--root", action="store_true", help="as the container's root, which is you on the host")
    shell.add_argument("stack", metavar="STACK")
    shell.add_argument("service", metavar="SERVICE")
    shell.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND", help="instead of a shell")

    run = verb("run", "a service once more, by itself, with other arguments")
    run.add_argument("-d", "--detach", action="store_true", help="do not wait; prints the container's id")
    run.add_argument("stack", metavar="STACK")
    run.add_argument("service", metavar="SERVICE")
    run.add_argument("arguments", nargs=argparse.REMAINDER, metavar="ARG", help="what the container is to run")

    def changing(name: str, text: str) -> argparse.ArgumentParser:
        made = verb(name, text, True)
        made.add_argument("--check", action="store_true", help="say what would be done; do nothing")
        return made

    verb("stacks", "the shipped stacks that deploy takes by name", True)

    deploy = changing("deploy", "bring a stack to what a folder, or your settings, say")
    deploy.add_argument("target", metavar="STACK|FOLDER", help="a name; with a slash in it a folder, or a Compose file")
    deploy.add_argument("--name", help="the stack's name; otherwise the folder's")
    deploy.add_argument("--set", metavar="K=V", action="append", default=[], help="a setting; what is not named stays")
    deploy.add_argument("--unset", metavar="K", action="append", default=[], help="a setting back to its default")
    deploy.add_argument(
        "--gpus", metavar="SERVICE=GPUS", action="append", default=[], help="all, none, a number, or UUIDs with commas"
    )
    deploy.add_argument("--secret", metavar="K=FILE", action="append", default=[], help="a secret, out of a file")
    deploy.add_argument(
        "--mount", metavar="NAME=PATH", action="append", default=[],
        help="a folder of yours in its containers, PATH[:TARGET][:rw]; or on, off, nothing to forget it",
    )  # fmt: skip
    deploy.add_argument("--mutable", action="store_true", help="mount the folder itself, not a copy of it")
    deploy.add_argument("--why", metavar="TEXT", default="", help="for the history")

    rollback = changing("rollback", "an earlier release again, without a pull or a build")
    rollback.add_argument("stack", metavar="STACK")
    rollback.add_argument("release", nargs="?", metavar="RELEASE", help="otherwise the one before")

    undeploy = changing("undeploy", "stop a stack and remove its releases; data stay")
    undeploy.add_argument("stack", metavar="STACK")

    snapshot = changing("snapshot", "copy a stack's data while it is stopped for that")
    snapshot.add_argument("stack", metavar="STACK")
    snapshot.add_argument("--list", action="store_true", help="only show the copies that there are")
    snapshot.add_argument("--keep", metavar="N", type=count, help="remove all but the newest N afterwards")
    snapshot.add_argument("--why", metavar="TEXT", default="", help="a note to find it by")

    restore = changing("restore", "a stack's data as they were in a snapshot")
    restore.add_argument("stack", metavar="STACK")
    restore.add_argument("snapshot", metavar="SNAPSHOT", help="gpulab snapshot STACK --list shows them")

    purge = changing("purge", "delete the data of a stack that is not deployed, for good")
    purge.add_argument("stack", metavar="STACK")
    purge.add_argument("--yes-delete", metavar="STACK", default="", help="the name once more, or nothing is deleted")

    repair = verb("repair", "make a stack's data yours and its containers' to write again", True)
    repair.add_argument("stack", metavar="STACK")

    changing("free", "make room on a full disk, also when the engine does not start any more")

    verb("settle", "finish or take back what was cut off (done at boot)", True)
    return whole
