"""`python -m prophrl_algos.cli`."""

from prophrl_algos.cli import main

main()
