"""Code of a test that takes the place of a training in the jobs: what goes wrong in a user's code, or a user's node."""

from __future__ import annotations

from pathlib import Path

# `train(whole, job, context)` takes the place of jobs.train.run.
_SITE = """
import functools, importlib, json, os, signal, sys, time
from pathlib import Path

load = importlib.import_module

def hooked(name, package=None):
    module = load(name, package)
    if name == "jobs.train" and not hasattr(module, "whole"):
        module.whole = module.run
        module.run = functools.partial(train, module.whole)
    return module

importlib.import_module = hooked
"""


def write(folder: Path, body: str) -> None:
    """Into a folder for $PYTHONPATH."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text(_SITE + body)


def slow(seconds: str) -> str:
    """A body with which each step of a training takes so long besides, `seconds` an expression of job and context: time
    in which to strike it, whatever the machine's speed, that costs no processor.
    """
    return f"""
def train(whole, job, context):
    step = context.step
    def slowly(done, total):
        step(done, total)
        time.sleep({seconds})
    context.step = slowly
    return whole(job, context)
"""
