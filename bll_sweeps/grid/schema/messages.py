"""Hydra's and OmegaConf's errors as one line that names key, value and choices."""

from __future__ import annotations

import dataclasses
import re

from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from bll_sweeps.errors import one_of
from bll_sweeps.grid.schema.config import AXES, SETTINGS, schema_of

_TYPES = {"Float": "a number", "Integer": "a whole number", "Boolean": "true or false"}


def one_line(error: Exception) -> str:
    """`objective='nl' is unknown; did you mean 'nll'? (choose from ...)` and the like; Hydra's own words where they
    do.
    """
    known = (MissingConfigException, OverrideParseException, OmegaConfBaseException)
    found = error if isinstance(error, known) else error.__cause__ or error
    if isinstance(found, OverrideParseException):
        reason = _joined(found.message).partition(" See https")[0]
        return f"{found.override!r} cannot be read as KEY=VALUE or KEY=VALUE,VALUE: {reason}"
    if isinstance(found, MissingConfigException) and found.missing_cfg_file and found.options:
        group, _, name = str(found.missing_cfg_file).rpartition("/")
        return f"{group}={name!r} {one_of(found.options, name)}"
    if isinstance(found, OmegaConfBaseException) and found.full_key:
        return _about_key(found)
    return _in_a_choice_file(_joined(error)) or _joined(error)


def _in_a_choice_file(text: str) -> str | None:
    """Hydra names only key and class of a misspelt key in a user's file: the choices come from the class."""
    found = re.search(r"In '(\S+)': .*Key '([^']+)' not in '(\w+)Config'", text)
    classes = (*AXES.values(), *SETTINGS.values())
    fields = {cls.__name__: [f.name for f in dataclasses.fields(schema_of(cls))] for cls in classes}
    if not found or found[3] not in fields:
        return None
    return f"{found[1]}.yaml: {found[2]} {one_of(fields[found[3]], found[2])}"


def _about_key(error: OmegaConfBaseException) -> str:
    key, first = str(error.full_key), str(error).strip().splitlines()[0]
    if re.search(r"Key '.*' (is )?not in", first) and error.parent_node is not None:
        given = "" if error.value is None else f"={error.value!r}"
        if not error.parent_node:  # an open mapping without an entry so far
            return f"{key}{given} is not set yet: a + before it adds it (+{key}=...)"
        return f"{key}{given} {one_of(map(str, error.parent_node), key.rpartition('.')[2])}"
    value, kind = (
        re.search(r"Value '(.*?)'", first),
        re.search(r"(?:converted to|is not a valid|to) (\w+)$", first),
    )
    if value and kind:
        return f"{key}={value[1]!r} has the wrong type: it must be {_TYPES.get(kind[1], kind[1])}"
    return f"{key}: {first}"


def _joined(error: object) -> str:
    return " ".join(str(error).split())
