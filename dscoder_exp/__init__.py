"""Hydra-composed experiments for DeepSeek-Coder-7B-v1.5 on MindSpore."""
