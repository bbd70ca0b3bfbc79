"""Studies: grids of conditions, each run as one eval-set, and what their logs say.

`run.run_study` and `audit.audit` do everything in one call. `grid.py` says what a study varies,
`finetuned.py` and `projected_vectors.py` build what two of them need, `eval_sets.py` runs
conditions and `shards.py` deals them out to several machines. `series.py` says which answers may be
compared, `claims.py` holds the paper's claims against them by the rules of `claim_rules.py`,
`arms.py` and `dose_matching.py` compare dose curves, `audit_rule.py` judges a vector, `report.py`
writes the page and `printing.py` prints.
"""

from steering.results import conditions_of, read_answers
from steering.studies.arms import compare_arms
from steering.studies.claims import CLAIMS, ClaimVerdict, judge_claims
from steering.studies.dose_matching import DoseCurve, matched_difference, shared_levels
from steering.studies.errors import StudyError
from steering.studies.eval_sets import StudyCondition
from steering.studies.grid import FACTORS, GridStudy, Study, StudyFactor, grid_conditions
from steering.studies.projected_vectors import read_spectrum
from steering.studies.run import StudyResult, run_studies, run_study
from steering.studies.shards import Shard, read_shard
from steering.studies.study_file import keep_study, make_study, read_study

__all__ = [
    "CLAIMS",
    "FACTORS",
    "ClaimVerdict",
    "DoseCurve",
    "GridStudy",
    "Shard",
    "Study",
    "StudyCondition",
    "StudyError",
    "StudyFactor",
    "StudyResult",
    "compare_arms",
    "conditions_of",
    "grid_conditions",
    "judge_claims",
    "keep_study",
    "make_study",
    "matched_difference",
    "read_answers",
    "read_shard",
    "read_spectrum",
    "read_study",
    "run_studies",
    "run_study",
    "shared_levels",
]
