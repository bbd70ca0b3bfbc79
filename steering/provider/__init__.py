"""`steered/<name>` for Inspect: the provider, and its messages as requests and outputs."""
