"""Sessions of one process, with threads for the other programs; tests/scenarios has them as real processes."""

import contextlib
import errno
import json
import os
import shlex
import signal
import threading

import pytest
from tvb_lockstep.bridges import run_dir as run_dir_module
from tvb_lockstep.bridges.contract import Contract
from tvb_lockstep.bridges.errors import (
    ContractError,
    ExperimentError,
    Interrupted,
    LockstepError,
    PeerLost,
    RunDirectoryError,
    noting,
)
from tvb_lockstep.bridges.experiment import load
from tvb_lockstep.bridges.grid import Grid
from tvb_lockstep.bridges.peers import alive, read_page, read_summary
from tvb_lockstep.bridges.run_dir import check_new_run, read_run, run_lock, write_json
from tvb_lockstep.bridges.session import Session, Stop, one_line, paste_command, two_columns


def experiment(*overrides):
    return load("wilson_cowan", list(overrides))[0]


@pytest.fixture
def sessions(tmp_path):
    """Makes sessions in one run directory; gives their places free at the end."""
    made = []

    def make(peer, *overrides, run_dir=tmp_path / "run", **options):
        lines = []
        session = Session(run_dir, peer, experiment(*overrides), tell=lines.append, **options)
        session.lines = lines
        made.append(session)
        return session

    yield make
    for session in made:
        session.release()


def together(*calls):
    """Each call in a thread of its own; what it returned or raised."""
    found = [None] * len(calls)

    def one(i):
        try:
            found[i] = calls[i]()
        except BaseException as error:
            found[i] = error

    threads = [threading.Thread(target=one, args=(i,)) for i in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "hung"
    return found


def ended(session, error=None):
    """Leaves the session as a with-statement does, its page and summary written."""
    with contextlib.suppress(*([] if error is None else [type(error)])), session:
        if error is not None:
            raise error
    return session


def contract(session):
    return Contract(session.run_id.hex(), Grid(100_000, 1, 20, 200), (), {}, {}, {})


# ---- the run directory -----------------------------------------------------------------------------------------------


def test_the_first_makes_the_directory_for_its_owner_alone_and_the_second_joins_the_same_run(sessions, tmp_path):
    tvb, spikenet = sessions("tvb"), sessions("spikenet")
    assert tvb.run_id == spikenet.run_id and len(tvb.run_id) == 16
    assert (tmp_path / "run").stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "run").rglob("*") if path.is_file()} == {0o600}
    assert read_run(tmp_path / "run")["experiment"] == "wilson_cowan"


def test_a_wider_directory_is_narrowed(sessions, tmp_path):
    (tmp_path / "run").mkdir(mode=0o755)
    sessions("tvb")
    assert (tmp_path / "run").stat().st_mode & 0o777 == 0o700


def test_a_live_program_keeps_its_place_and_is_named_by_pid(sessions):
    sessions("tvb")
    with pytest.raises(RunDirectoryError, match=f"its tvb is alive as pid {os.getpid()} on "):
        sessions("tvb", overwrite=True)
    sessions("spikenet")  # the run itself is not full


def test_a_program_that_has_ended_cannot_come_back_while_the_others_live(sessions):
    sessions("spikenet")
    ended(sessions("tvb")).release()
    with pytest.raises(RunDirectoryError, match="the run of spikenet already had its tvb"):
        sessions("tvb")


def test_a_run_that_never_got_to_a_contract_is_replaced_without_asking(sessions, tmp_path):
    first = sessions("tvb")
    (tmp_path / "run" / "initial_history.npy").write_text("old")
    (tmp_path / "run" / "record").mkdir()
    (tmp_path / "run" / "record" / "old.frames").write_text("old")
    first.publish("hello", {})
    first.release()  # as if it had been killed
    second = sessions("spikenet")
    assert second.run_id != first.run_id
    left = {str(path.relative_to(tmp_path / "run")) for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert left == {
        "run.json", "experiment.json", "run.lock", "peers/tvb.lock", "peers/spikenet.lock", "peers/spikenet.json",
    }  # fmt: skip


def test_a_run_with_a_contract_is_replaced_only_with_overwrite(sessions, tmp_path):
    first = sessions("tvb")
    (tmp_path / "run" / "contract.json").write_text("{}")
    (tmp_path / "run" / "notes of mine.txt").write_text("keep")
    first.release()
    with pytest.raises(RunDirectoryError, match=r"holds a run of .* \(experiment wilson_cowan\).*--overwrite"):
        sessions("tvb")
    assert not alive(tmp_path / "run", "tvb"), "who is refused holds nothing"
    with pytest.raises(RunDirectoryError, match="--overwrite"):
        check_new_run(tmp_path / "run", overwrite=False)
    check_new_run(tmp_path / "run", overwrite=True)
    assert sessions("tvb", overwrite=True).run_id != first.run_id
    assert not (tmp_path / "run" / "contract.json").exists()
    assert (tmp_path / "run" / "notes of mine.txt").read_text() == "keep"


@pytest.mark.parametrize(
    ("name", "content"),
    [("data.csv", "1"), ("run.json", "not json"), ("run.json", "[]"), ("run.json", '{"run_id": "xyz"}'),
     ("run.json", '{"run_id": "' + "ab" * 16 + '"}')],
)  # fmt: skip
def test_a_foreign_directory_is_refused_and_nothing_is_made_in_it(name, content, sessions, tmp_path):
    (tmp_path / "run").mkdir(mode=0o755)
    (tmp_path / "run" / name).write_text(content)
    for refuse in (lambda: sessions("tvb", overwrite=True), lambda: check_new_run(tmp_path / "run", overwrite=True)):
        with pytest.raises(RunDirectoryError, match=f"not a run directory.*{name}"):
            refuse()
    assert [path.name for path in (tmp_path / "run").iterdir()] == [name]
    assert (tmp_path / "run").stat().st_mode & 0o777 == 0o755


def test_two_programs_that_start_at_the_same_moment_do_not_take_each_other_for_strangers(sessions, tmp_path):
    for i in range(40):
        run_dir = tmp_path / f"run{i}"
        barrier = threading.Barrier(2)

        def claim(peer, run_dir=run_dir, barrier=barrier):
            barrier.wait(10)
            return sessions(peer, run_dir=run_dir).run_id

        first, second = together(lambda: claim("tvb"), lambda: claim("spikenet"))
        assert first == second


def test_a_directory_that_cannot_be_is_a_message_with_the_reason(sessions, tmp_path):
    (tmp_path / "file").write_text("")
    for refuse in (
        lambda: sessions("tvb", run_dir=tmp_path / "file" / "run"),
        lambda: check_new_run(tmp_path / "file" / "run", overwrite=False),
    ):
        with pytest.raises(RunDirectoryError, match="cannot be used: Not a directory"):
            refuse()


def test_check_new_run_finds_a_live_program(sessions, tmp_path):
    check_new_run(tmp_path / "run", overwrite=False)
    assert not (tmp_path / "run").exists()
    sessions("spikenet")
    with pytest.raises(RunDirectoryError, match="its spikenet is alive"):
        check_new_run(tmp_path / "run", overwrite=True)


# ---- hello -----------------------------------------------------------------------------------------------------------


def test_programs_with_the_same_experiment_meet_and_start_together(sessions):
    tvb, spikenet = sessions("tvb"), sessions("spikenet")
    assert together(tvb.meet, spikenet.meet) == [None, None]
    details = together(
        lambda: tvb.start(contract(tvb), [], []),
        lambda: spikenet.start(contract(spikenet), [], [], min_delay_ms=0.5),
    )
    assert details == [{"tvb": {}, "spikenet": {"min_delay_ms": 0.5}}] * 2


def test_different_experiments_are_refused_on_both_sides_with_only_what_differs(sessions):
    tvb, spikenet = sessions("tvb", "seed=3"), sessions("spikenet", "seed=4", "tvb.speed=5")
    for error, mine, theirs in zip(
        together(tvb.meet, spikenet.meet), ("tvb", "spikenet"), ("spikenet", "tvb"), strict=True
    ):
        assert isinstance(error, ContractError) and error.exit_code == 3
        lines = str(error).splitlines()
        assert lines[0] == f"{mine} and {theirs} were started with different experiments:"
        assert lines[1].split() == [mine, theirs]
        rows = {line.split()[0]: line.split()[1:] for line in lines[2:-1]}
        expected = {"seed": ["3", "4"], "tvb.speed": ["4.0", "5.0"]}
        assert rows == {key: row if mine == "tvb" else row[::-1] for key, row in expected.items()}


def test_the_sides_may_run_on_other_versions(sessions):
    tvb, nest = sessions("tvb"), sessions("spikenet", "environments.spikenet=nest-simulator==3.9")
    assert together(tvb.meet, nest.meet) == [None, None]


def test_a_program_of_another_name_ends_the_waiting(sessions):
    spikenet, cortex = sessions("spikenet"), sessions("cortex", "spikenet.name=cortex")
    for error in together(spikenet.meet, cortex.meet):
        assert isinstance(error, ContractError) and "spikenet.0.name" in str(error)


def test_no_wire_version_in_common_names_both_toolkits(sessions):
    tvb, spikenet = sessions("tvb"), sessions("spikenet")
    hello = {"toolkit": "9.9", "wire_versions": [7, 8], "experiment": tvb.experiment.flat()}
    spikenet.publish("hello", hello)
    with pytest.raises(ContractError) as caught:
        tvb.meet()
    assert "speaks [1], spikenet (tvb-lockstep 9.9) speaks [7, 8]" in str(caught.value)


def test_different_contracts_are_refused(sessions):
    tvb, spikenet = sessions("tvb"), sessions("spikenet")
    other = Contract(tvb.run_id.hex(), Grid(100_000, 1, 10, 200), (), {}, {}, {})
    for error in together(lambda: tvb.start(contract(tvb), [], []), lambda: spikenet.start(other, [], [])):
        assert isinstance(error, ContractError) and "different contracts" in str(error)


def test_who_waits_says_for_whom_and_how_to_start_it(sessions):
    stop = Stop()
    tvb = sessions("tvb", command=lambda name: f"do start {name}", stop=stop)
    threading.Timer(0.8, lambda: setattr(stop, "reason", "Ctrl-C")).start()
    with pytest.raises(Interrupted, match="interrupted by Ctrl-C before the first window"):
        tvb.meet()
    (line,) = tvb.lines
    assert line == (
        f"tvb: waiting for spikenet in {tvb.run_dir}. To start it, paste into another terminal:\n    do start spikenet"
    )
    page = read_page(tvb.run_dir, "tvb")
    assert page["now"]["state"] == "waiting" and page["now"]["waiting_for"] == "spikenet"


def test_pages_of_an_earlier_run_are_not_taken_for_those_of_this_one(sessions, tmp_path):
    stop = Stop()
    tvb = sessions("tvb", stop=stop)
    hello = {"run_id": "00" * 16, "toolkit": "0.1", "wire_versions": [1], "experiment": {}}
    write_json(tmp_path / "run" / "peers" / "spikenet.hello.json", hello)
    threading.Timer(0.3, lambda: setattr(stop, "reason", "Ctrl-C")).start()
    with pytest.raises(Interrupted):
        tvb.meet()


# ---- who is gone -----------------------------------------------------------------------------------------------------


def lost(session, name):
    with pytest.raises(PeerLost) as caught:
        session.await_page(name, "offer")
    return str(caught.value)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (None, "ended in window 12, before spikenet did."),
        (Interrupted("interrupted by Ctrl-C in window 12."), "was interrupted in window 12."),
        (ExperimentError("tvb.model = 'X': unknown"), "failed in window 12: tvb.model = 'X': unknown"),
        (ZeroDivisionError("division by zero"), "failed in window 12: ZeroDivisionError: division by zero"),
    ],
)
def test_the_obituary_says_how_a_program_ended_and_in_which_window(error, said, sessions):
    tvb, spikenet = sessions("tvb"), sessions("spikenet")
    tvb.window = 12
    ended(tvb, error).release()
    assert lost(spikenet, "tvb").startswith(f"tvb (pid {os.getpid()} on ")
    assert said in lost(spikenet, "tvb")


def test_a_program_that_vanished_without_a_word_is_said_to_have_died(sessions):
    tvb, spikenet = sessions("tvb"), sessions("spikenet")
    tvb.page.update("computing", 3)
    tvb.release()
    assert "died in window 3, without a word" in lost(spikenet, "tvb")


def test_what_a_program_published_before_it_died_is_still_read(sessions):
    tvb, spikenet = sessions("tvb"), sessions("spikenet")
    tvb.publish("offer", {"channels": []})
    tvb.release()
    assert spikenet.await_page("tvb", "offer")["channels"] == []


def test_a_death_is_believed_at_the_second_look_only(sessions):
    tvb, spikenet = sessions("tvb"), sessions("spikenet")
    check = spikenet.check("tvb")
    tvb.release()
    check(0.0)  # what was sent just before the death is still taken after this
    with pytest.raises(PeerLost):
        while True:
            check(0.0)


# ---- the end ---------------------------------------------------------------------------------------------------------


def test_the_last_program_to_end_is_the_one_that_finishes_the_run(sessions, tmp_path):
    tvb, spikenet = sessions("tvb"), sessions("spikenet")
    (tmp_path / "run" / "contract.json").write_text("{}")
    assert not ended(tvb).last
    assert ended(spikenet).last
    assert (tmp_path / "run" / "finished_by").read_text() == "spikenet"


def test_a_dead_program_is_not_waited_for(sessions, tmp_path):
    tvb, spikenet = sessions("tvb"), sessions("spikenet")
    (tmp_path / "run" / "contract.json").write_text("{}")
    tvb.release()
    assert ended(spikenet).last


def test_nothing_is_finished_where_no_run_began(sessions):
    assert not ended(sessions("tvb"), Interrupted("…")).last


def test_the_summary_says_how_it_ended_and_what_was_counted(sessions, tmp_path):
    tvb = sessions("tvb")
    tvb.window = 4
    for _ in range(3):
        tvb.count("a", frames_sent=1, spikes_sent=10)
    tvb.count("b", frames_received=2)
    ended(tvb)
    summary = read_summary(tmp_path / "run", "tvb")
    assert summary["state"] == "finished" and summary["error"] is None and summary["windows"] == 5
    assert summary["counters"] == {"a": {"frames_sent": 3, "spikes_sent": 30}, "b": {"frames_received": 2}}
    assert summary["run_id"] == tvb.run_id.hex() and summary["ended"] >= summary["started"]
    assert read_page(tmp_path / "run", "tvb")["now"]["state"] == "finished"


def test_a_message_is_told_at_once_and_once_and_what_was_opened_is_closed_last_first(sessions):
    tvb = sessions("tvb")
    closed = []
    tvb.on_close(lambda: closed.append("first"))
    tvb.on_close(lambda: 1 / 0)
    tvb.on_close(lambda: closed.append(list(tvb.lines)))
    error = PeerLost("spikenet died in window 3.")
    ended(tvb, error)
    assert closed == [["tvb: spikenet died in window 3."], "first"], "told before anything is closed"
    assert error.told
    assert tvb.lines[1] == "tvb: while closing: division by zero"


def test_a_full_disk_is_a_message_that_the_others_can_read(sessions, tmp_path):
    tvb = sessions("tvb")
    with pytest.raises(RunDirectoryError, match="cannot be used: No space left on device"), tvb:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    summary = read_summary(tmp_path / "run", "tvb")
    assert summary["state"] == "failed" and "No space left on device" in summary["error"]


def test_other_errors_keep_their_traceback(sessions):
    tvb = sessions("tvb")
    with pytest.raises(FileNotFoundError), tvb:
        os.stat("/no/such/file")
    assert tvb.lines == ["tvb: an error that lockstep did not expect; its traceback follows."]


def test_a_terminal_that_is_gone_does_not_keep_a_program_from_ending_in_order(tmp_path):
    def broken(_line):
        raise BrokenPipeError

    session = Session(tmp_path / "run", "tvb", experiment(), tell=broken)
    with pytest.raises(ExperimentError), session:
        raise ExperimentError("no such region")
    assert read_summary(tmp_path / "run", "tvb")["error"] == "no such region"
    session.release()


def test_run_gives_the_place_free_whatever_happens(sessions, tmp_path):
    called = []

    def finish():
        called.append(alive(tmp_path / "run", "tvb"))
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(RunDirectoryError, match="No space left"):
        sessions("tvb").run(lambda session: None, finish)
    assert called == [True], "it holds its place until the results are there"
    assert not alive(tmp_path / "run", "tvb")


# ---- small parts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "name"), [(signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM")])
def test_one_signal_is_noted_and_a_second_interrupts_hard(number, name):
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), Stop().on_signals() as stop:
        assert not stop
        os.kill(os.getpid(), number)
        assert stop and stop.reason == name
        os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


def test_json_is_there_whole_or_not_at_all(tmp_path):
    write_json(tmp_path / "a.json", {"x": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"x": [1, 2, object()]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_two_columns_name_absent_keys():
    text = two_columns({"a": 1, "same": 2, "mine": "x"}, {"a": 3, "same": 2}, "tvb", "spikenet")
    assert [line.split() for line in text.splitlines()] == [
        ["tvb", "spikenet"], ["a", "1", "3"], ["mine", '"x"', "(absent)"],
    ]  # fmt: skip


def test_the_pasted_command_survives_a_shell():
    arguments = ["my exp", "--run-dir", "/a b/d'or", "--set", 'spikenet.regions=["x y"]']
    line = paste_command("lockstep", "cortex", arguments)
    assert shlex.split(line) == ["lockstep", "spikenet", *arguments, "--name", "cortex"]
    assert paste_command("./scripts/lockstep", "tvb", ["x"]) == "./scripts/lockstep tvb x"


def test_an_error_of_a_users_function_says_where_it_arose():
    with pytest.raises(KeyError) as caught, noting("tvb.build = 'model:build'"):
        raise KeyError("speed")
    assert one_line(caught.value) == "KeyError: 'speed' (in tvb.build = 'model:build')"
    with pytest.raises(LockstepError) as caught, noting("tvb.build = 'model:build'"):
        raise ExperimentError("params.a: missing.")
    assert one_line(caught.value) == "params.a: missing."


def test_a_run_whose_lock_is_held_by_a_stopped_program_is_refused_and_nobody_hangs(tmp_path, monkeypatch):
    monkeypatch.setattr(run_dir_module, "LOCK_WAIT_S", 0.05)
    with run_lock(tmp_path), pytest.raises(TimeoutError, match=r"has held its lock for 0\.05 s"), run_lock(tmp_path):
        pass
    with run_lock(tmp_path):
        pass
