"""CartPole on the desktop: a hand-written rule balances the pole. `python3 cartpole.py` in a terminal of the desktop."""

from __future__ import annotations

import sys

import gymnasium


def balance(steps: int = 2000) -> float:
    """Draws the cart for this many steps; returns the reward."""
    cart = gymnasium.make("CartPole-v1", render_mode="human")
    seen, _ = cart.reset(seed=1)
    total = 0.0
    for _ in range(steps):
        position, speed, angle, turning = seen
        seen, reward, fell, over, _ = cart.step(int(0.05 * position + 0.1 * speed + angle + 0.4 * turning > 0))
        total += float(reward)
        if fell or over:
            seen, _ = cart.reset()
    cart.close()
    return total


if __name__ == "__main__":
    print(balance(int(sys.argv[1]) if len(sys.argv) > 1 else 2000))
