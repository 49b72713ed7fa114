"""The one error that a person is meant to read: printed as its message, without a traceback."""

import difflib
from collections.abc import Iterable


class InputError(Exception):
    """Bad input from outside: a config, a raw file, a checkpoint. The message says what was found, what was expected and what to do."""


class Pruned(Exception):
    """A job of a search was ended as one that cannot win; not a mistake of anybody."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `did you mean 'alpha'?` for the names nearest to `word`, or all of `known` where none is near."""
    known = sorted(known)
    near = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    if near:
        return "did you mean " + " or ".join(repr(name) for name in near) + "?"
    return "choose from: " + ", ".join(known)
