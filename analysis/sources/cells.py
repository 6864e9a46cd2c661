"""From a sweep's manifests to its distinct cells: their names, their variants, their decodings."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from analysis.sources.files import check_version
from analysis.sources.reading import Reader
from bll_sweeps.errors import StoreError, UsageError, one_of
from bll_sweeps.store.layout import Layout, SweepFiles
from bll_sweeps.store.records import read_json

_JOB = re.compile("[a-z]+-[0-9a-f]{16}")
AXES = ("objective", "backbone", "domain", "benchmark", "recipe", "seed")
# Overrides that say how and where a cell runs make no other variant of it, nor does the choice of an axis.
OUTDATED = "as of launch "  # a variant: what a later launch of the same cell has otherwise
_PLACES = {"sweep", "execution", "tracker", "paths", "hydra"}


@dataclass
class ManifestCell:
    """One cell of a manifest."""

    labels: dict[str, Any]
    overrides: list[str]
    jobs: dict[str, str | None]
    launch: int
    primary: (
        str  # the decoding that stands for the benchmark, as this launch says (the spec has the first launch's word)
    )
    graders: list[str] = field(default_factory=list)  # names, the one whose scores count first; none: the record's own
    settings: list[str] = field(default_factory=list)  # overrides that make a variant of it, label noise apart
    noise: str = ""
    variant: str = ""
    decodings: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def grader(self) -> str:
        return self.graders[0] if self.graders else ""

    def job(self, kind: str) -> str:
        return self.jobs.get(kind) or ""


def find_sweep(layout: Layout, sweep: str | None) -> SweepFiles:
    names = layout.sweeps()
    if not names:
        raise UsageError(f"{layout.root} holds no sweep; `bll launch` makes one, --source names another run root")
    if sweep is None:
        sweep = names[-1]
    if sweep not in names:
        raise UsageError(f"sweep={sweep!r} {one_of(names, sweep)}")
    return layout.sweep(sweep)


def read_manifests(
    files: SweepFiles, launch: int | None, every_launch: bool
) -> tuple[list[dict[str, Any]], list[Path]]:
    """The manifests that were asked for, and their paths."""
    numbers = files.launches()
    if not numbers:
        raise UsageError(f"sweep {files.name} has no launch yet")
    if launch is not None and launch not in numbers:
        raise UsageError(f"launch={launch} {one_of(map(str, numbers), launch)}")
    wanted = numbers if every_launch else [numbers[-1] if launch is None else launch]
    manifests = [read_json(files.manifest(number)) for number in wanted]
    for number, manifest in zip(wanted, manifests, strict=True):
        if not isinstance(manifest, dict) or not isinstance(manifest.get("cells"), list):
            raise StoreError(
                f"{files.manifest(number)} is not a manifest; `bll launch sweep={files.name}` writes a new one"
            )
        check_version(files.manifest(number), manifest)
        for job in jobs_of([manifest]):
            if not _JOB.fullmatch(job):
                raise StoreError(f"{files.manifest(number)} names {job!r}, which is no id of a job (<kind>-<16 hex>)")
    return manifests, [files.manifest(number) for number in wanted]


def jobs_of(manifests: list[dict[str, Any]]) -> list[str]:
    """The ids of all jobs of the manifests' cells, sorted."""
    cells = [data for manifest in manifests for data in manifest["cells"] if isinstance(data, dict)]
    jobs = [cell["jobs"].values() for cell in cells if isinstance(cell.get("jobs"), dict)]
    return sorted({str(job) for of_cell in jobs for job in of_cell if job})


def distinct_cells(manifests: list[dict[str, Any]]) -> tuple[list[ManifestCell], list[str]]:
    """The distinct cells of the manifests, and the overrides that all of them share.

    A cell whose jobs changed from one launch to a later one is two variants. What all cells share (label noise apart)
    is in no variant; of a single cell everything is.
    """
    found: dict[tuple[str, str], ManifestCell] = {}
    for manifest in manifests:
        for data in manifest["cells"]:
            cell = _read_cell(data, manifest)
            suffix = _objective_suffix(cell)
            if suffix:
                cell.labels["objective"] = f"{cell.labels['objective']}({suffix})"
            cell.settings, cell.noise = settings_of(cell.overrides)
            cell.variant = _variant(cell)
            found[_name(cell), cell.job("evaluate")] = cell
    cells = list(found.values())
    shared = [text for text in cells[0].settings if all(text in cell.settings for cell in cells)] if cells[1:] else []
    for cell in cells:
        cell.settings = [text for text in cell.settings if text not in shared]
        cell.variant = _variant(cell)
    by_name: dict[str, list[ManifestCell]] = {}
    for cell in cells:
        by_name.setdefault(_name(cell), []).append(cell)
    for namesakes in by_name.values():
        newest = max(cell.launch for cell in namesakes)
        for cell in namesakes:
            if cell.launch < newest:
                cell.variant = ", ".join(filter(None, [cell.variant, f"{OUTDATED}{cell.launch}"]))
    _name_recipes(cells)
    return cells, shared


def _read_cell(data: Any, manifest: dict[str, Any]) -> ManifestCell:
    try:
        cell = ManifestCell(
            dict(data["labels"]),
            list(data["overrides"]),
            dict(data["jobs"]),
            int(manifest["launch"]),
            data["primary"],
            list(data.get("graders", [])),
        )
        lacking = [axis for axis in AXES if axis not in cell.labels]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        lacking = [str(error)]
    if lacking:
        where = f"launch {manifest.get('launch')} of sweep {manifest.get('sweep')}"
        raise StoreError(
            f"a cell in the manifest of {where} lacks {', '.join(lacking)}: another version of bll-sweeps wrote it, or "
            "it is damaged; `bll launch` writes a new one"
        )
    return cell


def _name(cell: ManifestCell) -> str:
    return json.dumps([cell.labels, cell.variant], sort_keys=True)


def _objective_suffix(cell: ManifestCell) -> str:
    """The overrides of the objective that its name does not tell: `power-0.3` needs no second `alpha=0.3`."""
    name = str(cell.labels["objective"])
    told = {"name": name, "alpha": _plain_number(name.partition("-")[2])}
    settings = {
        key.removeprefix("objective."): value
        for key, value in _overrides(cell.overrides)
        if key.startswith("objective.")
    }
    return ", ".join(sorted(f"{key}={value}" for key, value in settings.items() if told.get(key) != value))


def _variant(cell: ManifestCell) -> str:
    return ", ".join(filter(None, [cell.noise, *cell.settings]))


def settings_of(overrides: list[str]) -> tuple[list[str], str]:
    """A cell's overrides other than axis choices and those of its objective, in order of the key; its label noise."""
    kept, noise = [], {}
    for key, value in _overrides(overrides):
        if key.startswith("domain.noise."):
            noise[key] = value
        elif not key.startswith("objective."):
            kept.append(f"{key}={value}")
    return sorted(kept), " ".join(["noise", *(noise[key] for key in sorted(noise))]) if noise else ""


def _overrides(overrides: list[str]) -> list[tuple[str, str]]:
    """(key, value) of the overrides that say what a cell is; 1e-4 and 0.0001 are one value."""
    out = []
    for override in overrides:
        key, _, value = override.lstrip("+~").partition("=")
        if key not in AXES and key.replace("/", ".").split(".")[0] not in _PLACES:
            out.append((key, _plain_number(value)))
    return out


def _plain_number(text: str) -> str:
    """Numbers in one notation, other texts as they are."""
    try:
        number = float(text)
    except ValueError:
        return text
    return str(int(number)) if number.is_integer() and abs(number) < 1e15 else repr(number)


def _name_recipes(cells: list[ManifestCell]) -> None:
    """Where a backbone was trained on a domain with several recipes, the recipe is part of the variant."""
    recipes: dict[tuple[str, ...], set[str]] = {}
    for cell in cells:
        if cell.job("train"):
            recipes.setdefault(_point_key(cell), set()).add(cell.labels["recipe"])
    for cell, key in [(cell, _point_key(cell)) for cell in cells]:
        if len(recipes.get(key, ())) > 1:
            cell.variant = ", ".join(filter(None, [cell.variant, f"recipe={cell.labels['recipe']}"]))


def _point_key(cell: ManifestCell) -> tuple[str, ...]:
    return cell.labels["backbone"], cell.labels["domain"], cell.variant


def spread_decodings(cells: list[ManifestCell], reader: Reader) -> None:
    """Which decodings each cell has: from its spec, or from another cell of the same benchmark, or from one of its
    domain with the same primary decoding.
    """
    known: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for cell in cells:
        decodings = _decodings(cell.job("evaluate"), reader)
        if decodings:
            names = sorted(decodings, key=lambda name: (name != cell.primary, name))
            cell.decodings = {name: {**decodings[name], "primary": name == cell.primary} for name in names}
            known.setdefault((cell.labels["benchmark"], ""), cell.decodings)
            known.setdefault((cell.labels["domain"], cell.primary), cell.decodings)
    for cell in cells:
        alike = known.get((cell.labels["benchmark"], "")) or known.get((cell.labels["domain"], cell.primary))
        cell.decodings = cell.decodings or alike or {"": {"primary": True}}


def _decodings(job_id: str, reader: Reader) -> dict[str, dict[str, Any]]:
    """The decodings of an evaluation by name, as its spec has them; {} where there is no spec that tells them."""

    def read() -> dict[str, dict[str, Any]] | None:
        spec = reader.read_spec(job_id)
        return None if spec is None else {n: dict(d) for n, d in spec["job"]["benchmark"]["decodings"].items()}

    return reader.once("decodings", job_id, read) or {}
