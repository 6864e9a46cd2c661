"""What jobs record, by name, and what figures, dashboards and pages call it. The names are those of the fields in
metrics.jsonl, timing.jsonl and the results of records.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """title: for the y axis of a curve. ceiling: the highest value there can be, where 0 is the lowest; else None."""

    key: str
    title: str
    ceiling: float | None = None


def _by_key(*metrics: Metric) -> dict[str, Metric]:
    return {metric.key: metric for metric in metrics}


# A row of a training's curves: means over the supervised tokens of a step's batch. NLL whatever the objective is, so
# that curves can be compared.
TRAINING = _by_key(
    Metric("nll", "NLL (nats)"),
    Metric("mean_p", "mean p", 1.0),
    Metric("kept_fraction", "tokens kept", 1.0),
    Metric("objective", "objective"),
    Metric("grad_norm", "gradient norm"),
    Metric("learning_rate", "learning rate"),
    Metric("p_q05", "p, quantile .05", 1.0),
    Metric("p_q25", "p, quantile .25", 1.0),
    Metric("p_q50", "p, median", 1.0),
    Metric("p_q75", "p, quantile .75", 1.0),
    Metric("p_q95", "p, quantile .95", 1.0),
)
CURVES = ("nll", "mean_p", "kept_fraction")  # what tells most, in the order in which it is shown
# How fast a training went and what it took (training/log.py). Tokens are those that the model reads, prompts included
# and padding not.
TIMING = _by_key(
    Metric("tokens_per_s", "tokens per second"),
    Metric("tokens_per_s_per_device", "tokens per second and device"),
    Metric("padding", "share of padding", 1.0),
    Metric("peak_memory_gib", "peak memory of rank 0 (GiB)"),
    Metric("model_tflops", "model TFLOP/s per device"),
    Metric("mfu", "MFU (model FLOP utilisation)", 1.0),
    Metric("elapsed_s", "seconds of this training"),
)
# A decoding's metrics of an evaluation.
SCORES = _by_key(
    Metric("mean", "mean score", 1.0),
    Metric("stderr", "standard error of the mean score"),
    Metric("majority", "score of the majority answer", 1.0),
    Metric("no_answer", "share without an answer", 1.0),
    Metric("length_limited", "share cut for length", 1.0),
)
