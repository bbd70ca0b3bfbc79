"""All options of a model: how it is loaded and run, its interventions, labels and fingerprints."""

import hashlib
import json
import math
from contextlib import suppress
from datetime import date, datetime
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, field_validator, model_validator

from steering.spec.intervention import (
    DEFAULT,
    INTERVENTION,
    NONE,
    InterventionOptions,
    file_label,
    is_vector_file,
    number_label,
)
from steering.spec.option import Count, Option, Options, option
from steering.targets.prompts import EXAMPLES, PERSONA, PROMPTS, is_prompt_file
from steering.training.construction import TOY_METHOD
from steering.vocabulary import Dtype

BASELINE = "baseline"
# Options of a vector that is built, which a prompt is drawn by, too; and its fields for them.
OF_PROMPTS = {"target": "prompt_target", "build_seed": "prompt_seed"}
# Stands for an option that is left at its default, where several vectors have a list of values.
UNSET = ""
# These are in every fingerprint. An option that came later is in those where it is not at its
# default, so that it left the fingerprints of before as they were.
_ALWAYS_IN_FINGERPRINT = ("thinking", "dtype", "revision")


def _revision(value: Any) -> Any:
    """YAML reads a tag or an abbreviated commit of digits as a number."""
    if isinstance(value, float):
        raise ValueError("it was read as a number; quote it")
    return str(value) if isinstance(value, int) else value


def _names(value: Any) -> Any:
    """A text with commas is a list."""
    parts = value.split(",") if isinstance(value, str) else value
    if isinstance(parts, (list, tuple)) and all(isinstance(part, str) for part in parts):
        return tuple(part.strip() for part in parts)
    raise ValueError("names, separated by commas, are needed")


def _date(value: Any) -> Any:
    """YAML reads a date as one."""
    if isinstance(value, date) and not isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, str):
        with suppress(ValueError):
            return date.fromisoformat(value).isoformat()
    raise ValueError("a date as YYYY-MM-DD is needed")


class SteeringSpec(Options):
    """A model's interventions and how it is loaded.

    `parse_options` makes it. A loading option is one field here: -M, labels, fingerprints, the
    command line, the docs page and the errors follow from its declaration.

    Attributes:
        interventions: The vectors, in the order in which they act; empty when unsteered.
        prompt_target: The target task of `prompt`, which the option `target` gives.
        prompt_seed: What draws the message or the examples of `prompt`, from `build_seed`.
    """

    interventions: tuple[InterventionOptions, ...] = (InterventionOptions(),)
    prompt_target: str = InterventionOptions.OPTIONS["target"].default
    prompt_seed: int = 0
    thinking: bool = option(False, "let a thinking model think before it answers", example="true")
    use_chat_template: bool = option(
        True,
        "`false` is for base models: the prompt is the bare text, followed by a blank line",
        example="false",
        label="no template",
        flag="--no-chat-template",
    )
    chat_template: str | None = option(
        None,
        "file of a Jinja chat template instead of the model's own",
        example="chat.jinja",
        label=None,
        flag="--chat-template",
    )
    date: Annotated[str | None, BeforeValidator(_date)] = option(
        None,
        "date that a chat template prints; without it, that of the day, which is then recorded",
        example="2026-01-31",
        flag="--date",
    )
    dtype: Dtype = option(
        "auto",
        "precision of the weights; `auto` is the checkpoint's own (bfloat16 for a quantized GGUF "
        "file), `int8` and `nf4` are quantized "
        "by bitsandbytes as they load",
        example="bfloat16",
        label="{value}",
        flag="--dtype",
    )
    blocks: str | None = option(
        None,
        "path of the list of transformer blocks in the model, where it is not found by itself",
        example="model.layers",
        engine="hf",
        flag="--blocks",
    )
    mlp: str | None = option(
        None,
        "path of the MLP in a block, for `site=mlp_out` where it is not found by itself",
        example="feed_forward",
        engine="hf",
        flag="--mlp",
    )
    batch_invariant: bool = option(
        False,
        "an answer depends on no other of its batch, bit for bit and in every precision; slower",
        example="true",
        label="batch invariant",
        engine="hf",
    )
    revision: Annotated[str | None, BeforeValidator(_revision)] = option(
        None,
        "branch, tag or commit of a hub model",
        example="main",
        nullable=True,
        flag="--revision",
    )
    gguf_file: str | None = option(
        None,
        "GGUF file that holds the model, in the folder or the hub repository that `--model` names",
        example="model-Q4_K_M.gguf",
        label="{value}",
        engine="hf",
        flag="--gguf-file",
    )
    trust_remote_code: bool = option(
        False,
        "run the Python that the model's folder or repository brings (its `auto_map`): read it "
        "first, since it may do whatever you may",
        example="true",
        label="trust_remote_code",
        flag="--trust-remote-code",
    )
    engine: Literal["auto", "hf", "vllm"] = option(
        "auto",
        "what runs the model: `hf` (transformers) or `vllm`; `auto` is `vllm` where that is "
        "installed and there is a GPU",
        example="vllm",
        label="{value}",
    )
    adapter: str | None = option(
        None,
        "LoRA adapter of a finetuned counterpart: a folder or a hub id; alone it leaves the model "
        "unsteered, and beside a `vector` that is named both act",
        example="adapters/medical",
        label=None,
    )
    adapter_scale: float = option(
        1.0, "what the adapter's own scaling is multiplied by", example="0.5", label=None
    )
    prompt: str | None = option(
        None,
        "what the model is told before every question: `persona` (a system message that asks for "
        "the behaviour of `target`), `examples` (misaligned examples of `target` as earlier turns) "
        "or the path of a .txt or .md file with a system message; alone it leaves the model "
        "unsteered, and beside a `vector` that is named both act",
        example="persona",
        label=None,
    )
    prompt_examples: Count = option(
        4, "number of examples of `prompt=examples`", example="16", label=None
    )
    device: str = option(
        "auto",
        "device of the weights; `every` spreads them over all accelerators",
        example="cuda:1",
        speed_only=True,
        engine="hf",
        flag="--device",
    )
    tensor_parallel_size: Count = option(
        1, "GPUs that share every weight (`vllm`)", example="4", speed_only=True, engine="vllm"
    )
    cuda_graphs: bool = option(
        False,
        "replay steps from recorded CUDA graphs that are opened behind every block (`vllm`)",
        example="true",
        speed_only=True,
        engine="vllm",
    )
    monitor: Annotated[tuple[str, ...], BeforeValidator(_names)] = option(
        (),
        "record projections of the residual stream of each answer on directions: `default` is that "
        "of the default vector of the condition's target, anything else the path of a steering "
        "vector; several are separated by commas",
        example="default",
        record_only=True,
    )
    monitor_tokens: bool = option(
        False,
        "record the projections of `monitor` token by token too",
        example="true",
        record_only=True,
    )
    batch_size: Count = option(
        512, "maximum number of sequences that are decoded together", example="64", speed_only=True
    )

    @field_validator("interventions")
    @classmethod
    def _drop_none(
        cls, interventions: tuple[InterventionOptions, ...]
    ) -> tuple[InterventionOptions, ...]:
        return tuple(part for part in interventions if part.vector != NONE)

    @field_validator("monitor")
    @classmethod
    def _known_vectors(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name != DEFAULT and not is_vector_file(name):
                raise ValueError(
                    "`default` or the path of a vector is allowed; `steering build` writes one of "
                    "any target"
                )
        if len(set(names)) < len(names):
            raise ValueError("each vector is monitored once: leave the repetition out")
        return names

    @field_validator("adapter_scale")
    @classmethod
    def _not_zero(cls, value: float) -> float:
        if not math.isfinite(value) or value == 0:
            raise ValueError("a finite number other than 0 is needed")
        return value

    @field_validator("prompt")
    @classmethod
    def _known_prompt(cls, value: str | None) -> str | None:
        if value is None or value in PROMPTS or is_prompt_file(value):
            return value
        raise ValueError(f"`{PERSONA}`, `{EXAMPLES}` or the path of a .txt or .md file is allowed")

    @model_validator(mode="after")
    def _no_option_without_effect(self) -> "SteeringSpec":
        if self.chat_template is not None and not self.use_chat_template:
            raise ValueError(
                "chat_template= has no effect with use_chat_template=false; leave one of them out"
            )
        if self.monitor_tokens and not self.monitor:
            raise ValueError(
                "monitor_tokens= has no effect without monitor=; leave it out or give both"
            )
        if self.adapter is None and "adapter_scale" in self.model_fields_set:
            raise ValueError(
                "adapter_scale= has no effect without adapter=; leave it out or give both"
            )
        if self.prompt != EXAMPLES and "prompt_examples" in self.model_fields_set:
            raise ValueError(
                f"prompt_examples= has no effect without prompt={EXAMPLES}; leave it out or give "
                "both"
            )
        return self

    def answer_options(self) -> dict[str, Any]:
        """As of `Options`, for loading alone."""
        options = super().answer_options()
        if self.engine == "hf":
            options["engine"] = "auto"  # which is hf wherever the engine is not recorded as vllm
        return options

    def label(
        self,
        *digests: str,
        layers: tuple[str, ...] = (),
        adapter: str = "",
        prompt: str = "",
        template: str = "",
        default_method: str = "",
    ) -> str:
        """Short name of the condition, for people.

        The arguments are digests, as far as they are known: of each vector's file or target, of the
        adapter, of the prompt's file or target, and of the chat template. `layers` are those of
        each vector's file that was told to steer several, `default_method` is what the model's
        vectors are built by if none is named.
        """
        digests += ("",) * (len(self.interventions) - len(digests))
        layers += ("",) * (len(self.interventions) - len(layers))
        labels = [
            part.label(digest, several, default_method)
            for part, digest, several in zip(self.interventions, digests, layers, strict=False)
        ]
        if not labels:
            is_changed = self.adapter is not None or self.prompt is not None
            labels = ["" if is_changed else BASELINE]
        labels[0] = " ".join(filter(None, [labels[0], *self.label_parts()]))
        if self.adapter is not None:
            scale = "" if self.adapter_scale == 1 else f" x{number_label(self.adapter_scale)}"
            labels[:0] = [f"adapter {file_label(self.adapter, adapter)}{scale}"]
        if self.prompt is not None:
            labels[:0] = [self._prompt_label(prompt)]
        if self.chat_template is not None:
            labels[0] += f" template {file_label(self.chat_template, template)}"
        return " + ".join(filter(None, labels))

    def _prompt_label(self, digest: str) -> str:
        if self.prompt not in PROMPTS:
            return f"prompt {file_label(str(self.prompt), digest)}"
        count = f"{self.prompt_examples} " if self.prompt == EXAMPLES else ""
        seed = f" seed {self.prompt_seed}" if self.prompt_seed else ""
        return f"{count}{self.prompt} {file_label(self.prompt_target, digest)}{seed}"

    def as_options(self) -> dict[str, Any]:
        """The options that were given, as `parse_options` takes them, by name."""
        parts = self.interventions
        options: dict[str, Any] = {
            name: getattr(self, name) for name in self.OPTIONS if name in self.model_fields_set
        }
        options |= {
            option: getattr(self, field)
            for option, field in OF_PROMPTS.items()
            if field in self.model_fields_set
        }
        for name in {name for part in parts for name in part.model_fields_set}:
            values = [
                getattr(part, name) if name in part.model_fields_set else UNSET for part in parts
            ]
            options[name] = values if len(parts) > 1 else values[0]
        if not parts:
            options["vector"] = NONE
        return dict(sorted(options.items()))

    def fingerprint(self, *, default_method: str = TOY_METHOD, **identity: str) -> str:
        """Digest of everything in the spec that can change an answer.

        Args:
            default_method: What the model's vectors are built by if none is named.
            **identity: Digests of what the spec can't see: the weights, the vectors' content.

        Returns:
            16 hex digits. Specs that mean the same have the same one.
        """
        defaults = self.answer_defaults()
        options = {
            name: value
            for name, value in self.answer_options().items()
            if name in _ALWAYS_IN_FINGERPRINT or value != defaults[name]
        }
        if self.adapter is not None:
            # An adapter is known by its content, not by where it lies.
            del options["adapter"]
            options["adapter_scale"] = self.adapter_scale
        if self.prompt is not None and is_prompt_file(self.prompt):
            options["prompt"] = "file"  # likewise
        elif self.prompt is not None:
            options |= {field: getattr(self, field) for field in OF_PROMPTS.values()}
        parts = [part.with_method(default_method) for part in self.interventions]
        first, *others = parts or (None,)
        options |= {"vector": NONE} if first is None else first.answer_options()
        content: dict[str, Any] = {"options": options, "identity": identity}
        if others:
            content["more"] = [part.answer_options() for part in others if part is not None]
        canonical = json.dumps(content, sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]


OPTIONS: dict[str, Option] = InterventionOptions.OPTIONS | SteeringSpec.OPTIONS
assert set(INTERVENTION).isdisjoint(SteeringSpec.OPTIONS)
