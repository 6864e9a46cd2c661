"""One module per kind of figure; all.py draws them all."""
