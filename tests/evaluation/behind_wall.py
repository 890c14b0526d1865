"""What runs behind the wall: one hostile program in a sandbox, beside others that aren't; told as JSON.

python behind_wall.py '{"code": …, "walls": …, "directory": …}'

Named in the code: HOME_FILE, a secret in a fake home; SUITE, a file of tests; OUTSIDE, a path in a directory that
everybody may write to; PORT, of a listener on 127.0.0.1 that this process has opened; PARENT, this process.
"""

import json
import os
import socket
import sys
import time
from pathlib import Path

from dscoder_exp.evaluation.jail.walls import Limits
from dscoder_exp.evaluation.programs import Program
from dscoder_exp.evaluation.sandbox import Sandbox

TESTS = "SECRET_OF_THE_TESTS = 1\nassert solve(20) == 40\nassert solve(21) == 42\n"
GOOD = "import time\ndef solve(x):\n    time.sleep(0.01)\n    return 2 * x\n"


def main() -> None:
    asked = json.loads(sys.argv[1])
    directory = Path(asked["directory"])
    home, suite, outside = directory / "home", directory / "suite.jsonl", directory / "open" / "written"
    (home / ".ssh").mkdir(parents=True)
    (home / ".ssh" / "id_rsa").write_text("SECRET_OF_THE_HOME")
    suite.write_text(TESTS)
    outside.parent.mkdir()
    outside.parent.chmod(0o777)
    os.environ |= {"HOME": str(home), "A_TOKEN": "SECRET_OF_THE_ENVIRONMENT"}
    with socket.create_server(("127.0.0.1", 0)) as listener:
        places = {"HOME_FILE": str(home / ".ssh" / "id_rsa"), "SUITE": str(suite), "OUTSIDE": str(outside)}
        names = {**places, "PORT": listener.getsockname()[1], "PARENT": os.getpid()}
        head = "".join(f"{name} = {value!r}\n" for name, value in names.items())
        hostile = Program(("hostile", 0), head + asked["code"], TESTS, "solve", 1.0)
        good = [Program(("good", number), GOOD, TESTS, "solve", 10.0) for number in range(4)]
        limits = Limits(memory=512 << 20, answer=16 << 20)  # what a failing sandbox takes is taken from everybody
        with Sandbox(2, walls=[asked["walls"]], limits=limits) as sandbox:
            found = {outcome.key: outcome for outcome in sandbox.run([*good[:1], hostile, *good[1:]])}
            isolation = sandbox.isolation
        listener.setblocking(False)
        try:
            listener.accept()
            connected = True
        except BlockingIOError:
            connected = False
    told = found.pop(("hostile", 0))
    answer = {
        "verdict": told.verdict,
        "message": told.message,
        "seconds": told.seconds,
        "good": [outcome.verdict for outcome in found.values()],
        "isolation": isolation,
        "connected": connected,
        "written": outside.exists(),
        "left": left(),
    }
    print(json.dumps(answer))


def left() -> list[str]:
    """The processes of this namespace but the first two, its init and this one, that are there after up to 5 s."""
    pids: list[str] = []
    for _ in range(100):
        pids = [pid for pid in os.listdir("/proc") if pid.isdigit() and int(pid) not in (1, os.getpid())]
        if not pids:
            break
        time.sleep(0.05)
    return [Path(f"/proc/{pid}/stat").read_text() for pid in pids]


if __name__ == "__main__":
    main()
