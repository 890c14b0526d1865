"""A stand-in for CANN's Python package hccl: MindSpore reads only its version, when it creates communicators."""
