"""The command line: options, tables and progress."""
