"""From records to the continuum: table -> continuum (statistics) -> tables, figures, report.

claims.py recomputes the lab's findings.

python -m analysis --source runs --out DIR [--sweep NAME] [--prior clean|as_trained] [--claims]
"""
