"""A condition: a model with checked options, before any weight is loaded.

Owns what can be known of a condition beforehand: the recipes or files of its vectors, whether they
fit the model, the label and the fingerprint. Knows neither Inspect nor engines' insides.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from steering.engines import Engine, EngineError, shared_engine
from steering.models import (
    PLAIN_TEMPLATE,
    QUANTIZED,
    ModelSource,
    Shape,
    can_think,
    check_device,
    check_dtype,
    check_layer,
    check_template,
    date_of,
    find_model,
    read_shape,
    read_template,
    template_of,
    weights_digest,
)
from steering.models.adapter_layers import check_layers
from steering.models.adapters import Adapter, find_adapter
from steering.spec import DEFAULT, OPTIONS, InterventionOptions, SteeringSpec
from steering.targets import Target, load_target
from steering.targets.prompts import ModelPrompt, load_prompt
from steering.training.cache import check_cache, vector_path
from steering.training.construction import default_method
from steering.training.recipe import ConstructionRecipe, make_construction_recipe
from steering.vocabulary import RESIDUAL_NORM, EngineName

if TYPE_CHECKING:
    from steering.vectors import SteeringVector
    from steering.vectors.interventions import Intervention


@dataclass(frozen=True)
class ResolvedModel:
    """A model as it is found on disk or on the hub, without its weights.

    Attributes:
        source: Which model it is.
        shape: Its depth and width.
        weights: Digest of its weights.
        engine: What runs it.
    """

    source: ModelSource
    shape: Shape
    weights: str
    engine: EngineName


@dataclass(frozen=True)
class VectorFile:
    """A vector that was read from a file.

    It is read once: a file that changes later does not change what runs under its fingerprint.
    """

    vector: "SteeringVector"
    digest: str


@dataclass(frozen=True)
class VectorRecipe:
    """A vector that is built from a target task on first use."""

    recipe: ConstructionRecipe
    target: Target

    @property
    def digest(self) -> str:
        """Digest of the recipe, by which the cache knows the vector."""
        return self.recipe.digest


@dataclass(frozen=True)
class Condition:
    """A checked spec with the files and recipes that it names.

    Attributes:
        model: The model.
        spec: The options.
        label: For people; no two conditions of a model share it.
        fingerprint: Differs wherever an answer may differ.
        vectors: Where the vector of each of the spec's interventions comes from.
        adapter: The LoRA adapter of a finetuned model, if any.
        prompt: What the model is told before every question, if anything.
    """

    model: ResolvedModel
    spec: SteeringSpec
    label: str
    fingerprint: str
    vectors: tuple[VectorFile | VectorRecipe, ...] = ()
    adapter: Adapter | None = None
    prompt: ModelPrompt | None = None


def resolve_model(name: str, spec: SteeringSpec) -> ResolvedModel:
    """Look a model up as the loading options say.

    Raises:
        ModelError: There is no such model or device, or its config can't be had.
        EngineError: The engine is not installed, or can't do what is asked.
    """
    engine = choose_engine(spec)
    check_device(spec.device)
    check_dtype(spec.dtype)
    template = None if spec.use_chat_template else PLAIN_TEMPLATE
    if spec.chat_template is not None:
        template = read_template(spec.chat_template)
    source = find_model(
        name,
        spec.revision,
        gguf_file=spec.gguf_file,
        template=template,
        blocks=spec.blocks,
        mlp=spec.mlp,
        trust_remote_code=spec.trust_remote_code,
    )
    if source.gguf is not None and engine == "vllm":
        if spec.engine == "vllm":
            raise EngineError(
                f"engine=vllm has no effect on {name}, a GGUF file, which is loaded by "
                "transformers: use engine=hf, or give the original checkpoint"
            )
        engine = "hf"
    shape = read_shape(source)
    template = template_of(source)
    where = f"the chat template of {source.name}"
    if spec.chat_template is not None:
        where = f"chat_template={spec.chat_template}"
    if template is not None and not source.is_toy:
        check_template(template, where)
    source = replace(source, date=date_of(template, where, spec.date))
    return ResolvedModel(source, shape, weights_digest(source), engine)


def resolve_condition(model: ResolvedModel, spec: SteeringSpec) -> Condition:
    """Check all of a spec that can be checked without weights.

    The model must have been looked up with the same loading options.

    Raises:
        SteeringError: It names the value, what is allowed and how to fix it.
    """
    if model.engine == "vllm":
        # Also where `auto` chose it: vLLM rounds differently, so its answers may differ.
        spec = spec.model_copy(update={"engine": "vllm"})
    if model.source.date is not None:
        # Also where it is today's: tomorrow's prompt is another.
        spec = spec.model_copy(update={"date": model.source.date})
    vectors = tuple(find_vector(model, options, spec.dtype) for options in spec.interventions)
    identity = {f"vector{index or ''}": vector.digest for index, vector in enumerate(vectors)}
    adapter = None
    if spec.adapter is not None:
        adapter = find_adapter(
            spec.adapter, model.source, model.shape, model.weights, spec.adapter_scale
        )
        check_layers(adapter, model.source, model.weights)
        identity["adapter"] = adapter.digest
    prompt = None
    if spec.prompt is not None:
        prompt = load_prompt(
            spec.prompt,
            spec.prompt_target,
            spec.prompt_examples,
            spec.prompt_seed,
            toy=model.source.is_toy,
        )
        identity["prompt"] = prompt.digest
    if spec.dtype == "int8":
        # Answers from before rounded columns with outliers otherwise.
        identity["int8"] = "every column"
    method = default_method(toy=model.source.is_toy)
    label = spec.label(
        *(v.target.digest if isinstance(v, VectorRecipe) else v.digest for v in vectors),
        layers=tuple(map(_chosen_layers, vectors)),
        adapter=adapter.digest if adapter else "",
        prompt=prompt.target_digest if prompt else "",
        template=hashlib.sha256((model.source.template or "").encode()).hexdigest(),
        default_method=method,
    )
    if (gguf := model.source.gguf) is not None and not model.source.name.endswith(gguf):
        label += f" {gguf}"  # which stands for the model that the name means
    fingerprint = spec.fingerprint(default_method=method, weights=model.weights, **identity)
    return Condition(model, spec, label, fingerprint, vectors, adapter, prompt)


def find_vector(
    model: ResolvedModel, options: InterventionOptions, dtype: str
) -> VectorFile | VectorRecipe:
    """The vector that an intervention names, checked against the model."""
    if options.vector == DEFAULT:
        target = load_target(options.target, toy=model.source.is_toy)
        # A setting that the method does not have is refused, so only those that were given count.
        names = {"rank", "training_epochs"} & options.model_fields_set
        recipe = make_construction_recipe(
            model.source,
            model.shape,
            target,
            weights=model.weights,
            method=options.method,
            settings={name: getattr(options, name) for name in sorted(names)},
            layer=options.layer,
            site=options.site,
            dtype=dtype,
            seed=options.build_seed,
            shuffle_labels=options.shuffle_labels,
        )
        if not vector_path(recipe).exists():
            check_cache()
        return VectorRecipe(recipe, target)
    from steering.vectors.formats import read_vector, vector_digest
    from steering.vectors.origin import check_added

    if options.layer is not None:
        check_layer(options.layer, model.shape, model.source)
    depth = model.shape.num_layers
    vector = read_vector(options.vector, options.layer, depth=depth)
    vector.check_fits(width=model.shape.width, num_layers=depth, model=model.source.name)
    if "operation" not in options.model_fields_set:
        check_added(vector, options.vector)
    resolve_interventions(options, vector)
    return VectorFile(vector, vector_digest(options.vector))


def _chosen_layers(source: VectorFile | VectorRecipe) -> str:
    """The layers of a file that has a candidate for each, of which several were asked for."""
    if isinstance(source, VectorRecipe):
        return ""
    from steering.vectors.describe import choice_text

    return choice_text(source.vector)


def resolve_interventions(
    options: InterventionOptions, vector: "SteeringVector"
) -> "tuple[Intervention, ...]":
    """What options do with a vector: one intervention for each of its layers.

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


def apply_vectors(
    condition: Condition, vectors: "Sequence[SteeringVector]"
) -> "tuple[tuple[Intervention, ...], dict[str, Any]]":
    """A condition's interventions in the order in which they act, and how a log describes them.

    The vectors are in the order of the spec's interventions; the description is in JSON values.
    """
    description: dict[str, Any] = {
        "condition": condition.label,
        "fingerprint": condition.fingerprint,
    }
    if condition.spec.date is not None:
        description["date"] = condition.spec.date
    if condition.adapter is not None:
        description["adapter"] = {
            "name": condition.adapter.folder.name,
            "digest": condition.adapter.digest,
            "scale": condition.adapter.scale,
            **condition.adapter.facts,
        }
    if condition.prompt is not None:
        description["prompt"] = condition.prompt.facts()
    interventions: list[Intervention] = []
    descriptions = []
    for options, vector, source in zip(
        condition.spec.interventions, vectors, condition.vectors, strict=True
    ):
        resolved = resolve_interventions(options, vector)
        norms = vector.residual_norms
        interventions += resolved
        descriptions.append(
            {
                "layers": [intervention.layer for intervention in resolved],
                "site": resolved[0].site,
                "operation": options.operation,
                "positions": options.positions,
                "magnitude": options.magnitude,
                "unit": options.unit,
                "lengths": list(vector.lengths),
                "residual_norms": None if norms is None else list(norms),
                "norm_kind": None if norms is None else RESIDUAL_NORM,
                "rank": vector.rank,
                "vector": {**vector.provenance, "digest": source.digest, "name": options.name},
            }
        )
    if descriptions:
        description["interventions"] = descriptions
    return tuple(interventions), description


def choose_engine(spec: SteeringSpec) -> EngineName:
    """The engine that a spec means: `auto` is vLLM where it is installed and there is a GPU for it.

    Raises:
        EngineError: The engine is not installed, or can't do what other options ask.
    """
    installed = find_spec("vllm") is not None
    names = [name for name in spec.as_options() if name in SteeringSpec.OPTIONS]
    of_vllm = [name for name in names if OPTIONS[name].engine == "vllm"]
    of_hf = [name for name in names if OPTIONS[name].engine == "hf"]
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
            f"{of_hf[0]}={_typed(getattr(spec, of_hf[0]))} has no effect with vLLM: leave it out, "
            "or use engine=hf. vLLM takes the GPUs that CUDA_VISIBLE_DEVICES names"
        )
    if spec.engine == "auto" and not of_vllm:
        import torch

        return "vllm" if torch.cuda.is_available() else "hf"
    return "vllm"


def _typed(value: Any) -> str:
    """A value as it is given after -M."""
    return ",".join(value) if isinstance(value, tuple) else str(value)


def why_no_thinking(model: ResolvedModel, spec: SteeringSpec) -> str:
    """Why a model can't be made to think for single answers; empty if it can."""
    if spec.thinking:
        return "the model thinks before every answer"
    if not can_think(template_of(model.source) or ""):
        return f"{model.source.name} does not think: its chat template has no thinking"
    return ""


def rounding_of(model: ResolvedModel, spec: SteeringSpec) -> str:
    """What decides the last bits of an answer besides the condition; empty on a CPU.

    It is no part of a condition, but a cached answer of one kind is not taken for another's.
    """
    import torch

    accelerator = torch.accelerator.current_accelerator(check_available=True)
    parts = []
    if accelerator is not None and spec.device.partition(":")[0] != "cpu":
        parts.append(accelerator.type)
        if accelerator.type == "cuda":
            parts.append(torch.cuda.get_device_name())
    if model.engine == "vllm":
        parts += [f"x{spec.tensor_parallel_size}"] * (spec.tensor_parallel_size > 1)
        parts += ["graphs"] * spec.cuda_graphs
    return "".join(f":{part}" for part in parts)


def open_engine(model: ResolvedModel, spec: SteeringSpec) -> Engine:
    """The process's one engine for a model that is loaded as a spec says."""
    return shared_engine(
        model.source,
        dtype=spec.dtype,
        device=spec.device,
        engine=model.engine,
        tensor_parallel_size=spec.tensor_parallel_size,
        cuda_graphs=spec.cuda_graphs,
        batch_invariant=spec.batch_invariant,
        weights=model.weights,
    )
