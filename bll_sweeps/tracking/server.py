"""Which server and project a command talks to, and whether it can."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlparse

from bll_sweeps.errors import StoreError, UsageError
from bll_sweeps.grid.settings import PROJECT_RULE, Tracker, is_project
from bll_sweeps.grid.spec import read_spec
from bll_sweeps.store.layout import Layout
from bll_sweeps.tracking.wandb import described

AT_ONCE = 8  # runs that are sent or fetched in parallel
PAGE = 200  # runs asked for in one request
_FOLDERED = "forge.coreweave.com"  # W&B's own site; its addresses begin with /wandb


@dataclass(frozen=True)
class Target:
    """A project on a server. entity: '' for $WANDB_ENTITY, or the user's default one."""

    project: str
    entity: str = ""

    @property
    def path(self) -> str:
        """As the client's API names it."""
        return f"{self.entity}/{self.project}"

    def key(self, base_url: str) -> str:
        """Names the server and project in the ledger."""
        return hashlib.sha256(f"{base_url.rstrip('/')}\n{self.entity}\n{self.project}".encode()).hexdigest()[:16]


def parse_target(text: str) -> Target:
    """Of [ENTITY/]PROJECT, or of an address of the project or of something in it. UsageError for anything else."""
    address, url = "://" in text, urlparse(text)
    parts = [unquote(part) if address else part for part in (url.path if address else text).split("/") if part]
    if address:
        parts = parts[url.netloc == _FOLDERED and parts[:1] == ["wandb"] :][:2]
    if len(parts) not in (1, 2) or (address and len(parts) < 2) or not is_project(parts[-1]):
        raise UsageError(f"project={text!r}: give [ENTITY/]PROJECT or the project's address; PROJECT {PROJECT_RULE}")
    return Target(parts[-1], parts[0] if len(parts) == 2 else "")


def target_of(layout: Layout, manifest: Mapping[str, Any]) -> Target:
    """Where a launch's jobs belong."""
    if told := manifest.get("tracker"):
        return Target(told["project"], told["entity"])
    for job_id in manifest["jobs"]:  # a launch that was pulled does not say
        with contextlib.suppress(StoreError):
            own = read_spec(layout.job(job_id)).tracker
            return Target(own.project, own.entity)
    return Target(Tracker.project)


def reachable(target: Target) -> tuple[Target, str]:
    """The target with its entity, and its key in the ledger. UsageError without a key that the server takes, or with an
    address that is none; ConnectionError without a server.
    """
    import wandb

    try:
        settings = wandb.setup().settings
    except ValueError:  # pydantic's
        url = os.environ.get("WANDB_BASE_URL")
        raise UsageError(f"$WANDB_BASE_URL={url!r} is no address: it begins with http:// or https://") from None
    try:
        own = str(wandb.Api(timeout=30).default_entity or "")  # asks the server, also where an entity is given
    except Exception as error:  # noqa: BLE001 - wandb raises what it likes
        if _is_the_keys(error):
            problem = f"W&B at {settings.base_url} cannot be used ({described(error)})"
            where = "a key comes from `wandb login` or $WANDB_API_KEY, another server from $WANDB_BASE_URL"
            raise UsageError(f"{problem}: {where}") from None
        # wandb calls an outage an AuthenticationError too, with whatever text its helper process has for it.
        status = _status(error)
        why = f" (HTTP {status})" if status else ""
        raise ConnectionError(
            f"W&B at {settings.base_url} cannot be used: it does not answer, or not as W&B does ($WANDB_BASE_URL){why}"
        ) from None
    entity = target.entity or settings.entity or own  # as a live run takes it
    found = Target(target.project, entity)
    return found, found.key(settings.base_url)


def address(target: Target) -> str:
    """Of the project, for a browser."""
    import wandb

    where = {"entity": target.entity, "project": target.project}
    return str(wandb.setup().settings.model_copy(update=where).project_url)


def _is_the_keys(error: Exception) -> bool:
    """Whether a key is missing, is none, or is refused; wandb has one type of error for these and for an outage."""
    import wandb

    if isinstance(error, wandb.errors.UsageError):
        return True
    refused = 0 < _status(error) < 500
    return isinstance(error, wandb.errors.AuthenticationError) and (error.__cause__ is None or refused)


def _status(error: Exception) -> int:
    """Of the HTTP answer that the error is about, 0 if there was none."""
    return int(getattr(getattr(error.__cause__, "response", None), "http_status", 0))
