"""Which objective the evidence in a store favours for a backbone on a domain, how sure, and what would settle it."""
