"""Worker processes that die in every way, tasks that behave badly, and what must be left afterwards: nothing.

What every runtime promises is in tests/contract/test_runtime.py.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dagengine.errors import ObjectStoreFull, RuntimeStopped
from dagengine.functions import Reference
from dagengine.runtime.forker import PRELOAD
from dagengine.runtime.processes import ProcessRuntime
from dagengine.runtime.protocol import Dropped, Failed, FileInput, Lost, ObjectInput, Resources, Succeeded
from dagengine.runtime.shell import Shell
from dagengine.values import decode, encode
from tests.runtime.harness import TASKS, Harness, Input, wait_for_file
from tests.runtime.left_behind import Left, children_of, no_more_descriptors, open_descriptors, pidfd, wait_gone

Open = Callable[..., Harness]

MB = 1 << 20


def forker_pid(harness: Harness) -> int:
    (forker,) = [pid for pid in children_of(os.getpid()) if name_of(pid) == "dag-forker"]
    return forker


def name_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):  # it ended meanwhile
        return ""


# ---- deaths ---------------------------------------------------------------------------------


def test_a_killed_worker_is_named_by_its_signal_and_replaced(harness: Harness, tmp_path: Path) -> None:
    """The attempt that ran is lost, with the signal as a fact; the next one runs on a new worker."""
    task = harness.start("touch_and_hang", str(tmp_path / "on"))
    pid = int(wait_for_file(tmp_path / "on"))
    assert harness.wait_started(task).pid == pid
    os.kill(pid, signal.SIGKILL)
    lost = harness.end(task, Lost)
    assert lost.failure.kind == "lost"
    assert lost.failure.facts == {"signal": "SIGKILL"}
    assert "SIGKILL" in lost.failure.message
    assert "\n" not in lost.failure.message
    assert lost.started_at <= lost.finished_at
    after = harness.start("pid")
    assert harness.result(after) != pid
    assert harness.end(after, Succeeded).worker > lost.worker


@pytest.mark.parametrize(
    ("name", "arguments", "facts"),
    [
        ("exit_hard", [3], {"exit": 3}),
        ("exit_hard", [0], {"exit": 0}),
        ("crash", [], {"signal": "SIGSEGV"}),
        ("kill_self", [signal.SIGSEGV], {"signal": "SIGSEGV"}),
        ("kill_self", [signal.SIGABRT], {"signal": "SIGABRT"}),
        ("kill_self", [signal.SIGTERM], {"signal": "SIGTERM"}),
        ("kill_self", [signal.SIGRTMIN + 3], {"signal": f"signal {signal.SIGRTMIN + 3}"}),
        ("close_everything", [], {"exit": 70}),
    ],
)
def test_a_death_is_named_for_what_it_was(
    harness: Harness, name: str, arguments: list[int], facts: dict[str, Any]
) -> None:
    """Signals by their name, exits by their status, and the runtime goes on."""
    lost = harness.end(harness.start(name, *arguments), Lost)
    assert lost.failure.facts == facts
    assert harness.run("same", 1) == 1


def test_only_the_running_task_is_blamed_for_a_death(harness: Harness, tmp_path: Path) -> None:
    """Tasks that had been sent to the dead worker run on another one, once each."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    harness.run("same", 0)  # so that tasks of this function are sent ahead
    harness.run("touch_and_wait_if", "", "")
    first = harness.start("touch_and_wait_if", str(tmp_path / "on"), str(gate))
    wait_for_file(tmp_path / "on")
    ahead = [harness.start("same", number) for number in range(200)]
    # Sent ahead for sure: the worker can't take these, and the runtime's thread has nothing else to do.
    pid = harness.wait_started(first).pid
    harness.runtime.cancel([(5, 5, 5)])
    os.kill(pid, signal.SIGKILL)
    assert harness.end(first, Lost).failure.facts == {"signal": "SIGKILL"}
    assert [harness.result(task) for task in ahead] == list(range(200))


def test_the_results_of_tasks_before_the_fatal_one_stand(harness: Harness) -> None:
    """Many quick tasks with a deadly one among them: all others succeed, that one is lost."""
    harness.run("exit_if_negative", 1)
    specs = [harness.spec("exit_if_negative", number if number != 137 else -1) for number in range(400)]
    harness.submit(*specs)
    ends = harness.ends_of([spec.id for spec in specs])
    assert [index for index, end in enumerate(ends) if isinstance(end, Lost)] == [137]
    assert sum(isinstance(end, Succeeded) for end in ends) == 399


def test_what_a_dead_worker_started_dies_with_it(harness: Harness, tmp_path: Path) -> None:
    """A worker leads a process group, which is killed as a whole."""
    task = harness.start("start_child", str(tmp_path / "on"))
    pid = int(wait_for_file(tmp_path / "on"))
    child = pidfd(int((tmp_path / "on.child").read_text()))
    os.kill(pid, signal.SIGKILL)
    harness.end(task, Lost)
    wait_gone(child)


def test_out_of_memory_is_told_where_the_kernel_says_so(
    open_harness: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A SIGKILL that nobody sent, and a counter of the control group that has grown, are a death for lack of memory."""
    counts = iter([0, 1, 1])
    monkeypatch.setattr("dagengine.runtime.crew.oom_kills", lambda: next(counts))
    harness = open_harness(1)
    for expected in ({"signal": "SIGKILL", "oom": True}, {"signal": "SIGKILL"}):
        on = tmp_path / f"on{len(expected)}"
        task = harness.start("touch_and_hang", str(on))
        os.kill(int(wait_for_file(on)), signal.SIGKILL)
        assert harness.end(task, Lost).failure.facts == expected


# ---- the parents' deaths --------------------------------------------------------------------


def test_without_the_forker_the_runtime_is_broken_and_no_worker_is_left(open_harness: Open, tmp_path: Path) -> None:
    """kill -9 of the workers' parent: the workers die with it, also what they started, and the runtime says so once."""
    harness = open_harness(2)
    harness.start("start_child", str(tmp_path / "on"))
    pid = int(wait_for_file(tmp_path / "on"))
    harness.run("same", 1)
    gone = [pidfd(pid), pidfd(int((tmp_path / "on.child").read_text()))]
    os.kill(forker_pid(harness), signal.SIGKILL)
    failure = harness.wait_broken().failure
    assert "SIGKILL" in failure.message
    assert "\n" not in failure.message
    wait_gone(*gone)
    harness.runtime.close()
    with pytest.raises(RuntimeStopped):
        harness.runtime.submit([])


CONTROLLER = """
import signal, sys
from dagengine.functions import Reference
from dagengine.runtime.forker import PRELOAD
from dagengine.runtime.processes import ProcessRuntime
from dagengine.runtime.protocol import TaskSpec
from dagengine.values import encode

if __name__ == "__main__":
    runtime = ProcessRuntime(2)
    runtime.open(lambda events: None)
    runtime.define(0, Reference("tasks", "start_child", sys.argv[1]).to_json())
    for index, path in enumerate(sys.argv[2:]):
        runtime.submit([TaskSpec((0, index, 1), 0, encode(((path,), {})).to_bytes())])
    signal.pause()
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_is_left_when_the_controller_dies(tmp_path: Path, left: Left, how: int) -> None:
    """kill -9 of the user's process ends forker, workers and what they started."""
    paths = [tmp_path / "one", tmp_path / "two"]
    script = tmp_path / "controller.py"
    script.write_text(CONTROLLER)
    controller = subprocess.Popen([sys.executable, str(script), str(TASKS), *map(str, paths)])
    try:
        workers = [int(wait_for_file(path)) for path in paths]
        grandchildren = [int(Path(f"{path}.child").read_text()) for path in paths]
        (forker,) = children_of(controller.pid)
        gone = [pidfd(pid) for pid in (forker, *workers, *grandchildren)]
    finally:
        controller.send_signal(how)
        controller.wait()
    wait_gone(*gone)


def test_a_controller_that_has_forked_can_still_be_missed(tmp_path: Path, left: Left) -> None:
    """A process that the user's program forked holds copies of the sockets; the workers end all the same."""
    script = tmp_path / "controller.py"
    script.write_text(
        CONTROLLER.replace(
            "    signal.pause()",
            "    import os\n    if os.fork():\n        open(sys.argv[2] + '.forking', 'w').close()\n"
            "        os.rename(sys.argv[2] + '.forking', sys.argv[2] + '.forked')\n    signal.pause()",
        )
    )
    path = tmp_path / "one"
    controller = subprocess.Popen([sys.executable, str(script), str(TASKS), str(path)], process_group=0)
    try:
        worker = pidfd(int(wait_for_file(path)))
        wait_for_file(tmp_path / "one.forked")
        os.kill(controller.pid, signal.SIGKILL)
        controller.wait()
        wait_gone(worker)
    finally:
        os.killpg(controller.pid, signal.SIGKILL)


def test_the_signals_of_a_terminal_do_not_reach_the_workers(harness: Harness) -> None:
    """Ctrl-C goes to the whole foreground group: the forker ignores it and the workers are in groups of their own."""
    before = harness.run("pid")
    forker = forker_pid(harness)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(forker, number)
    os.kill(before, signal.SIGINT)
    assert harness.run("pid") == before
    assert os.getpgid(before) == before


# ---- timeouts and force ---------------------------------------------------------------------


def test_a_task_that_runs_too_long_is_ended(harness: Harness, tmp_path: Path) -> None:
    """The attempt times out, its worker is replaced, and what it printed is in its log."""
    log = tmp_path / "logs" / "1.log"
    _, timed = harness.timed_out("print_and_hang", tmp_path / "on", "last words", log=str(log))
    assert timed.finished_at - timed.started_at >= 0.29
    assert log.read_text() == "last words\n"
    assert harness.run("same", 1, timeout=300) == 1


def test_a_task_that_ignores_sigterm_is_killed(open_harness: Open, tmp_path: Path) -> None:
    """After its grace time comes SIGKILL, which can't be ignored."""
    harness = open_harness(1)
    harness.timed_out("ignore_sigterm_and_hang", tmp_path / "on", grace=0.1)
    with contextlib.suppress(ProcessLookupError):
        wait_gone(pidfd(int((tmp_path / "on").read_text())))


def test_a_running_task_can_be_cancelled_by_force(open_harness: Open, tmp_path: Path) -> None:
    """Its worker is ended with whatever it started; the attempt is dropped as one that may have run."""
    harness = open_harness(2)
    task = harness.start("start_child", str(tmp_path / "on"))
    worker = pidfd(int(wait_for_file(tmp_path / "on")))
    child = pidfd(int((tmp_path / "on.child").read_text()))
    harness.runtime.cancel([task], force=True)
    assert harness.end(task, Dropped).started
    wait_gone(worker, child)
    assert harness.run("same", 1) == 1


def test_closing_by_force_kills_what_runs(open_harness: Open, tmp_path: Path) -> None:
    """Also what would never end; a close that waits for it can be overtaken by one that does not."""
    harness = open_harness(2)
    running = harness.start("ignore_sigterm_and_hang", str(tmp_path / "on"))
    worker = pidfd(int(wait_for_file(tmp_path / "on")))
    queued = [harness.start("touch_and_hang", str(tmp_path / "never"), resources=Resources(2.0)) for _ in range(3)]
    draining = threading.Thread(target=harness.runtime.close)
    draining.start()
    assert not any(end.started for end in harness.ends_of(queued) if isinstance(end, Dropped))
    harness.runtime.close(force=True)
    assert harness.end(running, Dropped).started
    draining.join()
    wait_gone(worker)


def test_closing_does_not_wait_for_a_worker_that_is_stopped(
    open_harness: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An idle worker is asked to end; one that does not hear it is killed."""
    monkeypatch.setattr("dagengine.runtime.dispatch.GRACE_SECONDS", 0.1)
    harness = open_harness(1)
    worker = harness.run("pid")
    gone = pidfd(worker)
    os.kill(worker, signal.SIGSTOP)
    harness.runtime.close()
    wait_gone(gone)


def test_a_runtime_can_be_closed_before_its_workers_are_up(left: Left) -> None:
    """Opening returns at once, and so may closing follow at once."""
    for force in (False, True):
        runtime = ProcessRuntime(3)
        runtime.open(lambda events: None)
        runtime.close(force)


# ---- what can't start -----------------------------------------------------------------------


def test_workers_that_can_not_start_break_the_runtime_with_the_reason(
    open_harness: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After some tries the runtime says what keeps them from coming up."""
    monkeypatch.setattr("dagengine.runtime.dispatch_staff.START_DELAY", 0.001)
    monkeypatch.setattr("dagengine.runtime.crew.new_output", lambda folder: os.open("/", os.O_RDONLY))
    failure = open_harness(2).wait_broken().failure
    assert "no worker can be started: IsADirectoryError" in failure.message


def test_a_runtime_whose_scratch_folder_is_not_there_says_so(open_harness: Open, tmp_path: Path) -> None:
    """A folder that can't be written to is an error of the runtime, not a hang."""
    failure = open_harness(1, scratch=str(tmp_path / "nowhere")).wait_broken().failure
    assert "nowhere" in failure.message
    assert "\n" not in failure.message


def test_other_systems_are_told_what_to_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """Worker processes need Linux; elsewhere one line says what there is instead."""
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(RuntimeStopped, match="inline runtime"):
        ProcessRuntime(1).open(lambda events: None)
    with pytest.raises(ValueError, match="at least 1"):
        ProcessRuntime(0)


# ---- what tasks print -----------------------------------------------------------------------


def test_what_a_task_prints_goes_to_its_log(harness: Harness, tmp_path: Path) -> None:
    """Python's streams, the descriptors below them, children, and C's own buffers; in a folder made for it."""
    log = tmp_path / "logs" / "run" / "0.1.log"
    harness.run("print_all_ways", "one", log=str(log))
    assert sorted(log.read_text().splitlines()) == sorted(
        ["one print", "one error", "one write", "one child", "one printf"]
    )
    assert (log.stat().st_mode & 0o777, log.parent.stat().st_mode & 0o777) == (0o600, 0o700)


def test_a_task_that_prints_nothing_has_no_log(harness: Harness, tmp_path: Path) -> None:
    """Also after one that printed and has no log: what was printed does not go to somebody else."""
    harness.run("print_all_ways", "lost")
    harness.run("same", 1, log=str(tmp_path / "quiet.log"))
    assert list(tmp_path.iterdir()) == []


def test_the_log_is_complete_when_the_attempt_has_ended(harness: Harness, tmp_path: Path) -> None:
    """Whoever is told of an end can read the log at once: of a result, an exception, a death."""
    for name, end in (("print_much", Succeeded), ("print_and_fail", Failed), ("print_and_exit", Lost)):
        log = tmp_path / f"{name}.log"
        harness.end(harness.start(name, 3_000_000 if name == "print_much" else "text", log=str(log)), end)
        assert log.stat().st_size == (3_000_000 // 1024 * 1024 if name == "print_much" else 5)


def test_any_bytes_can_be_printed(harness: Harness, tmp_path: Path) -> None:
    """Binary output is kept as it is, and text that has no encoding does not fail the task."""
    log = tmp_path / "log"
    harness.run("print_bytes", log=str(log))
    assert log.read_bytes() == bytes(range(256)) + b"\\udc80\n"


def test_a_log_that_can_not_be_written_does_not_fail_the_task(harness: Harness, tmp_path: Path) -> None:
    """The result counts, not what was printed beside it."""
    (tmp_path / "file").write_text("")
    harness.run("print_all_ways", "x", log=str(tmp_path / "file" / "log"))


@pytest.mark.parametrize("name", ["close_streams", "close_stdout_object", "replace_stdout"])
def test_a_task_that_ruins_its_streams_ruins_nobody_elses(harness: Harness, tmp_path: Path, name: str) -> None:
    """The next task on the same worker prints as ever."""
    arguments = [str(tmp_path / "elsewhere")] if name == "replace_stdout" else []
    before = harness.run("pid")
    harness.end(harness.start(name, *arguments), Succeeded)
    log = tmp_path / "log"
    harness.run("print_all_ways", "two", log=str(log))
    assert len(log.read_text().splitlines()) == 5
    assert harness.run("pid") == before


# ---- bad manners ----------------------------------------------------------------------------


def test_a_task_that_forks_and_returns_in_both_processes_has_one_result(harness: Harness) -> None:
    """The child that comes back with a result of its own is not heard."""
    before = harness.run("pid")
    assert harness.run("fork_and_return") == 7
    assert harness.run("pid") == before


def test_threads_that_a_task_leaves_do_not_keep_the_worker_from_ending(harness: Harness) -> None:
    """Closing does not wait for them."""
    assert harness.run("leave_thread") > 1
    harness.runtime.close()


def test_a_task_that_reads_its_input_finds_none(harness: Harness) -> None:
    """The terminal belongs to the controller."""
    assert harness.run("read_stdin") == ""


def test_a_task_that_ignores_sigterm_does_not_hand_that_on(harness: Harness) -> None:
    """The next task on the worker is ended as any other, so its timeout works at once."""
    harness.run("ignore_sigterm")
    assert harness.run("settings")["terminate"]


def test_a_worker_is_set_up_as_promised(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread for each numeric library, its own process group, Ctrl-C ignored, few descriptors, a clean parent."""
    found = harness.run("settings")
    assert found["threads"] == {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    assert found["interrupt"]
    assert found["terminate"]
    assert found["leads"]
    assert found["blocked"] == []
    assert found["oom_score_adj"] >= 500
    assert found["name"] == "dag-worker"
    assert found["parent_threads"] == 1
    # Streams, socket, permits, output, folder, arena, what wakes the loop, two for its memory; what lists them.
    assert len(found["descriptors"]) <= 12
    assert set(map(os.path.abspath, sys.path)) <= set(found["path"])


def test_signals_that_the_program_blocks_are_not_blocked_in_workers(open_harness: Open) -> None:
    """A worker that blocks SIGTERM could only be killed."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    try:
        assert open_harness(1).run("settings")["blocked"] == []
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])


def test_modules_are_found_where_the_program_found_them(
    open_harness: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in a folder that joined the import path after the workers were forked."""
    harness = open_harness(1)
    harness.run("same", 1)
    (tmp_path / "found_later.py").write_text("def answer(): return 42")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert harness.run("import_and_call", "found_later") == 42


def test_the_users_thread_counts_stand(open_harness: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has set them knows why."""
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert open_harness(1).run("settings")["threads"]["OMP_NUM_THREADS"] == "3"


# ---- preloading -----------------------------------------------------------------------------


@pytest.fixture
def preloading(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is outside of tests."""
    monkeypatch.setattr("dagengine.runtime.forker.PRELOAD", PRELOAD)


@pytest.mark.usefixtures("preloading")
def test_numeric_libraries_are_preloaded_and_leave_the_parent_with_one_thread(open_harness: Open) -> None:
    """What the controller has imported is there in a new worker, which was forked from a process with one thread."""
    pytest.importorskip("numpy")
    pytest.importorskip("pyarrow")
    harness = open_harness(1)
    harness.runtime.define(800, Reference("sys", "modules.keys").to_json())
    found = harness.run("loaded", ["numpy", "pyarrow"])
    assert found == ["numpy", "pyarrow"]
    assert harness.run("settings")["parent_threads"] == 1


def test_a_library_that_starts_a_thread_is_not_preloaded(
    open_harness: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parent starts itself anew without it; tasks that need it import it themselves."""
    (tmp_path / "threaded_library.py").write_text(
        "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("dagengine.runtime.forker.PRELOAD", ("threaded_library", "json"))
    monkeypatch.setitem(sys.modules, "threaded_library", sys)
    harness = open_harness(1)
    assert harness.run("loaded", ["threaded_library", "json"]) == ["json"]
    assert harness.run("settings")["parent_threads"] == 1


@pytest.mark.usefixtures("preloading")
def test_each_worker_has_random_numbers_of_its_own(open_harness: Open) -> None:
    """A generator that was seeded in the parent would give every worker the same."""
    pytest.importorskip("numpy.random")
    harness = open_harness(2)
    first = harness.run("random_numbers")
    harness.end(harness.start("exit_hard", 1), Lost)
    assert harness.run("random_numbers") != first


# ---- large values ---------------------------------------------------------------------------


def test_a_large_array_goes_to_another_task_without_a_copy(open_harness: Open, tmp_path: Path) -> None:
    """100 MB: into shared memory, to a file as the store would do it, and mapped read-only by the next task."""
    pytest.importorskip("numpy")
    harness = open_harness(2)
    count = 12_500_000
    made = harness.end(harness.start("array", count), Succeeded)
    assert made.shared is not None
    assert made.size > 100_000_000
    file = tmp_path / "artifact"
    with file.open("wb") as target:
        os.sendfile(target.fileno(), made.shared.fileno(), made.shared.offset, made.size)
    made.shared.close()
    with file.open("rb") as source:
        assert hashlib.file_digest(source, "sha256").hexdigest() == made.digest
    given = FileInput(str(file), made.size, made.digest, verify=True)
    seen = harness.run("look_at_array", Input(), inputs=[given])
    assert seen["sum"] == count * (count - 1) / 2
    assert not seen["writeable"]
    assert seen["mapping"].endswith(str(file))
    assert seen["mapping"].split()[1].startswith("r--")


def test_an_object_whose_bytes_are_damaged_is_made_again(open_harness: Open, tmp_path: Path) -> None:
    """The worker that finds it fails its own task; nobody after it reads those bytes."""
    harness = open_harness(1)
    runtime = harness.runtime
    assert isinstance(runtime, ProcessRuntime)
    harness.end(harness.start("repeat", "x", 100_000, output=(77,)), Succeeded)

    def damage(shell: Shell) -> int:
        place = shell.agent.objects.places[77,]
        return os.pwrite(shell.agent.arena.descriptor, b"????", place.offset)

    assert runtime._look(damage) == 4
    failure = harness.fails("length", Input(), inputs=[ObjectInput((77,))]).failure
    assert (failure.kind, failure.facts) == ("object", {"objects": [[77]]})
    assert harness.run("length", Input(), inputs=[ObjectInput((77,))]) == 100_000


def test_a_task_can_not_spoil_what_it_does_not_read_by_saying_that_it_is_damaged(open_harness: Open) -> None:
    """What fails in the user's code with such an error is believed of the task's own inputs only."""
    harness = open_harness(1)
    harness.runtime.put((78,), encode(b"y" * 100_000))
    assert harness.fails("say_that_it_is_damaged", 78).failure.kind == "object"
    assert harness.run("length", Input(), inputs=[ObjectInput((78,))]) == 100_000


def test_arrow_tables_travel(harness: Harness) -> None:
    """As an Arrow stream in shared memory."""
    pytest.importorskip("pyarrow")
    assert harness.run("table", 100_000).num_rows == 100_000


# ---- many -----------------------------------------------------------------------------------


def test_ten_thousand_tasks_leave_nothing_behind(open_harness: Open, tmp_path: Path) -> None:
    """And open nothing while they run."""
    harness = open_harness(2)
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    waits = harness.start("touch_and_wait_if", str(tmp_path / "on"), str(gate))
    harness.run("same", 0)  # by the other worker: both are there
    gate.write_text("go")
    harness.result(waits)
    before = open_descriptors()
    specs = [harness.spec("same", number) for number in range(10_000)]
    harness.submit(*specs)
    harness.ends_of([spec.id for spec in specs])
    no_more_descriptors(before)
    ends = [harness.end(spec.id, Succeeded) for spec in specs]
    assert [decode(end.data) for end in ends if end.data is not None] == list(range(10_000))


def test_large_values_leave_no_descriptor(harness: Harness) -> None:
    """Shared memory is let go of in the worker when it was sent, and here when it is closed."""
    payload = "x" * 400_000
    task = harness.start("same", payload)
    harness.result(task)
    here, there = open_descriptors(), harness.run("settings")["descriptors"]
    for _ in range(10):
        end = harness.end(harness.start("same", payload), Succeeded)
        assert end.shared is not None
        end.shared.close()
    no_more_descriptors(here)
    assert harness.run("settings")["descriptors"] == there


def test_work_is_taken_from_a_worker_that_is_stuck(open_harness: Open, tmp_path: Path) -> None:
    """Quick tasks that were sent behind one that turns out to be slow are run by the other worker."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    harness = open_harness(2)
    for _ in range(4):
        harness.run("touch_and_wait_if", "", "")
    specs = [harness.spec("touch_and_wait_if", "", "") for _ in range(100)]
    slow = harness.spec("touch_and_wait_if", str(tmp_path / "on"), str(gate))
    harness.submit(*specs[:50], slow, *specs[50:])
    harness.ends_of([spec.id for spec in specs])
    assert slow.id not in harness.ends
    gate.write_text("go")
    assert harness.result(slow.id) == "go"


def test_cancelling_what_was_sent_ahead_takes_it_back(harness: Harness, tmp_path: Path) -> None:
    """Tasks behind a running one are dropped without having run, the others run after it."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    for _ in range(4):
        harness.run("touch_and_wait_if", "", "")
        harness.run("append", str(tmp_path / "warm"), "")
    slow = harness.spec("touch_and_wait_if", str(tmp_path / "on"), str(gate))
    behind = [harness.spec("append", str(tmp_path / "ran"), str(number)) for number in range(20)]
    harness.submit(slow, *behind)
    wait_for_file(tmp_path / "on")
    harness.runtime.cancel([spec.id for spec in behind[::2]])
    for end in harness.ends_of([spec.id for spec in behind[::2]]):
        assert isinstance(end, Dropped)
        assert not end.started
    gate.write_text("go")
    harness.result(slow.id)
    harness.ends_of([spec.id for spec in behind])
    assert (tmp_path / "ran").read_text().split() == [str(number) for number in range(1, 20, 2)]


def test_every_attempt_ends_once_while_workers_are_killed_all_the_time(
    open_harness: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers die at any moment; what succeeded ran exactly once, what was lost at most once, and all else never died."""
    monkeypatch.setattr("dagengine.runtime.dispatch_staff.START_TRIES", 1_000)  # some are killed before they are up
    ran = tmp_path / "ran"
    ran.touch()
    harness = open_harness(3)
    for _ in range(3):
        harness.run("append", str(ran), "warm")
    specs = [harness.spec("append", str(ran), str(number)) for number in range(3000)]
    chance = random.Random(1)
    harness.submit(*specs)
    for done in range(100, 3000, 150):
        harness.wait(lambda done=done: len(harness.ends) >= done)  # type: ignore[misc]
        workers = [pid for pid in children_of(forker_pid(harness)) if name_of(pid) == "dag-worker"]
        if workers:
            with contextlib.suppress(ProcessLookupError):  # the one that was killed before may have gone only now
                os.kill(chance.choice(workers), signal.SIGKILL)
    ends = harness.ends_of([spec.id for spec in specs])
    times = Counter(ran.read_text().split())
    for number, end in enumerate(ends):
        if isinstance(end, Succeeded):
            assert times[str(number)] == 1
        else:
            assert isinstance(end, Lost)
            assert times[str(number)] <= 1
    lost = sum(isinstance(end, Lost) for end in ends)
    assert lost <= 20


def test_a_place_that_cannot_be_spilled_to_is_told_by_all_that_meets_it(
    open_harness: Open, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever finds no room hears why, and who looks at the runtime sees it; the log has one line."""
    (tmp_path / "file").touch()
    place = tmp_path / "file" / "spill"
    harness = open_harness(1, object_memory=8 * MB, spill=(str(place),))
    assert harness.runtime.stats()["spill_failing"] == 0
    for number in range(2):
        harness.runtime.put((number,), encode(b"x" * (3 * MB)))
    for number in range(2, 5):
        with pytest.raises(ObjectStoreFull, match=r"file/spill can't be written to: Not a directory\. Check its mode"):
            harness.runtime.put((number,), encode(b"x" * (3 * MB)))
    assert harness.runtime.stats()["spill_failing"] == 1
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    task = harness.start("touch_and_wait", str(tmp_path / "begun"), str(gate))
    harness.wait_started(task)
    assert "can't be written to" in harness.runtime.explain(task)["spill_trouble"]
    gate.write_text("go")
    harness.result(task)
    (said,) = [record.getMessage() for record in caplog.records if record.name == "dagengine.runtime"]
    assert said.startswith(f"the spill space {place} can't be written to")
    assert said.endswith("Until then values that find no room in memory have nowhere to go")
