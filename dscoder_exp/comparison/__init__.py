"""Recorded runs side by side: read from an MLflow store, and shown as an HTML report, pictures and tables."""
