"""Hydra's plugins of bll-sweeps: thin adapters onto bll_sweeps.grid and bll_sweeps.cluster.

Hydra executes these modules again when it scans for plugins, so they hold no state; an error here other than
ImportError would break every Hydra application of the environment.
"""
