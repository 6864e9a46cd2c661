"""Texts of records and logs without what looks like a secret: jobs print whatever they like."""

from __future__ import annotations

import os
import re
from functools import lru_cache

# Tokens that are counted and tokenizers are no secrets, nor is a number.
_NAMED = r"[\w.-]*(?:api[_-]?key|access[_-]?key|token(?![is])|secret|passw(?:or)?d|webhook|credential)[\w.-]*"
_SECRETS = [
    re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL),
    re.compile(r"\b(?:hf_|gh[pousr]_|github_pat_|glpat-|sk-|xox[abprs]-|AKIA|ASIA|AIza|wandb_v\d+_)[A-Za-z0-9_-]{12,}"),
    re.compile(r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"),  # a JSON web token
    re.compile(r"(?i)\bhttps?://[\w.-]*(?:hooks\.slack|discord(?:app)?\.com/api/webhooks|webhook)\S*"),
    re.compile(r"(?<=://)[^/\s:@]*:[^/\s@]+(?=@)"),  # user:password of an address
    re.compile(r"(?i)(?<=bearer )\S{8,}|(?<=authorization: basic )\S+"),
    re.compile(
        rf"(?i)(?<![\w.-])(?P<name>{_NAMED}[\"']?\s*[=:]\s*[\"']?)(?![\d.,:e+-]+(?:\s|$))[^\s\"',;&)}}\]]{{8,}}"
    ),
]
_SECRET_VARIABLE = re.compile(r"(?i)key|token|secret|passw|webhook|credential")
REMOVED = "[removed]"


@lru_cache(maxsize=10_000)  # many cells wait for one job
def scrubbed(text: str) -> str:
    """The text without what looks like a secret: tokens of known forms, values after names such as `api_key=`,
    passwords in addresses, private keys, and the values of this process's own environment variables of such names.
    """
    for name, value in sorted(os.environ.items()):
        if _SECRET_VARIABLE.search(name) and len(value) >= 12 and not value.startswith("/"):
            text = text.replace(value, REMOVED)
    for pattern in _SECRETS:
        text = pattern.sub(lambda found: f"{found.groupdict().get('name') or ''}{REMOVED}", text)
    return text
