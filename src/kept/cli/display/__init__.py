"""Output of the commands, a module for each subject."""
