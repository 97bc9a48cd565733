"""Permits, output, names of deaths: the parts that the runtime is put together from."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

from dagengine.runtime.deaths import lost_failure, signal_name
from dagengine.runtime.output import new_output, save_output
from dagengine.runtime.permits import Permits

# ---- permits --------------------------------------------------------------------------------


def test_permits_are_counted_across_descriptors() -> None:
    """Both sides hold the same counter; taking from an empty one does not wait."""
    permits = Permits()
    other = Permits(os.dup(permits.descriptor))
    assert not other.take()
    permits.post(3)
    assert other.take()
    assert permits.take_up_to(5) == 2
    assert not other.take()
    other.close()
    permits.close()


def test_each_permit_is_taken_once_however_many_take() -> None:
    """Two threads that take at once share what there is."""
    permits = Permits()
    permits.post(20_000)
    taken: list[int] = []
    threads = [threading.Thread(target=lambda: taken.append(permits.take_up_to(20_000))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(taken) == 20_000
    permits.close()


# ---- output ---------------------------------------------------------------------------------


def test_output_is_appended_whoever_writes_and_emptied_when_saved(tmp_path: Path) -> None:
    """Descriptors that share the file write at its end, also after it was emptied."""
    output = new_output(str(tmp_path))
    other = os.dup(output)
    for text in (b"one ", b"two "):
        os.write(output, text)
        os.write(other, b"too ")
        save_output(output, str(tmp_path / f"{text.decode().strip()}.log"))
    save_output(output, str(tmp_path / "nothing.log"))
    os.close(output)
    os.close(other)
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {
        "one.log": "one too ",
        "two.log": "two too ",
    }


# ---- deaths ---------------------------------------------------------------------------------


def test_deaths_are_told_in_one_line_with_facts() -> None:
    """Facts for programs, a line for people."""
    cases = {
        (3 << 8, False): ({"exit": 3}, "status 3"),
        (70 << 8, False): ({"exit": 70}, "its log says why"),
        (signal.SIGSEGV, False): ({"signal": "SIGSEGV"}, "fault in native code"),
        (signal.SIGUSR1, False): ({"signal": "SIGUSR1"}, "killed by SIGUSR1 while"),
        (signal.SIGKILL, False): ({"signal": "SIGKILL"}, "lack of memory"),
        (signal.SIGKILL, True): ({"signal": "SIGKILL", "oom": True}, "memory="),
    }
    for (status, oom), (facts, text) in cases.items():
        failure = lost_failure(status, oom)
        assert failure.facts == facts
        assert text in failure.message
        assert "\n" not in failure.message
        assert failure.kind == "lost"
    assert signal_name(99) == "signal 99"
