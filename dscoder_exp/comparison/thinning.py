"""Fewer points of a curve, for drawing: each stretch keeps its lowest and its highest, so that no spike is lost."""

import numpy as np
from numpy.typing import NDArray


def kept_points(values: NDArray[np.float64], limit: int) -> NDArray[np.intp]:
    """The indices of at most `limit` points that a drawn curve needs, rising: the first, the last, and the lowest and
    highest of equally long stretches between. All of them where there are no more.

    Args:
        values: float64 [points]; those that aren't finite count as neither lowest nor highest.
        limit: at least 4.
    """
    count = len(values)
    if count <= limit:
        return np.arange(count)
    stretches = (limit - 2) // 2
    edges = np.linspace(1, count - 1, stretches + 1).astype(np.intp)
    width = int(np.diff(edges).max())
    places = np.minimum(edges[:-1, None] + np.arange(width), edges[1:, None] - 1)  # [stretches, width]; the end repeats
    inner = values[places]
    low = np.where(np.isfinite(inner), inner, np.inf).argmin(axis=1)
    high = np.where(np.isfinite(inner), inner, -np.inf).argmax(axis=1)
    rows = np.arange(stretches)
    return np.unique(np.concatenate([[0, count - 1], places[rows, low], places[rows, high]]))
