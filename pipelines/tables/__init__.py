"""Paper tables, claims and plots, made from the artifacts of runs and from nothing else."""
