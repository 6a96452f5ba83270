"""`python -m prophet_gym`: the `prophet` command."""

from prophet_gym.cli.main import main

if __name__ == "__main__":
    main()
