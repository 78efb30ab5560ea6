"""kill -9 in the middle of a deploy: what Compose goes on to do by itself, and who may begin meanwhile."""

from __future__ import annotations

import time

import pytest

from .site import Site, lab
from .small_stack import Small

STACK = "gpulab/stacks/slow"
# `second` waits for `first`, so that `docker compose up` lasts; SECONDS is how long `first` takes to be healthy.
COMPOSE = """
services:
  first: &service
    image: BASE
    init: true
    stop_grace_period: 2s
    restart: unless-stopped
    environment: {WORD: "${WORD:-one}"}
    command: [python3, -c, "import time; time.sleep(${SECONDS:-0}); open('/tmp/well', 'w'); time.sleep(1e6)"]
    healthcheck: &health
      {test: [CMD, test, -e, /tmp/well], interval: 1s, timeout: 2s, retries: 60, start_period: 90s, start_interval: 300ms}
  second:
    <<: *service
    command: [python3, -c, "import time; open('/tmp/well', 'w'); time.sleep(1e6)"]
    depends_on: {first: {condition: service_healthy}}
"""
# A deploy that is killed while Compose waits for `first`; then what is left of it is shown, and the next verb comes.
KILL = """
(gpulab deploy slow --set WORD=two --set SECONDS=%s > said 2>&1) > /dev/null 2>&1 < /dev/null &
until docker inspect -f "{{.Config.Env}} {{.State.Status}}" slow-first-1 | grep -q "WORD=two.* running"; do sleep 0.1; done
run=$(sed "s/.*pid.: \\([0-9]*\\).*/\\1/" gpulab/stacks/.locks/slow)
kill -KILL $run
sleep 1
pgrep -f "compose .* up" | wc -l
%s
pgrep -f "compose .* up" | wc -l
"""


@pytest.fixture(scope="module")
def small(main_host: Site, tmp_path_factory: pytest.TempPathFactory) -> Small:
    """A stack that takes a while to come up, in release 0001; `small` brings the image."""
    lab("restore", main_host.hosts[0], "converged")
    stack = Small(main_host, tmp_path_factory.mktemp("stack"))
    stack.deploy().ok()
    text = COMPOSE.replace("BASE", stack.entry["settings"]["BASE_IMAGE"])
    main_host.ssh(f"cat > /opt/compose.yml <<'EOT'\n{text}\nEOT")
    stack.sh("mkdir slow; cp /opt/compose.yml slow; gpulab deploy ./slow")
    return stack


def cut_off(small: Small, seconds: int, then: str) -> list[str]:
    """What is said, and how many processes of Compose are left by the kill, and by what comes then."""
    small.site.ssh(f"cat > /opt/kill.sh <<'EOT'\n{KILL % (seconds, then)}\nEOT")
    return small.sh("timeout 100 bash /opt/kill.sh").splitlines()


def state(small: Small) -> list[str]:
    look = 'docker inspect -f "{{.Id}} {{.State.Health.Status}} {{index .Config.Env 0}}" slow-first-1 slow-second-1'
    return small.sh(look).splitlines()


def whole(small: Small, word: str, release: str) -> None:
    """One release runs, healthy, and stays that way: nobody is still at work."""
    before = state(small)
    assert [line.partition(" ")[2] for line in before] == [f"healthy WORD={word}"] * 2
    time.sleep(3)
    assert state(small) == before
    assert small.sh(f"basename $(readlink {STACK}/current)").strip() == release
    assert small.sh(f"ls -A {STACK} {STACK}/.. | grep -e unfinished -e locks", check=False) == ""


def test_what_compose_still_does_is_waited_for(small: Small) -> None:
    left, *said, after = cut_off(small, 8, "gpulab settle")
    assert int(left) > 0, "Compose outlives the run that started it"
    assert any("slow: settle a deploy that was cut off" in line for line in said), said
    assert after == "0"
    whole(small, "one", "0001")


def test_what_compose_would_still_do_for_minutes_is_ended(small: Small) -> None:
    left, *said, after = cut_off(small, 80, "gpulab deploy slow --set WORD=three --set SECONDS=0")
    assert int(left) > 0
    assert any("settle a deploy that was cut off" in line for line in said), said
    assert after == "0"
    whole(small, "three", "0004")
