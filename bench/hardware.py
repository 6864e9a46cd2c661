"""What a measurement was made on: goes into the results beside the numbers."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from datetime import date
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("torch", "transformers", "triton", "liger-kernel", "cut-cross-entropy")


def described(device: str) -> dict[str, Any]:
    """Date, device (the GPU, or the processor and its cores), threads, and versions."""
    where = torch.cuda.get_device_name() if device == "cuda" else f"{_processor()}, {os.cpu_count()} cores"
    versions = {"python": platform.python_version()} | {package: _version(package) for package in PACKAGES}
    return {"date": date.today().isoformat(), "device": where, "threads": torch.get_num_threads(), **versions}


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
