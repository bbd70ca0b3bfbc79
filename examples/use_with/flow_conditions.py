"""Inspect Flow: conditions as a matrix of model options.

flow run examples/use_with/flow_conditions.py --log-dir LOG_DIR --store none
"""

from inspect_flow import FlowSpec, models_matrix, tasks_matrix

FlowSpec(
    log_dir="logs/flow",
    tasks=tasks_matrix(
        task="steering/em_freeform",
        args={"num_questions": 2, "samples_per_question": 5},
        model=models_matrix(
            model="steered/toy", model_args=[{"vector": "none"}, {"magnitude": 0.5}, {}]
        ),
    ),
)
