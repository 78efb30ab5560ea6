"""Shows a policy server random observations, with openpi's own client, and says how long the answers took."""

from __future__ import annotations

import argparse
import time

import numpy as np
from openpi_client.websocket_client_policy import WebsocketClientPolicy

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--host", default="127.0.0.1")
parser.add_argument("--port", type=int, default=8000)
parser.add_argument("--env", default="LIBERO", choices=["LIBERO"])
parser.add_argument("--num-steps", type=int, default=20)
given = parser.parse_args()

policy = WebsocketClientPolicy(given.host, given.port)
print(f"server: {policy.get_server_metadata()}", flush=True)
random = np.random.default_rng()
took = []
for _ in range(given.num_steps):
    seen = {
        "observation/image": random.integers(256, size=(224, 224, 3), dtype=np.uint8),
        "observation/wrist_image": random.integers(256, size=(224, 224, 3), dtype=np.uint8),
        "observation/state": random.random(8),
        "prompt": "do something",
    }
    began = time.perf_counter()
    actions = policy.infer(seen)["actions"]
    took.append((time.perf_counter() - began) * 1000)
print(
    f"{given.num_steps} inferences, actions {actions.shape}: median {np.median(took):.1f} ms, worst {max(took):.1f} ms"
)
