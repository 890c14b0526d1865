"""Entry point of `python -m dscoder_exp`."""

import sys

if __name__ == "__main__":
    try:
        from dscoder_exp.app import main

        sys.exit(main())
    except KeyboardInterrupt:  # while Python still imports, which takes a second
        sys.exit(130)
