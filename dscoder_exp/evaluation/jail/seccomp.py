"""The system calls that a program may not make: a filter that the kernel runs (seccomp in its mode 2).

Beyond the namespaces it closes three gaps: memory that no limit counts (memfd, System V segments, tmpfs in a namespace
of the program's own), the kernel's interfaces with a history of holes, and sockets where there is no network namespace.
"""

import ctypes
import errno
import os
import platform
import struct
import sys

from dscoder_exp.evaluation.jail import linux

# By x86-64 and by aarch64 (asm/unistd_64.h, asm-generic/unistd.h)
_NUMBERS = {
    "socket": (41, 198),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_by_handle_at": (304, 265),
    "setns": (308, 268),
    "unshare": (272, 97),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsmount": (432, 432),
    "mount_setattr": (442, 442),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
    "clone": (56, 220),
    "clone3": (435, 435),
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_send_signal": (424, 424),
}
_SIGNALS = {"kill", "tkill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "pidfd_send_signal"}
_APART = {"clone", "clone3", *_SIGNALS}
_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column above, AUDIT_ARCH_*

_NAMESPACES = 0x7E020000  # the CLONE_NEW* flags of clone(2): mount, cgroup, uts, ipc, user, pid, net
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_MODE_FILTER = 2

Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, constant


def supported() -> bool:
    """Whether this architecture's numbers are known here."""
    return platform.machine() in _ARCHITECTURES and sys.byteorder == "little"


def forbid(*, signals: bool) -> None:
    """Forbid them to this process and all that it starts, for good; needs PR_SET_NO_NEW_PRIVS.

    Args:
        signals: forbid signals to other processes, too: for where no namespace hides them.

    Raises:
        OSError: the kernel has no filters.
    """
    code = b"".join(struct.pack("<HBBI", *instruction) for instruction in _instructions(signals))
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(buffer))
    linux.prctl(linux.PR_SET_SECCOMP, _MODE_FILTER, ctypes.c_char_p(program))


def _instructions(signals: bool) -> list[Instruction]:
    column, architecture = _ARCHITECTURES[platform.machine()]
    known = {name: columns[column] for name, columns in _NUMBERS.items()}
    refused = _give(errno.EPERM)
    code: list[Instruction] = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, architecture),
        refused,
        (_LOAD, 0, 0, _NUMBER),
        (_AT_LEAST, 0, 1, 0x40000000),  # x32's numbers on x86-64
        refused,
    ]
    for name in sorted(known.keys() - _APART):
        code += [(_EQUAL, 0, 1, known[name]), _give(errno.EACCES if name == "socket" else errno.EPERM)]
    code += [(_EQUAL, 0, 1, known["clone3"]), _give(errno.ENOSYS)]  # its flags lie in memory; libc then calls clone
    for name in sorted(_SIGNALS) if signals else []:  # the program may signal itself: abort() does
        code += [(_EQUAL, 0, 4, known[name]), (_LOAD, 0, 0, _FIRST_ARGUMENT), (_EQUAL, 0, 1, os.getpid())]
        code += [(_RETURN, 0, 0, _ALLOW), refused]
    code += [(_EQUAL, 0, 3, known["clone"]), (_LOAD, 0, 0, _FIRST_ARGUMENT), (_ANY_BIT, 0, 1, _NAMESPACES), refused]
    return [*code, (_RETURN, 0, 0, _ALLOW)]


def _give(number: int) -> Instruction:
    return (_RETURN, 0, 0, _ERRNO | number)
