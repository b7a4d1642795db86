"""Target databases: run a plan, keep the checkpoint."""
