"""The commands as Python functions, a file for each; `kept` exports them."""
