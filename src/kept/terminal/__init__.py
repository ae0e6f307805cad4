"""The command line: words in, tables and bars out."""
