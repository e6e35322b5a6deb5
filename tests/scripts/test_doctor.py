"""`lockstep doctor` on this machine as it is, and on machines that lack something."""

from __future__ import annotations

import errno
import fcntl
import importlib.metadata
import os
import pwd
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from tvb_lockstep.bridges.errors import EnvironmentFailed
from tvb_lockstep.scripts import environments
from tvb_lockstep.scripts.commands import doctor
from tvb_lockstep.scripts.commands.doctor import FAIL, NOTE, OK
from tvb_lockstep.scripts.main import main

LOCKSTEP = Path(__file__).parent.parent.parent / "scripts" / "lockstep"


def raising(number):
    def refuse(*_args, **_options):
        raise OSError(number, os.strerror(number))

    return refuse


@pytest.fixture
def quick(monkeypatch):
    """Without the seconds that loading the simulators takes."""
    monkeypatch.setattr(doctor, "load", lambda interpreter, module, distribution: ("1.0", ""))


def test_this_machine_can_run_the_tests_and_nothing_is_left_in_the_folder(tmp_path, capsys, quick):
    before = set(os.listdir("/dev/shm"))
    assert main(["doctor", str(tmp_path / "not" / "yet" / "there")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "TVB with NEST can run here"
    assert {line.split()[0] for line in lines[:-1]} <= {OK, NOTE}
    said = "\n".join(lines)
    for word in ("Python 3.", "/dev/shm", "semaphores", "flock", "inotify", "core", "ulimit", "systemd", "tvb-library",
                 "nest-simulator", "g++", "nrnivmodl"):  # fmt: skip
        assert word in said
    assert list(tmp_path.iterdir()) == []
    assert not {name for name in set(os.listdir("/dev/shm")) - before if "doctor" in name or "sem.mp" in name}


def test_it_answers_on_the_standard_library_alone_and_makes_no_environment(tmp_path):
    if not LOCKSTEP.exists():
        pytest.skip("an installed package has no bootstrap")
    done = subprocess.run(
        [sys.executable, "-S", str(LOCKSTEP), "doctor", str(tmp_path)], capture_output=True, text=True,
        env={**os.environ, "LOCKSTEP_ENVS": str(tmp_path / "envs")},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "environment nest: not made yet" in done.stdout and not (tmp_path / "envs").exists()


def test_the_exit_status_is_1_when_something_that_is_needed_is_missing(tmp_path, capsys, quick, monkeypatch):
    monkeypatch.setattr(doctor, "SHARED_MEMORY", tmp_path / "none")
    assert main(["doctor", str(tmp_path)]) == 1
    printed = capsys.readouterr().out
    assert f"FAIL  there is no {tmp_path}/none → mount -t tmpfs" in printed
    assert printed.endswith("TVB with NEST cannot run here as it is: 1 to be cured\n")


def test_a_full_shared_memory_fails_and_a_small_one_is_noted(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: SimpleNamespace(free=4 << 20))
    level, what, cure = doctor.shared_memory()
    assert level == NOTE and "4.0 MiB free" in what and "--shm-size" in cure and "lockstep clean" in cure
    monkeypatch.setattr(os, "posix_fallocate", raising(errno.ENOSPC))
    level, what, cure = doctor.shared_memory()
    assert level == FAIL and "No space left on device" in what and "exchange.transport=file" in cure


def test_a_real_small_file_system_has_no_room_for_a_ring(tmp_path, monkeypatch):
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(tmp_path)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("mounting is not allowed here")
    try:
        monkeypatch.setattr(doctor, "SHARED_MEMORY", tmp_path)
        level, what, _ = doctor.shared_memory()
        assert level == FAIL and f"{tmp_path} (tmpfs), 0.2 MiB free" in what and "No space left on device" in what
        (space, *rest) = doctor.run_folder(tmp_path / "runs")
        assert space.level == NOTE and [finding.level for finding in rest] == [OK, OK, OK]
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EACCES])
def test_semaphores_that_cannot_be_made_fail(number, monkeypatch):
    monkeypatch.setattr(doctor.multiprocessing, "get_context", lambda _: SimpleNamespace(Semaphore=raising(number)))
    level, what, cure = doctor.semaphores()
    assert level == FAIL and os.strerror(number) in what and "exchange.transport=file" in cure


MOUNTS = r"""
25 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
26 25 0:30 / /home rw - nfs4 server:/home rw
27 26 0:31 / /home/ada/my\040runs rw - tmpfs tmpfs rw
28 26 0:32 / /scratch rw - xfs /dev/vdb rw
29 26 0:33 / /scratch rw - lustre mds:/scratch rw
""".strip()


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/", "ext4"), ("/homework", "ext4"), ("/home/ada", "nfs4"), ("/home/ada/my runs/1", "tmpfs"),
     ("/scratch/x", "lustre")],  # mounted over the other
)  # fmt: skip
def test_the_file_system_is_that_of_the_closest_mount_point(path, kind):
    assert doctor.type_of(Path(path), MOUNTS) == kind


@pytest.mark.parametrize("kind", ["nfs4", "fuse.sshfs"])
def test_a_network_file_system_is_told_with_what_does_not_hold_there(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "type_of", lambda path: kind)
    level, what, cure = next(doctor.run_folder(tmp_path))
    assert level == NOTE and f"({kind})" in what and "local disk" in cure
    for word in ("no file events", "lock", "lookupcache=positive"):
        assert word in what


def test_a_folder_that_cannot_be_written_to_fails_and_no_more_is_tried(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "mkdtemp", raising(errno.EROFS))
    ((level, what, cure),) = doctor.run_folder(tmp_path)
    assert level == FAIL and "Read-only file system" in what and "--run-dir" in cure


def test_locks_that_are_given_twice_or_not_at_all_fail(tmp_path, monkeypatch):
    assert doctor.locks(tmp_path).level == OK
    monkeypatch.setattr(fcntl, "flock", lambda file, how: None)
    level, what, cure = doctor.locks(tmp_path)
    assert level == FAIL and "two programs at the same time" in what and "local disk" in cure
    monkeypatch.setattr(fcntl, "flock", raising(errno.ENOLCK))
    level, what, _ = doctor.locks(tmp_path)
    assert level == FAIL and "No locks available" in what


def test_files_that_cannot_be_mapped_fail(tmp_path, monkeypatch):
    assert doctor.maps(tmp_path).level == OK
    monkeypatch.setattr(doctor.mmap, "mmap", raising(errno.ENODEV))
    level, what, _ = doctor.maps(tmp_path)
    assert level == FAIL and "No such device" in what


def test_events_that_do_not_come_or_cannot_be_had_are_noted(tmp_path, monkeypatch):
    descriptors = len(os.listdir("/proc/self/fd"))
    assert doctor.events(tmp_path).level == OK
    monkeypatch.setattr(doctor, "IN_MOVED_TO", 0x400)  # asks for the end of the folder, which does not come
    level, what, cure = doctor.events(tmp_path)
    assert level == NOTE and "none came" in what and "pauses" in cure
    level, what, _ = doctor.events(tmp_path / "gone")
    assert level == NOTE and "No such file" in what
    libc = SimpleNamespace(inotify_init1=lambda flags: -1)
    monkeypatch.setattr(doctor.ctypes, "CDLL", lambda *_, **__: libc)
    monkeypatch.setattr(doctor.ctypes, "get_errno", lambda: errno.EMFILE)
    level, what, cure = doctor.events(tmp_path)
    assert level == NOTE and "Too many open files" in what and "max_user_instances" in cure
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_few_inotify_instances_are_noted(tmp_path, monkeypatch):
    (tmp_path / "limit").write_text("8\n")
    monkeypatch.setattr(doctor, "INSTANCES", tmp_path / "limit")
    level, what, cure = doctor.events(tmp_path)
    assert level == NOTE and "only 8 inotify instances" in what and "sysctl" in cure


@pytest.mark.parametrize(
    ("usable", "level", "text"), [(1, NOTE, "1 core,"), (1.5, NOTE, "1.5 cores,"), (2, OK, "2 cores,"), (64, OK, "64")]
)
def test_less_than_a_core_for_each_program_is_noted(usable, level, text):
    found = doctor.cores(usable)
    assert found.level == level and found.what.startswith(text)


@pytest.mark.parametrize(("limit", "level"), [(64, NOTE), (255, NOTE), (256, OK), (-1, OK)])
def test_a_low_limit_on_open_files_is_noted(limit, level):
    assert doctor.open_files(limit).level == level


def write(path: Path, text: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_systemd_removes_shared_memory_of_people_unless_told_otherwise(tmp_path):
    assert "no systemd" in doctor.remove_ipc(tmp_path, 1000).what
    (tmp_path / "run/systemd/system").mkdir(parents=True)
    write(tmp_path / "etc/systemd/logind.conf", "[Login]\n#RemoveIPC=no\n")
    level, _, cure = doctor.remove_ipc(tmp_path, 1000)
    assert level == NOTE and cure == "loginctl enable-linger"
    assert doctor.remove_ipc(tmp_path, 0).level == OK
    write(tmp_path / "usr/lib/systemd/logind.conf.d/50-vendor.conf", "[Login]\nRemoveIPC = no\n")
    assert doctor.remove_ipc(tmp_path, 1000).level == OK
    write(tmp_path / "etc/systemd/logind.conf.d/90-admin.conf", "[Login]\nRemoveIPC=yes\n")
    assert doctor.remove_ipc(tmp_path, 1000).level == NOTE
    write(tmp_path / "var/lib/systemd/linger/nobody")
    assert doctor.remove_ipc(tmp_path, 1000).level == NOTE  # that is somebody else
    nobody = pwd.getpwnam("nobody").pw_uid
    assert "you linger" in doctor.remove_ipc(tmp_path, nobody).what


def test_a_simulator_is_loaded_in_a_process_of_its_own_and_its_version_told():
    assert doctor.load(sys.executable, "h5py", "h5py") == (importlib.metadata.version("h5py"), "")
    version, error = doctor.load(sys.executable, "no_such_simulator", "h5py")
    assert version == "" and error == "ModuleNotFoundError: No module named 'no_such_simulator'"
    version, error = doctor.load("/no/such/python", "h5py", "h5py")
    assert version == "" and "No such file" in error


@pytest.mark.parametrize(("name", "level"), [("tvb", FAIL), ("nest", FAIL), ("annarchy", NOTE), ("netpyne", NOTE)])
def test_a_simulator_that_does_not_load_fails_when_tvb_with_nest_needs_it(name, level, monkeypatch):
    monkeypatch.setattr(environments, "has", lambda simulator: True)
    monkeypatch.setattr(doctor, "load", lambda *_: ("", "ImportError: libgsl.so.27: cannot open"))
    found = doctor.environment(name)
    assert found.level == level and "libgsl.so.27" in found.what and found.cure


def test_the_state_of_an_environment_is_told(tmp_path, monkeypatch, quick):
    monkeypatch.setenv("LOCKSTEP_ENVS", str(tmp_path))
    monkeypatch.setattr(environments, "has", lambda simulator: False)
    assert doctor.environment("nest").level == OK and "not made yet" in doctor.environment("nest").what
    (tmp_path / "nest").mkdir()
    level, what, cure = doctor.environment("nest")
    assert level == NOTE and "its set-up was interrupted or failed" in what and cure.endswith("lockstep env make nest")

    def unknown(name, extra=""):
        raise EnvironmentFailed("neither a checkout nor an installed package")

    monkeypatch.setattr(environments, "environment", unknown)
    assert doctor.environment("nest") == (FAIL, "environment nest: neither a checkout nor an installed package", "")


def test_missing_compilers_are_noted_with_what_to_install():
    level, what, cure = doctor.compiler("ANNarchy compiles", ["g++", "cmake", "make"], lambda tool: None)
    assert (level, what) == (NOTE, "ANNarchy compiles, and there is no g++ and no cmake and no make")
    assert cure == "apt install g++ cmake make"
    only_make = doctor.compiler("it compiles", ["g++", "make"], lambda tool: tool if tool == "make" else None)
    assert only_make.cure == "apt install g++"
    assert doctor.compiler("it compiles", ["g++"], lambda tool: tool).level == OK
