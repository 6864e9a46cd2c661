"""From records to the continuum: sources -> statistics -> figures, tables, report. Loads no torch.

python -m analysis --source runs --out DIR [--sweep NAME] [--prior clean|as_trained] [--claims]
"""
