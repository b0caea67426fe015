"""`python -m llmos`: the command of the same name."""

from llmos.cli import main

if __name__ == "__main__":
    main()
