"""What is wrong with a command, found in full before anything starts. Never imports mindspore."""
