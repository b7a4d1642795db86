"""`python -m cdc`: the command."""

from cdc.cli import main

main()
