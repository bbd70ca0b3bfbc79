"""All options of a model: how it is loaded and run, several vectors, labels and fingerprints."""

import hashlib
import json
import math
from typing import Any, Literal

from pydantic import PrivateAttr, field_validator, model_validator

from steering.spec.intervention import (
    BASELINE,
    INTERVENTION,
    NONE,
    UNSAID,
    Count,
    InterventionOptions,
    file_label,
    number_label,
    option,
)
from steering.vocabulary import Dtype

# Options that older fingerprints do not know; at their defaults they leave them as they were.
_LATER = ("use_chat_template", "chat_template", "blocks", "engine")


class SteeringSpec(InterventionOptions):
    """What a model is asked to do to its own activations, and how it is loaded.

    Made by `parse_options`; all values are final and checked against one another. The intervention
    options are those of the first vector.
    """

    thinking: bool = option(False, "let a thinking model think before it answers", example="true")
    use_chat_template: bool = option(
        True,
        "`false` is for base models: the prompt is the bare text, with a blank line behind it",
        example="false",
    )
    chat_template: str | None = option(
        None, "file of a Jinja chat template instead of the model's own", example="chat.jinja"
    )
    dtype: Dtype = option(
        "auto",
        "precision of the weights; `auto` is the checkpoint's own, `int8` and `nf4` are quantized "
        "by bitsandbytes as they load",
        example="bfloat16",
    )
    blocks: str | None = option(
        None,
        "path of the list of transformer blocks in the model, where it is not found by itself",
        example="model.layers",
    )
    revision: str | None = option(None, "branch, tag or commit of a hub model", example="main")
    engine: Literal["auto", "hf", "vllm"] = option(
        "auto",
        "what runs the model: `hf` (transformers) or `vllm`; `auto` is `vllm` where that is "
        "installed and there is a GPU",
        example="vllm",
    )
    adapter: str | None = option(
        None,
        "LoRA adapter of a finetuned counterpart: a folder or a hub id; alone it leaves the model "
        "unsteered, and beside a `vector` that is named both act",
        example="adapters/medical",
    )
    adapter_scale: float = option(
        1.0, "what the adapter's own scaling is multiplied by", example="0.5"
    )
    device: str = option(
        "auto",
        "device of the weights; `every` spreads them over all accelerators",
        example="cuda:1",
        speed_only=True,
    )
    tensor_parallel_size: Count = option(
        1, "GPUs that share every weight (`vllm`)", example="4", speed_only=True
    )
    cuda_graphs: bool = option(
        False,
        "replay steps from recorded CUDA graphs that are opened behind every block (`vllm`)",
        example="true",
        speed_only=True,
    )
    batch_size: Count = option(
        512, "rows that are decoded together at the most", example="64", speed_only=True
    )

    _more: tuple[InterventionOptions, ...] = PrivateAttr(())

    @model_validator(mode="before")
    @classmethod
    def _finetuned_or_steered(cls, options: dict[str, Any]) -> dict[str, Any]:
        """An adapter alone is the counterpart of a steered model, which is not steered."""
        if options.get("adapter") is None:
            if "adapter_scale" in options:
                raise ValueError(
                    "adapter_scale= has no effect without adapter=; leave it out or give both"
                )
            return options
        given = [name for name in INTERVENTION if name in options]
        if given and "vector" not in given:
            raise ValueError(
                f"{given[0]}= beside adapter= steers nothing unless a vector is named: give "
                "vector=default or a file too, or leave it out"
            )
        return {"vector": NONE} | options

    @model_validator(mode="after")
    def _one_template(self) -> "SteeringSpec":
        if self.chat_template is not None and not self.use_chat_template:
            raise ValueError(
                "chat_template= has no effect with use_chat_template=false; leave one of them out"
            )
        return self

    @field_validator("adapter_scale")
    @classmethod
    def _acts(cls, value: float) -> float:
        if not math.isfinite(value) or value == 0:
            raise ValueError("a finite number other than 0 is needed")
        return value

    @property
    def interventions(self) -> tuple[InterventionOptions, ...]:
        """What is done with each vector, in the order in which they act; empty when unsteered."""
        return (self, *self._more) if self.steered else ()

    @property
    def steered(self) -> bool:
        """Whether anything is done to activations at all."""
        return self.vector != NONE

    def label(self, digest: str = "", *more: str, adapter: str = "", template: str = "") -> str:
        """Short name of the condition, for people; one digest for each vector's files.

        Args:
            digest: Of the first vector's files.
            *more: Of the other vectors'.
            adapter: Of the adapter.
            template: Of the chat template.
        """
        labels = [super().label(digest)]
        digests = [*more, *[""] * len(self._more)]
        labels += [part.label(own) for part, own in zip(self._more, digests, strict=False)]
        if self.adapter is not None:
            scale = "" if self.adapter_scale == 1 else f" x{number_label(self.adapter_scale)}"
            labels[:0] = [f"adapter {file_label(self.adapter, adapter)}{scale}"]
            if not self.steered:
                labels[1] = labels[1].removeprefix(BASELINE).strip()
        if self.chat_template is not None:
            labels[0] += f" template {file_label(self.chat_template, template)}"
        return " + ".join(filter(None, labels))

    def given(self) -> dict[str, Any]:
        """The options that were given, as `parse_options` takes them."""
        parts = self.interventions or (self,)
        found: dict[str, Any] = {}
        for name in sorted({name for part in parts for name in part.model_fields_set}):
            values = [
                getattr(part, name) if name in part.model_fields_set else UNSAID for part in parts
            ]
            several = name in INTERVENTION and len(parts) > 1
            found[name] = values if several else values[0]
        return found

    def fingerprint(self, **identity: str) -> str:
        """Digest of everything in the spec that can change an answer.

        Args:
            **identity: Digests of what the spec can't see: the weights, the vectors' content.

        Returns:
            16 hex digits. Specs that mean the same have the same one.
        """
        options = self._decisive()
        if not self.steered:
            options = {k: v for k, v in options.items() if k not in INTERVENTION} | {"vector": NONE}
        # What an adapter holds tells it from others, not where it lies.
        del options["adapter"]
        for name in _LATER:
            if options[name] == type(self).model_fields[name].default:
                del options[name]
        if self.adapter is None:
            del options["adapter_scale"]
        content: dict[str, Any] = {"options": options, "identity": identity}
        if self._more:
            content["more"] = [part._decisive() for part in self._more]
        canonical = json.dumps(content, sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def answer_options() -> list[str]:
    """Names of the options that can change an answer, in the order of the spec."""
    return SteeringSpec._answer_options()
