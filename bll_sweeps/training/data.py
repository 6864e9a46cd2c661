"""Rows of a domain -> token ids as a model is trained on them: prompt, response, end of sequence."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bll_sweeps.errors import ConfigError
from bll_sweeps.grid.axes import Domain
from bll_sweeps.training.rows import Row, question_id, read_rows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Example:
    """One training sequence. `input_ids` is (bos +) prompt + response + eos as trained; the first
    `prompt_tokens` of it are not supervised. `clean_ids` is the same with the right answer; it differs only
    where `noisy`. `question` is the question_id of its text; `cut` and `clean_cut` say which of the two sequences was
    longer than the domain allows.
    """

    input_ids: tuple[int, ...]
    prompt_tokens: int
    clean_ids: tuple[int, ...]
    noisy: bool
    question: str
    cut: bool = False
    clean_cut: bool = False


def load_rows(domain: Domain) -> list[Row]:
    """The domain's rows, label noise included.

    Raises StoreError if a jsonl file is not the one that the domain's digest names, ConfigError for a bad
    line in it.
    """
    from bll_sweeps.lab.tasks import training_rows, with_noise

    if domain.source == "lab":
        return training_rows(domain)
    rows = list(read_rows(Path(domain.path), domain.digest, "domain.path").values())
    if domain.rows > len(rows):
        raise ConfigError("domain.rows", domain.rows, f"is more than the {len(rows)} rows of {domain.path}")
    return with_noise(rows[: domain.rows or None], domain.noise, domain.seed)


def tokenize(rows: list[Row], domain: Domain, tokenizer: PreTrainedTokenizerBase) -> list[Example]:
    """One example per row, cut on the right at `domain.max_length` tokens; each says whether it was, and how many
    were is logged as a warning.

    Prompt and response are encoded apart, so that no token straddles their border; bos comes first if the
    tokenizer has one. Raises ConfigError for a row whose prompt leaves no room for a response token, and for
    a tokenizer without eos.
    """
    if not rows:
        raise ConfigError("domain.rows", 0, f"leaves domain {domain.name!r} without rows to train on")
    if tokenizer.eos_token_id is None:
        raise ConfigError("backbone", tokenizer.name_or_path, "has a tokenizer without an end-of-sequence token")
    bos = () if tokenizer.bos_token_id is None else (tokenizer.bos_token_id,)
    eos = (tokenizer.eos_token_id,)
    prompts = _encode(tokenizer, [_fill(domain.prompt, "{question}", row.question) for row in rows])
    responses = _encode(tokenizer, [_fill(domain.response, "{answer}", row.answer) for row in rows])
    noisy = [i for i, row in enumerate(rows) if row.noisy]
    clean = dict(
        zip(
            noisy,
            _encode(tokenizer, [_fill(domain.response, "{answer}", rows[i].clean_answer) for i in noisy]),
            strict=True,
        )
    )
    examples = []
    for i, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        start = (*bos, *prompt)
        if len(start) >= domain.max_length:
            text = rows[i].question if len(rows[i].question) <= 80 else rows[i].question[:77] + "..."
            problem = f"leaves row {i} ({text!r}) no supervised token: its prompt alone has {len(start)} tokens"
            raise ConfigError("domain.max_length", domain.max_length, problem)
        ids = (*start, *response, *eos)
        clean_ids = (*start, *clean[i], *eos) if i in clean else ids
        examples.append(
            Example(
                input_ids=ids[: domain.max_length],
                prompt_tokens=len(start),
                clean_ids=clean_ids[: domain.max_length],
                noisy=i in clean,
                question=question_id(rows[i].question),
                cut=len(ids) > domain.max_length,
                clean_cut=len(clean_ids) > domain.max_length,
            )
        )
    cut = sum(example.cut for example in examples)
    if cut:
        share = f"{cut} of {len(rows)} rows ({cut / len(rows):.1%})"
        log.warning(
            "%s of domain %s are longer than domain.max_length=%d tokens and were cut",
            share,
            domain.name,
            domain.max_length,
        )
    return examples


def _fill(template: str, field: str, text: str) -> str:
    """Plain replacement: braces in the template or in the text mean nothing."""
    return template.replace(field, text)


def _encode(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    """Token ids of each text; equal texts, of which small tasks have many, are encoded once."""
    distinct = list(dict.fromkeys(texts))
    if not distinct:
        return []
    ids = tokenizer(distinct, add_special_tokens=False, return_attention_mask=False)["input_ids"]
    known = dict(zip(distinct, ids, strict=True))
    return [known[text] for text in texts]
