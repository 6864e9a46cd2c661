"""Real SLURM clusters for tests. Each process of pytest-xdist starts its own when a test first asks for it.

`slurm` is that cluster, `slurm_with` makes special ones for a module, `bll` is the command line on `slurm`. Where SLURM
is missing the tests are skipped; under BLL_REQUIRE_SLURM=1, as in CI, they fail. A module whose tests and command line
need another cluster overrides the fixture:

    @pytest.fixture(scope="module")
    def slurm(slurm_with):
        return slurm_with(MaxArraySize=8)
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
sys.path.append(str(HERE))  # helper modules, under --import-mode=importlib; behind tests/, whose conftest is imported

from slurm_cluster import Slurm, SlurmError, cluster, require_slurm  # noqa: E402

RUNNING: list[Slurm] = []  # this process's clusters


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("cluster")
            item.add_marker("slow")


@contextlib.contextmanager
def running(**settings: Any) -> Iterator[Slurm]:
    require_slurm()
    with cluster(**settings) as slurm:
        RUNNING.append(slurm)
        try:
            yield slurm
        finally:
            RUNNING.remove(slurm)


@pytest.fixture(scope="session")
def slurm() -> Iterator[Slurm]:
    """The cluster of this process: four nodes, accounting with slurmdbd, SLURM's usual limits."""
    with running() as slurm:
        yield slurm


@pytest.fixture(scope="module")
def slurm_with() -> Iterator[Callable[..., Slurm]]:
    """`slurm_with(MaxArraySize=8, MinJobAge=5, accounting=False)` -> a cluster with these lines in slurm.conf, up until
    the module's tests are done.
    """
    with contextlib.ExitStack() as clusters:
        yield lambda **settings: clusters.enter_context(running(**settings))


@pytest.fixture(autouse=True)
def leaves_the_clusters_empty() -> Iterator[None]:
    """A test ends what it started; whatever it left is cleared away, so that the next one finds an idle cluster."""
    yield
    left = []
    for slurm in RUNNING:
        try:
            slurm.scontrol("ping")  # says at once what squeue needs 9 s for
            left += slurm.active()
        except SlurmError as error:
            left.append(str(error))
        slurm.cancel_everything()
    if left:
        pytest.fail("the test left on the cluster:\n" + "\n".join(left), pytrace=False)


@pytest.fixture
def bll(bll: Callable[..., Any], slurm: Slurm) -> Callable[..., Any]:
    """The command line as in other tests, in the environment of the cluster."""

    def call(*args: str, env: dict[str, str] | None = None, **options: Any) -> Any:
        return bll(*args, env={"SLURM_CONF": slurm.env["SLURM_CONF"]} | (env or {}), **options)

    return call
