"""`penstock evaluate`: tasks, baselines, samples and speed of a run."""
