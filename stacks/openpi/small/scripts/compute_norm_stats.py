"""Mean and spread of the states that the training will see, to ./assets, as openpi's script of this name does."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from smallpi.demonstrations import batches

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--config-name", required=True, choices=["small"])
given = parser.parse_args()
_colours, states, _actions = next(batches(0, 4096))
stats = {"mean": np.round(states.mean(axis=0), 6).tolist(), "std": np.round(states.std(axis=0), 6).tolist()}
path = Path("assets") / given.config_name / "norm_stats.json"
path.parent.mkdir(parents=True, exist_ok=True)
path.write_text(json.dumps(stats) + "\n", encoding="utf-8")
print(f"wrote {path}")
