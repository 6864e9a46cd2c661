"""Graders: generations in, scores out. Scores are a derived record, so a grader has a name and a version."""

from __future__ import annotations

from typing import Protocol

from bll_sweeps.errors import ConfigError, one_of
from bll_sweeps.evaluation.grading import exact


class Grader(Protocol):
    """What a grading module offers. ID is `<name>-v<version>`."""

    @property
    def ID(self) -> str: ...

    def grade(self, answer: str, gold: str) -> int: ...


GRADERS: dict[str, Grader] = {exact.NAME: exact}


def grader(name: str) -> Grader:
    """The grader called `name`; ConfigError with the choices if there is none."""
    if name not in GRADERS:
        raise ConfigError("benchmark.grader", name, one_of(GRADERS, name))
    return GRADERS[name]
