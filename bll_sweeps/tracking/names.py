"""What things are called on W&B. The one place: the tracker, `bll publish`, dashboards and `bll pull` go by it.

Axes are trainer/global_step and trainer/tokens, never wandb's own _step, which counts rows. train/ and perf/ are
curves, the rest are values of the summary: prior/, eval/ (the primary decoding's), <benchmark>/<decoding>/,
graders/<grader>/<decoding>/ (the scores of graders but the first), final/, continuum/, record/.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from bll_sweeps.store.metrics import TIMING

STEP, TOKENS = "trainer/global_step", "trainer/tokens"
AXES = {"step": STEP, "tokens": TOKENS}
SCORE, SCORE_STDERR, QUESTIONS = "eval/score", "eval/stderr", "eval/questions"
PRIOR_STRENGTH, REGION = "continuum/prior_strength", "continuum/region"
HISTOGRAMS = {"as_trained": "prior/p", "clean": "prior/p_clean"}  # of p of the target tokens under the base model
OBJECTIVE, BACKBONE, BENCHMARK = "labels.objective", "labels.backbone", "labels.benchmark"  # of a run's configuration
ROWS = "record/rows"  # digest of the job's rows, or where it has none of its record: it tells another result apart
SO_FAR = "record/so_far"  # of each row: how many there are up to it, and the digest of these
ATTEMPT = "attempt"  # where and when the job's result was made
SUPERSEDED = "superseded"  # tag of a run whose job has another result now, in a run of its own
BESIDES = "record/besides"  # digest of what came later than the record: scores of other graders, cells of other sweeps
RECORD = "record"  # type and alias of the artifact that holds a job's record and its small outputs


@cache
def curve(key: str) -> str:
    """Of a field of a row of metrics.jsonl or timing.jsonl: nll -> train/nll, step -> trainer/global_step."""
    return AXES.get(key) or (key if "/" in key else f"{'perf' if key in TIMING else 'train'}/{key}")


def tag(axis: str, value: str) -> str:
    """Of a run, by which it is found: sweep:lab, region:MS."""
    return f"{axis}:{value}"[:64]  # wandb refuses longer ones


def score(benchmark: str, decoding: str, metric: str = "mean") -> str:
    """A metric of one decoding of an evaluation: lab-spell/sampled/mean."""
    return f"{benchmark}/{decoding}/{metric}"


def table(benchmark: str) -> str:
    """The table of some of its questions with the model's answers."""
    return f"{benchmark}/answers"


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values joined by /; those that are None are left out."""
    out: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):  # as all that comes from JSON; Mapping would take ten times as long to ask for
            out |= flat(value, f"{prefix}{key}/")
        elif value is not None:
            out[f"{prefix}{key}"] = value
    return out
