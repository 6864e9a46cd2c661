"""The lab's tokenizer: one token per constant piece of a task's text, one per byte of everything else.

A trained BPE would merge letters of the content ("ab" -> one token), which hides from the model what it is asked
to work on. Here the words around the content, which never change, are one token each, and the content is spelled
out. The tokenizer follows from the lab's tasks alone, so backbones of one lab share it; any text decodes exactly.

It is a Qwen2Tokenizer without merges, because transformers loads that class for every Qwen2 model and sets up its
own splitting, whatever tokenizer.json says. Added tokens are matched before the splitting, so the pieces are those.
"""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING

from bll_sweeps.grid.axes import LabTask
from bll_sweeps.lab.tasks import PRETRAINING_PROMPT, held_out

if TYPE_CHECKING:
    from transformers import Qwen2Tokenizer

PAD, EOS = "<pad>", "<eos>"
_SHORTEST = 4  # characters; a shorter constant piece is spelled out


def build(tasks: dict[str, LabTask], prompt: str = PRETRAINING_PROMPT, max_length: int = 512) -> Qwen2Tokenizer:
    """A tokenizer for the tasks' text within `prompt`. Ids: pad 0, eos 1, the 256 bytes, the constant pieces."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import AddedToken, Qwen2Tokenizer

    vocabulary = {token: i for i, token in enumerate([PAD, EOS, *sorted(ByteLevel.alphabet())])}
    tokenizer = Qwen2Tokenizer(
        vocab=vocabulary,
        merges=[],
        unk_token=None,
        eos_token=EOS,
        pad_token=PAD,
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )
    pieces = fragments(tasks, prompt)
    tokenizer.add_tokens([AddedToken(piece, special=False, normalized=False) for piece in pieces])
    return tokenizer


def fragments(tasks: dict[str, LabTask], prompt: str) -> list[str]:
    """Constant pieces, sorted: what a task's questions begin and end with, cut at whole words, and the prompt's."""
    found = {piece for piece in re.split(r"\{\w+\}", prompt) if len(piece) >= _SHORTEST}
    for name, task in tasks.items():
        questions = [row.question for row in held_out(task, name)]
        beginning = re.sub(r"\S*\Z", "", _common_start(questions))
        endings = [question[len(beginning) :][::-1] for question in questions]
        ending = re.sub(r"^\S*", "", _common_start(endings)[::-1])
        found |= {piece for piece in (beginning, ending) if len(piece) >= _SHORTEST}
    return sorted(found)


def _common_start(texts: list[str]) -> str:
    columns = zip(*texts, strict=False)
    return "".join(c[0] for c in itertools.takewhile(lambda column: len(set(column)) == 1, columns))
