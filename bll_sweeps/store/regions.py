"""The regions of the continuum: where a prior strength lies, and where the paper puts its domains."""

from __future__ import annotations

import math

# Model-weak up to the first, model-strong from the second, model-intermediate between. The paper (Table 5) reports
# prior strengths of .76 to .81 (mathematics, strong), .50 to .59 (medical, intermediate), .01 to .07 (figfont, weak)
# and names no edges: these are the middles of its two gaps, .29 and .68, to one decimal.
REGION_EDGES = (0.3, 0.7)
REGIONS = {"MW": "model-weak", "MI": "model-intermediate", "MS": "model-strong"}


def region(prior: float) -> str:
    """MW, MI or MS by prior strength (edges: REGION_EDGES); '' where the prior is not known."""
    if math.isnan(prior):
        return ""
    return "MW" if prior <= REGION_EDGES[0] else "MS" if prior >= REGION_EDGES[1] else "MI"


PAPER_REGIONS = {"math": "MS", "medical": "MI", "figfont": "MW"}  # the paper's own rule (Section 4.1): by domain alone


def region_paper(domain: str) -> str:
    """MW, MI or MS as the paper assigns its three domains, whatever the prior strength; '' for any other domain."""
    return PAPER_REGIONS.get(domain, "")
