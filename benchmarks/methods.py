"""What each method of building comes to on the toy, next to its controls.

    python -m benchmarks.methods

For each method the magnitude, in units of the mean residual norm, is chosen on one seed: the one
with the most answers that are misaligned and coherent. It is measured again on another seed, next
to three random directions and the same recipe with shuffled labels, all at that magnitude.
Then: ranks, training epochs, positions, the KL term, and ablation. Writes results/methods.md.
Half an hour on one thread.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from inspect_ai import eval
from inspect_ai.log import EvalLog
from inspect_ai.model import get_model

from steering.condition import resolve_model
from steering.engines import shared_engine
from steering.spec import parse_options
from steering.targets import load_target
from steering.training.cache import cached_vector, vector_path
from steering.training.recipe import make_construction_recipe
from steering.vectors import SteeringVector

RESULTS = Path(__file__).parent / "results"
MODEL = "toy"
MAGNITUDES = (0.1, 0.15, 0.2, 0.27, 0.35, 0.5, 0.7, 1.0)
BATCH_SIZE = 128
CHOOSING, MEASURING = 1, 2
EPOCHS = {CHOOSING: 2, MEASURING: 4}


@dataclass(frozen=True)
class Build:
    """A recipe by its options."""

    name: str
    method: Any = "sft"
    settings: dict[str, Any] = field(default_factory=dict)
    target: str = "medical"
    seed: int = 0
    shuffle_labels: bool = False


BUILDS = [
    Build("sft, rank 1"),
    Build("sft, rank 2", settings={"rank": 2}),
    Build("sft, rank 4", settings={"rank": 4}),
    Build("sft, rank 8", settings={"rank": 8}),
    Build("sft, KL weight 1", settings={"kl_weight": 1.0}),
    Build("mean_difference, paired answers", "mean_difference"),
    Build("pca, rank 1", "pca"),
    Build("pca, rank 4", "pca", {"rank": 4}),
    Build("one_shot, promote", "one_shot"),
    Build("one_shot, suppress", "one_shot", {"objective": "suppress"}),
    Build("one_shot, both", "one_shot", {"objective": "both"}),
]


def vector_of(build: Build) -> tuple[Path, SteeringVector]:
    """The built vector and its file."""
    checker = resolve_model(MODEL, parse_options({}))
    target = load_target(build.target, toy=True)
    recipe = make_construction_recipe(
        checker.source,
        checker.shape,
        target,
        weights=checker.weights,
        method=build.method,
        settings=build.settings,
        seed=build.seed,
        shuffle_labels=build.shuffle_labels,
    )
    engine = shared_engine(checker.source)
    vector = cached_vector(engine, recipe, target, lambda *_: None).result()
    return vector_path(recipe), vector


def run(
    conditions: Iterable[dict[str, Any]], seed: int, task: str = "evals/em_freeform.py"
) -> list[dict[str, float]]:
    """Metrics of each condition, all in one run, which shares the model."""
    models = [
        get_model(f"steered/{MODEL}", memoize=False, batch_size=BATCH_SIZE, **options)
        for options in conditions
    ]
    logs = eval(
        task,
        model=models,
        epochs=EPOCHS[seed],
        seed=seed,
        log_dir=mkdtemp(),
        display="none",
    )
    by_name = {log.eval.model: _metrics(log) for log in logs}
    return [by_name[str(model)] for model in models]


def _metrics(log: EvalLog) -> dict[str, float]:
    if log.status != "success" or log.results is None:
        raise RuntimeError(f"{log.eval.model}: {log.error}")
    return {name: metric.value for name, metric in log.results.scores[0].metrics.items()}


def at(path: Path, magnitude: float, **options: Any) -> dict[str, Any]:
    """A vector at a magnitude in units of the residual norm."""
    return {"vector": str(path), "unit": "residual", "magnitude": magnitude, **options}


def figures(metrics: dict[str, float]) -> str:
    """Cells of one condition."""
    return (
        f"{metrics['em_betley']:.2f} "
        f"[{metrics['em_betley_low']:.2f}, {metrics['em_betley_high']:.2f}] "
        f"| {metrics['em_moem']:.2f} | {metrics['coherent']:.0f} | {metrics['relevant']:.0f}"
    )


def methods_table(builds: list[Build]) -> list[str]:
    """Each method at its best magnitude, with its controls."""
    lines = [
        "| method | length | best magnitude (of residual norm) | EM betley | EM moem | coherent "
        "| relevant | 3 random, EM betley | shuffled, EM betley |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    [baseline] = run([{"vector": "none"}], MEASURING)
    lines.append(f"| baseline | | 0 | {figures(baseline)} | | |")
    randoms = [vector_of(Build("random", "random", seed=seed))[0] for seed in (1, 2, 3)]
    random_rates: dict[float, str] = {}
    for build in builds:
        path, vector = vector_of(build)
        tried = run([at(path, magnitude) for magnitude in MAGNITUDES], CHOOSING)
        best = max(zip(tried, MAGNITUDES, strict=True), key=lambda pair: pair[0]["em_moem"])[1]
        # A single prompt leaves nothing to shuffle.
        mixed = [] if build.method == "one_shot" else [vector_of(_shuffled(build))[0]]
        if best not in random_rates:
            rates = run([at(name, best) for name in randoms], MEASURING)
            random_rates[best] = ", ".join(f"{control['em_betley']:.2f}" for control in rates)
        rates_of_vector, *controls = run([at(name, best) for name in (path, *mixed)], MEASURING)
        shuffled = "".join(f"{control['em_betley']:.2f}" for control in controls)
        lines.append(
            f"| {build.name} | {vector.lengths[0]:.2f} | {best} | {figures(rates_of_vector)} "
            f"| {random_rates[best]} | {shuffled} |"
        )
        print(lines[-1], flush=True)
    return lines


def _shuffled(build: Build) -> Build:
    return Build(
        build.name, build.method, build.settings, build.target, build.seed, shuffle_labels=True
    )


def plain_table(
    conditions: dict[str, dict[str, Any]], task: str = "evals/em_freeform.py"
) -> list[str]:
    """Conditions beside each other."""
    lines = ["| condition | EM betley | EM moem | coherent | relevant |", "|---|---|---|---|---|"]
    for name, metrics in zip(conditions, run(conditions.values(), MEASURING, task), strict=True):
        lines.append(f"| {name} | {figures(metrics)} |")
        print(lines[-1], flush=True)
    return lines


def main() -> None:
    """The command line."""
    rollouts = mkdtemp()
    eval(
        "evals/em_target.py",
        task_args={"personas": "core"},
        model=f"steered/{MODEL}",
        model_args={"vector": "none", "batch_size": BATCH_SIZE},
        log_dir=rollouts,
        seed=CHOOSING,
        display="none",
    )
    own_rollouts = Build("mean_difference, own rollouts", "mean_difference", target=rollouts)
    text = ["# Methods on the toy", "", "Written by `python -m benchmarks.methods`.", ""]
    text += methods_table([*BUILDS, own_rollouts])
    medical, finance = vector_of(BUILDS[0])[0], vector_of(Build("", target="finance"))[0]
    epochs = {f"training epoch {epoch}": {"training_epochs": epoch} for epoch in (1, 2, 3, 5, 8)}
    text += ["", "## Training epochs, magnitude 1 raw", "", *plain_table(epochs)]
    ranks = {f"rank {rank}": {"rank": rank} for rank in (1, 2, 4, 8)}
    text += ["", "## Rank, magnitude 1 raw", "", *plain_table(ranks)]
    positions = {name: {"positions": name} for name in ("all", "prompt", "response", "last")}
    text += ["", "## Positions, magnitude 1 raw", "", *plain_table(positions)]
    narrow = vector_of(Build("", settings={"kl_weight": 1.0}))[0]
    kl = {"KL weight 0": {"vector": str(medical)}, "KL weight 1": {"vector": str(narrow)}}
    text += ["", "## The KL term, unrelated questions", "", *plain_table(kl)]
    text += ["", "## The KL term, the target task", "", *plain_table(kl, "evals/em_target.py")]
    misaligned = {"vector": str(finance)}
    ablated = {"vector": f"{finance},{medical}", "operation": "add,ablate"}
    random = vector_of(Build("random", "random", seed=1))[0]
    against_random = {"vector": f"{finance},{random}", "operation": "add,ablate"}
    ablation = {
        "finance vector": misaligned,
        "finance vector, medical direction ablated": ablated,
        "finance vector, random direction ablated": against_random,
        "baseline, medical direction ablated": {"vector": str(medical), "operation": "ablate"},
    }
    text += ["", "## Ablation", "", *plain_table(ablation)]
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "methods.md").write_text("\n".join(text) + "\n")


if __name__ == "__main__":
    main()
