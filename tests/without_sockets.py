"""Runs a command that can open no network socket: `python tests/without_sockets.py COMMAND...`.

The kernel refuses it (seccomp), to libraries written in C++ and to processes that the command starts, too. Sockets between processes
of one machine that are files stay.
"""

import ctypes
import errno
import os
import platform
import socket
import struct
import sys
from collections.abc import Sequence

_SOCKET_CALLS = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}
"""Architecture as the kernel numbers it, and the number of the call `socket`."""

_NO_NEW_PRIVILEGES, _SECCOMP, _FILTER = 38, 22, 2
_LOAD, _EQUALS, _RETURN = 0x20, 0x15, 0x06
_CALL, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16
"""Offsets into what the kernel shows a filter of a call."""
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | errno.EACCES


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def is_supported() -> bool:
    """Whether this machine can refuse sockets."""
    return sys.platform == "linux" and platform.machine() in _SOCKET_CALLS


def refuse_sockets() -> None:
    """From here on this process and all that it starts get no socket of the internet families."""
    architecture, call = _SOCKET_CALLS[platform.machine()]
    # (instruction, lines to skip if true, if false, value)
    lines = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUALS, 0, 6, architecture),
        (_LOAD, 0, 0, _CALL),
        (_EQUALS, 0, 4, call),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (_EQUALS, 1, 0, socket.AF_INET),
        (_EQUALS, 0, 1, socket.AF_INET6),
        (_RETURN, 0, 0, _REFUSE),
        (_RETURN, 0, 0, _ALLOW),
    ]
    program = _Program(len(lines), b"".join(struct.pack("HBBI", *line) for line in lines))
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in ((_NO_NEW_PRIVILEGES, 1, 0, 0, 0), (_SECCOMP, _FILTER, ctypes.byref(program), 0, 0)):
        if libc.prctl(*arguments):
            raise OSError(ctypes.get_errno(), "the kernel takes no filter of system calls")


def main(command: Sequence[str]) -> None:
    """Becomes the command."""
    refuse_sockets()
    os.execvp(command[0], list(command))


if __name__ == "__main__":
    main(sys.argv[1:])
