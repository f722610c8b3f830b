"""`python -m dgym` is the command line."""

from dgym.cli import main

if __name__ == "__main__":
    main()
