"""What stands between a program and the machine: namespaces where they are to be had, else what works without."""

import contextlib
import os
import resource
import shutil
import socket
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from dscoder_exp.evaluation.jail import landlock, linux, seccomp

DEVICES = ("null", "zero", "full", "random", "urandom")
SYSTEM = ("/usr", "/bin", "/lib", "/lib64", "/lib32", "/sbin", "/nix/store")
SETTINGS = ("ld.so.cache", "localtime", "passwd", "group", "nsswitch.conf", "alternatives")  # of /etc
OTHER_TASKS = 256  # that the command's user may start meanwhile, where the limit on processes counts all of a user's
FIRST_USER, USERS = 64_000, 1_000  # root gives each process of a program a user from here, where nobody else has one


@dataclass(frozen=True)
class Limits:
    """What one program may use, its tests' process included.

    Attributes:
        memory: bytes of address space of one process, and of memory that all hold together.
        processes: processes and threads.
        disk: bytes in the temporary directory, and of one file.
        files: open files of one process.
        answer: bytes of one message between program and tests.
    """

    memory: int = 2 << 30
    processes: int = 32
    disk: int = 64 << 20
    files: int = 64
    answer: int = 64 << 20


@dataclass(frozen=True)
class Walls:
    """How programs are kept apart here.

    Attributes:
        namespaces: each program has a process and a mount namespace of its own, in a network and a root that are empty
            but for `readable`.
        limits: of each program.
        readable: directories and files that a program may read.
        mount_point: an empty directory of the machine.
    """

    namespaces: bool
    limits: Limits
    readable: tuple[str, ...]
    mount_point: str

    @cached_property
    def own_users(self) -> bool:
        """Whether each process of a program gets a user of its own: root may do that, without a user namespace."""
        needed = linux.CAP_SETGID | linux.CAP_SETUID | (linux.CAP_SYS_ADMIN if self.namespaces else 0)
        if linux.capabilities() & needed != needed or not _mapped("uid") or not _mapped("gid"):
            return False
        return self.namespaces or self._others_can_read or bool(landlock.version() and _reading())

    @cached_property
    def capability(self) -> int:
        """What a user of its own has to keep to read a Python that lies in root's home; Landlock bounds it."""
        return 0 if self.namespaces or not self.own_users or self._others_can_read else _reading()

    @cached_property
    def _others_can_read(self) -> bool:
        return _others_can_list(sysconfig.get_paths()["stdlib"], *sys.path)

    @cached_property
    def processes(self) -> int:
        """The limit on processes and threads, in the kernel's count: those of a user, in a user namespace."""
        if self.namespaces or self.own_users:
            return self.limits.processes
        return self.limits.processes + _tasks_of(os.getuid()) + OTHER_TASKS

    def build(self) -> None:
        """Enclose the server. Raises OSError where the kernel doesn't permit it."""
        _ = self.own_users, self.capability, self.processes  # as they are now
        if not self.namespaces:
            linux.prctl(linux.PR_SET_DUMPABLE, 0)  # hides what the server and watchers have open from their user
            return
        flags = linux.CLONE_NEWNS | linux.CLONE_NEWNET | linux.CLONE_NEWIPC | linux.CLONE_NEWUTS
        if self.own_users:
            linux.unshare(flags)
        else:
            _unshare_user(flags)
        socket.sethostname("sandbox")
        linux.mount("none", "/", "", linux.MS_REC | linux.MS_PRIVATE)
        _build_root(self.mount_point, self.readable)

    def enter(self) -> None:
        """In the watcher of one program: a process namespace for what it starts."""
        if self.namespaces and self.own_users:
            linux.unshare(linux.CLONE_NEWPID)
        elif self.namespaces:
            _unshare_user(linux.CLONE_NEWPID)

    def furnish(self, user: int) -> str:
        """In the first process of one program: an empty temporary directory, which it returns; no view of others."""
        if not self.namespaces:
            directory = tempfile.mkdtemp(prefix="program-", dir=self.mount_point)
            if self.own_users:
                os.chown(directory, user, user)
            return directory
        linux.unshare(linux.CLONE_NEWNS)
        data = f"size={self.limits.disk},nr_inodes=4096,mode=1777"
        linux.mount("none", "/", "", linux.MS_REC | linux.MS_PRIVATE)
        linux.mount("none", "/tmp", "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, data)
        linux.mount("none", "/proc", "tmpfs", linux.MS_RDONLY, "size=4096,mode=555")
        linux.unshare(linux.CLONE_NEWPID)  # for the program, which thus doesn't see the tests' process
        return "/tmp"

    def confine(self, user: int, seconds: float, directory: str, *, untrusted: bool) -> None:
        """In a process of one program, before it runs anything: limits, no privileges, the forbidden system calls."""
        os.chdir(directory)
        os.environ |= {"HOME": directory, "TMPDIR": directory}
        _limit(self.limits, self.processes, seconds)
        if self.own_users:
            linux.prctl(linux.PR_SET_KEEPCAPS, int(bool(self.capability)))
            _become(user)
        linux.keep_capabilities(self.capability)
        linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
        linux.prctl(linux.PR_SET_DUMPABLE, 0)
        version = 0 if self.namespaces else landlock.version()
        if version:
            devices = [f"/dev/{name}" for name in DEVICES]
            landlock.restrict([*self.readable, *devices], ["/dev/null", directory])
        if untrusted and seccomp.supported():
            seccomp.forbid(signals=not self.namespaces and version < landlock.SIGNALS_SINCE)

    def clear(self, directory: str) -> None:
        """After a program: what it left in its temporary directory, where that isn't gone with its namespace."""
        if not self.namespaces:
            shutil.rmtree(directory, ignore_errors=True)


def _unshare_user(flags: int) -> None:
    user, group = os.geteuid(), os.getegid()
    linux.unshare(linux.CLONE_NEWUSER | flags)
    for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def _build_root(place: str, readable: Sequence[str]) -> None:
    """Make a root of what programs may read, /proc for the watchers, a few devices and an empty /tmp; go there."""
    linux.mount("none", place, "tmpfs", linux.MS_NOSUID, "size=1m,mode=755")
    for path in readable:
        target = place + path
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if os.path.islink(path):
            os.symlink(os.readlink(path), target)
            continue
        _bind(path, target)
        linux.make_read_only(target, recursive=True)
    for name in DEVICES:
        os.makedirs(f"{place}/dev", exist_ok=True)
        _bind(f"/dev/{name}", f"{place}/dev/{name}")
    os.symlink("/tmp", f"{place}/dev/shm")  # named semaphores
    _bind("/proc", f"{place}/proc")
    os.makedirs(f"{place}/tmp", exist_ok=True)
    os.mkdir(f"{place}/.old")
    linux.pivot_root(place, f"{place}/.old")
    os.chdir("/")
    linux.unmount("/.old")
    os.rmdir("/.old")
    linux.make_read_only("/", recursive=False)


def _bind(source: str, target: str) -> None:
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    else:
        open(target, "x").close()
    linux.mount(source, target, "", linux.MS_BIND | linux.MS_REC)


def _limit(limits: Limits, processes: int, seconds: float) -> None:
    cpu = int(seconds) + 2  # of each process; the watcher ends them earlier
    for which, value in (
        (resource.RLIMIT_AS, limits.memory),
        (resource.RLIMIT_CPU, cpu),
        (resource.RLIMIT_NPROC, processes),
        (resource.RLIMIT_FSIZE, limits.disk),
        (resource.RLIMIT_NOFILE, limits.files),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(which)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(which, (value, value))


def _reading() -> int:
    """The least capability of this process to read all files; 0 if it has none."""
    held = linux.capabilities()
    return held & linux.CAP_DAC_READ_SEARCH or held & linux.CAP_DAC_OVERRIDE


def _tasks_of(user: int) -> int:
    """The processes and threads of a user."""
    found = 0
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            found += len(os.listdir(f"/proc/{pid}/task")) if os.stat(f"/proc/{pid}").st_uid == user else 0
    return found


def _others_can_list(*directories: str) -> bool:
    """Whether FIRST_USER can list those of the directories that exist."""
    existing = [path for path in directories if os.path.isdir(path)]
    pid = os.fork()
    if pid == 0:
        try:
            _become(FIRST_USER)
            all(os.listdir(path) for path in existing)
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def _become(user: int) -> None:
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)


def _mapped(kind: str) -> bool:
    with open(f"/proc/self/{kind}_map") as file:
        ranges = [(int(first), int(count)) for first, _, count in map(str.split, file)]
    return any(first <= FIRST_USER and first + count >= FIRST_USER + USERS for first, count in ranges)
