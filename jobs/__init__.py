"""What is run: one file per job kind, each reads as a paragraph; cell.py is the Hydra app of one grid cell.

`RUN[kind]` names the module whose `run(job, context)` does the work and returns a Result.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

RUN = {"pretrain": "jobs.pretrain", "prior": "jobs.prior", "train": "jobs.train", "evaluate": "jobs.evaluate"}


@dataclass(frozen=True)
class Result:
    """What a job leaves: `result` goes into its record as it is, `outputs` are files or folders of its attempt."""

    result: dict[str, Any]
    outputs: list[str] = field(default_factory=list)
