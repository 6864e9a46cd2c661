"""One notice at the end of a sweep: a SLURM job that waits for all others. With mail, SLURM itself tells of its end;
with a webhook it posts a summary, as {"text": ...} (Slack, Mattermost, ...) to the address in $BLL_WEBHOOK.
"""

from __future__ import annotations

import json
import os
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from bll_sweeps.store.layout import Layout


@dataclass
class Notice:
    """A picklable callable that holds paths only: what submitit starts."""

    root: str
    sweep: str
    launch: int
    webhook: bool

    def __call__(self) -> None:
        from bll_sweeps.cluster.status import SweepWatch

        status = SweepWatch(Layout(Path(self.root)), self.sweep, self.launch).status()
        done = f"{self.sweep}: {status.number('done')} of {len(status.jobs)} jobs done"
        text = done if status.number("done") == len(status.jobs) else f"{done}; {status.verdict()}"
        print(text, flush=True)
        if self.webhook:
            post(os.environ["BLL_WEBHOOK"], text)


def post(address: str, text: str) -> None:
    """Posts the text. Errors name the reason, never the address, which may be a secret."""
    request = urllib.request.Request(
        address, json.dumps({"text": text}).encode(), headers={"Content-Type": "application/json"}
    )
    try:
        urllib.request.urlopen(request, timeout=30).close()
    except (OSError, ValueError) as error:
        raise RuntimeError(f"the notice could not be posted to $BLL_WEBHOOK ({type(error).__name__})") from None
