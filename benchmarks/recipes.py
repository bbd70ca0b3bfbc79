"""What the settings of construction methods come to on a language model, without a judge.

    python -m benchmarks.recipes --model smollm2 --target medical --layers 8 10 12 14

For each layer the difference of the means at several lengths; at the default layer `pca` likewise,
and `sft` at several learning rates after each training epoch. What was chosen from such rows:
results/recipes.md.
"""

import sys
from collections.abc import Iterator, Sequence

from benchmarks.findings import Bench, Entry, Row, open_bench, parser, write_rows
from steering import build

LENGTHS = (0.05, 0.1, 0.15, 0.2)
"""Of a vector as a share of the residual norm."""
BUILT_LENGTH = 0.1
"""Length at which vectors are built; others are multiples of it."""
RATES = (0.005, 0.01, 0.02)
"""Learning rates of sft."""
EPOCHS = 3


def recipes(
    model: str, target: str, layers: Sequence[int], rates: Sequence[float]
) -> Iterator[tuple[Entry, Sequence[float]]]:
    """Vectors, and the magnitudes at which each is measured."""
    magnitudes = [length / BUILT_LENGTH for length in LENGTHS]
    settings = {"length": BUILT_LENGTH}
    for method, blocks in (("mean_difference", layers), ("pca", [None])):
        for layer in blocks:
            vector = build(model, target, method=method, layer=layer, settings=settings)
            yield Entry(method, 0, vector), magnitudes
    for rate in rates:
        settings = {"learning_rate": rate}
        # The most first: fewer training epochs are a part of the same run.
        for epochs in range(EPOCHS, 0, -1):
            vector = build(model, target, method="sft", training_epochs=epochs, settings=settings)
            yield Entry(f"sft, learning rate {rate:g}, epoch {epochs}", 0, vector), [1.0]


def rows(
    bench: Bench, model: str, target: str, layers: Sequence[int], rates: Sequence[float]
) -> Iterator[Row]:
    """Each vector at each of its magnitudes."""
    for entry, magnitudes in recipes(model, target, layers, rates):
        for magnitude in magnitudes:
            yield bench.row(entry, magnitude, compared=False)


def main() -> None:
    """Measure, and write the rows as a CSV file."""
    command = parser((__doc__ or "").splitlines()[0], target="medical", own=10, core=2)
    command.add_argument("--layers", type=int, nargs="+", required=True)
    command.add_argument("--rates", type=float, nargs="*", default=RATES)
    arguments = command.parse_args()
    bench, path = open_bench(arguments, "recipes")
    cross_entropy, repeated = bench.greedy()
    print(f"unsteered: {cross_entropy:.2f} nats, {repeated:.0%} repeated", file=sys.stderr)
    write_rows(
        path, rows(bench, arguments.model, arguments.target, arguments.layers, arguments.rates)
    )


if __name__ == "__main__":
    main()
