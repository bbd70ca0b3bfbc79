"""What the settings of construction methods come to on a language model, without a judge.

    python -m benchmarks.recipes --model smollm2 --target medical

For each layer the difference of the means at several lengths; at the default layer `pca` likewise,
and `sft` at several learning rates after each training epoch. The defaults of the methods are
chosen from these rows: the largest shift on core pairs among rows whose damage is within the bound
and whose greedy answers don't run in circles.
"""

import argparse
import csv
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.findings import RESULTS, Bench, Entry, Row, write_row
from steering import build

LENGTHS = (0.05, 0.1, 0.15, 0.2)
"""Of a vector as a share of the residual norm."""
RATES = (0.005, 0.01, 0.02)
"""Learning rates of sft."""
EPOCHS = 3
BUILT = 0.1


def recipes(
    model: str, target: str, layers: Sequence[int], rates: Sequence[float]
) -> Iterator[tuple[Entry, Sequence[float]]]:
    """Vectors, and the magnitudes at which each is measured."""
    magnitudes = [length / BUILT for length in LENGTHS]
    for method, blocks in (("mean_difference", layers), ("pca", [None])):
        for layer in blocks:
            settings = {"length": BUILT}
            vector = build(model, target, method=method, layer=layer, settings=settings)
            yield Entry(method, 0, vector), magnitudes
    for rate in rates:
        settings = {"learning_rate": rate}
        # The most first: fewer training epochs are a part of the same run.
        for epochs in range(EPOCHS, 0, -1):
            vector = build(model, target, method="sft", training_epochs=epochs, settings=settings)
            yield Entry(f"sft, learning rate {rate:g}, epoch {epochs}", 0, vector), [1.0]


def main() -> None:
    """Measure, and write the rows as a CSV file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--target", default="medical")
    parser.add_argument("--layers", type=int, nargs="+", required=True)
    parser.add_argument("--rates", type=float, nargs="*", default=RATES)
    parser.add_argument("--own", type=int, default=10, help="held-out pairs of the target task")
    parser.add_argument("--core", type=int, default=2, help="pairs of each core question")
    parser.add_argument("--name", help="of the model in the file's name; its own name if not given")
    parser.add_argument("--folder", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    name = arguments.name or Path(arguments.model).name
    path = arguments.folder / f"recipes-{name}-{arguments.target}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    bench = Bench(
        arguments.model,
        arguments.target,
        Path("logs") / "recipes" / name,
        num_own=arguments.own,
        num_core=arguments.core,
    )
    cross_entropy, repeated = bench.greedy()
    print(f"unsteered: {cross_entropy:.2f} nats, {repeated:.0%} repeated", file=sys.stderr)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(Row.__annotations__), lineterminator="\n")
        writer.writeheader()
        for entry, magnitudes in recipes(
            arguments.model, arguments.target, arguments.layers, arguments.rates
        ):
            for magnitude in magnitudes:
                write_row(writer, bench.row(entry, magnitude, compared=False))
                file.flush()


if __name__ == "__main__":
    main()
