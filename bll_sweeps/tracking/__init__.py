"""Mirrors of a job's rows on Weights & Biases. The files on disk are the truth; a mirror harms no job."""

from bll_sweeps.tracking.wandb import Run, open_tracker, preload

__all__ = ["Run", "open_tracker", "preload"]
