"""Solves click-test once with OpenEnv's own client, through the published port: prints goal, reward, and whether it is done."""

from __future__ import annotations

import asyncio
import json
import re
import sys

from openenv.core import GenericEnvClient


async def solve(port: str) -> dict[str, object]:
    async with GenericEnvClient(base_url=f"http://127.0.0.1:{port}") as session:
        seen = (await session.reset(seed=1, task_name="click-test")).observation
        button = re.search(r"\[(\w+)\] button 'Click Me!'", seen["axtree_txt"])
        assert button, seen
        result = await session.step({"action_str": f"click('{button[1]}')"})
        return {"goal": seen["goal"], "reward": result.reward, "done": result.done}


print(json.dumps(asyncio.run(solve(sys.argv[1]))))
