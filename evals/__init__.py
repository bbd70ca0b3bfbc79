"""The task files of the suite. Each holds @task functions and nothing else."""
