"""The public functions of Python: a model to ask, and building what it is steered by."""
