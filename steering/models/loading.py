"""Weights and tokenizer of a model in memory, in the requested precision and on its devices."""

import inspect
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from steering.models.blocks import find_blocks
from steering.models.chat import answer_end
from steering.models.checkpoint import check_weights, refuse_unfit, silence
from steering.models.gguf import KIND
from steering.models.source import (
    ModelError,
    ModelSource,
    Shape,
    check_unchanged,
    config_location,
    gguf_path,
    load_config,
    read_shape,
    readable,
    where_from,
)
from steering.models.templates import fix_date, use_template

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

QUANTIZED = ("int8", "nf4")
# Stands for all accelerators of the machine, as many as the weights need.
EVERY = "every"


@dataclass(frozen=True)
class LoadedModel:
    """A model in memory.

    Attributes:
        model: The transformers model, in eval mode, frozen.
        tokenizer: Its tokenizer, with the chat template that is used.
        blocks: Path of the list of transformer blocks inside `model`.
        mlp: Path of the MLP in a block, if the user names it.
        shape: Depth and width.
        end_tokens: Ids that end an answer: those of the generation config, of the tokenizer and of
            the chat template.
    """

    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    blocks: str
    shape: Shape
    end_tokens: tuple[int, ...]
    mlp: str | None = None

    def accepts(self, argument: str) -> bool:
        """Whether the model's forward pass takes this argument."""
        return argument in inspect.signature(self.model.forward).parameters

    @property
    def cache_argument(self) -> str:
        """Name of the forward pass's cache: transformers 5.24 renamed it."""
        return "cache" if self.accepts("cache") else "past_key_values"

    def check_gradients(self) -> None:
        """Refuse a model through whose weights no gradient passes.

        Raises:
            ModelError: They are stored in a quantization whose kernels have none.
        """
        quantizer = getattr(self.model, "hf_quantizer", None)
        if quantizer is not None and not quantizer.is_trainable:
            raise ModelError(
                f"the weights of {self.model.name_or_path} are stored quantized "
                f"({_quantization(self.model.config)}), through which no gradient passes: build "
                "with method=mean_difference or pca, or on a checkpoint that is not quantized"
            )


def check_device(device: str) -> None:
    """Refuse a device that this machine does not have; `auto` is always allowed.

    Raises:
        ModelError: It names the devices of the machine.
    """
    if device in ("auto", "cpu"):
        return
    import torch

    devices = ["cpu"]
    if accelerator := torch.accelerator.current_accelerator(check_available=True):
        count = torch.accelerator.device_count()
        devices += [f"{accelerator.type}:{index}" for index in range(count)]
        devices.append(EVERY)
    if device not in (*devices, *(name.partition(":")[0] for name in devices)):
        raise ModelError(f"device={device} is not on this machine: it has {', '.join(devices)}")


def check_dtype(dtype: str) -> None:
    """Refuse a precision for which a library is missing.

    Raises:
        ModelError: It names the package to install.
    """
    from importlib.util import find_spec

    if dtype in QUANTIZED and find_spec("bitsandbytes") is None:
        raise ModelError(
            f"dtype={dtype} needs bitsandbytes, which is not installed: "
            "pip install 'steering[quantized]'"
        )


def import_code(source: ModelSource) -> None:
    """Import torch, transformers and the model's code, which takes seconds; load no weights.

    Raises:
        ModelError: The weights of a local model are not those that its config describes.
    """
    config = load_config(source)
    _auto_class(config)
    if source.local:
        check_checkpoint(source, config)


def build_empty(source: ModelSource) -> "PreTrainedModel":
    """The model as its config describes it, without memory for its weights (on `meta`)."""
    import torch

    config = load_config(source)
    with torch.device("meta"), readable(source):
        model: PreTrainedModel = _auto_class(config).from_config(
            config, trust_remote_code=source.trust_remote_code
        )
    return model


def check_checkpoint(source: ModelSource, config: "PretrainedConfig") -> None:
    """Refuse a checkpoint whose weights are not those that its config describes; reads none.

    Weights that are stored quantized, and those of a GGUF file, are checked as they load: their
    shapes are others.

    Raises:
        ModelError: It names the weights.
    """
    # A model of Python of its own need not allow to be built without memory.
    if _quantization(config) is None and not source.trust_remote_code and source.gguf is None:
        check_weights(_auto_class(config), source, where_from(source))


def load_model(
    source: ModelSource, *, dtype: str = "auto", device: str = "auto", weights: str | None = None
) -> LoadedModel:
    """Load weights and tokenizer.

    Args:
        source: The model, from `find_model`.
        dtype: `auto` (the checkpoint's own), the name of a torch dtype, or `int8` or `nf4`
            (weights quantized by bitsandbytes as they load).
        device: `auto` (an accelerator if there is one), a torch device, or `every` (all
            accelerators, as many as the weights need).
        weights: Digest that the weights must have, before and after they are read.

    Raises:
        ModelError: Weights are missing from the checkpoint, or the blocks can't be found.
    """
    import torch
    from transformers import BitsAndBytesConfig
    from transformers.utils import logging

    if weights is not None:
        check_unchanged(source, weights)
    config = load_config(source)
    _check_quantization(config, dtype, source)
    if device == "auto":
        available = torch.accelerator.is_available()
        device = str(torch.accelerator.current_accelerator() if available else "cpu")
    if device == "cpu":
        # No advice on GPU kernels, and no progress bar for a load that takes a moment.
        logging.set_verbosity_error()
        logging.disable_progress_bar()
    options: dict[str, Any] = {"dtype": "auto"}
    if dtype == "int8":
        # By default bitsandbytes multiplies columns in which any row of the batch has an outlier in
        # float16: one row's steering would change the others.
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_8bit=True, llm_int8_threshold=0.0
        )
    elif dtype == "nf4":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
        )
    elif dtype != "auto":
        options["dtype"] = getattr(torch, dtype)
    if device == "cpu":
        # Of those that are stored quantized, parts are not among the parameters.
        options["disable_mmap"] = _quantization(config) is not None
    if device != "cpu" or dtype in QUANTIZED:
        # Weights are read onto their devices directly, not through the machine's memory.
        options["device_map"] = "auto" if device == EVERY else {"": device}
    check_checkpoint(source, config)
    if source.gguf is not None:
        options |= _gguf_options(source, config, dtype)
    with readable(source), silence() if source.gguf is not None else nullcontext():
        model, report = _auto_class(config).from_pretrained(
            config_location(source), output_loading_info=True, **options, **where_from(source)
        )
    refuse_unfit(model, report, source)
    tokenizer = load_tokenizer(source)
    model = model.eval().requires_grad_(False)
    if device == "cpu":
        _copy_out_of_file(model)
    if weights is not None:
        check_unchanged(source, weights)
    _keep_unpacked(model)
    shape = read_shape(source)
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        blocks=find_blocks(model, shape.num_layers, source.blocks),
        shape=shape,
        end_tokens=_end_tokens(model.generation_config, tokenizer, source),
        mlp=source.mlp,
    )


def load_tokenizer(source: ModelSource) -> "PreTrainedTokenizerBase":
    """The tokenizer alone, with the source's chat template and date."""
    from transformers import AutoTokenizer

    with readable(source):
        tokenizer = AutoTokenizer.from_pretrained(config_location(source), **where_from(source))
        tokenizer.encode("a")  # some settings of a wrong type fail only here
    tokenizer.name_or_path = source.location
    if source.template is not None:
        use_template(tokenizer, source.template)
    if source.date is not None:
        fix_date(tokenizer, source.date)
    return tokenizer


def end_tokens(source: ModelSource, tokenizer: "PreTrainedTokenizerBase") -> tuple[int, ...]:
    """Ids that end an answer, of a model that is not loaded.

    Raises:
        ModelError: Neither the generation config, the tokenizer nor the template names one.
    """
    from transformers import GenerationConfig

    try:
        generation = GenerationConfig.from_pretrained(config_location(source), **where_from(source))
    except OSError:  # a checkpoint without such a file
        generation = GenerationConfig.from_model_config(load_config(source))
    return _end_tokens(generation, tokenizer, source)


def family_of(config: "PretrainedConfig") -> tuple[str, bool]:
    """Architecture of a model from its text config, and whether it has linear attention.

    The architecture is the config's `model_type`, without `_text`.
    """
    layers = getattr(config, "layer_types", None) or ()
    return config.model_type.removesuffix("_text"), "linear_attention" in layers


def _auto_class(config: "PretrainedConfig") -> Any:
    """The class that loads a model; this imports the model's code.

    Some families, such as Mistral 3, have no text-only class for a multimodal checkpoint.
    """
    from transformers import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        AutoModelForCausalLM,
        AutoModelForImageTextToText,
    )

    is_causal = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None) is not None
    is_causal |= "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
    return AutoModelForCausalLM if is_causal else AutoModelForImageTextToText


def _gguf_options(source: ModelSource, config: "PretrainedConfig", dtype: str) -> dict[str, Any]:
    """Arguments of `from_pretrained` that load the weights of a GGUF file, dequantized."""
    from transformers import GgufConfig

    options = {
        "config": config,
        "gguf_file": str(gguf_path(source)),
        "quantization_config": GgufConfig(dequantize=True),
        "ignore_mismatched_sizes": True,  # which `refuse_unfit` names
    }
    return options | ({"dtype": config.dtype} if dtype == "auto" else {})


def _copy_out_of_file(model: "PreTrainedModel") -> None:
    """Copy weights that are mapped from a file, or whoever writes into it changes them."""
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()


def _quantization(config: "PretrainedConfig") -> str | None:
    """How a checkpoint's weights are quantized in its files, as its config names it."""
    settings = getattr(config, "quantization_config", None)
    if settings is None:
        settings = getattr(config.get_text_config(), "quantization_config", None)
    if settings is None:
        return None
    settings = settings if isinstance(settings, dict) else settings.to_dict()
    return str(settings.get("quant_method", "quantized"))


def _check_quantization(config: "PretrainedConfig", dtype: str, source: ModelSource) -> None:
    method = _quantization(config) if source.gguf is None else KIND
    if method is not None and dtype in QUANTIZED:
        raise ModelError(
            f"dtype={dtype} has no effect on {source.name}, whose weights are stored quantized "
            f"({method}): use dtype=auto, or give a checkpoint that is not quantized"
        )


def _keep_unpacked(model: "PreTrainedModel") -> None:
    """Keep bitsandbytes from packing 4-bit weights at their first use on a CPU with AVX512-BF16.

    Those that were saved in 4 bits too, whatever was asked for.
    Packed weights have no gradient, so a vector trained on them would be wrong, and layers whose
    sizes are not multiples of 32 and 64 can't be packed.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            vars(module)["support_avx512bf16_for_cpu"] = False


def _end_tokens(
    generation: Any, tokenizer: "PreTrainedTokenizerBase", source: ModelSource
) -> tuple[int, ...]:
    ids = getattr(generation, "eos_token_id", None)
    # A finetuned model often has the generation config of its base model, and so another end.
    ends = [*(ids if isinstance(ids, list) else [ids]), tokenizer.eos_token_id]
    ends = [token for token in [*ends, answer_end(tokenizer)] if token is not None]
    if wrong := [token for token in ends if type(token) is not int]:
        raise ModelError(
            f"eos_token_id of {source.location} holds {wrong[0]!r}: make it an id, or a list of "
            "them, in generation_config.json and config.json"
        )
    if not ends:
        raise ModelError(
            f"neither generation config, tokenizer nor chat template of {source.location} name an "
            "end token: each answer would run to max_tokens. Add eos_token_id to "
            "generation_config.json"
        )
    return tuple(dict.fromkeys(ends))
