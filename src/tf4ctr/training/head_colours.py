"""The colour of each head, the same in every picture and page."""

from collections.abc import Iterable
from itertools import cycle

FUSED, SIMPLE, COMPLEX = "#2f7fc1", "#c45a00", "#008a66"
BETWEEN = ("#a060c0", "#857a00", "#c2478a", "#0a8ca0")


def head_colours(heads: Iterable[str]) -> dict[str, str]:
    """Name -> colour of the heads of a run, of `fused`, `simple` and `complex` in any case.

    Heads between these take theirs in the order of their names; from the fifth on, colours repeat.
    On white and on the dark background of a page, each has a contrast of 3 : 1 at least, as WCAG
    2.1 (1.4.11) asks of graphics.

    Args:
        heads: all heads of the run, in any order.
    """
    fixed = {"fused": FUSED, "simple": SIMPLE, "complex": COMPLEX}
    between = sorted({*heads} - {*fixed})
    return fixed | dict(zip(between, cycle(BETWEEN), strict=False))
