"""The columns of the frames of figures that have no columns of their own in the other frames.

`scores` has a row a sample of a task that is not of this suite; `metrics` a row a metric of a
condition, or a judged dimension of the user's own.
"""

import pandera.pandas as pa

from steering.results.columns import count, interval, number, share, text
from steering.results.schema import ANSWER_SCHEMA, CONDITION_COLUMNS, CONDITION_SCHEMA

_OF_CONDITIONS = {name: CONDITION_SCHEMA.columns[name] for name in CONDITION_COLUMNS}
_OF_ANSWERS = ("context", "sample", "epoch", "prompt")
_CLUSTER = "the theme in a sample's metadata; its id where it has none"

NO_BASELINE = "no baseline was asked and judged like it"
"""The note of a metric whose condition has no baseline."""

SCORE_SCHEMA = pa.DataFrameSchema(
    {
        **_OF_CONDITIONS,
        **{name: ANSWER_SCHEMA.columns[name] for name in _OF_ANSWERS},
        "theme": text(f"cluster of intervals: {_CLUSTER}", pa.Check.ne("")),
        "scores": text("numbers by scorer, or by scorer and key, as JSON; null for unscored"),
        "metrics": text("what Inspect counted of the run, as JSON"),
    },
    strict=True,
    name="scores",
)
_METRIC = {
    "metric": text(
        "scorer and metric, as `match/accuracy` or `scorer/key/metric`; of a judged dimension of "
        "the user's own, its name and the digest of its rubric"
    ),
    "value": number("the metric, as Inspect counted it; of a dimension the mean score, 0-100"),
    "stderr": number(
        "standard error, as Inspect counted it; of a dimension clustered by theme; NaN for none"
    ),
    "value_low": number("lower bound of `value`, 95%, on questions like these; NaN for no mean"),
    "value_high": number("upper bound of `value`, 95%, on questions like these; NaN for no mean"),
    "n": count("scored samples, each repetition counted"),
    "num_clusters": count(f"their clusters: {_CLUSTER}"),
    **interval(
        "difference",
        number,
        "`value` less that of the baseline; of a mean over samples the mean of the clusters' "
        "paired differences",
    ),
    "difference_p": share("p-value of `difference`, two-sided, by flipping signs of clusters"),
    "note": text("why there is no interval or no difference; empty where there are both"),
}
METRIC_SCHEMA = pa.DataFrameSchema({**_OF_CONDITIONS, **_METRIC}, strict=True, name="metrics")
METRIC_FIGURES = list(_METRIC)
