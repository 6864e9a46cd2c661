"""Means, gains, averages and their intervals."""
