"""Checks of a whole command before anything starts; all problems are reported at once. Never imports mindspore."""
