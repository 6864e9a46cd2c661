"""Adds $BLL_CONF, a folder of a user's own choices, to Hydra's search path."""

from __future__ import annotations

import os

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin


class UserChoices(SearchPathPlugin):
    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        folder = os.environ.get("BLL_CONF", "")
        if folder:
            search_path.append("bll-user", f"file://{os.path.abspath(folder)}")  # noqa: PTH100 - no imports before they are needed
