"""The errors that discl raises for its users. A leaf: every room may import it, it imports nothing of ours.

Each message says what was given, what is wrong and what to do. `exit_code` is what the command line returns.
"""

import difflib
from collections.abc import Iterable


class DisclError(Exception):
    """The user must change something (exit code 2); the base of all errors that discl raises for its users.

    The message is one line: what was given, what is wrong, what to do. exit_code: what the command line returns.
    """

    exit_code = 2


class ConfigError(DisclError):
    """A config file, a key or a value in it cannot be used."""


class DataError(DisclError):
    """The data on disk is not what the config says it is."""


class ModelError(DisclError):
    """A model folder or checkpoint cannot be loaded or does not suit the request."""


class StoreError(DisclError):
    """A store cannot be opened, written or read."""


class RunFailed(DisclError):
    """The run itself failed although the input was accepted (exit code 1)."""

    exit_code = 1


def nearest(word: str, known: Iterable[str]) -> str:
    """The one of `known` that is most like `word`, for a message about an unknown name; "" where none is known.

    Case is misspelt most easily, so it counts only between names that differ in nothing else.
    """
    alike: dict[str, list[str]] = {}
    for name in known:
        alike.setdefault(name.casefold(), []).append(name)
    folded = _closest(word.casefold(), alike)
    return _closest(word, alike.get(folded, ()))


def _closest(word: str, known: Iterable[str]) -> str:
    return next(iter(difflib.get_close_matches(word, list(known), n=1, cutoff=0.0)), "")
