"""The order of the steps: what runs after what, and nothing else."""
