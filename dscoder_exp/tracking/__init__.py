"""MLflow: the parent process opens the store and owns the runs' lives; rank 0 logs into a run that exists."""
