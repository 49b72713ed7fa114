"""Errors that are reported as a message without a traceback, and the hint for a misspelt name."""

import difflib
from collections.abc import Iterable


class InputError(Exception):
    """Invalid input from outside: a config, a raw file, a checkpoint.

    The message says which option or file, what was found, what was expected and what to do.
    """


class Pruned(Exception):
    """An unpromising trial of a search was ended early. This is not a failure."""


def check_whole(name: str, value: object, least: int) -> None:
    """Check that an option is a whole number from `least` on.

    Raises:
        InputError: it is not; true and false are none.
    """
    if type(value) is not int or value < least:
        raise InputError(f"{name} is {value!r}: expected a whole number from {least} on")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `did you mean 'alpha'?` with the names nearest to `word`.

    If no name is near, return `choose from: ` and all names of `known`.
    """
    known = sorted(known)
    # at most 3 suggestions fit into a sentence; cutoff 0.5 accepts a wrong letter in a short name
    near = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    if near:
        return "did you mean " + " or ".join(repr(name) for name in near) + "?"
    return "choose from: " + ", ".join(known)
