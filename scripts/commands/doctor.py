"""`lockstep doctor`: whether this machine has what the toolkit needs, with the cure for what it has not.

On the standard library alone: it has to answer where no environment can be made.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import importlib.util
import mmap
import multiprocessing
import os
import platform
import resource
import select
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from ...bridges.errors import EnvironmentFailed
from .. import environments

OK, NOTE, FAIL = "ok", "note", "FAIL"  # a note costs speed or an option; what fails is needed by TVB with NEST
OVER_FILES = "run with --set exchange.transport=file"
SHARED_MEMORY = Path("/dev/shm")
INSTANCES = Path("/proc/sys/fs/inotify/max_user_instances")
LITTLE_SHARED_MEMORY = 16 << 20  # bytes; a ring takes 0.1 to 0.5 MiB, an experiment has some of them
LITTLE_DISK = 1 << 30
FEW_FILES, FEW_INSTANCES = 256, 16
NETWORK = (
    "nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "beegfs", "ceph", "gpfs", "lustre", "panfs", "vboxsf",
    "fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.s3fs", "fuse.juicefs",
)  # fmt: skip
# What a simulator is imported by, to see whether it loads, and the distribution that has its version.
LOADS = {
    "tvb": ("tvb.simulator.simulator", "tvb-library"),
    "nest": ("nest", "nest-simulator"),
    "annarchy": ("ANNarchy", "ANNarchy"),
    "netpyne": ("netpyne", "netpyne"),
}
NEEDED = ("tvb", "nest")
LOGIND = ("/usr/lib/systemd", "/run/systemd", "/etc/systemd")
IN_MOVED_TO, IN_NONBLOCK = 0x80, 0o4000


class Finding(NamedTuple):
    level: str
    what: str
    cure: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, nargs="?", default=Path("runs"),
                        help="where run directories will be (default: runs)")  # fmt: skip
    parser.epilog = "Exit status 0 when TVB with NEST has all that it needs, 1 when something of that is missing."


def run(args: argparse.Namespace) -> int:
    failed = 0
    for level, what, cure in findings(args.folder.absolute()):
        failed += level == FAIL
        print(f"{level:<4}  {what}" + (f" → {cure}" if cure else ""), flush=True)
    print(f"TVB with NEST cannot run here as it is: {failed} to be cured" if failed else "TVB with NEST can run here")
    return 1 if failed else 0


def findings(folder: Path) -> Iterator[Finding]:
    yield python()
    yield shared_memory()
    yield semaphores()
    yield from run_folder(folder)
    yield cores(usable_cores())
    yield open_files(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    yield remove_ipc(Path("/"), os.geteuid())
    for name in LOADS:
        yield environment(name)
    yield compiler("ANNarchy compiles its networks", ["g++", "cmake", "make"])
    yield compiler("nrnivmodl compiles mod files of NEURON", ["g++", "make"])


def python() -> Finding:
    """That it is new enough was seen before (scripts/lockstep, pip)."""
    what = f"Python {platform.python_version()} ({sys.executable})"
    if sys.prefix == sys.base_prefix and any(importlib.util.find_spec(each) is None for each in ("venv", "ensurepip")):
        return Finding(FAIL, f"{what} cannot make environments", "apt install python3-venv, or use another Python")
    return Finding(OK, what)


def shared_memory() -> Finding:
    """A real file of a ring's size, allocated as rings are."""
    if not SHARED_MEMORY.is_dir():
        return Finding(FAIL, f"there is no {SHARED_MEMORY}",
                       f"mount -t tmpfs tmpfs {SHARED_MEMORY}, or {OVER_FILES}")  # fmt: skip
    free = shutil.disk_usage(SHARED_MEMORY).free
    what = f"shared memory: {SHARED_MEMORY} ({type_of(SHARED_MEMORY)}), {size(free)} free"
    try:
        with tempfile.TemporaryFile(dir=SHARED_MEMORY) as file:
            os.posix_fallocate(file.fileno(), 0, 1 << 20)
    except OSError as error:
        return Finding(FAIL, f"{what}: a ring of 1 MiB cannot be made there ({error.strerror})",
                       f"make room (lockstep clean; in Docker --shm-size=1g), or {OVER_FILES}")  # fmt: skip
    if free < LITTLE_SHARED_MEMORY:
        return Finding(NOTE, what, f"large experiments need more: lockstep clean; in Docker --shm-size=1g; or "
                       f"{OVER_FILES}")  # fmt: skip
    return Finding(OK, what)


def semaphores() -> Finding:
    """A real one, counted up and down. Python's own are named POSIX semaphores, too."""
    try:
        semaphore = multiprocessing.get_context("fork").Semaphore(0)
        semaphore.release()
        works = semaphore.acquire(timeout=1) and not semaphore.acquire(block=False)
    except (OSError, ImportError) as error:
        return Finding(FAIL, f"POSIX semaphores do not work here ({error})", OVER_FILES)
    return Finding(OK, "POSIX semaphores") if works else Finding(FAIL, "POSIX semaphores count wrong", OVER_FILES)


def run_folder(folder: Path) -> Iterator[Finding]:
    """The file system of the run directories: its type and free space, locks, memory maps and events."""
    there = next(path for path in (folder, *folder.parents) if path.is_dir())
    kind = type_of(there)
    what = f"run directories: {folder} ({kind}), {size(shutil.disk_usage(there).free)} free"
    try:
        scratch = tempfile.mkdtemp(prefix=".lockstep-doctor-", dir=there)
    except OSError as error:
        yield Finding(FAIL, f"{what}: cannot be written to ({error.strerror})", "choose another with --run-dir")
        return
    try:
        yield _space(what, kind, shutil.disk_usage(there).free)
        yield locks(Path(scratch))
        yield maps(Path(scratch))
        yield events(Path(scratch))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _space(what: str, kind: str, free: int) -> Finding:
    if kind in NETWORK:
        return Finding(
            NOTE, f"{what}: a network file system. Between programs on different machines there are no file events (a "
            "wait for a frame ends up to 2 ms late), a lock may hold on one machine only (the death of a program on "
            "the other is then not noticed), and NFS shows new files late unless mounted with lookupcache=positive",
            "choose a --run-dir on a local disk; or run both programs on one machine",
        )  # fmt: skip
    if free < LITTLE_DISK:
        return Finding(NOTE, what, "free some space: a recording grows with the run (exchange.record)")
    return Finding(OK, what)


def locks(folder: Path) -> Finding:
    """flock is the life sign of a program: taken, refused to a second one, and free again with the first one's end."""
    elsewhere = "choose a --run-dir on a local disk: the toolkit cannot tell live programs from dead ones there"
    path = folder / "lock"
    try:
        with open(path, "w") as first, open(path, "w") as second:
            fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
            try:
                fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return Finding(FAIL, "locks: flock is given to two programs at the same time", elsewhere)
            except BlockingIOError:
                pass
            first.close()
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return Finding(FAIL, f"locks: flock does not work there ({error.strerror})", elsewhere)
    return Finding(OK, "locks: flock works there")


def maps(folder: Path) -> Finding:
    """What a program does now, and its timing, are shared memory maps of files."""
    try:
        with open(folder / "map", "w+b") as file:
            file.truncate(mmap.PAGESIZE)
            with mmap.mmap(file.fileno(), mmap.PAGESIZE) as mapped:
                mapped[:3] = b"tvb"
                mapped.flush()
            if file.read(3) == b"tvb":
                return Finding(OK, "memory maps of files work there")
            why = "what is written is not in the file"
    except OSError as error:
        why = error.strerror or str(error)
    return Finding(FAIL, f"memory maps of files do not work there ({why})", "choose a --run-dir on a local disk")


def events(folder: Path) -> Finding:
    """Whether inotify tells of a renamed file, as the file transport waits for it."""
    limit = _number(INSTANCES)
    cure = "nothing to do: without events the file transport looks for frames in pauses of up to 2 ms"
    raise_limit = "sysctl fs.inotify.max_user_instances=256; without events the file transport looks in pauses"
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "inotify_init1"):
        return Finding(NOTE, "file events: there is no inotify here", cure)
    fd = libc.inotify_init1(IN_NONBLOCK)
    if fd < 0:
        why = f"{os.strerror(ctypes.get_errno())}; {limit} instances per user"
        return Finding(NOTE, f"file events: inotify cannot be used ({why})", raise_limit)
    try:
        if libc.inotify_add_watch(fd, os.fsencode(folder), IN_MOVED_TO) < 0:
            why = os.strerror(ctypes.get_errno())
            return Finding(NOTE, f"file events: the folder cannot be watched ({why})",
                           "sysctl fs.inotify.max_user_watches=65536")  # fmt: skip
        (folder / "frame.tmp").touch()
        (folder / "frame.tmp").rename(folder / "frame")
        if not select.select([fd], [], [], 1.0)[0]:
            return Finding(NOTE, "file events: none came for a file that was renamed there", cure)
    finally:
        os.close(fd)
    if limit is not None and limit < FEW_INSTANCES:
        return Finding(NOTE, f"file events work there; only {limit} inotify instances per user", raise_limit)
    return Finding(OK, "file events: inotify works there" + (f", {limit} instances per user" if limit else ""))


def usable_cores() -> float:
    """Cores that this process may use: its affinity, and the quota of its control group."""
    cores: float = len(os.sched_getaffinity(0))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return cores if quota == "max" else min(cores, int(quota) / int(period))
    except (OSError, ValueError):
        return cores


def cores(usable: float) -> Finding:
    what = f"{usable:g} core{'s' * (usable != 1)}, and a run has two programs or more"
    if usable < 2:
        return Finding(NOTE, what, "they take turns on it: a run takes as long as both together, and gives the same")
    return Finding(OK, what)


def open_files(limit: int) -> Finding:
    what = f"open files per program: {'unlimited' if limit == resource.RLIM_INFINITY else limit} (ulimit -n)"
    few = 0 <= limit < FEW_FILES and limit != resource.RLIM_INFINITY
    return Finding(NOTE, what, f"ulimit -n {FEW_FILES}, or more") if few else Finding(OK, what)


def remove_ipc(root: Path, uid: int) -> Finding:
    """systemd's login manager removes the shared memory of users who have logged out, unless told not to."""
    if not (root / "run/systemd/system").is_dir():
        return Finding(OK, "no systemd that removes shared memory at logout")
    main = [root / folder[1:] / "logind.conf" for folder in LOGIND]
    more = [path for folder in LOGIND for path in (root / folder[1:] / "logind.conf.d").glob("*.conf")]
    value = "yes"
    for path in [*main, *sorted(more, key=lambda path: path.name)]:
        try:
            lines = path.read_text(errors="replace").splitlines()
        except OSError:
            continue
        for line in lines:
            key, _, said = line.partition("=")
            value = said.strip().lower() if key.strip() == "RemoveIPC" else value
    if value in ("no", "false", "off", "0"):
        return Finding(OK, "systemd leaves shared memory alone at logout (RemoveIPC=no)")
    if uid < 1000:
        return Finding(OK, "systemd leaves the shared memory of system users alone at logout")
    linger = root / "var/lib/systemd/linger"
    if linger.is_dir() and any(_uid(path.name) == uid for path in linger.iterdir()):
        return Finding(OK, "systemd leaves your shared memory alone at logout (you linger)")
    return Finding(NOTE, "systemd removes your shared memory when your last session ends (RemoveIPC=yes): a run under "
                   "nohup or tmux that is just starting then loses its rings", "loginctl enable-linger")  # fmt: skip


def environment(name: str) -> Finding:
    """Whether the simulator loads, in this Python or in its environment."""
    bad = FAIL if name in NEEDED else NOTE
    try:
        wanted = environments.environment(name)
        where, again = str(wanted.path), f"lockstep env remove {name}; lockstep env make {name}"
        trouble = wanted.trouble()
    except EnvironmentFailed as error:
        return Finding(bad, f"environment {name}: {error}")
    if environments.has(name):
        interpreter, where, again = sys.executable, "this Python", "install it again with pip"
    elif trouble == "first time":
        return Finding(OK if name in NEEDED else NOTE, f"environment {name}: not made yet; the first run that needs it "
                       f"makes it in {where}")  # fmt: skip
    elif trouble is not None:
        return Finding(NOTE, f"environment {name}: {trouble}; the next run that needs it makes it again",
                       f"or now: lockstep env make {name}")  # fmt: skip
    else:
        interpreter = str(wanted.python)
    version, why = load(interpreter, *LOADS[name])
    if why:
        return Finding(bad, f"environment {name}: {LOADS[name][1]} in {where} does not load ({why})", again)
    return Finding(OK, f"environment {name}: {LOADS[name][1]} {version} in {where}")


def load(interpreter: str, module: str, distribution: str) -> tuple[str, str]:
    """Import `module` in a process of its own: the version of `distribution`, and what went wrong, or ""."""
    code = (
        f"import importlib.metadata, {module}\n"
        f"print('\\nversion', importlib.metadata.version({distribution!r}))"
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:  # some simulators write into the current folder
        try:
            done = subprocess.run([interpreter, "-P", "-c", code], cwd=folder, stdin=subprocess.DEVNULL,
                                  capture_output=True, text=True, errors="replace", timeout=120)  # fmt: skip
        except subprocess.TimeoutExpired:
            return "", "still loading after 120 s"
        except OSError as error:
            return "", str(error)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        return "", lines[-1]
    return done.stdout.rpartition("version ")[2].strip(), ""


def compiler(what: str, tools: list[str], which: Callable[[str], str | None] = shutil.which) -> Finding:
    missing = [tool for tool in tools if which(tool) is None]
    if missing:
        return Finding(NOTE, f"{what}, and there is no {' and no '.join(missing)}", f"apt install {' '.join(missing)}")
    return Finding(OK, f"{what} with {', '.join(tools)}")


def type_of(path: Path, mounts: str | None = None) -> str:
    """The type of the file system that holds `path`, by /proc/self/mountinfo."""
    if mounts is None:
        try:
            mounts = Path("/proc/self/mountinfo").read_text()
        except OSError:
            return "file system unknown"
    path = path.resolve()
    best, kind = -1, "file system unknown"
    for line in mounts.splitlines():
        left, _, right = line.partition(" - ")
        point = left.split()[4].encode().decode("unicode_escape")  # a space is \040
        if path.is_relative_to(point) and len(Path(point).parts) >= best:  # of two at one place the later is on top
            best, kind = len(Path(point).parts), right.split()[0]
    return kind


def size(n: int) -> str:
    return f"{n / (1 << 30):.1f} GiB" if n >= 1 << 30 else f"{n / (1 << 20):.1f} MiB"


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _uid(user: str) -> int | None:
    import pwd

    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        return None
