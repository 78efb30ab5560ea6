"""Asks a policy server once, with openpi's own client: prints the shape and type of the actions."""

from __future__ import annotations

import sys

import numpy as np
from openpi_client.websocket_client_policy import WebsocketClientPolicy

policy = WebsocketClientPolicy("127.0.0.1", int(sys.argv[1]))
observation = {
    "observation/image": np.zeros((224, 224, 3), dtype=np.uint8),
    "observation/state": np.linspace(-1, 1, 8, dtype=np.float32),
    "prompt": "pick up the cup",
}
first = policy.infer(observation)["actions"]
again = policy.infer(observation)["actions"]
assert np.array_equal(first, again), "the policy is not a function of what it is shown"
print(first.shape, first.dtype)
