"""Host: the process that a generated program runs in; see `_sandbox.run`.

It confines itself, then runs what it reads. Landlock takes away all files but
the interpreter's; a seccomp filter lets through the system calls that
computing takes, and no others; limits bound memory and time. It imports
nothing but the standard library, and the program after that can no more than
it can.
"""

import contextlib
import ctypes
import os
import platform
import resource
import struct
import sys

UNABLE = 77

ANSWER = 256
"""Bytes of the answer at most; no other file can be written."""

# The kernel's numbers: (x86-64, AArch64).
CALLS = {
  "read": (0, 63),
  "write": (1, 64),
  "close": (3, 57),
  "stat": (4, None),
  "fstat": (5, 80),
  "lstat": (6, None),
  "poll": (7, None),
  "lseek": (8, 62),
  "mmap": (9, 222),
  "mprotect": (10, 226),
  "munmap": (11, 215),
  "brk": (12, 214),
  "rt_sigaction": (13, 134),
  "rt_sigprocmask": (14, 135),
  "rt_sigreturn": (15, 139),
  "ioctl": (16, 29),
  "pread64": (17, 67),
  "readv": (19, 65),
  "writev": (20, 66),
  "access": (21, None),
  "select": (23, None),
  "sched_yield": (24, 124),
  "mremap": (25, 216),
  "madvise": (28, 233),
  "dup": (32, 23),
  "nanosleep": (35, 101),
  "getpid": (39, 172),
  "exit": (60, 93),
  "uname": (63, 160),
  "fcntl": (72, 25),
  "getcwd": (79, 17),
  "readlink": (89, None),
  "gettimeofday": (96, 169),
  "getrlimit": (97, 163),
  "getrusage": (98, 165),
  "sysinfo": (99, 179),
  "times": (100, 153),
  "getuid": (102, 174),
  "getgid": (104, 176),
  "geteuid": (107, 175),
  "getegid": (108, 177),
  "sigaltstack": (131, 132),
  "arch_prctl": (158, None),
  "gettid": (186, 178),
  "futex": (202, 98),
  "sched_getaffinity": (204, 123),
  "getdents64": (217, 61),
  "set_tid_address": (218, 96),
  "clock_gettime": (228, 113),
  "clock_getres": (229, 114),
  "clock_nanosleep": (230, 115),
  "exit_group": (231, 94),
  "openat": (257, 56),
  "newfstatat": (262, 79),
  "readlinkat": (267, 78),
  "faccessat": (269, 48),
  "pselect6": (270, 72),
  "ppoll": (271, 73),
  "set_robust_list": (273, 99),
  "getrandom": (318, 278),
  "statx": (332, 291),
  "rseq": (334, 293),
  "faccessat2": (439, 439),
}
"""System calls that are allowed with any arguments."""

CLONE, CLONE3, TGKILL, PRLIMIT = (56, 220), (435, 435), (234, 131), (302, 261)
THREAD = 0x10000
ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}

EPERM, ENOSYS = 1, 38
ALLOW, ERRNO, KILL = 0x7FFF0000, 0x00050000, 0x80000000
LOAD, EQUAL, ANY, RETURN, GREATER = 0x20, 0x15, 0x45, 0x06, 0x35

READ_FILE, READ_DIR, EXECUTE = 1 << 2, 1 << 3, 1 << 0


def unable(what: str) -> None:
  """Gives up, before anything has run."""
  print(what, file=sys.stderr)
  os._exit(UNABLE)


def confine_files(libc) -> None:
  """Landlock: reading the interpreter's files is all that is left."""
  create, add, restrict = 444, 445, 446
  version = libc.syscall(create, None, 0, 1)
  if version < 1:
    unable("no Landlock")
  # Every access that this kernel knows is denied unless a rule allows it.
  known = {1: 13, 2: 14, 3: 15, 4: 15}.get(version, 16)
  handled = struct.pack("=Q", (1 << known) - 1)
  if version >= 4:
    handled += struct.pack("=Q", 0b11)
  if version >= 6:
    handled += struct.pack("=Q", 0b11)
  ruleset = libc.syscall(create, handled, len(handled), 0)
  if ruleset < 0:
    unable("no ruleset")
  places = {
    sys.prefix,
    sys.base_prefix,
    sys.exec_prefix,
    os.path.dirname(os.__file__),
  }
  places |= {"/usr/lib", "/usr/lib64", "/lib", "/lib64", "/usr/share/zoneinfo"}
  for place in places:
    try:
      fd = os.open(place, os.O_PATH | os.O_CLOEXEC)
    except OSError:
      continue
    rule = struct.pack("=Qi", READ_FILE | READ_DIR | EXECUTE, fd)
    if libc.syscall(add, ruleset, 1, rule, 0):
      unable("no rule")
    os.close(fd)
  if libc.syscall(restrict, ruleset, 0):
    unable("not restricted")
  os.close(ruleset)


def confine_calls(libc) -> None:
  """seccomp: only the calls above; the others fail, with `EPERM`."""
  if platform.machine() not in ARCHITECTURES:
    unable("no such machine")
  column, audit = ARCHITECTURES[platform.machine()]
  code: list[tuple[int, int, int, int]] = []

  def load(offset):
    code.append((LOAD, 0, 0, offset))

  def answer(value):
    code.append((RETURN, 0, 0, value))

  def only(call, *checks, otherwise=ERRNO | EPERM):
    """Allows a call if all checks `(kind, offset, value)` hold."""
    body: list[tuple[int, int, int, int]] = []
    for k, (kind, offset, value) in enumerate(checks):
      # To the refusal at the end, past what is left of the checks.
      body += [
        (LOAD, 0, 0, offset),
        (kind, 0, 2 * (len(checks) - k) - 1, value),
      ]
    body += [(RETURN, 0, 0, ALLOW), (RETURN, 0, 0, otherwise)]
    code.append((EQUAL, 0, len(body), call[column]))
    code.extend(body)

  load(4)
  code.append((EQUAL, 1, 0, audit))
  answer(KILL)
  load(0)
  # x86-64's other numbering.
  code.append((GREATER, 0, 1, 0x40000000))
  answer(ERRNO | EPERM)
  for numbers in CALLS.values():
    if numbers[column] is not None:
      code += [(EQUAL, 0, 1, numbers[column]), (RETURN, 0, 0, ALLOW)]
  # Arguments begin at 16; the lower half of each comes first.
  only(CLONE, (ANY, 16, THREAD))
  only(TGKILL, (EQUAL, 16, os.getpid()))
  only(PRLIMIT, (EQUAL, 16, 0), (EQUAL, 32, 0), (EQUAL, 36, 0))
  code.append((EQUAL, 0, 1, CLONE3[column]))
  answer(ERRNO | ENOSYS)
  answer(ERRNO | EPERM)

  filters = b"".join(struct.pack("=HBBI", *line) for line in code)
  buffer = ctypes.create_string_buffer(filters, len(filters))
  program = struct.pack("@HP", len(code), ctypes.addressof(buffer))
  set_seccomp, by_filter = 22, 2
  if libc.prctl(set_seccomp, by_filter, program, 0, 0):
    unable("no filter")


def main() -> None:
  """Confines itself and runs what stands on its input."""
  word, seconds, megabytes = sys.argv[1:]
  program = sys.stdin.buffer.read().decode("utf-8", "surrogatepass")
  said = os.dup(1)
  nothing = os.open(os.devnull, os.O_RDWR)
  for fd in (0, 1, 2):
    os.dup2(nothing, fd)
  os.close(nothing)
  whole = max(1, round(float(seconds)))
  size = int(megabytes) << 20
  for kind, most, hard in (
    (resource.RLIMIT_CPU, whole, whole + 1),
    (resource.RLIMIT_AS, size, size),
    (resource.RLIMIT_FSIZE, ANSWER, ANSWER),
    (resource.RLIMIT_NOFILE, 64, 64),
    (resource.RLIMIT_CORE, 0, 0),
  ):
    resource.setrlimit(kind, (most, hard))
  libc = ctypes.CDLL(None, use_errno=True)
  # What is loaded later could not be read.
  no_new_privileges = 38
  if libc.prctl(no_new_privileges, 1, 0, 0, 0):
    unable("no new privileges")
  confine_files(libc)
  confine_calls(libc)
  sys.argv = ["program"]
  try:
    code = compile(program, "program", "exec")
    exec(code, {"__name__": "__main__"})
    verdict = "passed"
  except MemoryError:
    verdict = "MemoryError"
  except BaseException as error:
    verdict = type(error).__name__
  with contextlib.suppress(OSError):
    os.write(said, f"{word} {verdict}".encode())
  os._exit(0)


if __name__ == "__main__":
  main()
