"""Which objective is best at a point, and whether the intervals say so."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import pandas as pd

from analysis.sources.table import PLACE, Results
from analysis.statistics.benchmarks import PRIMARY, by_place
from analysis.statistics.continuum import Prior, gains
from analysis.statistics.seeds import decisive

Key = tuple[str, str, str, str]  # backbone, domain, variant, decoding


@dataclass(frozen=True)
class Leader:
    """The trained objective with the highest mean score at a place, and those that may be as good.

    level: the objectives, `top` first, whose paired difference to `top` has an interval that is not below zero.
    compared: how many objectives have scores. lacking: those of its cells that have none.
    """

    top: str
    level: tuple[str, ...]
    compared: int
    lacking: tuple[str, ...]

    @property
    def decided(self) -> bool:
        """Whether `top` beats every other objective that has scores, each by a 95 % interval (uncorrected)."""
        return self.compared > 1 and len(self.level) == 1


def leaders(results: Results, rows: pd.DataFrame, prior: Prior = "clean") -> dict[Key, Leader]:
    """The leader of each place and decoding of `rows`, those of benchmarks.by_place over means.

    The untrained backbone is not among the objectives. A place of which nothing is scored has no leader.
    """
    trained = rows[rows["objective"] != "base"]
    scored = trained[trained["n"] > 0].sort_values("mean", ascending=False, kind="stable")
    tops = {key: str(mine["objective"].iloc[0]) for key, mine in _groups(scored)}
    against = dict(_groups(_against_the_best(results, tops, prior)))
    out: dict[Key, Leader] = {}
    for key, mine in _groups(trained):
        if key not in tops:
            continue
        done = list(dict.fromkeys(mine.loc[mine["n"] > 0, "objective"]))
        others = against.get(_plain_decoding(results, key))
        worse = set() if others is None else set(others.loc[others["gain_high"] < 0, "objective"])
        level = [tops[key], *(name for name in done if name not in worse and name != tops[key])]
        lacking = tuple(name for name in dict.fromkeys(mine["objective"]) if name not in done)
        out[key] = Leader(tops[key], tuple(level), len(done), lacking)
    return out


def _groups(rows: pd.DataFrame) -> list[tuple[Key, pd.DataFrame]]:
    if rows.empty:
        return []
    groups = rows.groupby([*PLACE, "decoding"], sort=False)
    return [((str(b), str(d), str(v), str(name)), mine) for (b, d, v, name), mine in groups]


def _against_the_best(results: Results, tops: dict[Key, str], prior: Prior) -> pd.DataFrame:
    """Gains of the others over the best of each place and decoding; objectives that are best share one computation."""
    cells = results.cells
    place_of = pd.MultiIndex.from_frame(cells[PLACE])
    tables = []
    for top in dict.fromkeys(tops.values()):
        mine = {key for key, name in tops.items() if name == top}
        some = cells[place_of.isin({key[:3] for key in mine})]
        table = gains(dataclasses.replace(results, cells=some), prior, reference=top)
        table = decisive(by_place(table, cells))
        if len(table):
            keep = [key in mine for key in table[[*PLACE, "decoding"]].itertuples(index=False, name=None)]
            tables.append(table[keep])
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def _plain_decoding(results: Results, key: Key) -> Key:
    """Rows of each benchmark's own primary decoding: the key of that decoding, where a place has one."""
    if key[3] != PRIMARY:
        return key
    cells = results.cells
    mine = cells[cells["primary"].astype(bool) & (cells[PLACE] == list(key[:3])).all(axis=1)]
    names = mine["decoding"].unique()
    return (*key[:3], str(names[0])) if len(names) == 1 else key
