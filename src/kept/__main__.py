"""`python -m kept`."""

from kept.terminal.main import main

main()
