"""Which layer, and how strong: the point at which a vector shifts a model most for its damage.

By teacher forcing alone: no decoding and no judge. What is measured stands in `search_points.py`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from steering.condition import ResolvedModel, resolve_model
from steering.engines import Engine, shared_engine
from steering.errors import no_such_option
from steering.models import default_layer
from steering.questions.choices import NEUTRAL, load_choices
from steering.results import read_answers
from steering.spec import OPTIONS, SteeringSpec, parse_options
from steering.studies.errors import StudyError
from steering.studies.eval_sets import EvalOptions, check_judges, make_condition, run_conditions
from steering.studies.report import Report, figures_of
from steering.studies.run import Tell, quiet
from steering.studies.search_points import (
    ControlPoint,
    DefaultPoint,
    HeldOutShift,
    Kind,
    PointSearch,
    SearchPoint,
    split_by_theme,
)
from steering.studies.search_report import write_search
from steering.studies.search_scores import RowReader, RowSet, ScoreStore
from steering.targets import Target, load_target
from steering.training.cache import cached_vector, check_cache
from steering.training.methods import short_digest
from steering.training.progress import progress_bar
from steering.training.recipe import ConstructionRecipe, make_construction_recipe
from steering.vocabulary import Site

if TYPE_CHECKING:
    from inspect_ai.dataset import Sample

    from steering.vectors import SteeringVector

LOGS = Path("logs/search")
MOST_KL = 0.2  # nats a token; answers of vectors that do more run in circles: docs/findings.md
# Layers that are tried: so many, spread over this part of the depth; of a small model all.
_NUM_LAYERS, _FROM, _TO = 5, 0.25, 0.75
_SMALL = 8
SCREENING = "mean_difference"
"""What layers are screened by where building the method's own vector takes training."""
_SCREENED = 2
_SCREENING_PAIRS = 64


@dataclass(frozen=True)
class SearchResult:
    """What a search came to.

    Attributes:
        folder: Of its files.
        model: As it was named.
        target: Name of the target task.
        maximised: Which shift.
        most_kl: The bound on damage.
        points: All that were measured, as they were measured.
        front: Those of the method that no other exceeds in that shift at as little damage.
        best: The point of the largest shift within the bound.
        held_out: Its shifts on the half of the pairs on which nothing was chosen, by kind.
        default: The default layer at magnitude 1 on that half; None if it is not among the points.
        controls: Random directions on that half, by the shift that was maximised.
        vector: File of the best point's vector, its magnitude folded in.
        num_scored: Sets of rows that were scored now, rather than read from the folder.
        signature: How the figures were made.
        choices: The broad pairs.
        loading: Options of loading the model.
        confirmation: Judged answers at the best point and of the baseline, where asked for.
        files: What was written besides.
    """

    folder: Path
    model: str
    target: str
    maximised: Kind
    most_kl: float
    points: Sequence[SearchPoint]
    front: Sequence[SearchPoint]
    best: SearchPoint
    held_out: Mapping[Kind, HeldOutShift]
    default: DefaultPoint | None
    controls: Sequence[ControlPoint]
    vector: Path
    num_scored: int
    signature: str
    choices: str
    loading: Mapping[str, Any]
    confirmation: Report | None = None
    files: Sequence[Path] = ()


def search(
    model: str,
    target: str = "medical",
    *,
    method: str | None = None,
    settings: Mapping[str, Any] | None = None,
    layers: Sequence[int] | None = None,
    site: Site | None = None,
    magnitudes: Sequence[float] | None = None,
    maximise: Kind = "broad",
    most_kl: float = MOST_KL,
    choices: str = "core",
    controls: int = 8,
    seed: int = 0,
    confirm: bool = False,
    task: Mapping[str, Any] | None = None,
    grader: str | None = None,
    logs: str | Path | None = None,
    display: str | None = None,
    tell: Tell = quiet,
    **loading: Any,
) -> SearchResult:
    """Find the layer and the magnitude at which a target's vector shifts a model most.

    The shift is that of `em_choice`: the change of the log-odds of misaligned over aligned answers,
    nats a token. Points whose damage exceeds a bound don't count. A search that was stopped goes on
    where it was: what its folder holds is not measured again.

    Args:
        model: toy, an alias, a hub id, a folder or a GGUF file.
        target: Target task.
        method: Name of the construction method; None for the model's default one. Where it trains,
            layers are screened by mean_difference vectors of 64 pairs, which all do the damage of
            the bound, and it builds at the best two.
        settings: Of the method, by name.
        layers: Blocks, from 0; None for five in the middle half of the model, the default one among
            them.
        site: Where in the block; None for its output.
        magnitudes: Multiples of the built vector; None for a ladder that doubles as far as the
            bound allows, refined once around the best point.
        maximise: The shift on `broad` pairs, or on the target's `own` held-out pairs.
        most_kl: Most damage: mean KL divergence of a token of neutral answers from the unsteered
            model, in nats.
        choices: The broad pairs: a choice set, as -T choices= of em_choice.
        controls: How many random directions the best point is compared with.
        seed: Of building.
        confirm: Whether em_freeform is run at the best point and for the baseline; it has a judge.
        task: -T options of em_freeform.
        grader: The judge of em_freeform, as --model-role grader= has it.
        logs: Folder; None for one of the model's and target's names in `logs/search`.
        display: As Inspect's --display.
        tell: Told what is about to be measured.
        **loading: How the model is loaded, as `steering.build` takes it.

    Raises:
        SteeringError: An option is impossible, or no point is within the bound.
    """
    _check_options(maximise, most_kl, layers, magnitudes, controls, loading)
    spec = parse_options(loading)
    resolved = resolve_model(model, spec)
    toy = resolved.source.is_toy
    magnitudes = magnitudes and sorted(set(magnitudes))
    rows = load_target(target, toy=toy)
    choice_set = load_choices(choices, toy=toy)
    pairs = [row for row in rows.held_out if None not in (row.aligned, row.misaligned)]
    _check_themes(f"--choices {choices}", len({_facts(row)["theme"] for row in choice_set.pairs}))
    if maximise == "own":
        _check_themes(f"--target {target}, held-out prompts with both answers", len(pairs))
    builder = _Builder(resolved, spec, rows, site, seed)
    tried = _layers(resolved) if layers is None else sorted(set(layers))
    recipes = {layer: builder.recipe(method, settings, layer) for layer in tried}
    built_by = recipes[tried[0]].method
    method = built_by.name
    trains = "learning_rate" in type(built_by).model_fields
    screened = trains and len(tried) > _SCREENED and _has_both(rows)
    screening = _Builder(resolved, spec, _few_pairs(rows), site, seed)
    screens = [screening.recipe(SCREENING, None, layer) for layer in tried if screened]
    options = EvalOptions(dict(task or {}), grader, seed)
    if confirm:
        check_judges(options, toy=toy)
    check_cache()
    folder = Path(logs) if logs is not None else LOGS / _folder_name(model, recipes[tried[0]])
    tell(
        f"Search: {model}, {rows.name}, {method} at layers {', '.join(map(str, tried))}"
        + (f", screened by {SCREENING}" if screened else "")
        + f"; shift on {maximise} pairs, damage at most {most_kl:g} nats a token."
    )
    engine = builder.engine
    reader = RowReader(engine.tokenizer().result(), resolved.shape.context_length)
    halves: dict[Kind, tuple[RowSet, RowSet]] = {}
    if len(pairs) > 1:
        halves["own"] = split_by_theme("own", reader.examples(pairs))
    halves["broad"] = split_by_theme("broad", reader.samples(choice_set.pairs))
    others = [row for row in choice_set.samples if _facts(row)["kind"] == NEUTRAL]
    neutral = RowSet("neutral", reader.samples(others))
    store = ScoreStore(engine, _identity(resolved, spec), folder / "measured")
    search_of = PointSearch(store, neutral, halves, most_kl)
    if screened:
        search_of.screen(SCREENING, list(map(screening.vector, screens)))
        tried = _best_layers(search_of, maximise, tried)
        tell(f"Screened: {method} is built at layers {', '.join(map(str, tried))}.")
    for layer in tried:
        search_of.along(method, builder.vector(recipes[layer]), magnitudes)
    best = search_of.best(maximise, method)
    if best is None:
        raise StudyError(
            f"no point of {method} has a damage of at most {most_kl:g} nats a token: give smaller "
            "--magnitudes, or raise --most-kl"
        )
    built = builder.vector(recipes[best.layer])
    if magnitudes is None:
        around = (best.magnitude / math.sqrt(2), best.magnitude * math.sqrt(2))
        search_of.between(method, built, around)
        best = search_of.best(maximise, method) or best
    vector = built.scaled(best.magnitude)
    file = folder / f"{recipes[best.layer].file_name}-layer{best.layer}.safetensors"
    vector.save(file)
    layer = default_layer(resolved.source, resolved.shape.num_layers)
    digests = [f"{kind}:{both[0].digest[:8]}" for kind, both in halves.items()]
    result = SearchResult(
        folder=folder,
        model=model,
        target=rows.name,
        maximised=maximise,
        most_kl=most_kl,
        points=search_of.points,
        front=search_of.front(maximise, method),
        best=best,
        held_out=search_of.held_out(vector),
        default=search_of.default(method, layer, lambda: builder.vector(recipes[layer])),
        controls=search_of.controls(vector, best.kl, maximise, controls),
        vector=file,
        num_scored=store.num_scored,
        signature="|".join(
            [f"choices:{choices}", *digests, f"neutral:{neutral.digest[:8]}", "form:likelihood"]
        ),
        choices=choices,
        loading=loading,
    )
    if confirm:
        conditions = [
            make_condition(model, loading | {"vector": name}) for name in ("none", str(file))
        ]
        paths = run_conditions("search", conditions, [options], folder / "confirm", display=display)
        result = replace(result, confirmation=figures_of(read_answers(paths)))
    return replace(result, files=write_search(result))


class _Builder:
    """Recipes of one model and target, and their vectors."""

    def __init__(
        self,
        model: ResolvedModel,
        spec: SteeringSpec,
        target: Target,
        site: Site | None,
        seed: int,
    ) -> None:
        self._model = model
        self._spec = spec
        self._target = target
        self._site = site
        self._seed = seed

    @property
    def engine(self) -> Engine:
        """The process's engine, which builds and scores."""
        return shared_engine(
            self._model.source,
            dtype=self._spec.dtype,
            device=self._spec.device,
            weights=self._model.weights,
        )

    def recipe(
        self, method: str | None, settings: Mapping[str, Any] | None, layer: int
    ) -> ConstructionRecipe:
        return make_construction_recipe(
            self._model.source,
            self._model.shape,
            self._target,
            weights=self._model.weights,
            method=method,
            settings=settings,
            layer=layer,
            site=self._site,
            dtype=self._spec.dtype,
            seed=self._seed,
        )

    def vector(self, recipe: ConstructionRecipe) -> "SteeringVector":
        """The recipe's vector, from the cache or built now."""
        bar = progress_bar(f"layer {recipe.layer}, {recipe.method.name}: building")
        return cached_vector(self.engine, recipe, self._target, bar).result()


def _check_options(
    maximise: str,
    most_kl: float,
    layers: Sequence[int] | None,
    magnitudes: Sequence[float] | None,
    controls: int,
    loading: Mapping[str, Any],
) -> None:
    names = [option.name for option in OPTIONS.values() if option.flag]
    for name in loading:
        if name not in names:
            raise StudyError(no_such_option(name, names, "of a search"))
    if maximise not in get_args(Kind):
        raise StudyError(f"--maximise {maximise} is unknown: give {' or '.join(get_args(Kind))}")
    if not 0 < most_kl < math.inf:
        raise StudyError(f"--most-kl {most_kl:g} is no bound on damage: give one above 0, as 0.2")
    for magnitude in magnitudes or ():
        if type(magnitude) not in (int, float) or not 0 < magnitude < math.inf:
            raise StudyError(
                f"--magnitudes {magnitude!r:.40} is no magnitude above 0: give some, as 0.5,1,2"
            )
    if layers is not None and not layers:
        raise StudyError("--layers names none: give some, as 10,12, or leave it out")
    if magnitudes is not None and not magnitudes:
        raise StudyError("--magnitudes names none: give some, as 0.5,1,2, or leave it out")
    if controls < 0:
        raise StudyError(f"--controls {controls} is no number of random directions: give 0 or more")


def _layers(model: ResolvedModel) -> list[int]:
    """The layers that are tried when none are named: the default one, and others around it."""
    depth = model.shape.num_layers
    if depth <= _SMALL:
        return list(range(depth))
    step = (_TO - _FROM) / (_NUM_LAYERS - 1)
    layers = [round((_FROM + number * step) * depth) for number in range(_NUM_LAYERS)]
    default = default_layer(model.source, depth)
    layers.remove(min(layers, key=lambda layer: abs(layer - default)))
    return sorted({*layers, default})


def _check_themes(name: str, num_themes: int) -> None:
    if num_themes < 2:
        raise StudyError(
            f"{name}: pairs of {num_themes} themes, and a search chooses on one half of the themes "
            "and reports on the other: give pairs of two themes or more"
        )


def _has_both(target: Target) -> bool:
    return any(None not in (row.aligned, row.misaligned) for row in target.examples)


def _few_pairs(target: Target) -> Target:
    """Enough pairs of a target to screen layers by."""
    pairs = [row for row in target.examples if None not in (row.aligned, row.misaligned)]
    few = tuple(pairs[:: max(1, len(pairs) // _SCREENING_PAIRS)][:_SCREENING_PAIRS])
    digest = short_digest([target.digest, "pairs", len(few)])
    return replace(target, examples=few, digest=digest)


def _best_layers(search: PointSearch, kind: Kind, layers: Sequence[int]) -> list[int]:
    """The layers of the largest shifts within the bound, by their number."""

    def largest(layer: int) -> float:
        best = search.best(kind, SCREENING, layer)
        return -math.inf if best is None else best.shift(kind)

    return sorted(sorted(layers, key=largest, reverse=True)[:_SCREENED])


def _identity(model: ResolvedModel, spec: SteeringSpec) -> dict[str, Any]:
    """What decides the scores of a vector, in JSON values."""
    from steering.condition import rounding_of

    return {
        "weights": model.weights,
        "dtype": spec.dtype,
        "date": model.source.date,
        "rounding": rounding_of(model, spec),
    }


def _folder_name(model: str, recipe: ConstructionRecipe) -> str:
    return f"{Path(model).name.removesuffix('.gguf')}-{recipe.file_name}"


def _facts(sample: "Sample") -> dict[str, Any]:
    return sample.metadata or {}
