"""The system calls that Python 3.11 has no function for."""

import ctypes
import errno
import os
import platform
import re

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
MNT_DETACH = 2
_KEPT_OPTIONS = {"nosuid": 2, "nodev": 4, "noexec": 8, "noatime": 1024, "nodiratime": 2048, "relatime": 1 << 21}
_OCTAL = re.compile(r"\\([0-7]{3})")  # how /proc writes blanks in paths
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_KEEPCAPS, PR_SET_SECCOMP = 1, 4, 8, 22
PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 36, 38
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_SETGID, CAP_SETUID, CAP_SYS_ADMIN = (1 << bit for bit in (1, 2, 6, 7, 21))

_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_MOUNT_SETATTR = 442  # from here on the numbers of system calls are the same on all architectures
_AT_RECURSIVE, _MOUNT_ATTR_RDONLY = 0x8000, 1
_CAPABILITY_VERSION_3 = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def unshare(flags: int) -> None:
    """Leave the namespaces that `flags` name for new ones. Raises OSError where it isn't permitted."""
    _checked(_libc.unshare(flags), "unshare")


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    """mount(2). Raises OSError."""
    arguments = (source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), data.encode() or None)
    _checked(_libc.mount(*arguments), f"mount {kind or 'bind'} at {target}")


def unmount(target: str) -> None:
    """Take a mount and those below it out of the tree. Raises OSError."""
    _checked(_libc.umount2(target.encode(), MNT_DETACH), f"umount {target}")


def pivot_root(new: str, old: str) -> None:
    """Make `new` the root of this mount namespace and put the old one at `old`. Raises OSError."""
    if platform.machine() not in _PIVOT_ROOT:
        raise OSError(errno.ENOSYS, f"pivot_root: its number on {platform.machine()} isn't known here")
    checked_syscall("pivot_root", _PIVOT_ROOT[platform.machine()], new.encode(), old.encode())


class _MountAttributes(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "namespace"))


def make_read_only(target: str, *, recursive: bool) -> None:
    """Make a mount, with all below it if `recursive`, read-only. Raises OSError."""
    change = _MountAttributes(_MOUNT_ATTR_RDONLY, 0, 0, 0)
    flags = ctypes.c_uint(_AT_RECURSIVE if recursive else 0)
    size = ctypes.c_size_t(ctypes.sizeof(change))
    try:
        checked_syscall(
            f"mount_setattr {target}", _MOUNT_SETATTR, -1, target.encode(), flags, ctypes.byref(change), size
        )
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise
        for place, options in _mounts_below(target) if recursive else [(target, 0)]:  # Linux before 5.12
            mount("none", place, "", MS_REMOUNT | MS_BIND | MS_RDONLY | options)


def _mounts_below(target: str) -> list[tuple[str, int]]:
    """The mounts at and below a path, with the flags that a remount in a user namespace must keep."""
    found: list[tuple[str, int]] = []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            fields = line.split(" ")
            place = _OCTAL.sub(lambda escaped: chr(int(escaped[1], 8)), fields[4])
            if place == target or place.startswith(f"{target}/"):
                found.append((place, sum(_KEPT_OPTIONS.get(option, 0) for option in fields[5].split(","))))
    return found


def prctl(option: int, value: object = 0, other: object = 0) -> None:
    """prctl(2). Raises OSError."""
    value = ctypes.c_ulong(value) if isinstance(value, int) else value
    _checked(_libc.prctl(option, value, other, ctypes.c_ulong(0), ctypes.c_ulong(0)), f"prctl {option}")


def capabilities() -> int:
    """The capabilities that this process can use, a bit each."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1], 16) for line in file if line.startswith("CapEff:"))


def keep_capabilities(kept: int) -> None:
    """Give up all capabilities of this process but those of the bits `kept`, for good. Raises OSError."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    low, high = kept & 0xFFFFFFFF, kept >> 32
    _checked(_libc.capset(header, (ctypes.c_uint32 * 6)(low, low, 0, high, high, 0)), "capset")


def syscall(number: int, *arguments: object) -> int:
    """syscall(2): a result below 0 leaves the error in ctypes.get_errno()."""
    return _libc.syscall(ctypes.c_long(number), *arguments)


def checked_syscall(what: str, number: int, *arguments: object) -> int:
    """syscall(2). Raises OSError, with `what` in its text."""
    return _checked(syscall(number, *arguments), what)
