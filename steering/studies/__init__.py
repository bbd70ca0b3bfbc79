"""Studies: grids of conditions, each run as one eval-set, and what their logs say.

`grid.py` says what a study is, `projections.py` and `finetuned.py` build what some of them need,
`shards.py` deals conditions out to several machines and `run.py` runs them, `facts.py` and
`frame.py` make tidy frames of any logs, `matched.py` compares dose curves, `claims.py` holds the
paper's claims against frames, by the rules of `rulings.py` and the statistics of `trends.py`,
`audit.py` is the audit of one vector, `tables.py` prints.
"""

from steering.results import conditions_of, judged_answers, read_answers, write_frames
from steering.studies.claims import CLAIMS, Claim, ClaimError, ClaimVerdict, judge_claims
from steering.studies.dose_matching import (
    DoseCurve,
    MatchedDifference,
    MatchError,
    matched_difference,
    shared_levels,
)
from steering.studies.finetuned import (
    ArmComparison,
    FinetunedStudy,
    compare_arms,
    doses_of,
    make_finetuned_study,
    prepare,
)
from steering.studies.grid import (
    GRIDS,
    Point,
    Study,
    StudyError,
    grid_points,
    keep_study,
    make_point,
    make_study,
    read_fields,
    read_study,
)
from steering.studies.printing import print_conditions, print_matched
from steering.studies.projected_vectors import projected_points, read_spectrum
from steering.studies.run import Asked, Cost, check_judges, cost_of, run_points, unfinished
from steering.studies.shards import Shard, read_shard

__all__ = [
    "CLAIMS",
    "GRIDS",
    "ArmComparison",
    "Asked",
    "Claim",
    "ClaimError",
    "ClaimVerdict",
    "Cost",
    "DoseCurve",
    "FinetunedStudy",
    "MatchError",
    "MatchedDifference",
    "Point",
    "Shard",
    "Study",
    "StudyError",
    "check_judges",
    "compare_arms",
    "conditions_of",
    "cost_of",
    "doses_of",
    "grid_points",
    "judge_claims",
    "judged_answers",
    "keep_study",
    "make_finetuned_study",
    "make_point",
    "make_study",
    "matched_difference",
    "prepare",
    "print_conditions",
    "print_matched",
    "projected_points",
    "read_answers",
    "read_fields",
    "read_shard",
    "read_spectrum",
    "read_study",
    "run_points",
    "shared_levels",
    "unfinished",
    "write_frames",
]
