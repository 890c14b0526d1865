"""What Hydra finds by itself: the launcher `msrun` and its options. The work is in the package msrun_launcher."""
