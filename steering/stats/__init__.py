"""Statistics: arrays in, small results out. Knows no judges, rules, logs or frames."""

from steering.stats.agreement import alpha, cohen_kappa
from steering.stats.intervals import (
    CONFIDENCE,
    Interval,
    cluster_interval,
    cluster_standard_error,
    design_effect,
    mean,
    mean_interval,
    stratified_interval,
    stratified_upper_bound,
    t_quantile,
)
from steering.stats.paired import (
    Difference,
    between_question_sd,
    means_by_theme,
    minimum_detectable_difference,
    paired_difference,
    sign_flip_p_value,
)
