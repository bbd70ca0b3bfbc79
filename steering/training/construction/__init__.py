"""Methods of building steering vectors: a file here is a method, and its one class all of it."""

from steering.training.methods import ConstructionMethod, find_methods

DEFAULT_METHOD = "mean_difference"
"""Of a language model that is asked for a vector without a method."""
TOY_METHOD = "sft"
"""Of a toy."""
CONSTRUCTION_METHODS: dict[str, type[ConstructionMethod]] = find_methods(
    __name__, ConstructionMethod, DEFAULT_METHOD
)


def default_method(*, toy: bool) -> str:
    """The method by which a model's vector is built when none is named."""
    return TOY_METHOD if toy else DEFAULT_METHOD


def methods_with(setting: str) -> list[str]:
    """Names of the methods that have a setting."""
    return [name for name, kind in CONSTRUCTION_METHODS.items() if setting in kind.model_fields]
