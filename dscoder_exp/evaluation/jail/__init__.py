"""The inside of the sandbox. These modules run in processes of their own, with the standard library alone."""
