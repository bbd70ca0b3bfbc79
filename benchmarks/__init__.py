"""Timings, as ratios measured side by side in one run. Not tests, and not installed."""
