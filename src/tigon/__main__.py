"""``python -m tigon`` is the ``tigon`` command."""

from tigon.command import main

if __name__ == "__main__":
    main()
