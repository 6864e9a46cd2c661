"""The configuration tree conf/ and its way to cells. Hydra and OmegaConf are imported here and nowhere below.

config.py   the typed schema, made from the frozen values of grid/axes.py
compose.py  many cells composed at the cost of few: each choice once, then merged
resolve.py  a composed configuration -> Cell, Execution, Tracker, run root
grids.py    a sweep's grids and command-line overrides -> the overrides of each cell
"""
