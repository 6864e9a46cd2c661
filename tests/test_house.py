"""The house rules: who imports whom, where heavy packages live, pins, secrets, and what a wheel carries."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from grids import cells
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from bll_sweeps.training.rows import read_table

ROOT = Path(__file__).resolve().parent.parent
TOPS = ("bll_sweeps", "jobs", "analysis", "hydra_plugins")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


class Import(NamedTuple):
    module: str  # who imports
    target: str  # what, as a dotted name
    at_import: bool  # when the module is imported, not inside a function or for type checkers only


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(path): path for top in TOPS for path in sorted((ROOT / top).rglob("*.py"))}


def imports_of(module: str, nodes: list[ast.stmt] | None = None, at_import: bool = True) -> Iterator[Import]:
    for node in ast.parse(MODULES[module].read_text()).body if nodes is None else nodes:
        if isinstance(node, ast.Import):
            yield from (Import(module, alias.name, at_import) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative imports hide the layer"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"  # `from bll_sweeps.objectives import family`
                yield Import(module, full if full in MODULES else str(node.module), at_import)
        else:
            deferred = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            types_only = isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
            for inner in (getattr(node, name, []) for name in ("body", "orelse", "finalbody", "handlers", "cases")):
                statements = [part for part in inner if isinstance(part, ast.stmt | ast.ExceptHandler | ast.match_case)]
                yield from imports_of(module, statements, at_import and not deferred and not types_only)  # type: ignore[arg-type]


BY_MODULE = {module: list(imports_of(module)) for module in MODULES}
IMPORTS = [found for imports in BY_MODULE.values() for found in imports]

# A package may use those of its own height and below; the application's entry points are at the top.
LAYERS = [
    ("bll_sweeps.store", "bll_sweeps.code", "bll_sweeps.errors"),
    ("bll_sweeps.grid",),
    ("bll_sweeps.objectives",),
    ("bll_sweeps.training", "bll_sweeps.evaluation", "bll_sweeps.lab", "bll_sweeps.tracking"),
    ("jobs",),
    ("bll_sweeps.cluster",),
    ("bll_sweeps.cli", "hydra_plugins", "jobs.cell"),
]
ANALYSIS_MAY_USE = (
    "analysis",
    "bll_sweeps.store",
    "bll_sweeps.grid.axes",
    "bll_sweeps.grid.cell",
    "bll_sweeps.objectives.family",
    "bll_sweeps.errors",
)

# Third-party packages that are slow to import or tied to one place -> the only modules that may import them.
HOMES = {
    "hydra": ("bll_sweeps.grid.schema", "hydra_plugins", "jobs.cell", "bll_sweeps.cli"),
    "omegaconf": ("bll_sweeps.grid.schema", "hydra_plugins", "jobs.cell", "bll_sweeps.cli"),
    "torch": (
        "bll_sweeps.objectives",
        "bll_sweeps.training",
        "bll_sweeps.evaluation",
        "bll_sweeps.lab",
        "jobs",
    ),
    "transformers": ("bll_sweeps.training", "bll_sweeps.evaluation", "bll_sweeps.lab", "jobs"),
    "lm_eval": ("bll_sweeps.evaluation.harness",),
    "vllm": ("bll_sweeps.evaluation.vllm_worker",),
    "datasets": ("bll_sweeps.evaluation",),
    "pyarrow": ("bll_sweeps.training.rows", "analysis.sources"),
    "reasoning_gym": ("bll_sweeps.lab",),
    "wandb": ("bll_sweeps.tracking",),
    "sympy": ("bll_sweeps.evaluation.grading",),
    "math_verify": ("bll_sweeps.evaluation.grading",),
    "latex2sympy2_extended": ("bll_sweeps.evaluation.grading",),
    "huggingface_hub": ("bll_sweeps.cluster.fetch",),
    "submitit": ("bll_sweeps.cluster",),
    "pandas": ("analysis",),
    "matplotlib": ("analysis",),
    "vl_convert": ("analysis",),
}
# The most that a module may load when it is merely imported: planning, status and analysis stay light.
LIGHT = (
    "bll_sweeps.store",
    "bll_sweeps.grid",
    "bll_sweeps.tracking",
    "bll_sweeps.cluster",
    "bll_sweeps.cli",
    "analysis",
    "jobs",
)
LIGHT += (
    "bll_sweeps.objectives.family",
    "bll_sweeps.objectives.catalogue",
    "bll_sweeps.lab.tasks",
    "bll_sweeps.evaluation.grading",
)
HEAVY = {"torch", "transformers", "lm_eval", "datasets", "reasoning_gym", "wandb", "submitit", "sympy", "pyarrow"}


def within(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def height(module: str) -> int:
    """The layer of a module; the most specific name counts (jobs.cell is not at the height of jobs)."""
    fits = [(len(name), level) for level, names in enumerate(LAYERS) for name in names if within(module, name)]
    assert fits, f"{module} is in no layer: name it in LAYERS"
    return max(fits)[1]


def listed(problems: list[str]) -> str:
    return "\n".join(sorted(set(problems)))


def test_layers_import_downwards() -> None:
    ours = [found for found in IMPORTS if within(found.target, *TOPS) and not within(found.module, "analysis")]
    upwards = [
        f"{found.module} imports {found.target}"
        for found in ours
        if not within(found.target, "analysis") and height(found.target) > height(found.module)
    ]
    assert not upwards, listed(upwards)


def test_only_the_command_line_knows_the_analysis() -> None:
    users = {found.module for found in IMPORTS if within(found.target, "analysis")}
    assert [module for module in users if not within(module, "analysis", "bll_sweeps.cli")] == []


def test_analysis_needs_records_only() -> None:
    found = [
        f"{found.module} imports {found.target}"
        for found in IMPORTS
        if within(found.module, "analysis")
        and within(found.target, *TOPS)
        and not within(found.target, *ANALYSIS_MAY_USE)
    ]
    assert not found, listed(found)


@pytest.mark.parametrize("package", HOMES)
def test_packages_stay_in_their_homes(package: str) -> None:
    strays = [
        f"{found.module} imports {found.target}"
        for found in IMPORTS
        if within(found.target, package) and not within(found.module, *HOMES[package])
    ]
    assert not strays, listed(strays)


def test_light_modules_load_nothing_heavy_when_imported() -> None:
    def loads(module: str, seen: set[str]) -> Iterator[tuple[str, str]]:
        """What importing the module loads, through all modules of ours that it loads in turn."""
        seen.add(module)
        package = module.rpartition(".")[0]
        if package in MODULES and package not in seen:
            yield from loads(package, seen)
        for found in (found for found in BY_MODULE[module] if found.at_import):
            if found.target not in MODULES:
                yield module, found.target.partition(".")[0]
            elif found.target not in seen:
                yield from loads(found.target, seen)

    problems = [
        f"importing {module} loads {package} (in {where})"
        for module in MODULES
        if within(module, *LIGHT)
        for where, package in loads(module, set())
        if package in HEAVY
    ]
    assert not problems, listed(problems)


def test_hydra_finds_the_plugins() -> None:
    assert not (ROOT / "hydra_plugins" / "__init__.py").exists(), "hydra_plugins is a namespace package"
    assert (ROOT / "hydra_plugins" / "bll" / "__init__.py").exists(), "Hydra's scan needs it"


# --- pins ---------------------------------------------------------------------------------------------------


def pins() -> dict[str, str]:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line) for line in lines), (
        "name==version only: no +local, no path"
    )
    return {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines)}


def test_every_dependency_is_pinned_within_its_range() -> None:
    project = PROJECT["project"]
    wanted = [
        *project["dependencies"],
        *project["optional-dependencies"]["dev"],
        *PROJECT["build-system"]["requires"],
    ]
    pinned = pins()
    for requirement in map(Requirement, wanted):
        name = canonicalize_name(requirement.name)
        assert name in pinned, f"{name} is not pinned in constraints.txt"
        assert requirement.specifier.contains(pinned[name]), f"{requirement} excludes the pin {pinned[name]}"


def test_no_cuda_package_is_pinned() -> None:
    """torch's build decides which it needs; a pin would break the others."""
    assert [name for name in pins() if re.match(r"(nvidia|cuda|triton)", name)] == []


def test_versions_are_told_once() -> None:
    project, tool = PROJECT["project"], PROJECT["tool"]
    python = project["requires-python"].removeprefix(">=")
    assert tool["mypy"]["python_version"] == python
    assert tool["ruff"]["target-version"] == "py" + python.replace(".", "")
    assert f"Python :: {python}" in " ".join(project["classifiers"])
    assert f"## [{project['version']}]" in (ROOT / "CHANGELOG.md").read_text()


# --- what may be in no file ---------------------------------------------------------------------------------

FORBIDDEN = {
    "a path of one machine": r"(?<![\w.$}])/(?:home|Users|root|work|scratch|mnt)/\w",
    "a token": r"\b(?:hf_|ghp_|gho_|github_pat_|sk-|xox[bp]-|AKIA)[A-Za-z0-9_]{16,}",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY",
    "a key that is written out": r"(?i)(?:api_?key|password|secret)[\"']?\s*[:=]\s*[\"']?[A-Za-z0-9+/]{20,}",
}


def our_files() -> list[Path]:
    """Files that are tracked or would be; in an unpacked archive, all but the environment and the runs."""
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    if (ROOT / ".git").exists():
        names = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split("\0")
        paths = [ROOT / name for name in names if name]
    else:
        paths = [p for p in ROOT.rglob("*") if not {".venv", "runs", "__pycache__"} & set(p.relative_to(ROOT).parts)]
    return [path for path in paths if path.is_file()]


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_holds(what: str) -> None:
    found = []
    for path in our_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # a figure
        found += [f"{path.relative_to(ROOT)}: {match[0]}" for match in re.finditer(FORBIDDEN[what], text)]
    assert not found, listed(found)


# --- the README -----------------------------------------------------------------------------------------------


def bll(*arguments: str, folder: Path) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "BLL_CONF": str(folder), "BLL_RUNS": str(folder / "runs")}
    command = [sys.executable, "-c", "from bll_sweeps.cli import main; main()", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_readme_tells_every_command(tmp_path: Path) -> None:
    told = set(re.findall(r"^\| `bll (\w+)", (ROOT / "README.md").read_text(), re.MULTILINE))
    assert told == set(re.findall(r"^    (\w+)(?: |$)", bll("--help", folder=tmp_path), re.MULTILINE))


def test_the_readme_has_the_recorded_measurements() -> None:
    command = [sys.executable, "-m", "bench.readme", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_choices_in_the_readme_can_be_planned_and_their_tables_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for text in re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL):
        named = re.search(r"^# ((?:\w+/)+\w+\.yaml) ", text, re.MULTILINE)  # a comment names the file
        assert named, text
        file = tmp_path / named[1]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (tmp_path / "data").mkdir()
    train = '{"riddle": "What has keys?", "solutions": [{"text": "a piano"}]}\n'
    (tmp_path / "data/riddles.train.jsonl").write_text(train * 1200)
    (tmp_path / "data/riddles.test.jsonl").write_text('{"question": "What has keys?", "answer": "a piano"}\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BLL_CONF", str(tmp_path))
    (cell,) = cells("benchmark=riddles")
    assert cell.domain.table and cell.benchmark.table
    for table in (cell.domain.table, cell.benchmark.table):
        item = read_table(table, "data")[-1]
        assert (item.question, item.answer) == ("What has keys?", "a piano")
    assert "2 cells" in bll("plan", "objective=nll,p4", "benchmark=riddles", folder=tmp_path)
    assert "mine: 13 cells" in bll("plan", "sweep=mine", folder=tmp_path)
    assert "on 2 GPUs" in bll(
        "plan", "sweep=smoke", "execution=cuda", "hydra/launcher=mysite", "--gpus", "2", folder=tmp_path
    )


# --- the wheel ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_wheel_carries_what_an_installation_needs(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        str(ROOT),
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "-w",
        str(tmp_path),
    ]
    built = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("bll_sweeps-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        entry_points = next(archive.read(name).decode() for name in names if name.endswith("entry_points.txt"))
    wanted = {f"bll_sweeps/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "conf").rglob("*.yaml")}
    wanted |= {path.relative_to(ROOT).as_posix() for path in (ROOT / "bll_sweeps/evaluation/tasks").glob("*.yaml")}
    wanted |= {path.relative_to(ROOT).as_posix() for path in MODULES.values()}
    rehearsal = [path for path in (ROOT / "bll_sweeps/lab/rehearsal").rglob("*") if path.is_file()]
    assert len(rehearsal) >= 8
    wanted |= {path.relative_to(ROOT).as_posix() for path in rehearsal}
    numbers = list((ROOT / "analysis/paper").glob("*.csv"))
    assert len(numbers) >= 4
    wanted |= {path.relative_to(ROOT).as_posix() for path in numbers}
    assert "bll_sweeps/conf/cell.yaml" in wanted and "hydra_plugins/bll/__init__.py" in wanted
    assert wanted - names == set()
    assert "hydra_plugins/__init__.py" not in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not [name for name in names if name.startswith(("tests/", "runs/", "bench/"))]
    assert "bll = bll_sweeps.cli:main" in entry_points
