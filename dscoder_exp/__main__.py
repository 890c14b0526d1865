"""Entry point of `python -m dscoder_exp`, and of the command dscoder_exp."""

import os
import sys
import threading
from contextlib import suppress
from typing import NoReturn


def start() -> NoReturn:
    """Run the command line, and end this process with its exit code.

    After a failure, Ctrl-C, SIGTERM or SIGHUP it waits for no thread. Python's own end would, and the thread that
    imports MindSpore (task=prepare) breaks off then with a traceback, or aborts the process.
    """
    try:
        from dscoder_exp.app import main

        code = main()
    except KeyboardInterrupt:  # also while Python still imports, which takes a second
        code = 130
    except SystemExit as error:
        code = error.code
    waited_for = [thread for thread in threading.enumerate() if not thread.daemon]
    if isinstance(code, int) and code and waited_for != [threading.main_thread()]:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError, AttributeError):  # nobody reads it, or it was closed (None)
                stream.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    start()
