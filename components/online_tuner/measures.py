"""What rounds and evaluations say of themselves."""

from __future__ import annotations

from typing import Any

from models.online.buffer import ReplayBuffer
from models.online.rollout import Played
from schemas.trajectory import REWARD

_WIDE = 1.96
"""Standard errors to each side of a 95 % interval."""


def round_row(number: int, earlier: float, played: Played, buffer: ReplayBuffer, num_seeded: int) -> dict[str, float]:
    """A row for a round under exploration.

    Args:
        number: Rounds that are done.
        earlier: Items shown in the rounds before; `step` counts on from there.
        played: Its sessions.
        buffer: Replay after it.
        num_seeded: Sessions of the logs that the buffer began with.
    """
    held, online = buffer.in_order(), buffer.num_added - num_seeded
    count = max(1, len(buffer))
    row = {
        "round": number,
        "step": earlier + int(played.num_shown.sum()),
        "entropy_shown": played.entropy_shown(),
        "cut_share": float(played.is_cut.mean()),
        "buffer_sessions": len(buffer),
        "buffer_offline_share": max(0, len(buffer) - online) / count,
        "buffer_return": float(held.steps[REWARD].sum()) / count if len(buffer) else 0.0,
        "buffer_length": float(held.length.sum()) / count,
    }
    for name, (value, error) in {"return": played.mean_return(), "click_rate": played.click_rate()}.items():
        row |= {name: value, f"{name}_low": value - _WIDE * error, f"{name}_high": value + _WIDE * error}
    return row


def evaluation_row(number: int, update: int, played: Played, before: Any) -> dict[str, Any]:
    """A row for an evaluation; rewards as value, lower and upper bound.

    Args:
        number: Rounds that are done.
        update: Updates that are done.
        played: Its sessions.
        before: [S] returns of the offline policy in the same sessions.
    """
    gain = played.returns - before
    rewards = {
        "return": played.mean_return(),
        "click_rate": played.click_rate(),
        "gain": (float(gain.mean()), float(gain.std(ddof=1)) / len(gain) ** 0.5),
    }
    bounds = {name: [value, value - _WIDE * error, value + _WIDE * error] for name, (value, error) in rewards.items()}
    return {"round": number, "update": update, **bounds}
