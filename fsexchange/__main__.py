"""The `fsexchange` command as `python -m fsexchange`."""

from fsexchange.cli import main

if __name__ == "__main__":
    main()
