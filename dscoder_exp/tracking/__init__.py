"""MLflow: the parent process opens the store, creates runs and ends them; rank 0 of the workers logs into them."""
