"""`python -m kept`."""

from kept.cli.start import main

main()
