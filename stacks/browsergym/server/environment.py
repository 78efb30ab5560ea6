"""MiniWoB++ tasks in a real browser as an OpenEnv environment, one instance a session.

Actions, observations and state have the fields of upstream's browsergym_env, so a client of either talks to the other.
"""

from __future__ import annotations

import contextlib
import uuid
from dataclasses import dataclass
from typing import Any

import browser
import browsergym.miniwob
import gymnasium
from browsergym.utils.obs import flatten_axtree_to_str, flatten_dom_to_str, prune_html
from openenv.core.env_server import Action, Environment, Observation, State
from pydantic import Field

BENCHMARK = "miniwob"
TASKS = sorted(task.get_task_id().removeprefix(f"{BENCHMARK}.") for task in browsergym.miniwob.ALL_MINIWOB_TASKS)


class BrowserAction(Action):
    action_str: str = Field(description="One of BrowserGym's actions, such as click('13')")


class BrowserObservation(Observation):
    goal: str = Field(default="", description="What the task asks for")
    text: str = Field(default="", description="The page: its accessibility tree")
    axtree_txt: str = Field(default="", description="The accessibility tree, elements with their number in brackets")
    pruned_html: str = Field(default="", description="The page's elements without scripts and styles")
    url: str = ""
    screenshot: list[list[list[int]]] | None = Field(default=None, description="Height, width, colour; if switched on")
    error: str = Field(default="", description="Why the last action could not be done")
    last_action_error: bool = False


class BrowserState(State):
    benchmark: str = BENCHMARK
    task_name: str = ""
    goal: str = ""
    current_url: str = ""
    cum_reward: float = 0.0


@dataclass(frozen=True)
class Settings:
    task: str
    width: int
    height: int
    timeout: int
    screenshot: bool

    @classmethod
    def from_environment(cls, env: dict[str, str]) -> Settings:
        return cls(
            task=known(env.get("BROWSERGYM_TASK_NAME") or "click-test"),
            width=positive(env, "BROWSERGYM_VIEWPORT_WIDTH", 1280),
            height=positive(env, "BROWSERGYM_VIEWPORT_HEIGHT", 720),
            timeout=positive(env, "BROWSERGYM_TIMEOUT", 10000),
            screenshot=env.get("BROWSERGYM_SCREENSHOT", "false").lower() in ("true", "1", "yes"),
        )


def positive(env: dict[str, str], name: str, default: int, least: int = 1) -> int:
    value = env.get(name) or str(default)
    if not value.isdigit() or int(value) < least:
        raise ValueError(f"{name} is {value!r}: write a whole number, from {least} on")
    return int(value)


def known(task: str) -> str:
    if task not in TASKS:
        raise ValueError(f"there is no MiniWoB++ task {task!r}; there are: {', '.join(TASKS)}")
    return task


class BrowserTask(Environment[BrowserAction, BrowserObservation, BrowserState]):
    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self, settings: Settings, record: browser.Record) -> None:
        super().__init__()
        self.settings = settings
        self.record = record
        self._gym: gymnasium.Env | None = None
        self._state = BrowserState()

    def reset(
        self, seed: int | None = None, episode_id: str | None = None, task_name: str | None = None, **_: Any
    ) -> BrowserObservation:
        task = known(task_name or self.settings.task)
        if self._gym is None or self._state.task_name != task:
            self.close()
            self._gym = gymnasium.make(
                f"browsergym/{BENCHMARK}.{task}",
                disable_env_checker=True,
                viewport={"width": self.settings.width, "height": self.settings.height},
                timeout=self.settings.timeout,
            )
        self._state = BrowserState(episode_id=episode_id or str(uuid.uuid4()), step_count=0, task_name=task)
        with self._judged():
            seen, _info = self._gym.reset(seed=seed)
        return self._observe(seen)

    def step(self, action: BrowserAction, timeout_s: float | None = None, **_: Any) -> BrowserObservation:
        if self._gym is None:
            raise ValueError("reset comes before the first step")
        with self._judged():
            seen, reward, terminated, truncated, _info = self._gym.step(action.action_str)
        self._state.step_count += 1
        self._state.cum_reward += float(reward)
        return self._observe(seen, float(reward), bool(terminated or truncated))

    @property
    def state(self) -> BrowserState:
        return self._state

    def close(self) -> None:
        running, self._gym = self._gym, None
        if running is not None:
            with contextlib.suppress(Exception):  # a browser that has crashed cannot be closed in good order
                running.close()
        browser.stop()

    @contextlib.contextmanager
    def _judged(self) -> Any:
        """What a browser does is noted. After a failure nothing of it is used again: the next reset starts another."""
        try:
            yield
        except gymnasium.error.ResetNeeded:
            raise
        except Exception as error:
            self.record.failed(error)
            self.close()
            raise
        self.record.answered()

    def _observe(self, seen: dict[str, Any], reward: float = 0.0, done: bool = False) -> BrowserObservation:
        tree = flatten_axtree_to_str(seen["axtree_object"])
        self._state.goal = seen["goal"]
        self._state.current_url = seen["url"]
        return BrowserObservation(
            goal=seen["goal"],
            text=tree,
            axtree_txt=tree,
            pruned_html=prune_html(flatten_dom_to_str(seen["dom_object"])),
            url=seen["url"],
            screenshot=seen["screenshot"].tolist() if self.settings.screenshot else None,
            error=seen["last_action_error"],
            last_action_error=bool(seen["last_action_error"]),
            reward=reward,
            done=done,
        )
