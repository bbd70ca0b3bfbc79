"""Calibration of judges: labelled pairs, what is good enough, and the task that measures it."""
