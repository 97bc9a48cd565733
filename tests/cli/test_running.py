"""Runs begun, watched, stopped, killed and resumed from the command line, in processes of their own."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.processes import await_end

FLOWS = Path(__file__).parent / "flows" / "gated.py"


class World:
    """A home, a working folder and a gate; and the processes that were started there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            **os.environ,
            "DAGENGINE_HOME": str(folder / "home"),
            "DAGENGINE_WORKERS": "2",
            "GATED": str(folder),
            "TERM": "dumb",
        }
        os.mkfifo(folder / "gate")
        os.mkfifo(folder / "arrived")
        self.started: list[subprocess.Popen[str]] = []

    def start(self, *words: str, **options: Any) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "dagengine", *words],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            text=True,
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
        )
        self.started.append(process)
        return process

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*words)
        out, err = process.communicate()
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def at_the_gate(self) -> None:
        """Wait until the run's second step is at the gate."""
        (self.folder / "arrived").read_text()

    def open_gate(self) -> None:
        """Let the step that waits go on, and those that come later through."""
        (self.folder / "gate").write_text("")  # waits for the step to stand there
        (self.folder / "open").touch()

    def leave_open(self) -> None:
        """Later attempts find the gate open, and nobody waits for their arrival."""
        (self.folder / "open").touch()
        (self.folder / "arrived").unlink()

    def show(self, run: str = "@last") -> Any:
        return json.loads(self.run("show", run, "--json").stdout)

    @property
    def journal(self) -> list[str]:
        return (self.folder / "journal").read_text().split()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Where commands are run. What is left of them at the end is killed."""
    here = World(tmp_path)
    yield here
    for process in here.started:
        if process.poll() is None:
            process.kill()
        process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def line_with(stream: Any, text: str) -> str:
    """The next line with this text; what was said before it, if there is none."""
    said = []
    for line in stream:
        said.append(line)
        if text in line:
            return str(line)
    raise AssertionError("".join(said))


def test_a_run_prints_its_result_alone_on_stdout(world: World) -> None:
    """Progress and last words go to stderr; a pipe gets the value."""
    done = world.run("run", f"{FLOWS}:quick", "x=4")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "{'x': 5}\n"
    lines = done.stderr.splitlines()
    assert lines[0].endswith("of quick started (2 workers)")
    assert lines[-1].startswith("✓ run ")
    assert any("first: 1 step done" in line for line in lines)
    assert "\x1b" not in done.stderr


def test_a_run_as_json_is_one_object(world: World) -> None:
    """With its id, state and result; nothing else is printed."""
    done = world.run("run", f"{FLOWS}:quick", "--json", "--run-id", "mine")
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert (found["id"], found["workflow"], found["state"]) == ("mine", "quick", "succeeded")
    assert found["result"] == {"x": 2}
    assert world.run("result", "mine", "--json").stdout == '{"x": 2}\n'


def test_what_the_workflow_prints_does_not_spoil_the_json(world: World) -> None:
    """Its module and its body print in our process; with --json that goes to stderr."""
    flow = world.folder / "chatty.py"
    flow.write_text(
        "from dagengine import task, workflow\nprint('loading')\n"
        "@task\ndef f() -> int: return 1\n"
        "@workflow\ndef chatty() -> int:\n    print('in the body')\n    return f()\n"
    )
    done = world.run("run", f"{flow}:chatty", "--json")
    assert json.loads(done.stdout)["result"] == 1
    assert done.stderr == "loading\nin the body\n"


def test_a_failing_run_says_what_failed_where_and_what_to_type(world: World) -> None:
    """Exit status 1; the user's line of code, none of ours."""
    done = world.run("run", f"{FLOWS}:failing")
    assert (done.returncode, done.stdout) == (1, "")
    assert "failing/explode[0] failed: ValueError: no luck with 2" in done.stderr
    assert 'gated.py", line' in done.stderr
    assert "raise ValueError" in done.stderr
    assert "dagengine errors " in done.stderr
    assert "dagengine resume " in done.stderr
    assert "dagengine/runtime" not in done.stderr


@pytest.mark.parametrize("wrong", ["@task(transactional='nope')", "@task(cache=Cache(scope='all'))"])
def test_an_option_that_is_refused_names_the_line_of_the_users_file(world: World, tmp_path: Path, wrong: str) -> None:
    """And none of ours."""
    flow = tmp_path / "wrong.py"
    flow.write_text(f"from dagengine import Cache, task, workflow\n\n{wrong}\ndef f() -> int: return 1\n")
    done = world.run("run", f"{flow}:f")
    assert done.stderr.endswith("(line 3 of wrong.py)\n")


def test_quiet_shows_the_end_only(world: World) -> None:
    """-q."""
    done = world.run("run", f"{FLOWS}:quick", "-q")
    assert len(done.stderr.splitlines()) == 1


def test_a_killed_run_is_resumed_without_repeating_a_step(world: World) -> None:
    """kill -9, a look at what is left, resume: the finished step is not run again, the others once more."""
    process = world.start("run", f"{FLOWS}:gated")
    world.at_the_gate()
    process.kill()
    process.communicate()
    found = world.show()
    assert found["state"] == "crashed"
    assert [step["state"] for step in found["steps"]] == ["succeeded", "waiting", "waiting"]
    assert "the process that worked on the run has died" in world.run("explain", "@last", "gate").stdout
    world.leave_open()
    done = world.run("resume")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "{'x': 20}\n"
    assert "resumed" in done.stderr
    assert world.journal == ["first", "gate", "gate", "last"]


def test_ctrl_c_drains_and_says_how_to_resume(world: World) -> None:
    """What runs is let end and recorded; exit status 130."""
    process = world.start("run", f"{FLOWS}:gated")
    world.at_the_gate()
    process.send_signal(signal.SIGINT)
    assert "press again to stop now" in line_with(process.stderr, "draining")
    world.open_gate()
    _, said = process.communicate()
    assert process.returncode == 130
    assert "interrupted. resume with: dagengine resume " in said.splitlines()[-1]
    assert [step["state"] for step in world.show()["steps"]] == ["succeeded", "succeeded", "waiting"]
    assert world.run("resume").stdout == "{'x': 20}\n"
    assert world.journal == ["first", "gate", "last"]


def test_a_second_ctrl_c_stops_at_once(world: World) -> None:
    """What runs is ended, the run is resumable."""
    process = world.start("run", f"{FLOWS}:gated")
    world.at_the_gate()
    process.send_signal(signal.SIGINT)
    line_with(process.stderr, "draining")
    process.send_signal(signal.SIGINT)
    line_with(process.stderr, "stopping now")
    process.communicate()
    assert process.returncode == 130
    assert world.show()["state"] == "interrupted"
    world.leave_open()
    assert world.run("resume").returncode == 0


def test_sigterm_drains_too(world: World) -> None:
    """Exit status 143: a service manager asked."""
    process = world.start("run", f"{FLOWS}:gated")
    world.at_the_gate()
    process.send_signal(signal.SIGTERM)
    line_with(process.stderr, "draining")
    world.open_gate()
    process.communicate()
    assert process.returncode == 143


def test_a_live_run_is_reported_with_its_owner(world: World) -> None:
    """Exit status 4, and the run goes on."""
    process = world.start("run", f"{FLOWS}:gated")
    world.at_the_gate()
    done = world.run("resume", "@last")
    assert done.returncode == 4
    assert f"process {process.pid}" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    found = world.show()
    assert (found["state"], found["owner"]["pid"], found["owner"]["alive"]) == ("running", process.pid, True)
    # That an attempt has started is written with the next commit: by now, or in a moment.
    assert [step["state"] for step in found["steps"]] in (
        ["succeeded", "running", "waiting"],
        ["succeeded", "ready", "waiting"],
    )
    world.open_gate()
    process.communicate()
    assert process.returncode == 0


def test_a_succeeded_run_is_not_run_again(world: World) -> None:
    """`resume` says so, and prints the result."""
    world.run("run", f"{FLOWS}:quick", "--run-id", "mine")
    done = world.run("resume", "mine")
    assert (done.returncode, done.stdout) == (0, "{'x': 2}\n")
    assert "already succeeded" in done.stderr
    assert world.journal == ["first", "last"]


def test_wait_hears_of_the_end(world: World) -> None:
    """In another process, by the owner's socket, with the run's own exit status."""
    process = world.start("run", f"{FLOWS}:gated", "--run-id", "mine")
    world.at_the_gate()
    waiter = world.start("wait", "mine")
    world.open_gate()
    _, said = waiter.communicate()
    assert waiter.returncode == 0, said
    assert "run mine of gated succeeded" in said
    process.communicate()


def test_wait_hears_of_the_owners_death(world: World) -> None:
    """A killed owner ends the wait: nobody works on the run any more."""
    process = world.start("run", f"{FLOWS}:gated", "--run-id", "mine")
    world.at_the_gate()
    waiter = world.start("wait", "mine")
    process.kill()
    _, said = waiter.communicate()
    assert waiter.returncode == 1
    assert "crashed" in said


def test_cancel_stops_a_run_of_another_process(world: World) -> None:
    """The owner is told, ends what runs, and exits with 1; `resume` still goes on."""
    process = world.start("run", f"{FLOWS}:gated", "--run-id", "mine")
    world.at_the_gate()
    done = world.run("cancel", "mine")
    assert (done.returncode, done.stdout) == (0, "run mine: asked to stop\n")
    _, said = process.communicate()
    assert process.returncode == 1
    assert "was cancelled" in said
    assert world.show("mine")["state"] == "cancelled"
    world.leave_open()
    assert world.run("resume", "mine").returncode == 0


def test_a_detached_run_outlives_its_command(world: World) -> None:
    """The command prints the id and ends; the run goes on in a session of its own, and is waited for like any."""
    done = world.run("run", f"{FLOWS}:gated", "--detach", "--run-id", "mine")
    assert (done.returncode, done.stdout) == (0, "mine\n")
    world.at_the_gate()
    owner = world.show("mine")["owner"]
    assert owner["alive"]
    assert os.getsid(owner["pid"]) == owner["pid"]
    world.open_gate()
    assert world.run("wait", "mine").returncode == 0
    assert world.run("result", "mine").stdout == "{'x': 20}\n"
    log = world.folder / "home" / "logs" / "mine" / "controller.log"
    assert await_end([owner["pid"]]) == []
    assert "succeeded" in log.read_text()


def test_a_detached_run_that_can_not_begin_is_said_so(world: World) -> None:
    """What the background process said last is shown, in one line."""
    flow = world.folder / "fleeting.py"
    flow.write_text(
        "import os\nfrom dagengine import task, workflow\n"
        "if os.environ.get('DAGENGINE_CHILD'): raise RuntimeError('not here')\n"
        "@task\ndef f() -> int: return 1\n"
        "@workflow\ndef fleeting() -> int: return f()\n"
        "os.environ['DAGENGINE_CHILD'] = '1'\n"
    )
    done = world.run("run", f"{flow}:fleeting", "--detach")
    assert done.returncode == 1
    assert "RuntimeError: not here" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert world.show()["state"] == "pending"


def test_logs_are_what_steps_print(world: World) -> None:
    """By step under headings; of one step; with --json; nothing is said as such."""
    world.run("run", f"{FLOWS}:quick", "--run-id", "mine")
    assert world.run("logs", "mine").stdout == "── quick/first[0]\nfirst of 1\n"
    assert world.run("logs", "mine", "first", "--raw").stdout == "first of 1\n"
    assert json.loads(world.run("logs", "mine", "--json").stdout)[0]["text"] == "first of 1\n"
    done = world.run("logs", "mine", "last")
    assert (done.returncode, done.stdout) == (0, "")
    assert "has printed nothing" in done.stderr


def test_logs_of_a_running_step_can_be_read_and_followed(world: World) -> None:
    """While it runs; -f ends with the run."""
    process = world.start("run", f"{FLOWS}:gated", "--run-id", "mine")
    world.at_the_gate()
    follower = world.start("logs", "mine", "-f")
    line_with(follower.stdout, "at the gate")
    assert "at the gate" in world.run("logs", "mine", "gate").stdout
    world.open_gate()
    assert follower.stdout is not None
    assert "at the gate" not in follower.stdout.read()
    assert follower.wait() == 0
    process.communicate()


def test_a_reader_that_goes_away_is_no_error(world: World) -> None:
    """As with any command at the head of a pipe: quiet, and without a traceback."""
    world.run("run", f"{FLOWS}:quick")
    reading, writing = os.pipe()
    os.close(reading)
    process = world.start("show", "@last", "--json", stdout=writing)
    os.close(writing)
    _, said = process.communicate()
    assert (process.returncode, said) == (141, "")


def test_a_command_with_closed_streams_does_its_work(world: World) -> None:
    """Nobody is told, but the run is made."""
    words = [sys.executable, "-m", "dagengine", "run", f"{FLOWS}:quick", "--run-id", "mine"]
    done = subprocess.run(
        ["/bin/sh", "-c", 'exec "$@" >&- 2>&-', "sh", *words], env=world.environment, cwd=world.folder, check=False
    )
    assert done.returncode == 0
    assert world.show("mine")["state"] == "succeeded"


def test_a_run_whose_watcher_goes_away_goes_on(world: World) -> None:
    """Nobody reads its progress any more: the run succeeds all the same."""
    process = world.start("run", f"{FLOWS}:gated", "--run-id", "mine")
    world.at_the_gate()
    assert process.stderr is not None
    process.stderr.close()
    world.open_gate()
    process.wait()
    assert world.show("mine")["state"] == "succeeded"


def in_a_terminal(world: World, *words: str) -> tuple[int, str]:
    """The exit status and all that a terminal of 100 columns was sent."""
    world.environment.update(TERM="xterm-256color", COLUMNS="100", LINES="30")
    ours, theirs = pty.openpty()
    process = world.start(*words, stdout=theirs, stderr=theirs)
    os.close(theirs)
    said = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # the other end is closed: the process has ended
            break
        if not part:
            break
        said += part
    os.close(ours)
    return process.wait(), said.decode()


def test_a_terminal_shows_a_row_for_each_task(world: World) -> None:
    """With a bar and counts, redrawn in place; the cursor is given back at the end."""
    status, said = in_a_terminal(world, "run", f"{FLOWS}:failing")
    assert status == 1
    assert "━" in said
    assert "1/1" in said
    assert "1 failed" in said
    assert "\x1b[31m" in said
    assert said.rfind("\x1b[?25h") > said.rfind("\x1b[?25l")


def test_no_color_is_heeded_on_a_terminal(world: World) -> None:
    """Still live, without colours."""
    world.environment["NO_COLOR"] = "1"
    status, said = in_a_terminal(world, "run", f"{FLOWS}:quick")
    assert status == 0
    assert "\x1b[32m" not in said
    assert "1/1" in said


def test_modules_of_the_working_folder_can_be_named(world: World) -> None:
    """package.module:workflow, also on resume."""
    package = world.folder / "jobs"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "nightly.py").write_text(FLOWS.read_text())
    done = world.run("run", "jobs.nightly:gated", "--run-id", "mine", "--workers", "0")
    assert done.returncode == 2
    process = world.start("run", "jobs.nightly:gated", "--run-id", "mine")
    world.at_the_gate()
    process.kill()
    process.communicate()
    world.leave_open()
    done = world.run("resume", "mine")
    assert done.stdout == "{'x': 20}\n", done.stderr


def test_a_run_that_works_for_longer_than_it_may_fails_and_can_be_resumed(world: World) -> None:
    """`--timeout` is the limit of this run; one that can't be meant is refused before anything is recorded."""
    done = world.run("run", f"{FLOWS}:gated", "--run-id", "mine", "--timeout", "0.5s")
    assert done.returncode == 1
    assert "still working 0.5 s after its start" in done.stderr
    assert "dagengine resume mine" in done.stderr
    for time in ("0", "soon"):
        refused = world.run("run", f"{FLOWS}:quick", "--run-id", "other", "--timeout", time)
        assert refused.returncode == 2
        assert f"--timeout is '{time}'" in refused.stderr


def test_a_store_elsewhere_takes_everything_with_it(world: World) -> None:
    """With --store nothing is left in the home folder."""
    (world.folder / "else").mkdir()
    done = world.run("run", f"{FLOWS}:quick", "--store", "else/runs.db")
    assert done.returncode == 0, done.stderr
    assert not (world.folder / "home").exists()
    assert {path.name for path in (world.folder / "else").iterdir()} >= {"runs.db", "logs", "artifacts"}


def test_nothing_is_left_of_a_run_that_has_ended(world: World) -> None:
    """No socket, no process, and everything is for the user alone."""
    world.run("run", f"{FLOWS}:quick")
    home = world.folder / "home"
    assert list((home / "control").iterdir()) == []
    open_to_others = [path for path in [home, *home.rglob("*")] if path.stat().st_mode & 0o077]
    assert open_to_others == []
