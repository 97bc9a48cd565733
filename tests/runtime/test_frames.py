"""The wire: whatever pieces the stream comes in, the same messages come out, with their descriptors."""

from __future__ import annotations

import gc
import os
import resource
import socket
import struct
from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagengine.errors import InternalError
from dagengine.model import Failure
from dagengine.runtime.frames import FRAME_LIMIT, PACK_LIMIT, Frames, Link, frame
from dagengine.runtime.messages import (
    Acknowledge,
    Answer,
    Ask,
    AskRoom,
    Credit,
    Define,
    Done,
    Erred,
    Expanded,
    Fork,
    FromForker,
    FromWorker,
    Hello,
    Hold,
    Kill,
    LetGo,
    Packed,
    Revoke,
    Room,
    Run,
    Stop,
    ToForker,
    ToWorker,
    Written,
    Yield,
    pack_input,
)
from dagengine.runtime.protocol import FileInput, InlineInput, ListInput
from dagengine.runtime.shared import share
from tests.runtime.left_behind import no_more_descriptors, open_descriptors

SENT: list[ToWorker] = [
    Define(3, {"module": "m", "qualname": "f"}),
    Run((1, 2, 3), 3, b"call", [b"x", ("/a", 5, "d", True), {"items": [b"y"]}], {"a": 1, "b": None}, "/log", "stream"),
    Run((1, 2, 4), 3, b"call", [], None, None, "create", state=[0, 9, (5,)], replay=[["m", b"c", [b"x"]]], cpus=2),
    Revoke(2),
    Room(7, 4096),
    Room(8, -1, "/spill/file"),
    Credit((1, 2, 3), 5),
    Stop((1, 2, 3)),
    Answer(1, {"objects": [[0, 9, [5]]]}, None, [(5,)]),
]
ANSWERS: list[FromWorker] = [
    Hello(),
    Done((1, 2, 3), 1.5, 2.5, Written("d", 4, b"data"), peak=1 << 40),
    Done((1, 2, 3), 1.5, 2.5, Written("d", 1 << 40, None, 7, 12), Written("", 1, b"s")),
    AskRoom(7, 1 << 40, (1, 2, 3)),
    Yield((1, 2, 3), 0, Written("", 4, b"item")),
    Hold([(5,), (6, 7)]),
    LetGo([(5,)]),
    Ask(1, "get", [1, "two", None], (1, 2, 3), True),
    Expanded((0, 0, 1), 0.0, 1.0, [b"a", b""]),
    Erred((0, 0, 1), 0.0, 1.0, Failure("error", "E", "é\n", "t", b"p", False, {"exit": 3})),
    Acknowledge(),
]


def as_bytes(messages: object) -> bytes:
    return msgspec.msgpack.encode(messages)


@given(cuts=st.lists(st.integers(0, 2000), max_size=30))
def test_a_stream_may_come_in_any_pieces(cuts: list[int]) -> None:
    """Frames that are cut anywhere are put together again."""
    stream = b"".join(frame(as_bytes(batch)) for batch in (ANSWERS, [], ANSWERS[:2], ANSWERS[3:]))
    frames: Frames[FromWorker] = Frames(FromWorker)
    found: list[FromWorker] = []
    places = sorted({min(cut, len(stream)) for cut in cuts} | {0, len(stream)})
    for start, end in zip(places, [*places[1:], len(stream)], strict=True):
        found += frames.feed(stream[start:end])
    assert found == [*ANSWERS, *ANSWERS[:2], *ANSWERS[3:]]


def test_a_frame_that_is_too_long_is_refused() -> None:
    """A length that nobody sends means that the stream is damaged; it is not waited for."""
    with pytest.raises(InternalError, match="damaged"):
        Frames(FromWorker).feed(struct.pack("<I", FRAME_LIMIT + 1))


@pytest.mark.parametrize("body", [b"\xff\xff", as_bytes([[99, 1]]), as_bytes([["x"]]), as_bytes([[5, 1]])])
def test_a_message_that_can_not_be_read_is_refused(body: bytes) -> None:
    """Rubbish, an unknown kind, wrong fields: an error of ours, and nothing half-read."""
    with pytest.raises(InternalError, match="can't be read"):
        Frames(FromWorker).feed(frame(body))


# ---- over a socket --------------------------------------------------------------------------


@pytest.fixture
def links() -> Iterator[tuple[Link[FromWorker], Link[ToWorker]]]:
    left, right = socket.socketpair()
    one, other = Link[FromWorker](left, FromWorker), Link[ToWorker](right, ToWorker)
    yield one, other
    one.close()
    other.close()


def test_both_directions_carry_their_messages(links: tuple[Link[FromWorker], Link[ToWorker]]) -> None:
    """What is sent in one batch arrives in order."""
    controller, worker = links
    assert controller.send(SENT)
    assert worker.receive() == [
        SENT[0],
        Run(
            (1, 2, 3),
            3,
            b"call",
            [b"x", ["/a", 5, "d", True], {"items": [b"y"]}],
            {"a": 1, "b": None},
            "/log",
            "stream",
        ),
        Run((1, 2, 4), 3, b"call", [], None, None, "create", state=[0, 9, [5]], replay=[["m", b"c", [b"x"]]], cpus=2),
        *SENT[3:],
    ]
    assert worker.send(ANSWERS)
    assert controller.receive() == ANSWERS


def test_a_large_batch_goes_through_shared_memory(links: tuple[Link[FromWorker], Link[ToWorker]]) -> None:
    """Nothing large goes through the socket, so a blocking end can send it before anybody reads."""
    controller, worker = links
    calls = [bytes([index % 256]) * 1000 for index in range(20 * PACK_LIMIT // 1000)]
    before = open_descriptors()
    assert worker.send([Expanded((1, 1, 1), 0.0, 1.0, calls)])
    assert worker.send([Hello()])
    assert controller.receive() == [Expanded((1, 1, 1), 0.0, 1.0, calls)]
    assert controller.receive() == [Hello()]
    no_more_descriptors(before)


@pytest.fixture
def orders() -> Iterator[tuple[Link[FromForker], Link[ToForker]]]:
    """As `links`, between controller and forker: the only ones that hand descriptors over."""
    ours, theirs = socket.socketpair()
    one: Link[FromForker] = Link(ours, FromForker)
    other: Link[ToForker] = Link(theirs, ToForker)
    yield one, other
    one.close()
    other.close()


def test_descriptors_arrive_in_the_order_of_their_messages(orders: tuple[Link[FromForker], Link[ToForker]]) -> None:
    """Also between messages that own none, and frames that are packed, which own one themselves."""
    controller, forker = orders
    for number in range(5):
        files = [os.memfd_create(f"{number}") for _ in range(3)]
        for place, descriptor in enumerate(files):
            os.write(descriptor, f"{number}{place}".encode())
        assert controller.send([Fork(number)], files)
        assert controller.send([Kill(number, 15)] * (1 + PACK_LIMIT * (number % 2) // 4))
    seen: list[str] = []
    kills: set[int] = set()
    while len(kills) < 5:
        messages = forker.receive()
        assert messages is not None
        for message in messages:
            if isinstance(message, Fork):
                for place in range(3):
                    descriptor = forker.descriptors.popleft()
                    assert not os.get_inheritable(descriptor)
                    assert os.pread(descriptor, 10, 0).decode() == f"{message.worker}{place}"
                    os.close(descriptor)
                seen.append(f"fork {message.worker}")
            elif isinstance(message, Kill) and message.worker not in kills:
                kills.add(message.worker)
                seen.append(f"kill {message.worker}")
    assert seen == [name for number in range(5) for name in (f"fork {number}", f"kill {number}")]
    assert not forker.descriptors


def test_a_packed_batch_does_not_take_the_descriptor_of_the_message_before_it(
    orders: tuple[Link[FromForker], Link[ToForker]],
) -> None:
    """Both may be in the stream when it is read; descriptors that came first belong to the message that came first."""
    _, forker = orders
    firsts = [os.memfd_create("first") for _ in range(3)]
    packed = share([as_bytes([Kill(1, 9)])])
    forker.descriptors.extend([*firsts, packed])
    size = os.fstat(packed).st_size
    assert forker._unpack([Fork(1), Packed(size)])[1:] == [Kill(1, 9)]
    assert list(forker.descriptors) == firsts


def test_what_a_full_socket_does_not_take_is_sent_later(links: tuple[Link[FromWorker], Link[ToWorker]]) -> None:
    """A non-blocking end queues in order, descriptors included, and never waits."""
    controller, worker = links
    controller.socket.setblocking(False)
    sent = 0
    while controller.send([Revoke(sent), Define(sent, {"x": "y" * 10_000})]):
        sent += 1
    for _ in range(20):
        assert not controller.send([Revoke(-1)], [os.memfd_create("late")])
    assert not controller.flush()
    worker.socket.setblocking(False)
    seen: list[ToWorker] = []
    flushed = False
    while not (flushed and worker.exhausted):
        flushed = controller.flush()
        messages = worker.receive()
        assert messages is not None
        seen += messages
    revokes = [message.count for message in seen if isinstance(message, Revoke)]
    assert revokes == [*range(sent + 1), *[-1] * 20]
    assert len(worker.descriptors) == 20


def test_too_many_open_files_are_named(links: tuple[Link[FromWorker], Link[ToWorker]]) -> None:
    """A descriptor that can't be taken in is an error with what to do, not a message without its descriptor."""
    controller, worker = links
    worker.send([Hello()], [os.memfd_create("one too many")])
    gc.collect()  # what went only now would leave room for another one
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
    try:
        with pytest.raises(OSError, match="ulimit"):
            controller.receive()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_the_end_of_the_stream_is_told_once_all_is_read(links: tuple[Link[FromWorker], Link[ToWorker]]) -> None:
    """None means that nothing can come any more; an empty list that nothing has come yet."""
    controller, worker = links
    controller.socket.setblocking(False)
    assert controller.receive() == []
    assert controller.exhausted
    worker.send(ANSWERS)
    worker.close()
    assert controller.receive() == ANSWERS
    assert not controller.exhausted
    assert controller.receive() is None
    with pytest.raises(OSError, match="pipe"):
        controller.send([Revoke(1)])


def test_inputs_are_packed_as_plain_data() -> None:
    """Bytes for a value, four fields for a file, a mapping for a list."""
    given = ListInput((InlineInput(b"a"), FileInput("/p", 3, "d"), ListInput(())))
    assert pack_input(given) == {"items": [b"a", ("/p", 3, "d", False), {"items": []}]}
