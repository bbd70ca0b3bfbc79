"""Studies: grids of conditions, each run as one eval-set, and what their logs say.

`run.py` runs points and reads them back, `matched.py` compares dose curves, `finetuned.py` is the
study of steered against finetuned models, `tables.py` prints.
"""

from steering.studies.finetuned import (
    MAGNITUDES,
    TRAINING_EPOCHS,
    Comparison,
    FinetunedStudy,
    compare_arms,
    prepare,
)
from steering.studies.matched import (
    DoseCurve,
    MatchedDifference,
    MatchError,
    matched_difference,
    shared_levels,
)
from steering.studies.run import (
    Asked,
    Point,
    StudyError,
    check_judges,
    num_answers,
    read_points,
    run_points,
)
from steering.studies.tables import front, print_matched

__all__ = [
    "MAGNITUDES",
    "TRAINING_EPOCHS",
    "Asked",
    "Comparison",
    "DoseCurve",
    "FinetunedStudy",
    "MatchError",
    "MatchedDifference",
    "Point",
    "StudyError",
    "check_judges",
    "compare_arms",
    "front",
    "matched_difference",
    "num_answers",
    "prepare",
    "print_matched",
    "read_points",
    "run_points",
    "shared_levels",
]
