"""The options of one vector: names, types, defaults, rules across them, and its label."""

import math
import os
import re
from pathlib import PurePath
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, field_validator, model_validator

from steering.spec.option import Count, Options, option
from steering.training.construction import (
    CONSTRUCTION_METHODS,
    DEFAULT_METHOD,
    TOY_METHOD,
    methods_with,
)
from steering.training.recipe import DEFAULT_SITE
from steering.vocabulary import VECTOR_FILES, Operation, Positions, Site, Unit

DEFAULT = "default"
NONE = "none"


def _check_method(name: str) -> str:
    if name not in CONSTRUCTION_METHODS:
        raise ValueError(f"one of {', '.join(map(repr, CONSTRUCTION_METHODS))} is needed")
    return name


def _setting(name: str, description: str, **facts: Any) -> Any:
    """An option that is a setting of some methods, which its description names."""
    methods = methods_with(name)
    default = CONSTRUCTION_METHODS[methods[0]].model_fields[name].default
    having = " and ".join(f"`{method}`" for method in methods)
    return option(default, f"{description} ({having})", **facts)


MethodName = Annotated[str, AfterValidator(_check_method)]


def path_text(value: Any) -> Any:
    """A path as a text; any other value as it is."""
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def is_vector_file(name: str) -> bool:
    """Whether a name is that of a vector's file or folder, and no word of an option."""
    return PurePath(name).suffix.lower() in VECTOR_FILES or not {"/", "\\"}.isdisjoint(name)


class InterventionOptions(Options):
    """One vector and what is done with it."""

    vector: Annotated[str, BeforeValidator(path_text)] = option(
        DEFAULT,
        "`default` builds the vector of `target` on first use; `none` leaves the model unsteered; "
        "anything else is the path of a steering vector, of this project or of another tool",
        example="vectors/medical.safetensors",
        label=None,
    )
    target: str = option(
        "medical",
        "target task that the default vector is built from: a bundled task, a file, or a data set; "
        "or a bundled contrast, which has nothing to do with harm",
        example="finance",
        label=None,
    )
    method: MethodName | None = option(
        None,
        f"how the default vector is built (default: `{DEFAULT_METHOD}`; toy: `{TOY_METHOD}`)",
        example="pca",
        label="{value}",
    )
    rank: Count = _setting(
        "rank",
        "dimension of the steering subspace of the default vector",
        example="4",
        label="rank {value}",
    )
    training_epochs: Count = _setting(
        "training_epochs",
        "training epoch after which the default vector is taken",
        example="2",
        label="epoch {value}",
    )
    build_seed: int = option(
        0, "seed of building the default vector", example="1", label="seed {value}"
    )
    shuffle_labels: bool = option(
        False,
        "build the default vector from shuffled good and bad answers: a control",
        example="true",
        label="shuffled",
    )
    layer: int | None = option(
        None,
        "block to steer, counted from 0 (default: the recipe's or the vector's own)",
        example="2",
        label="L{value}",
        nullable=True,
    )
    site: Site | None = option(
        None,
        "where in the block to steer (default: the vector's own, `resid_post` for the default one)",
        example="mlp_out",
        label="{value}",
        nullable=True,
    )
    magnitude: float = option(1.0, "multiplier of the vector, in `unit`", example="2.5", label=None)
    unit: Unit = option(
        "raw", "what `magnitude` is a multiple of", example="residual", label="{value}"
    )
    operation: Operation = option(
        "add", "what is done with the vector", example="ablate", label="{value}"
    )
    positions: Positions = option(
        "all", "tokens that are steered", example="response", label="{value}"
    )

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

    @field_validator("vector")
    @classmethod
    def _known_kind(cls, value: str) -> str:
        if value in (DEFAULT, NONE) or is_vector_file(value):
            return value
        raise ValueError(
            f"`default`, `none` or the path of a vector is allowed ({', '.join(VECTOR_FILES)}, or "
            "a folder as ./name)"
        )

    @model_validator(mode="after")
    def _no_option_without_effect(self) -> "InterventionOptions":
        """Refuse options that would be ignored."""
        ignored: tuple[str, ...] = ()
        reason = ""
        if self.vector == NONE:
            ignored = tuple(name for name in INTERVENTION if name != "vector")
            reason = "vector=none leaves the model unsteered"
        elif self.vector != DEFAULT:
            ignored, reason = BUILDING, "a vector from a file is built already"
        for name in ignored:
            if name in self.model_fields_set:
                raise ValueError(f"{name}= has no effect here ({reason}); leave one of the two out")
        if self.operation == "ablate" and self.model_fields_set & set(MULTIPLE):
            raise ValueError(
                "operation=ablate removes the whole projection; leave magnitude= and unit= out"
            )
        return self

    def answer_options(self) -> dict[str, Any]:
        """As of `Options`; a site of None is left to the vector's file."""
        options = super().answer_options()
        if self.vector == DEFAULT and self.site is None:
            options["site"] = DEFAULT_SITE
        return options

    def answer_defaults(self) -> dict[str, Any]:
        """As of `Options`."""
        own_site = {"site": DEFAULT_SITE} if self.vector == DEFAULT else {}
        return super().answer_defaults() | own_site

    def with_method(self, default_method: str) -> "InterventionOptions":
        """With the model's default method named where none is, as fingerprints have it."""
        # A vector from a file is built already: it keeps the name that it had in fingerprints when
        # all models had one default.
        unnamed = default_method if self.vector == DEFAULT else TOY_METHOD
        return self.model_copy(update={"method": self.method or unnamed})

    @property
    def name(self) -> str:
        """Name of the vector's file, or of the target that it is built from, without folders."""
        return file_label(self.target if self.vector == DEFAULT else self.vector, "")

    def label(self, digest: str = "", layers: str = "", default_method: str = "") -> str:
        """Short name, for people.

        With the hex digest of the file that the vector or its target is read from, two files of one
        name have two labels. The model's default method is left out, whether or not it was named.
        """
        name = file_label(self.target if self.vector == DEFAULT else self.vector, digest)
        unnamed = {"method": None} if self.method == default_method else {}
        parts = self.model_copy(update=unnamed).label_parts()
        if layers and self.layer is None:
            parts.insert(0, f"L{layers}")
        if self.operation == "ablate":
            parts.remove("ablate")
            return " ".join([name, "ablate", *parts])
        return " ".join([name, f"x{number_label(self.magnitude)}", *parts])


INTERVENTION = tuple(InterventionOptions.OPTIONS)
# Options of a vector that is built on first use; options that `ablate` has no use for.
BUILDING = ("target", "method", "rank", "training_epochs", "build_seed", "shuffle_labels")
MULTIPLE = ("magnitude", "unit")


def file_label(name: str, digest: str) -> str:
    """Last part of a name, and the digest's beginning where several files may have that name."""
    stem = re.split(r"[/\\\\]", name.partition("?")[0].rstrip("/"))[-1].rsplit(".", 1)[0]
    return f"{stem}-{digest[:6]}" if digest and stem != name else stem


def number_label(value: float) -> str:
    """The shortest digits that give back the same number, 2 rather than 2.0."""
    return repr(value).removesuffix(".0")
