"""A job elsewhere, when its run is cancelled and when it is only interrupted: in real worker processes."""

from __future__ import annotations

from pathlib import Path

from dagengine import Engine, Pending, RunState, context, task, workflow


def note(folder: str, what: str) -> str:
    with Path(folder, "asked").open("a") as file:
        file.write(what + "\n")
    return what


@task(grace=30)
def job(folder: str) -> str:
    def poll(handle: str) -> object:
        return "done" if Path(folder, "ready").exists() else (note(folder, "poll"), Pending)[1]

    return str(
        context().external(
            lambda key: note(folder, "submit"), poll, lambda handle: note(folder, f"cancel {handle}"), every=0.02
        )
    )


@workflow
def of_job(folder: str) -> str:
    return job(folder)


def asked(folder: Path) -> list[str]:
    path = folder / "asked"
    return path.read_text().split("\n")[:-1] if path.exists() else []


def await_poll(folder: Path, run: object) -> None:
    while "poll" not in asked(folder):
        assert not run.wait(0.01)  # type: ignore[attr-defined]


def test_a_cancelled_run_cancels_its_job(tmp_path: Path) -> None:
    """With the handle, before the worker ends."""
    with Engine(tmp_path / "store.db", home=tmp_path, workers=1) as engine:
        run = engine.start(of_job, str(tmp_path))
        await_poll(tmp_path, run)
        run.cancel()
        run.wait()
        assert run.state is RunState.CANCELLED
        assert asked(tmp_path)[-1] == "cancel submit"
        assert asked(tmp_path).count("submit") == 1


def test_an_interrupted_run_leaves_its_job_and_finds_it_again(tmp_path: Path) -> None:
    """Whoever resumes it polls the same job."""
    with Engine(tmp_path / "store.db", home=tmp_path, workers=1) as engine:
        run = engine.start(of_job, str(tmp_path))
        await_poll(tmp_path, run)
        engine.interrupt(force=True)
        run.wait()
        assert run.state is RunState.INTERRUPTED
        (tmp_path / "ready").touch()
        assert engine.resume(run.id).result() == "done"
    assert [what for what in asked(tmp_path) if what != "poll"] == ["submit"]
