"""Errors a user can act on. Each is one line that names the key, the value and what would be accepted."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UsageError(ValueError):
    """Bad input: nothing was started. The command line prints it as one line and exits with 2."""


class ConfigError(UsageError):
    """A configuration value that cannot be used.

    `key` is the dotted key as the user writes it (`objective.alpha`), `problem` says what is wrong and what is
    accepted.
    """

    def __init__(self, key: str, value: object, problem: str):
        self.key, self.value, self.problem = key, value, problem
        super().__init__(f"{key}={value!r} {problem}")

    def under(self, prefix: str) -> ConfigError:
        """The same error with its key below `prefix`: `alpha` under `objective` is `objective.alpha`."""
        return ConfigError(f"{prefix}.{self.key}", self.value, self.problem)


class StoreError(RuntimeError):
    """Something on disk is corrupt, truncated or not what its name says. The message names the file and the remedy."""


def one_of(choices: Iterable[str], value: object) -> str:
    """'is unknown; did you mean 'power'? (choose from nll, power)' for an error message."""
    return f"is unknown{hint(choices, value)}"


def hint(choices: Iterable[str], value: object) -> str:
    """'; did you mean 'power'? (choose from nll, power)' for the end of an error message."""
    choices = list(choices)
    near = difflib.get_close_matches(str(value), choices, n=1)
    guess = f"; did you mean {near[0]!r}?" if near else ""
    return f"{guess} (choose from {', '.join(choices)})"


class JobsFailed(RuntimeError):
    """A launch ended with failed jobs. The command line prints it and exits with 1."""


class Interrupted(RuntimeError):
    """A job stopped because it was asked to, its state saved: no failure, the next attempt goes on."""
