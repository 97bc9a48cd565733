"""`dagengine logs`: what the attempts of a run have printed.

Each attempt that printed has a file beside the store, `logs/RUN/SEQ.ATTEMPT.log`. What an attempt prints that still runs
on this machine is read from its worker's output, which moves to the file when the attempt ends.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dagengine.cli.app import Invocation, common, find_run, run_argument, short
from dagengine.cli.terminal import clean, clean_block, note, paint
from dagengine.model import RunRecord, RunState
from dagengine.views import find_step, live_output, run_state

if TYPE_CHECKING:
    from dagengine.config import Settings
    from dagengine.storage.interface import Store

PIECE = 1 << 20  # bytes read at once
TURN = 0.5  # seconds between two looks for new output, with -f; the run's end is heard at once
_NAME = re.compile(r"(\d{1,12})\.(\d{1,9})\.log")
_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")

Attempt = tuple[int, int]  # seq, number


@click.command("logs", short_help="Print what the steps of a run have printed.")
@common
@run_argument
@click.argument("step", metavar="[STEP]", required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on until the run has ended.")
@click.option("--attempt", type=click.IntRange(min=1), metavar="N", help="Only the attempts of this number.")
@click.option("--raw", is_flag=True, help="The bytes as they are, escape sequences too, without headings.")
@click.pass_obj
def command(
    invocation: Invocation, run: str, step: str | None, *, follow: bool, attempt: int | None, raw: bool
) -> None:
    """Print what the steps of a run, or one of them, have printed."""
    settings = invocation.settings()
    with invocation.reading() as store:
        record = find_run(store, run)
        seq = None if step is None else find_step(store, record, step).seq
        logs = Logs(store, settings, record, seq, attempt)
        if invocation.json:
            from dagengine.cli.terminal import print_json

            print_json([logs.to_json(one) for one in logs.present()])
            return
        printer = Printer(logs, raw, patient=follow)
        if follow:
            _follow(store, settings, record, logs, printer)
        else:
            for one in logs.present():
                printer.print_new(one)
        if not printer.printed and not follow:
            what = f"run {short(record.id)}" if step is None else clean(step)
            note(f"{what} has printed nothing")


def _follow(store: Store, settings: Settings, run: RunRecord, logs: Logs, printer: Printer) -> None:
    from dagengine.ending import ending

    over = ending(store, settings, run.id)
    ended = False
    while not ended:
        ended = over.wait(TURN)
        for one in logs.present():
            printer.print_new(one)


@dataclass(frozen=True, slots=True)
class Output:
    """Where an attempt's output is. `live`: it may still grow, and belongs to the worker."""

    attempt: Attempt
    path: Path
    live: bool


class Logs:
    """The outputs of a run that there are, of one step or one number of attempt if so wished."""

    def __init__(self, store: Store, settings: Settings, run: RunRecord, seq: int | None, number: int | None) -> None:
        if not _RUN_ID.fullmatch(run.id):
            # Ids are checked when a run is begun. One that is otherwise was written by somebody else, and is no path.
            raise click.UsageError(f"the run's id {clean(run.id)!r} can't be the name of a folder of logs.")
        self._store = store
        self._run = run
        self._seq = seq
        self._number = number
        self._folder = settings.logs / run.id
        self._keys: dict[int, str] = {}

    def present(self) -> list[Output]:
        live = self._live()
        saved = {attempt: Output(attempt, path, False) for attempt, path in self._saved()}
        return [output for _, output in sorted({**live, **saved}.items())]

    def _saved(self) -> Iterator[tuple[Attempt, Path]]:
        try:
            entries = list(self._folder.iterdir())
        except OSError:
            return
        for path in entries:
            name = _NAME.fullmatch(path.name)
            if name is not None and self._wanted(int(name[1]), int(name[2])):
                yield (int(name[1]), int(name[2])), path

    def _live(self) -> dict[Attempt, Output]:
        run = self._store.find_run(self._run.id)
        if run_state(run) is not RunState.RUNNING or run.owner is None:
            return {}
        found = {}
        for attempt in self._store.attempts(run.number, self._seq, open_only=True):
            if attempt.started_at >= run.owner.started_at and self._wanted(attempt.seq, attempt.number):
                path = live_output(attempt)
                if path is not None:
                    found[attempt.seq, attempt.number] = Output((attempt.seq, attempt.number), path, True)
        return found

    def _wanted(self, seq: int, number: int) -> bool:
        return self._seq in (None, seq) and self._number in (None, number)

    def key(self, seq: int) -> str:
        if seq not in self._keys:
            found = self._store.steps(self._run.number, seqs=[seq])
            self._keys[seq] = found[0].key if found else f"step {seq}"
        return self._keys[seq]

    def saved_path(self, attempt: Attempt) -> Path:
        return self._folder / f"{attempt[0]}.{attempt[1]}.log"

    def to_json(self, output: Output) -> dict[str, object]:
        seq, number = output.attempt
        try:
            text = output.path.read_bytes().decode(errors="replace")
        except OSError:
            text = ""
        return {"seq": seq, "key": self.key(seq), "attempt": number, "running": output.live, "text": text}


class Printer:
    """Prints of each output what is new, under a heading where the attempt changes."""

    def __init__(self, logs: Logs, raw: bool, *, patient: bool, write: Callable[[bytes], None] | None = None) -> None:
        self._logs = logs
        self._raw = raw
        self._patient = patient
        self._write = write or _to_stdout
        self._offsets: dict[Attempt, int] = {}
        self._seen_live: set[Attempt] = set()
        self._under: Attempt | None = None
        self.printed = False

    def print_new(self, output: Output) -> None:
        offset = self._offsets.get(output.attempt, 0)
        if self._patient and output.live and output.attempt not in self._seen_live:
            # The first of many looks only remembers it. The worker may have gone on to another step just now, whose
            # output this would be; then the record says so by the next look.
            self._seen_live.add(output.attempt)
            if not offset:
                return
        for piece in _pieces(output.path, offset):
            if output.live and self._logs.saved_path(output.attempt).exists():
                return  # it has ended in between: what was read may be of the next step. Its file has it all.
            self._heading(output.attempt)
            self._write(piece if self._raw else clean_block(piece.decode(errors="replace")).encode())
            self._offsets[output.attempt] = self._offsets.get(output.attempt, 0) + len(piece)
            self.printed = True

    def _heading(self, attempt: Attempt) -> None:
        if self._raw or self._under == attempt:
            return
        before = "\n" if self._under is not None else ""
        number = f" (attempt {attempt[1]})" if attempt[1] > 1 else ""
        heading = paint(f"── {clean(self._logs.key(attempt[0]))}{number}", "bold")
        self._write(f"{before}{heading}\n".encode())
        self._under = attempt


def _pieces(path: Path, offset: int) -> Iterator[bytes]:
    """The file's bytes from the offset on, cut at the ends of lines where that is possible."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            while piece := file.read(PIECE):
                if not piece.endswith(b"\n") and len(piece) == PIECE:
                    piece += file.readline(PIECE)
                yield piece
    except OSError:
        return


def _to_stdout(data: bytes) -> None:
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
    sys.stdout.flush()
