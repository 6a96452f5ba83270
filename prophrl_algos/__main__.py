"""`python -m prophrl_algos`: the `prophrl` command."""

from prophrl_algos.cli import main

if __name__ == "__main__":
    main()
