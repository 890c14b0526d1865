"""A stand-in for CANN's Python package: MindSpore reads its version when ranks meet, and nothing else."""
