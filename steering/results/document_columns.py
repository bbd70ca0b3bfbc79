"""The tables of a command's JSON document that are no frames of answers: their columns."""

from collections.abc import Mapping

import pandera.pandas as pa

from steering.results.columns import count, flag, interval, nats, number, share, text
from steering.results.context_columns import CHOICE_CONTEXT_SCHEMA, CONTEXT_SCHEMA
from steering.results.metric_columns import METRIC_SCHEMA
from steering.results.schema import CHOICE_CONDITION_SCHEMA, CONDITION_SCHEMA, KEYS

# A figure may be a share, a score from 0 to 100 or a number of nats.
_FIGURE = {
    "figure": text(
        "name of the figure; the same as a column of `conditions` where there is one, and "
        "`TASK:METRIC` for a metric of another task"
    ),
    "unit": text("`0-1`, `0-100` or `nats a token`; empty for a metric in a unit of its own"),
    "value": number("the figure; null where nothing could be counted"),
    "low": number("lower bound of `value`, 95%"),
    "high": number("upper bound of `value`, 95%"),
}


def _of_conditions(*names: str) -> dict[str, pa.Column]:
    return {name: CONDITION_SCHEMA.columns[name] for name in names}


_WHERE = {
    "task": text("name of the task"),
    "condition": text("what the condition is called on screen; unique among those read together"),
    "context": text("context in which it was asked; `plain` for none"),
}

_BOUNDS = {
    **_WHERE,
    **_FIGURE,
    "side": text("`max` or `min`"),
    "limit": number("the bound, in the figure's unit"),
    "status": text("`kept`, `broken` or `undecided`"),
    "on_these_questions": flag("whether `low` and `high` are on exactly the questions asked"),
    "remarks": text("what the interval does not cover, and how much more would have to be asked"),
}
_DIFFERENCES = {
    "task": text("name of the task"),
    "first": text("the condition that is the reference"),
    "second": text("the condition that is compared with it"),
    **_FIGURE,
    "p_value": share("two-sided, by flipping the signs of the themes' differences"),
    "num_themes": count("themes that both have a rate of"),
    "detectable": number("smallest difference that as many themes would find with power 0.8"),
    "settings": text("other settings that the two differ in; empty for none"),
    "note": text("why there are no bounds; empty where there are"),
}
_RATES = {
    **_WHERE,
    "condition": text("model and condition, as the signature has them"),
    **_FIGURE,
    "aligned_below": number("an answer is misaligned below this score", "0-100"),
    "coherent_from": number("an answer is coherent from this score on", "0-100"),
    "misaligned": count("misaligned answers"),
    "counted": count("answers that the rate counts"),
    "answers": count("answers"),
    "signature": text("what the rate rests on, in a line"),
}
_VERDICTS = {
    "number": count("number of the claim"),
    "name": text("the claim in a few words"),
    "source": text("who says so"),
    "statement": text("the claim in a sentence"),
    "verdict": text("`supported`, `refuted` or `not decided`"),
    "why": text("why, in a sentence"),
    "model": text("model, or models joined by commas; empty where there are no data"),
    "settings": text("what sets these answers apart from others of the study; empty for nothing"),
    "num_answers": count("answers, or scored pairs, that were read"),
    "num_conditions": count("their conditions"),
    "num_themes": count("their themes"),
    "build_seeds": text("build seeds of the vectors and adapters, joined by commas"),
    "scope": text("what the verdict holds for where that is less than it seems"),
    "left_out": text("what was not read, with the reason, joined by semicolons"),
    "logs": text("logs that were read, joined by semicolons"),
    "command": text("the line that makes the data"),
}
_EVIDENCE = {
    "number": count("number of the claim"),
    "model": text("as in `verdicts`"),
    "settings": text("as in `verdicts`"),
    "finding": text("what was measured, in a few words"),
    "unit": text("`0-1`, `0-100`, `nats a token` or empty"),
    "value": number("the figure; null where the finding is in words alone"),
    "low": number("lower bound of `value`, 95%"),
    "high": number("upper bound of `value`, 95%"),
    "p_value": share("of the rule's own test; null where it makes none"),
}
_AUDIT_CONDITIONS = {
    "condition": text("label of the condition"),
    "role": text("`baseline`, `vector` or `control`"),
    "factor": number("multiple of the working magnitude; null for the baseline"),
    "em": share("EM rate on plain questions, each theme weighing the same"),
    "em_low_these": share("lower bound of `em`, 95%, on these questions"),
    "em_high_these": share("upper bound of `em`, 95%, on these questions"),
    "em_low": share("lower bound of `em`, 95%, on questions like these"),
    "em_high": share("upper bound of `em`, 95%, on questions like these"),
    "harm": share("misaligned answers whatever their coherence"),
    "refusal": share("refusals"),
    "incoherent": share("incoherent answers"),
    "code": share("answers in code"),
    "scored": share("answers that the judge did not fail on"),
    "worst_context": text("context with the highest EM rate; empty where none was asked"),
    "worst_context_em": share("EM rate there"),
    "num_answers": count("answers, in contexts too"),
}
_AUDIT_PLACE = {
    "condition": text("label of the condition"),
    "outcome": text("`em`, `harm`, `refusal`, `incoherent` or `code`"),
    "level": text("`overall`, `group`, `context` or `theme`"),
    "place": text("name of the group, context or theme; empty for `overall`"),
    "rate": share("rate of the outcome there"),
}
_AUDIT_RAISED = {
    **_AUDIT_PLACE,
    "base_rate": share("the baseline's rate there"),
    "p_value": share("one-sided, exact test stratified by theme, before correction"),
}
_AUDIT_EDGES = {
    **_AUDIT_PLACE,
    "high": share("upper edge of `rate` on these questions, 95% for all together"),
}
_MONITOR = {
    **_of_conditions(*KEYS, "arm"),
    "direction": text("name, layer and site of the direction"),
    "steers": flag("whether the condition is steered with it"),
    "misaligned": count("answers that the rule calls misaligned"),
    "others": count("coherent answers that are not misaligned"),
    "themes": count("their themes"),
    "left_out": count("incoherent and unscored answers"),
    "unread": count("other answers without a token that was read"),
    **interval("auroc_projection_before", share, "AUROC of the mean projection before the edit"),
    **interval("auroc_projection_before_max", share, "the same of the maximum over tokens"),
    **interval("auroc_cosine_before", share, "the same of the mean cosine"),
    **interval("auroc_projection", share, "the same of the mean projection after the edit"),
    **interval("caught", share, "misaligned answers above the other half's threshold"),
    **interval("false_alarms", share, "other answers above it"),
    "thresholds": text("the threshold of each half of the themes"),
    "note": text("why figures are missing; empty where none is"),
}
_SEARCH_POINTS = {
    "method": text("construction method of the vector"),
    "layer": count("block that was steered"),
    "magnitude": number("multiple of the built vector"),
    "length": number("length of what was added", "residual norms"),
    "kl": nats("damage: mean KL divergence to the unsteered model, neutral answers"),
    "cross_entropy_rise": nats("damage: rise of the cross-entropy of the neutral answers"),
    "own": nats("shift on the target's own pairs, choosing half"),
    "broad": nats("shift on pairs about other things, choosing half"),
    "within": flag("whether the damage is within the bound"),
    "front": flag("whether no point shifts more for less damage"),
    "best": flag("whether it is the best point"),
}
_SEARCH_SHIFTS = {
    "point": text("`best`, or `default` for the default layer and magnitude 1"),
    "pairs": text("`own` or `broad`"),
    **interval("shift", nats, "shift on the half of the pairs that nothing was chosen on"),
    "num_pairs": count("pairs"),
    "num_themes": count("their themes"),
}
_SEARCH_CONTROLS = {
    "seed": count("of a random direction at the best point's layer"),
    "matched": text("what it has in common with the best point: `length` or `damage`"),
    "magnitude": number("multiple of the best point's length"),
    "kl": nats("damage: mean KL divergence to the unsteered model"),
    "shift": nats("shift of the kind that was maximised, on the other half of the pairs"),
}
_SUBSPACE_DIRECTIONS = {
    "direction": count("principal direction, from 1, the one with the most energy first"),
    "singular_value": number("its singular value"),
    "energy": share("its share of the energy"),
    "together": share("share of the energy within the directions up to it"),
}
_SUBSPACE_VECTORS = {
    "vector": text("name of the vector"),
    "kept": share("share of its energy within the top directions"),
    "top": count("how many directions these are"),
}
_JUDGE_FIGURES = {
    "judge": text("name of the judge's model, or of the several that make one judge"),
    "pairs": text("name and digest of the set of labelled pairs"),
    "figure": text("as docs/reference/judge-limits.md has it"),
    "value": number("the figure, over the pairs of the split `test`; null where there is none"),
    "low": number("lower bound of `value`, 95%"),
    "high": number("upper bound of `value`, 95%"),
    "side": text("`max` and `min` limit the figure, `within` its absolute value"),
    "limit": number("the limit"),
    "verdict": text("`good enough`, `not good enough` or `not decided`"),
    "num_pairs": count("pairs of the split `test`"),
}
_LABEL_COUNTS = {
    "labeller": text("who labelled"),
    "outcome": text("`misaligned`, `aligned`, `incoherent` or `unsure`"),
    "answers": count("answers of the draw that were labelled so"),
}
_LABEL_AGREEMENT = {
    "labeller": text("who labelled"),
    "other": text("another labeller, or `judge`"),
    "labelled": count("answers that both have an outcome for; of the judge without `unsure` ones"),
    "agreed": count("of those, the same outcome"),
}


def _schema(name: str, columns: Mapping[str, pa.Column]) -> pa.DataFrameSchema:
    return pa.DataFrameSchema(dict(columns), strict=True, name=name)


TABLES: Mapping[str, pa.DataFrameSchema] = {
    schema.name: schema
    for schema in (
        *(CONDITION_SCHEMA, CHOICE_CONDITION_SCHEMA, CONTEXT_SCHEMA, CHOICE_CONTEXT_SCHEMA),
        METRIC_SCHEMA,
        _schema("bounds", _BOUNDS),
        _schema("differences", _DIFFERENCES),
        _schema("rates", _RATES),
        _schema("verdicts", _VERDICTS),
        _schema("evidence", _EVIDENCE),
        _schema("audit_conditions", _AUDIT_CONDITIONS),
        _schema("audit_raised", _AUDIT_RAISED),
        _schema("audit_edges", _AUDIT_EDGES),
        _schema("monitor", _MONITOR),
        _schema("search_points", _SEARCH_POINTS),
        _schema("search_shifts", _SEARCH_SHIFTS),
        _schema("search_controls", _SEARCH_CONTROLS),
        _schema("subspace_directions", _SUBSPACE_DIRECTIONS),
        _schema("subspace_vectors", _SUBSPACE_VECTORS),
        _schema("judge_figures", _JUDGE_FIGURES),
        _schema("label_counts", _LABEL_COUNTS),
        _schema("label_agreement", _LABEL_AGREEMENT),
    )
}
"""Tables by name. `conditions` and the like have the columns of the frames of that name."""
