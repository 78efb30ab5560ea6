"""Which element of a page to click: a linear guess at the reward, learned from the clicks so far.

An element is known by its role and by how its name relates to what the task says. The weights start at nothing, so
the first clicks are drawn at random among all elements; what was clicked and what came of it is all that is learned from.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

ROLES = ("button", "link", "tab", "radio", "checkbox", "textbox")
SIZE = 4 + len(ROLES)
# `	[17] button 'cancel', focused` in the accessibility tree, as text
ELEMENT = re.compile(r"^\s*\[(?P<bid>\w+)\] (?P<role>\w+) '(?P<name>[^']*)'", re.MULTILINE)
LEARNING_RATE = 0.5
PASSES = 200
SHRINK = 1e-3


@dataclass(frozen=True)
class Element:
    bid: str
    role: str
    name: str


def elements(tree: str) -> list[Element]:
    return [Element(**match.groupdict()) for match in ELEMENT.finditer(tree)]


def features(goal: str, element: Element) -> np.ndarray:
    name, said = words(element.name), set(words(goal))
    shared = sum(word in said for word in name) / len(name) if name else 0.0
    quoted = bool(element.name) and f'"{element.name.lower()}"' in goal.lower()
    role = [float(element.role == each) for each in ROLES]
    return np.array([1.0, shared, float(quoted), float(element.role.lower() in said), *role])


def words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9#]+", text.lower())


def chances(weights: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """How likely each element is to be clicked."""
    scores = np.exp(seen @ weights - (seen @ weights).max())
    return scores / scores.sum()


def learn(weights: np.ndarray, clicked: np.ndarray, rewards: np.ndarray) -> np.ndarray:
    """Logistic regression of the reward on what was clicked, from where the weights are."""
    for _ in range(PASSES):
        guess = 1.0 / (1.0 + np.exp(-(clicked @ weights)))
        weights = weights + LEARNING_RATE * (clicked.T @ (rewards - guess) / len(rewards) - SHRINK * weights)
    return weights
