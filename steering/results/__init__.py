"""Results: logs in, one frame of answers out, and the figures of its conditions."""
