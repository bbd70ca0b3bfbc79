"""A condition: a model with checked options, before any weight is loaded.

Owns what can be known of a condition beforehand: the recipes or files of its vectors, whether they
fit the model, the label and the fingerprint. Knows neither Inspect nor engines.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steering.engines import Engine, EngineError, shared_engine
from steering.models import (
    PLAIN_TEMPLATE,
    QUANTIZED,
    ModelSource,
    Shape,
    check_device,
    check_dtype,
    check_layer,
    find_model,
    read_shape,
    read_template,
    weights_digest,
)
from steering.models.adapters import Adapter, find_adapter
from steering.spec import DEFAULT, InterventionOptions, SteeringSpec
from steering.targets import Target, load_target
from steering.training.recipe import Recipe, make_recipe
from steering.vocabulary import EngineName

if TYPE_CHECKING:
    from steering.vectors import SteeringVector
    from steering.vectors.interventions import Intervention


@dataclass(frozen=True)
class Use:
    """One vector of a condition and what is done with it.

    Attributes:
        options: What is done with it.
        digest: Of the vector: of its recipe or of its file.
        recipe: Of a vector that is built on first use.
        target: The target task of that recipe.
        vector: The vector of a file. It was read when the condition was made, so a file that
            changes later does not change what is run under its fingerprint.
    """

    options: InterventionOptions
    digest: str
    recipe: Recipe | None = None
    target: Target | None = None
    vector: "SteeringVector | None" = None

    @property
    def moved_from(self) -> int | None:
        """The layer that a file's vector was built at, where it is to act on another."""
        if self.vector is None or self.options.layer in (None, *self.vector.layers):
            return None
        return self.vector.layers[0]


@dataclass(frozen=True)
class Condition:
    """A checked spec with what it names.

    Attributes:
        spec: The options.
        label: For people; no two conditions of a model share it.
        fingerprint: Differs wherever an answer may differ.
        uses: The vectors, in the order in which they act; none when unsteered.
        adapter: What is finetuned into the model, if anything.
    """

    spec: SteeringSpec
    label: str
    fingerprint: str
    uses: tuple[Use, ...] = ()
    adapter: Adapter | None = None


class Checker:
    """Checks specs against one model.

    Attributes:
        source: Which model it is.
        shape: Its depth and width.
        weights: Digest of its weights.
        engine: What runs it.
    """

    def __init__(self, name: str, spec: SteeringSpec) -> None:
        """Look the model up.

        Raises:
            ModelError: There is no such model or device, or its config can't be had.
            EngineError: The engine is not installed, or can't do what is asked.
        """
        self.engine: EngineName = choose_engine(spec)
        check_device(spec.device)
        check_dtype(spec.dtype)
        template = None if spec.use_chat_template else PLAIN_TEMPLATE
        if spec.chat_template is not None:
            template = read_template(spec.chat_template)
        self.source: ModelSource = find_model(
            name, spec.revision, template=template, blocks=spec.blocks
        )
        self.shape: Shape = read_shape(self.source)
        self.weights: str = weights_digest(self.source)

    def check(self, spec: SteeringSpec) -> Condition:
        """Check all of a spec that can be checked without weights.

        Raises:
            SteeringError: It names the value, what is allowed and how to fix it.
        """
        if self.engine == "vllm":
            # However it was chosen: it rounds otherwise.
            spec = spec.model_copy(update={"engine": "vllm"})
        uses = tuple(self._check(part, spec.dtype) for part in spec.interventions)
        of_files = [use.target.digest if use.target else use.digest for use in uses]
        identity = {f"vector{index or ''}": use.digest for index, use in enumerate(uses)}
        adapter = self._adapter(spec)
        if adapter is not None:
            identity["adapter"] = adapter.digest
        return Condition(
            spec,
            spec.label(
                *of_files,
                adapter=adapter.digest if adapter else "",
                template=hashlib.sha256((self.source.template or "").encode()).hexdigest(),
            ),
            spec.fingerprint(weights=self.weights, **identity),
            uses,
            adapter,
        )

    def _adapter(self, spec: SteeringSpec) -> Adapter | None:
        if spec.adapter is None:
            return None
        return find_adapter(spec.adapter, self.source, self.shape, self.weights, spec.adapter_scale)

    def _check(self, part: InterventionOptions, dtype: str) -> Use:
        if part.vector == DEFAULT:
            target = load_target(part.target, toy=self.source.is_toy)
            recipe = self._recipe(part, target, dtype)
            return Use(part, recipe.digest, recipe, target)
        from steering.files import file_digest
        from steering.vectors import SteeringVector

        if part.layer is not None:
            check_layer(part.layer, self.shape, self.source)
        path = Path(part.vector)
        vector = SteeringVector.load(path)
        vector.check_fits(
            width=self.shape.width, num_layers=self.shape.num_layers, model=self.source.name
        )
        resolve_edits(part, vector)
        return Use(part, file_digest(path), vector=vector)

    def _recipe(self, part: InterventionOptions, target: Target, dtype: str) -> Recipe:
        """What builds the default vector; settings that its method does not have are refused."""
        names = [name for name in ("rank", "training_epochs") if name in part.model_fields_set]
        return make_recipe(
            self.source,
            self.shape,
            target,
            weights=self.weights,
            method=part.method,
            settings={name: getattr(part, name) for name in names},
            layer=part.layer,
            site=part.site,
            dtype=dtype,
            seed=part.build_seed,
            shuffle_labels=part.shuffle_labels,
        )


def resolve_edits(
    options: InterventionOptions, vector: "SteeringVector"
) -> "tuple[Intervention, ...]":
    """The edits that options make of a vector, one for each of its layers.

    Raises:
        VectorError: The vector can't be applied in that way.
    """
    from steering.vectors.interventions import resolve

    return resolve(
        vector,
        magnitude=options.magnitude,
        unit=options.unit,
        operation=options.operation,
        positions=options.positions,
        layer=options.layer,
        site=options.site,
    )


def describe(condition: Condition, vectors: "Sequence[SteeringVector]") -> dict[str, Any]:
    """What a log says of a condition, in JSON values; never a tensor."""
    said: dict[str, Any] = {"condition": condition.label, "fingerprint": condition.fingerprint}
    if condition.adapter is not None:
        said["adapter"] = {
            "name": condition.adapter.folder.name,
            "digest": condition.adapter.digest,
            "scale": condition.adapter.scale,
            **condition.adapter.facts,
        }
    if vectors:
        pairs = zip(condition.uses, vectors, strict=True)
        said["interventions"] = [_describe_use(use, vector) for use, vector in pairs]
    return said


def _describe_use(use: Use, vector: "SteeringVector") -> dict[str, Any]:
    edits = resolve_edits(use.options, vector)
    norms = vector.residual_norms
    return {
        "layers": [edit.layer for edit in edits],
        "site": edits[0].site,
        "operation": use.options.operation,
        "positions": use.options.positions,
        "magnitude": use.options.magnitude,
        "unit": use.options.unit,
        "lengths": list(vector.lengths),
        "residual_norms": None if norms is None else list(norms),
        "rank": vector.rank,
        "vector": dict(vector.provenance) | {"digest": use.digest},
    }


def choose_engine(spec: SteeringSpec) -> EngineName:
    """The engine that a spec means: `auto` is vLLM where it is installed and there is a GPU for it.

    Raises:
        EngineError: The engine is not installed, or can't do what other options ask.
    """
    installed = find_spec("vllm") is not None
    of_vllm = [name for name in ("tensor_parallel_size", "cuda_graphs") if name in spec.given()]
    of_hf = [name for name in spec.given() if name in ("device", "blocks")]
    if spec.dtype in QUANTIZED:
        of_hf.append("dtype")
    if spec.engine == "hf" or (spec.engine == "auto" and not of_vllm and (of_hf or not installed)):
        if of_vllm:
            raise EngineError(
                f"{of_vllm[0]}= has no effect with engine=hf: leave it out, or use engine=vllm"
            )
        return "hf"
    if not installed:
        why = "engine=vllm" if spec.engine == "vllm" else f"{of_vllm[0]}="
        raise EngineError(
            f"{why} needs vLLM, which is not installed here: in an environment of its own, "
            "pip install 'steering[vllm]'"
        )
    if of_hf:
        raise EngineError(
            f"{of_hf[0]}={getattr(spec, of_hf[0])} has no effect with vLLM: leave it out, or use "
            "engine=hf. vLLM takes the GPUs that CUDA_VISIBLE_DEVICES names"
        )
    if spec.engine == "auto" and not of_vllm:
        import torch

        return "vllm" if torch.cuda.is_available() else "hf"
    return "vllm"


def engine_of(source: ModelSource, spec: SteeringSpec, engine: EngineName) -> Engine:
    """The process's one engine for a model that is loaded as a spec says."""
    return shared_engine(
        source,
        dtype=spec.dtype,
        device=spec.device,
        engine=engine,
        tensor_parallel_size=spec.tensor_parallel_size,
        cuda_graphs=spec.cuda_graphs,
    )
