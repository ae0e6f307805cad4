"""`python -m kept`."""

from kept.terminal.start import main

main()
