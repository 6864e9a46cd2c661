"""Where numbers come from: a run root, read into tidy tables."""
