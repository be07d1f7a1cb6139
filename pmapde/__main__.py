"""``python -m pmapde``, the same as the ``pmapde`` command."""
import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
