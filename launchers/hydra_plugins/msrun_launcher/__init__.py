"""Hydra plugin: the launcher `msrun` and its options. The implementation is the package msrun_launcher."""
