"""Who is left out together when everybody is to be judged by a fit without them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MOST_ALONE = 400
"""Up to so many people each is left out alone; with more, `GROUPS` groups are, so that time grows with people and not
with their square."""

GROUPS = 200


def left_out_together(num_people: int) -> list[NDArray[np.int64]]:
    """Positions of the people of each group, dealt in turn; a group is one person up to `MOST_ALONE` people."""
    num_groups = num_people if num_people <= MOST_ALONE else GROUPS
    return [np.arange(first, num_people, num_groups) for first in range(num_groups)]
