"""Inspect Viz on this suite's frame of conditions: EM rates with intervals that cluster by theme.

python examples/use_with/plot_conditions.py LOG_DIR PAGE.html
"""

import sys

import click
from inspect_viz import Data
from inspect_viz.mark import dot, rule_y
from inspect_viz.plot import plot, write_html

from steering.results.conditions import conditions_of
from steering.results.frame import read_answers

if __name__ == "__main__":
    folder, page = sys.argv[1:]
    figures = ["em_betley", "em_betley_low", "em_betley_high"]
    conditions = conditions_of(read_answers(folder))[["condition", *figures]]
    data = Data.from_dataframe(conditions)
    write_html(
        page,
        plot(
            rule_y(data, x1="em_betley_low", x2="em_betley_high", y="condition"),
            dot(data, x="em_betley", y="condition", fill="black"),
            x_domain=[0, 1],
            x_label="EM rate by betley, 95% interval",
        ),
    )
    click.echo(f"{len(conditions)} conditions in {page}")
