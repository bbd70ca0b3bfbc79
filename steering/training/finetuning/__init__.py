"""Methods of finetuning a counterpart: a file here is a method, and its one class all of it."""

from steering.training.methods import FinetuningMethod, find_methods

DEFAULT_METHOD = "lora"
FINETUNING_METHODS: dict[str, type[FinetuningMethod]] = find_methods(
    __name__, FinetuningMethod, DEFAULT_METHOD
)
