"""A launcher that submits jobs to Slurm through submitit."""
