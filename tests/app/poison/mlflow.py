"""First on the path of commands that must not import mlflow."""

import os
import sys

print("mlflow was imported", file=sys.stderr, flush=True)
os._exit(99)
