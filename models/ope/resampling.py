"""The Poisson bootstrap over sessions: how often a session counts depends on the seed and its key alone.

So machines that never meet resample the same sessions the same way, and sums of their shards are those of one machine. The
resamples of two policies on one log are paired, and so are their differences.

References:
    Chamandy, Muralidharan, Najmi and Naidu (2012): Poisson weights for data in shards.
    Steele, Lea and Flood (2014): SplitMix64.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import pydantic

from schemas.config import Config

Floats = npt.NDArray[np.float64]
Keys = npt.NDArray[np.uint64]

# How many of 2**16 equally likely numbers stand for each count: Poisson with mean 1 up to 2e-5, mean and variance exactly 1.
_COUNTS = (24109, 24109, 12056, 4018, 1005, 200, 33, 5, 1)
_POISSON = np.repeat(np.arange(len(_COUNTS), dtype=np.float64), _COUNTS)
_LANES = 4
_GOLDEN = 0x9E3779B97F4A7C15


class Resampling(Config):
    """How the sessions of a log are resampled."""

    num_resamples: int = pydantic.Field(default=1000, ge=1)
    """R."""
    seed: int = pydantic.Field(default=0, ge=0, lt=1 << 63)
    """Seed; resamples with the same one are paired."""

    def weights(self, session: Keys) -> Floats:
        """How often each session counts in each resample, [S, R] whole numbers from 0 to 8.

        Args:
            session: [S] keys.
        """
        words = -(-self.num_resamples // _LANES)
        with np.errstate(over="ignore"):
            steps = mixed(np.arange(1, words + 1, dtype=np.uint64) * np.uint64(_GOLDEN) + np.uint64(self.seed))
            bits = mixed(session[:, None] ^ steps[None, :])
        return _POISSON[bits.view(np.uint16)[:, : self.num_resamples]]


def mixed(state: Keys) -> Keys:
    """Scatters every bit of 64-bit numbers over all of them: the finaliser of SplitMix64."""
    with np.errstate(over="ignore"):
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state ^= state >> np.uint64(27)
        state *= np.uint64(0x94D049BB133111EB)
        state ^= state >> np.uint64(31)
    return state


def session_keys(names: Iterable[bytes]) -> Keys:
    """[S] keys of sessions by their names, the same on every machine."""
    # Not Python's own hash, which differs from process to process.
    return np.array([int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little") for name in names], np.uint64)


def folds(session: Keys, num_folds: int, seed: int = 0) -> npt.NDArray[np.int64]:
    """[S] fold of each session, from its key alone.

    Raises:
        ValueError: Fewer than two folds.
    """
    if num_folds < 2:
        raise ValueError(f"{num_folds} folds; cross-fitting needs at least 2")
    with np.errstate(over="ignore"):
        salt = mixed(np.array([seed], np.uint64) * np.uint64(_GOLDEN) + np.uint64(1))
    # Mixed twice, so that a fold says nothing about how often its sessions are resampled.
    return (mixed(mixed(session) ^ salt) % np.uint64(num_folds)).astype(np.int64)
