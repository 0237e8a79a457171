"""Random generators derived from a seed and a place in the pipeline, so that no draw depends on another's number."""

import hashlib

import numpy as np


def generator(seed: int, *place: str | int) -> np.random.Generator:
    """Return a generator that depends on the seed and on the place, for example ("train", fold, worker), alone."""
    parts = tuple(part if isinstance(part, str) else int(part) for part in (seed, *place))
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return np.random.default_rng(np.frombuffer(digest, dtype=np.uint32))
