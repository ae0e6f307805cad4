"""`python -m kept`."""

from kept.terminal.cli import main

main()
