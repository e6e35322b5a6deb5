"""A run is its owner's alone: modes of all it makes, names, other users' files, links, and data that is only data.

What single readers refuse is tested beside them (test_frame.py, test_transports.py, test_recording.py).
"""

from __future__ import annotations

import ast
import hashlib
import os
import pickle
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tvb_lockstep.bridges import timing, transports
from tvb_lockstep.bridges.errors import FrameError, LockstepError, RunDirectoryError
from tvb_lockstep.bridges.experiment import load
from tvb_lockstep.bridges.frame import DENSE, HEADER, MAX_PAYLOAD_BYTES, Address, encode
from tvb_lockstep.bridges.recording import FrameLog, read
from tvb_lockstep.bridges.replay import Recorded
from tvb_lockstep.bridges.run_dir import check_new_run
from tvb_lockstep.bridges.session import Session
from tvb_lockstep.bridges.transports import file
from tvb_lockstep.bridges.transports.base import Place

ROOT = Path(__file__).parent.parent.parent
PACKAGES = ("bridges", "transformers", "tvb_side", "spikenet_side", "scripts")
NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away, or be another user")

# TVB, and a simulator without dynamics, of a person who lets everybody read and write what he makes.
WHOLE_RUN = """
import os, sys, threading
from pathlib import Path
os.umask(0)
from tvb_lockstep.bridges.experiment import load
from tvb_lockstep.bridges.results import finish
from tvb_lockstep.bridges.run_dir import check_new_run
from tvb_lockstep.bridges.session import Session
from tvb_lockstep.spikenet_side import program as spikenet
from tvb_lockstep.spikenet_side.null import Null
from tvb_lockstep.tvb_side import program as tvb

def part(peer, body):
    session = Session(run_dir, peer, experiment)
    session.run(body, lambda: finish(run_dir) if session.last else None)

for transport in ("shm", "file"):
    run_dir = Path(sys.argv[1], transport)
    experiment, path = load("wilson_cowan", ["duration=10", f"exchange.transport={transport}"])
    def network(session):
        spikenet.run(session, path.parent, build=print, simulator=Null())
    other = threading.Thread(target=part, args=("spikenet", network))
    other.start()
    part("tvb", lambda session: tvb.run(session, path.parent))
    other.join()
"""


@pytest.fixture
def place(tmp_path):
    place = Place(tmp_path / "run", os.urandom(16), -1)
    place.run_dir.mkdir(mode=0o700)
    yield place
    transports.remove_leftovers(place.run_dir, place.run_id)


@pytest.fixture
def open_mask():
    """New files are everybody's, unless who makes them says otherwise."""
    before = os.umask(0)
    yield
    os.umask(before)


def ring_of(place: Place) -> list[Path]:
    """A run's segments and semaphores; bridges/README.md says what they are called."""
    key = hashlib.sha256(b"tvb-lockstep ring" + place.run_id).hexdigest()[:32]
    return sorted(path for path in Path("/dev/shm").iterdir() if f"tvls-{key}-" in path.name)


def address_of(place: Place) -> Address:
    return Address(place.run_id, 0, "x.raw", DENSE, 2)


def as_nobody(*attempts: Callable[[], object]) -> list[str]:
    """What each of `attempts` gives another user: "allowed", or the kind of the error."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            for attempt in attempts:
                try:
                    attempt()
                    said = "allowed"
                except OSError as error:
                    said = type(error).__name__
                os.write(writer, f"{said}\n".encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as words:
        said = words.read().splitlines()
    os.waitpid(child, 0)
    return said


# ---- modes and names -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole_runs(tmp_path_factory):
    """A folder with the run directories `shm` and `file`; by path, the mode of everything that these runs left."""
    folder = tmp_path_factory.mktemp("whole")
    done = subprocess.run([sys.executable, "-c", WHOLE_RUN, str(folder)], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return folder, {str(path.relative_to(folder)): path.lstat().st_mode for path in folder.rglob("*")}


def everybodys(modes):
    return {
        path: oct(stat.S_IMODE(mode)) for path, mode in modes.items()
        if stat.S_IMODE(mode) != (0o700 if stat.S_ISDIR(mode) else 0o600)
    }  # fmt: skip


NOT_YET = ("finished_by", "initial_history.npy")


@pytest.mark.parametrize("transport", ["shm", "file"])
def test_all_that_a_whole_run_leaves_is_its_owners_alone_whatever_the_umask(transport, whole_runs):
    made = {path: mode for path, mode in whole_runs[1].items() if path.split("/")[0] == transport}
    for name in ("run.json", "peers/tvb.json", "record/tvb.monitor0.frames", "timing/spikenet.npy", "tvb.h5",
                 "spikes.h5", "exchange.h5", "provenance.json", "initial_history.npy"):  # fmt: skip
        assert f"{transport}/{name}" in made
    frames = [path for path in made if path.startswith("file/exchange/") and path.endswith(".npy")]
    assert bool(frames) == (transport == "file")
    assert not {path for path in everybodys(made) if path.split("/")[1] not in NOT_YET}


@pytest.mark.parametrize("name", NOT_YET)
def test_the_last_files_too_are_their_owners_alone_whatever_the_umask(name, whole_runs):
    assert stat.S_IMODE(whole_runs[1][f"shm/{name}"]) == 0o600


def test_a_ring_is_its_owners_alone_whatever_the_umask(place, open_mask):
    sender = transports.create("shm", address_of(place), place, 4, 512)
    modes = {path.name: oct(path.stat().st_mode) for path in ring_of(place)}
    assert len(modes) == 3 and set(modes.values()) == {"0o100600"}
    sender.close()


def test_the_name_of_a_ring_follows_from_the_run_id_alone_which_is_random(tmp_path):
    experiment, _ = load("wilson_cowan")
    sessions = [Session(tmp_path / name, "tvb", experiment, tell=lambda line: None) for name in ("a", "b")]
    try:
        one, other = (session.run_id for session in sessions)
        assert len(one) == len(other) == 16
        # of 128 random bits some 64 differ; 20 or fewer with a probability below 1e-15
        assert (int.from_bytes(one, "big") ^ int.from_bytes(other, "big")).bit_count() > 20
    finally:
        for session in sessions:
            session.release()
    place = Place(tmp_path / "a", one, -1)
    sender = transports.create("shm", address_of(place), place, 4, 512)
    names = [path.name for path in ring_of(place)]
    sender.close()
    transports.remove_leftovers(place.run_dir, one)
    # nobody can work it out of the names either: the run id is in none of them, only a hash
    assert len(names) == 3 and not any(one.hex()[:8] in name for name in names)


@as_root
def test_another_user_reads_and_enters_nothing(place):
    with tempfile.TemporaryDirectory() as folder:  # pytest's own folders are closed to others
        os.chmod(folder, 0o777)
        if as_nobody(lambda: os.mkdir(f"{folder}/open")) != ["allowed"]:
            pytest.skip("nobody else has a way to the temporary folder")
        session = Session(Path(folder, "run"), "tvb", load("wilson_cowan")[0], tell=lambda line: None)
        sender = transports.create("shm", address_of(place), place, 4, 512)
        (segment,) = [path for path in ring_of(place) if not path.name.startswith("sem.")]
        try:
            assert set(as_nobody(
                lambda: os.listdir(session.run_dir),
                lambda: os.open(session.run_dir / "run.json", os.O_RDONLY),
                lambda: os.open(session.run_dir / "peers" / "tvb.lock", os.O_RDONLY),
                lambda: os.mkdir(session.run_dir / "exchange"),
                *(lambda path=path: os.open(path, os.O_RDONLY) for path in ring_of(place)),
                lambda: os.unlink(segment),
            )) == {"PermissionError"}  # fmt: skip
        finally:
            sender.close()
            session.release()


# ---- other users' files, and links -----------------------------------------------------------------------------------


@as_root
def test_a_run_directory_of_another_user_is_refused_and_stays_as_it_is(tmp_path):
    run_dir = tmp_path / "run"
    run_dir.mkdir(mode=0o777)
    run_dir.chmod(0o777)
    os.chown(run_dir, NOBODY, NOBODY)
    link = tmp_path / "link"
    link.symlink_to(run_dir)
    for each in (run_dir, link):
        with pytest.raises(RunDirectoryError, match=f"belongs to user {NOBODY}, this program runs as user 0"):
            Session(each, "tvb", load("wilson_cowan")[0])
    assert stat.S_IMODE(run_dir.stat().st_mode) == 0o777 and not (run_dir / "run.json").exists()


@as_root
@pytest.mark.parametrize("folder", ["exchange", "exchange/tmp", "exchange/x.raw"])
def test_a_folder_of_the_exchange_that_another_user_owns_is_refused(folder, place):
    (place.run_dir / folder).mkdir(parents=True, mode=0o700)
    for each in (place.run_dir / "exchange", place.run_dir / folder):
        each.chmod(0o700)
    os.chown(place.run_dir / folder, NOBODY, NOBODY)
    with pytest.raises(RunDirectoryError, match=rf"owner \(uid\): expected 0, found {NOBODY}"):
        transports.create("file", address_of(place), place, 4, 512)


@as_root
def test_a_consumer_refuses_a_channel_that_another_user_owns(place):
    transports.create("file", address_of(place), place, 4, 512).close()
    os.chown(place.run_dir / "exchange" / "x.raw", NOBODY, NOBODY)
    with pytest.raises(RunDirectoryError, match=rf"owner \(uid\): expected 0, found {NOBODY}"):
        transports.attach("file", address_of(place), place)


@pytest.mark.parametrize("folder", ["exchange", "exchange/tmp", "exchange/x.raw"])
def test_a_link_in_the_place_of_a_folder_of_the_exchange_is_refused(folder, place, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    (place.run_dir / folder).parent.mkdir(mode=0o700, exist_ok=True)
    (place.run_dir / folder).symlink_to(elsewhere)
    with pytest.raises(RunDirectoryError, match="mode: expected 0o40700, found 0o120777"):
        transports.create("file", address_of(place), place, 4, 512)
    assert list(elsewhere.iterdir()) == []


def test_a_frame_is_neither_written_nor_read_through_a_link(place, tmp_path):
    address, elsewhere = address_of(place), tmp_path / "elsewhere"
    sender = transports.create("file", address, place, 4, 512)
    receiver = transports.attach("file", address, place)
    data = np.ones((1, 2))
    elsewhere.write_text("precious")
    temporary = place.run_dir / "exchange" / "tmp" / "x.raw.npy"
    temporary.symlink_to(elsewhere)
    with pytest.raises(RunDirectoryError, match="ELOOP"):
        sender.send(*encode(address, 0, 0, 1, data), 0, 0, 1, lambda waited_s: None)
    assert elsewhere.read_text() == "precious"
    sender.send(*encode(address, 0, 0, 1, data), 0, 0, 1, lambda waited_s: None)  # the link is gone
    frame = place.run_dir / "exchange" / "x.raw" / file.frame_name(0, 0, 1)
    frame.rename(tmp_path / "frame")
    frame.symlink_to(tmp_path / "frame")
    with pytest.raises(RunDirectoryError, match="ELOOP"):
        receiver.receive(0, 0, 1, lambda waited_s: None)
    sender.close()
    receiver.close()


def test_a_link_in_the_place_of_a_segment_is_refused(place, tmp_path):
    sender = transports.create("shm", address_of(place), place, 4, 512)
    (segment,) = [path for path in ring_of(place) if not path.name.startswith("sem.")]
    copy = tmp_path / "segment"
    copy.write_bytes(segment.read_bytes())
    copy.chmod(0o600)
    segment.unlink()
    segment.symlink_to(copy)
    with pytest.raises(RunDirectoryError, match=r"x\.raw"):
        transports.attach("shm", address_of(place), place)
    sender.close()
    segment.unlink()


@pytest.mark.parametrize("planted", ["peers", "run.lock", "peers/tvb.lock", "log"])
def test_a_link_that_somebody_planted_in_an_open_directory_is_refused(planted, tmp_path):
    """A directory that others could write to is narrowed when it is taken; what they put into it before stays."""
    run_dir, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    elsewhere.mkdir()
    run_dir.mkdir(mode=0o777)
    (run_dir / planted).parent.mkdir(exist_ok=True)
    (run_dir / planted).symlink_to(elsewhere if planted in ("peers", "log") else elsewhere / "made")
    with pytest.raises(RunDirectoryError, match=planted):
        check_new_run(run_dir, overwrite=False)
    with pytest.raises(RunDirectoryError, match=planted):
        Session(run_dir, "tvb", load("wilson_cowan")[0]).release()
    assert list(elsewhere.iterdir()) == []


@as_root
def test_peers_of_another_user_in_a_directory_of_ones_own_are_refused(tmp_path):
    run_dir = tmp_path / "run"
    (run_dir / "peers").mkdir(parents=True, mode=0o777)
    os.chown(run_dir / "peers", NOBODY, NOBODY)
    with pytest.raises(RunDirectoryError, match="peers"):
        Session(run_dir, "tvb", load("wilson_cowan")[0]).release()


@as_root
def test_the_run_of_another_user_is_not_replayed_since_it_names_the_python_to_run(whole_runs):
    run_dir = whole_runs[0] / "shm"
    os.chown(run_dir, NOBODY, NOBODY)
    with pytest.raises(RunDirectoryError, match=f"user {NOBODY}"):
        Recorded(run_dir, "tvb")


# ---- data is only data -----------------------------------------------------------------------------------------------


class Trap:
    """What unpickles this, makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_the_trap_works(tmp_path):
    pickle.loads(pickle.dumps(Trap(tmp_path / "caught")))
    assert (tmp_path / "caught").is_dir()


def test_a_pickle_in_the_place_of_a_frame_a_log_or_a_timing_is_refused_and_not_opened(place, tmp_path):
    caught = tmp_path / "caught"
    address = address_of(place)
    sender = transports.create("file", address, place, 4, 512)
    receiver = transports.attach("file", address, place)
    np.save(place.run_dir / "exchange" / "x.raw" / file.frame_name(0, 0, 1), np.array([Trap(caught)] * 40, object))
    with pytest.raises(FrameError, match=r"x\.raw.* is refused"):
        receiver.receive(0, 0, 1, lambda waited_s: None)
    sender.close()
    receiver.close()
    log = place.run_dir / "x.frames"
    log.write_bytes(pickle.dumps([Trap(caught)] * 40).ljust(200, b"."))
    with pytest.raises(FrameError, match="magic"):
        read(log, address)
    np.save(place.run_dir / "tvb.npy", np.array([[Trap(caught)] * 6], object))
    with pytest.raises(RunDirectoryError, match="cannot be read"):
        timing.read(place.run_dir / "tvb.npy")
    assert not caught.exists()


def test_a_recorded_frame_over_the_cap_is_refused_and_not_read(place):
    """Its header is right in itself, and the file as long as it says, though it takes no room on the disk."""
    address = Address(place.run_id, 0, "x.raw", DENSE, 1)
    with FrameLog.create(place.run_dir, address) as log:
        header, _ = encode(address, 0, 0, 1, np.ones((1, 1)))
        fields = list(HEADER.unpack(header))
        fields[9], fields[10] = MAX_PAYLOAD_BYTES // 8 + 1, MAX_PAYLOAD_BYTES + 8
        path = log.path
    path.write_bytes(HEADER.pack(*fields))
    os.truncate(path, len(header) + MAX_PAYLOAD_BYTES + 8)
    with pytest.raises(FrameError, match=f"payload length: expected at most {MAX_PAYLOAD_BYTES}"):
        read(path, address).payload(0)


def test_a_timing_that_promises_more_than_there_is_is_refused_and_not_allocated(tmp_path):
    path = tmp_path / "tvb.npy"
    with open(path, "wb") as out:
        np.lib.format.write_array_header_1_0(out, {"descr": "<f8", "fortran_order": False, "shape": (1 << 50, 6)})
    with pytest.raises(LockstepError, match="cannot be read"):
        timing.read(path)


MAKES_CODE = {"eval", "exec", "compile", "__import__"}
UNPICKLES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "yaml"}


def dangers(tree: ast.Module) -> list[tuple[int, str]]:
    found = []
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or ""]
        found += [(node.lineno, name) for name in names if name.split(".")[0] in UNPICKLES]
        if not isinstance(node, ast.Call):
            continue
        function = node.func
        if isinstance(function, ast.Name) and function.id in MAKES_CODE:
            found.append((node.lineno, function.id))
        if isinstance(function, ast.Attribute) and ast.unparse(function) in ("os.system", "os.popen", "builtins.exec"):
            found.append((node.lineno, ast.unparse(function)))
        for keyword in node.keywords:
            unsafe = getattr(keyword.value, "value", None) is not False
            if keyword.arg in ("allow_pickle", "shell") and unsafe:
                found.append((node.lineno, keyword.arg))
    return found


@pytest.mark.parametrize(
    "code", ["import pickle", "from dill import loads", "exec(text)", "np.load(path, allow_pickle=True)",
             "np.load(path, allow_pickle=trust)", "os.system(line)", "subprocess.run(line, shell=True)"],
)  # fmt: skip
def test_the_check_below_sees(code):
    assert len(dangers(ast.parse(code))) == 1


@pytest.mark.parametrize("package", PACKAGES)
def test_nothing_makes_code_or_a_command_line_of_data(package):
    """The experiments are Python of users, which they name themselves."""
    paths = [path for path in (ROOT / package).rglob("*.py") if "experiments" not in path.parts]
    assert paths
    wrong = [f"{path}:{line}: {what}" for path in paths for line, what in dangers(ast.parse(path.read_text()))]
    assert wrong == []
