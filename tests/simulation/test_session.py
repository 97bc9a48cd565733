"""The session keeps its promise on any line: each message once, in order, and nothing of another life."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from dagengine.runtime.simulation.session import RESEND_SECONDS, WINDOW, Frame, Session


def _deliver(
    seed: int, messages: int, loss: float, repeat: float
) -> tuple[list[object], list[object], Session, Session]:
    """Both ends send; the line loses, repeats and reorders, and heals in the end."""
    rng = Random(seed)
    ends = (Session(1), Session(1))
    got: tuple[list[object], list[object]] = ([], [])
    line: list[tuple[int, Frame]] = []
    now = 0.0

    def transmit(to: int, frames: list[Frame], bad: bool) -> None:
        for frame in frames:
            if not (bad and rng.random() < loss):
                line.append((to, frame))
                if bad and rng.random() < repeat:
                    line.append((to, frame))

    for number in range(messages):
        transmit(1, [ends[0].send(("down", number), now)], True)
        transmit(0, [ends[1].send(("up", number), now)], True)
        for _ in range(rng.randint(0, 3)):
            if line:
                to, frame = line.pop(rng.randrange(len(line)))
                got[to].extend(ends[to].receive(frame))
    for round_number in range(200):
        now += 2 * RESEND_SECONDS
        for to in (0, 1):
            transmit(to, [*ends[1 - to].resend(now), ends[1 - to].acknowledge()], round_number < 3)
        while line:
            to, frame = line.pop(rng.randrange(len(line)))
            got[to].extend(ends[to].receive(frame))
        if not ends[0].unacknowledged and not ends[1].unacknowledged:
            break
    return got[0], got[1], ends[0], ends[1]


@given(seed=st.integers(0, 10**9), loss=st.floats(0, 0.9), repeat=st.floats(0, 0.9), messages=st.integers(0, 60))
def test_each_message_comes_once_and_in_order(seed: int, loss: float, repeat: float, messages: int) -> None:
    """Whatever the line does, both ends get all messages in the order of sending, and then nothing is kept."""
    up, down, *ends = _deliver(seed, messages, loss, repeat)
    assert up == [("up", number) for number in range(messages)]
    assert down == [("down", number) for number in range(messages)]
    assert [end.unacknowledged for end in ends] == [0, 0]


def test_what_was_sent_in_another_life_is_not_looked_at() -> None:
    """A late frame of the life before is neither a message nor an acknowledgement."""
    old, new, other = Session(1), Session(2), Session(2)
    late = old.send("old", 0.0)
    new.send("new", 0.0)
    assert other.receive(late) == []
    assert new.receive(Frame(1, -1, 10)) == []
    assert new.unacknowledged == 1
    assert other.receive(new.resend(RESEND_SECONDS)[0]) == ["new"]


def test_what_comes_far_too_early_is_not_kept() -> None:
    """The receiver's memory is bounded: frames beyond the window are left to be sent again."""
    sender, receiver = Session(1), Session(1)
    frames = [sender.send(number, 0.0) for number in range(WINDOW + 2)]
    assert receiver.receive(frames[WINDOW + 1]) == []
    assert receiver.receive(frames[WINDOW]) == []
    for frame in frames[1:WINDOW]:
        assert receiver.receive(frame) == []
    assert receiver.receive(frames[0]) == list(range(WINDOW))


def test_only_what_has_waited_is_sent_again() -> None:
    """An acknowledgement that is still under way is given its time."""
    session = Session(1)
    session.send("a", 0.0)
    session.send("b", RESEND_SECONDS)
    assert [frame.body for frame in session.resend(RESEND_SECONDS)] == ["a"]
    assert session.resend(RESEND_SECONDS + 0.01) == []
