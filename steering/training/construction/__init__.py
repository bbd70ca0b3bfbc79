"""Methods of building steering vectors: a file here is a method, and its one class all of it."""

from steering.training.methods import ConstructionMethod, find_methods

DEFAULT_METHOD = "sft"
CONSTRUCTION_METHODS: dict[str, type[ConstructionMethod]] = find_methods(
    __name__, ConstructionMethod, DEFAULT_METHOD
)
