"""Kernels in C++ for training on the CPU: what MindSpore's own operators take several passes or one thread for.

They are compiled where they run, once, for the CPU that is there. Without a compiler MindSpore's operators do the same.
"""
