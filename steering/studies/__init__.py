"""Studies: grids of conditions, each run as one eval-set, and what their logs say.

`run.run_study` and `audit.audit` do everything in one call. `grid.py` says what a study varies,
`finetuned.py` and `projected_vectors.py` build what two of them need, `eval_sets.py` runs
conditions and `shards.py` deals them out to several machines. `claims.py` holds the paper's claims
against their answers by the rules of `claim_rules.py`, `arms.py` and `dose_matching.py` compare
dose curves, `audit_rule.py` judges a vector (what it counts, tests, plans and says stands in the
other `audit_*.py`), `report.py` writes the page and `printing.py` prints.
"""
