"""The evaluations: what Inspect lists and runs. One file a task, with a function of its name."""

from importlib import import_module
from pkgutil import iter_modules

TASKS = {
    module.name: getattr(import_module(f"evals.{module.name}"), module.name)
    for module in iter_modules(__path__)
}
