"""The options themselves: names, types, defaults, rules across them, labels and fingerprints."""

import hashlib
import json
import math
import re
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    field_validator,
    model_validator,
)

from steering.construct.recipe import DEFAULT_METHOD, DEFAULT_SITE, Sft
from steering.vocabulary import Dtype, Method, Operation, Positions, Site, Unit

DEFAULT = "default"
NONE = "none"
BASELINE = "baseline"


def _option(default: Any, description: str, *, example: str, speed_only: bool = False) -> Any:
    """A field of the spec; `speed_only` says that it can't change an answer."""
    extra: dict[str, Any] = {"example": example, "speed_only": speed_only}
    return Field(default=default, description=description, json_schema_extra=extra)


class Intervention(BaseModel):
    """One vector and what is done with it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    vector: str = _option(
        DEFAULT,
        "`default` builds the vector of `target` on first use; `none` leaves the model unsteered; "
        "anything else is the path of a .safetensors steering vector",
        example="vectors/medical.safetensors",
    )
    target: str = _option(
        "medical",
        "target task that the default vector is built from: a bundled task, a file, or a data set",
        example="finance",
    )
    method: Method = _option(
        DEFAULT_METHOD, "how the default vector is built", example="mean_difference"
    )
    rank: int = _option(
        Sft.model_fields["rank"].default,
        "dimension of the steering subspace of the default vector (`sft` and `pca`)",
        example="4",
    )
    training_epochs: int = _option(
        Sft.model_fields["training_epochs"].default,
        "training epoch after which the default vector is taken (`sft`)",
        example="2",
    )
    build_seed: int = _option(0, "seed of building the default vector", example="1")
    shuffle_labels: bool = _option(
        False,
        "build the default vector from shuffled good and bad answers: a control",
        example="true",
    )
    layer: int | None = _option(
        None,
        "block to steer, counted from 0 (default: the recipe's or the vector's own)",
        example="2",
    )
    site: Site | None = _option(
        None,
        "where in the block to steer (default: the vector's own, `resid_post` for the default one)",
        example="mlp_out",
    )
    magnitude: float = _option(1.0, "multiplier of the vector, in `unit`", example="2.5")
    unit: Unit = _option("raw", "what `magnitude` is a multiple of", example="residual")
    operation: Operation = _option("add", "what is done with the vector", example="ablate")
    positions: Positions = _option("all", "tokens that are steered", example="response")

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_yaml_surprises(cls, value: Any, info: Any) -> Any:
        """YAML turns `x=` into None and `x=on` into True: neither is what was meant."""
        if value is None and info.field_name not in ("layer", "site", "revision"):
            raise ValueError("it is empty; leave the option out or give it a value")
        if isinstance(value, bool) and cls.model_fields[info.field_name].annotation is not bool:
            raise ValueError(
                f"it is the truth value {str(value).lower()}; quote it if it is a name"
            )
        if isinstance(value, float) and info.field_name == "revision":
            raise ValueError("it was read as a number; quote it")
        return str(value) if isinstance(value, int) and info.field_name == "revision" else value

    @field_validator("magnitude")
    @classmethod
    def _finite(cls, value: float) -> float:
        if not math.isfinite(value):
            raise ValueError("a finite number is needed")
        return value + 0.0  # -0.0 becomes 0.0: one condition, one spelling

    @field_validator("layer")
    @classmethod
    def _not_negative(cls, value: int | None) -> int | None:
        if value is not None and value < 0:
            raise ValueError("blocks are counted from 0")
        return value

    @field_validator("rank", "training_epochs")
    @classmethod
    def _at_least_one(cls, value: int) -> int:
        if value < 1:
            raise ValueError("at least 1 is needed")
        return value

    @field_validator("vector")
    @classmethod
    def _known_kind(cls, value: str) -> str:
        if value in (DEFAULT, NONE) or value.endswith(".safetensors"):
            return value
        raise ValueError(
            "`default`, `none` or the path of a .safetensors file is allowed; `steering convert` "
            "makes one of other formats"
        )

    @model_validator(mode="after")
    def _no_option_without_effect(self) -> "Intervention":
        """An option that would be dropped without a word is refused instead."""
        given = self.model_fields_set
        idle: tuple[str, ...] = ()
        reason = ""
        if self.vector == NONE:
            idle = tuple(name for name in INTERVENTION if name != "vector")
            reason = "vector=none leaves the model unsteered"
        elif self.vector != DEFAULT:
            idle, reason = BUILDING, "a vector from a file is built already"
        for name in idle:
            if name in given:
                raise ValueError(f"{name}= has no effect here ({reason}); leave one of the two out")
        if self.operation == "ablate" and given & set(MULTIPLE):
            raise ValueError(
                "operation=ablate removes the whole projection; leave magnitude= and unit= out"
            )
        return self

    def changed(self) -> dict[str, Any]:
        """Options that were given and differ from their defaults and can change an answer."""
        unset = {name: type(self).model_fields[name].default for name in self._answer_options()}
        if self.vector == DEFAULT:
            unset["site"] = DEFAULT_SITE
        return {name: value for name, value in self._decisive().items() if value != unset[name]}

    def _decisive(self) -> dict[str, Any]:
        """Every option that can change an answer; None is for what is left to the vector's file."""
        options = {name: getattr(self, name) for name in self._answer_options()}
        if self.vector == DEFAULT and self.site is None:
            options["site"] = DEFAULT_SITE
        if options.get("engine") == "hf":
            options["engine"] = "auto"  # what it is unless it turns out to be the other
        return options

    @classmethod
    def _answer_options(cls) -> list[str]:
        return [name for name in answer_options() if name in cls.model_fields]

    def label(self, digest: str = "") -> str:
        """Short name, for people.

        Args:
            digest: Hex digest of the content of files that options name. Two files of one name give
                two labels.
        """
        parts: list[str] = []
        if self.vector == NONE:
            name = BASELINE
        else:
            name = _file_label(self.target if self.vector == DEFAULT else self.vector, digest)
            parts = ["ablate" if self.operation == "ablate" else f"x{_number(self.magnitude)}"]
        for option, value in self.changed().items():
            if option in _SAID_APART or (option, value) == _ABLATE:
                continue
            said = _SAID.get(option, value)
            parts.append(f"{_SHORT.get(option, option + '=')}{said}")
        return " ".join([name, *parts])


class SteeringSpec(Intervention):
    """What a model is asked to do to its own activations, and how it is loaded.

    Made by `parse_options`; all values are final and checked against one another. The intervention
    options are those of the first vector.
    """

    thinking: bool = _option(False, "let a thinking model think before it answers", example="true")
    use_chat_template: bool = _option(
        True,
        "`false` is for base models: the prompt is the bare text, with a blank line behind it",
        example="false",
    )
    chat_template: str | None = _option(
        None, "file of a Jinja chat template instead of the model's own", example="chat.jinja"
    )
    dtype: Dtype = _option(
        "auto",
        "precision of the weights; `auto` is the checkpoint's own, `int8` and `nf4` are quantized "
        "by bitsandbytes as they load",
        example="bfloat16",
    )
    blocks: str | None = _option(
        None,
        "path of the list of transformer blocks in the model, where it is not found by itself",
        example="model.layers",
    )
    revision: str | None = _option(None, "branch, tag or commit of a hub model", example="main")
    engine: Literal["auto", "hf", "vllm"] = _option(
        "auto",
        "what runs the model: `hf` (transformers) or `vllm`; `auto` is `vllm` where that is "
        "installed and there is a GPU",
        example="vllm",
    )
    adapter: str | None = _option(
        None,
        "LoRA adapter of a finetuned counterpart: a folder or a hub id; alone it leaves the model "
        "unsteered, and beside a `vector` that is named both act",
        example="adapters/medical",
    )
    adapter_scale: float = _option(
        1.0, "what the adapter's own scaling is multiplied by", example="0.5"
    )
    device: str = _option(
        "auto",
        "device of the weights; `every` spreads them over all accelerators",
        example="cuda:1",
        speed_only=True,
    )
    tensor_parallel_size: int = _option(
        1, "GPUs that share every weight (`vllm`)", example="4", speed_only=True
    )
    cuda_graphs: bool = _option(
        False,
        "replay steps from recorded CUDA graphs that are opened behind every block (`vllm`)",
        example="true",
        speed_only=True,
    )
    batch_size: int = _option(
        512, "rows that are decoded together at the most", example="64", speed_only=True
    )

    _more: tuple[Intervention, ...] = PrivateAttr(())

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

    @field_validator("batch_size", "tensor_parallel_size")
    @classmethod
    def _at_least_one_of_them(cls, value: int) -> int:
        if value < 1:
            raise ValueError("at least 1 is needed")
        return value

    @property
    def interventions(self) -> tuple[Intervention, ...]:
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
            scale = "" if self.adapter_scale == 1 else f" x{_number(self.adapter_scale)}"
            labels[:0] = [f"adapter {_file_label(self.adapter, adapter)}{scale}"]
            if not self.steered:
                labels[1] = labels[1].removeprefix(BASELINE).strip()
        if self.chat_template is not None:
            labels[0] += f" template {_file_label(self.chat_template, template)}"
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


INTERVENTION = tuple(Intervention.model_fields)
# Options of a vector that is built on first use; options that `ablate` has no use for.
BUILDING = ("target", "method", "rank", "training_epochs", "build_seed", "shuffle_labels")
MULTIPLE = ("magnitude", "unit")
_ABLATE = ("operation", "ablate")
# Options that older fingerprints do not know; at their defaults they leave them as they were.
_LATER = ("use_chat_template", "chat_template", "blocks", "engine")
_SAID_APART = ("vector", "target", "magnitude", "adapter", "adapter_scale", "chat_template")
# Stands for an option that is left at its default.
UNSAID = ""
_SHORT = {
    "layer": "L",
    "unit": "",
    "operation": "",
    "positions": "",
    "site": "",
    "dtype": "",
    "method": "",
    "rank": "rank ",
    "training_epochs": "epoch ",
    "build_seed": "seed ",
    "shuffle_labels": "",
    "use_chat_template": "",
    "engine": "",
}
# Of options that have one value besides their default.
_SAID = {"shuffle_labels": "shuffled", "use_chat_template": "no template"}


def _file_label(named: str, digest: str) -> str:
    """Last part of a name, and the digest's beginning where that may name two things."""
    name = re.split(r"[/\\\\]", named.partition("?")[0].rstrip("/"))[-1].rsplit(".", 1)[0]
    return f"{name}-{digest[:6]}" if digest and name != named else name


def _number(value: float) -> str:
    """The shortest digits that give back the same number, 2 rather than 2.0."""
    return repr(value).removesuffix(".0")


def answer_options() -> list[str]:
    """Names of the options that can change an answer, in the order of the spec."""
    return [
        name
        for name, field in SteeringSpec.model_fields.items()
        if isinstance(field.json_schema_extra, dict) and not field.json_schema_extra["speed_only"]
    ]
