"""C++ kernels for training on the CPU, where MindSpore's own operators take several passes or a single thread.

They are compiled once on each machine, for its CPU. Without a compiler MindSpore's operators compute the same.
"""
