"""How long trainings take where some of them run beside each other."""

import heapq
from collections.abc import Sequence


def wall_s(lengths_s: Sequence[float], num_places: int, busy_s: Sequence[float] = ()) -> float:
    """Return the seconds until all trainings are over, each begun in its turn as soon as there is room.

    Args:
        lengths_s: Of each that has not begun, in seconds, in their order.
        num_places: How many run at a time.
        busy_s: Seconds that others still take, which run already.
    """
    ends = [*busy_s, *[0.0] * (num_places - len(busy_s))]
    heapq.heapify(ends)
    for length_s in lengths_s:
        heapq.heapreplace(ends, ends[0] + length_s)
    return max(ends)
