"""Going on with the code that a run was started with, or with today's, and knowing beforehand what that means."""

from __future__ import annotations

import contextlib
import gc
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest

from dagengine.code import packing
from dagengine.code.changes import GONE, KEPT, SAME, TO_RUN, code_changes
from dagengine.code.packing import load_pack, pack_of_reference
from dagengine.code.pinning import code_of
from dagengine.code.rehearsal import rehearse
from dagengine.code.views import code_difference, code_today, export_code, find_code, module_named
from dagengine.engine import Engine
from dagengine.errors import ArtifactDamaged, BadArguments, CodeNotPacked, LoadError, RunNotFound
from dagengine.functions import Reference, resolve
from dagengine.model import RunState, StepState
from dagengine.packs import PackImporter, install
from dagengine.runtime.inline import InlineRuntime
from dagengine.storage.code import all_packs
from dagengine.storage.interface import RunFilter
from dagengine.transfer import export_run, import_run
from tests.semantics.projects import ProjectFolder, project_folder

FLOW = """
from dagengine import continue_with, get, task, workflow
from parts import helper

@task
def first(x):
    return helper.label(x)

@task
def second(x):
    raise ValueError("not yet")

@task
def third(x):
    return [x, helper.VERSION]

@workflow
def flow(x):
    found = get(first(x))
    return third(get(second(found)))
"""
HELPER = "VERSION = 1\n\ndef label(x):\n    return f'{x} by {VERSION}'\n"


@pytest.fixture
def project(tmp_path: Path) -> Iterator[ProjectFolder]:
    """A file and a package."""
    with project_folder(tmp_path / "project") as found:
        found.write({"flow": FLOW, "parts/__init__": "", "parts/helper": HELPER})
        yield found


@pytest.fixture(params=["memory:", "sqlite"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """Tasks in this process."""
    store = str(tmp_path / "store.db") if request.param == "sqlite" else request.param
    with Engine(store, home=tmp_path, artifacts=tmp_path / "artifacts", runtime=InlineRuntime()) as opened:
        yield opened


def failed(engine: Engine, project: ProjectFolder) -> str:
    """A run whose second step has failed. The project is not loaded any more."""
    run = engine.start(project.load(), "one")
    run.wait()
    assert run.state is RunState.FAILED
    project.forget()
    return run.id


def test_a_run_is_resumed_on_its_pack_where_its_modules_are_not_loaded(engine: Engine, project: ProjectFolder) -> None:
    """The file is another one by now; the body, the tasks and a traceback are of the old one."""
    run_id = failed(engine, project)
    project.change("flow", 'raise ValueError("not yet")', "return x")
    project.change("flow", "from dagengine", "\n\n\nfrom dagengine")
    run = engine.resume(run_id)
    run.wait()
    assert run.state is RunState.FAILED
    trace = run.failure.traceback if run.failure is not None else ""
    assert 'raise ValueError("not yet")' in trace


def test_a_process_that_has_another_version_loaded_says_so(engine: Engine, project: ProjectFolder) -> None:
    """One line, with both ways out; the run can be resumed with today's code here."""
    run_id = failed(engine, project)
    project.change("flow", 'raise ValueError("not yet")', "return x")
    project.change("parts/helper", "VERSION = 1", "VERSION = 2")
    project.load()
    with pytest.raises(LoadError, match=r"another version of .* than this process has loaded") as raised:
        engine.resume(run_id)
    assert "\n" not in str(raised.value)
    assert 'code="current"' in str(raised.value)
    before = code_of(engine.store, engine.store.find_run(run_id))
    run = engine.resume(run_id, code="current")
    assert run.result() == ["one by 1", 2]
    record = engine.store.find_run(run_id)
    now = code_of(engine.store, record)
    assert now is not None
    assert now != before
    assert [event.data["code"] for event in engine.store.events(record.number) if "code" in event.data] == [now]
    with pytest.raises(BadArguments, match="today's"):
        engine.resume(run_id, code="tomorrow")


def test_a_fork_keeps_what_its_donor_kept_of_other_code(engine: Engine, project: ProjectFolder) -> None:
    """Steps that stood when the donor went on with today's code stand in its fork, too, and in a fork that goes on so."""
    run_id = failed(engine, project)
    project.change("flow", 'raise ValueError("not yet")', "return x")
    project.change("parts/helper", "VERSION = 1", "VERSION = 2")
    project.load()
    assert engine.resume(run_id, code="current").result() == ["one by 1", 2]
    fork = engine.fork(run_id, from_=["third"])
    assert fork.result() == ["one by 1", 2]
    assert {step.key: step.attempts for step in fork.steps()} == {
        "flow/first[0]": 0,
        "flow/second[0]": 0,
        "flow/third[0]": 1,
    }
    project.change("flow", "helper.VERSION]", "helper.NONE]")
    project.forget()
    project.load()
    broken = engine.fork(run_id, from_=["third"], code="current")
    broken.wait()
    assert {step.key: step.attempts for step in broken.steps()} == {
        "flow/first[0]": 1,  # for today's code it has changed
        "flow/second[0]": 1,
        "flow/third[0]": 1,
    }
    assert broken.state is RunState.FAILED
    project.change("flow", "helper.NONE]", "helper.VERSION]")
    project.change("parts/helper", "VERSION = 2", "VERSION = 3")
    project.forget()
    project.load()
    assert engine.resume(broken.id, code="current").result() == ["one by 2", 3]


def test_todays_code_is_told_step_by_step(engine: Engine, project: ProjectFolder) -> None:
    """Same; changed, and kept because it is finished; changed, and to run; gone. With what differs."""
    run_id = failed(engine, project)
    record = engine.store.find_run(run_id)
    project.load()
    assert {verdict for _, verdict in code_changes(engine.store, record).steps} == {SAME}
    project.forget()
    project.change("parts/helper", "by", "from")
    project.change("flow", 'ValueError("not yet")', 'ValueError("never")')
    changes = code_changes(engine.store, record)
    assert [(step.key, verdict) for step, verdict in changes.steps] == [
        ("flow/first[0]", KEPT),
        ("flow/second[0]", TO_RUN),
    ]
    assert [change.parts for change in changes.functions.values()] == [("parts.helper:label",), ("second",)]
    project.forget()
    project.change("flow", "def second", "def other")
    assert [verdict for _, verdict in code_changes(engine.store, record).steps] == [KEPT, GONE]


@pytest.mark.parametrize(
    ("change", "end", "good"),
    [
        (("helper.label(x)", "helper.label(x) + '!'"), "waits", True),
        (("get(first(x))", "get(first([x]))"), "mismatch", False),
        (("get(first(x))", "get(first.options(key='a')(x))"), "waits", True),
        (("found = get(first(x))", "found = undefined"), "returned", True),  # it had failed; it may fail
        (("return third(get(second(found)))", "continue_with(x)"), "waits", True),  # it is not begun here
        (("    found = get(first(x))", "    while True:\n        pass"), "endless", False),
    ],
)
def test_a_body_is_rehearsed_against_its_record(
    change: tuple[str, str], end: str, good: bool, engine: Engine, project: ProjectFolder
) -> None:
    """It goes on, or calls something else; nothing is run and nothing is written."""
    run_id = failed(engine, project)
    record = engine.store.find_run(run_id)
    project.change("flow", *change)
    if end == "endless":
        project.change(
            "flow", "while True", "from parts import helper\n    helper.BEGUN.set()\n    while not helper.GATE.is_set()"
        )
        project.write(
            {"parts/helper": HELPER + "import threading\nBEGUN, GATE = threading.Event(), threading.Event()\n"}
        )
    flow = resolve(Reference.from_json(record.entry))
    found = rehearse(engine.store, engine.artifacts, record, flow, patience=0.05 if end == "endless" else 60)
    assert (found.end, found.good) == (end, good)
    if end == "mismatch":
        assert found.key == "flow/first[0]"
        assert found.difference == "- first('one')\n+ first(['one'])"
    if "key='a'" in change[1]:
        assert (found.asked, found.new, found.new_count) == (0, ("flow/first[a]",), 1)
    if end == "endless":
        import parts.helper  # type: ignore[import-not-found]

        assert parts.helper.BEGUN.wait(300)  # else it would look for the gate when the project is another one, for ever
        parts.helper.GATE.set()
    after = engine.store.find_run(run_id)
    assert (after.steps, after.state, after.token) == (record.steps, record.state, record.token)
    assert len(engine.store.runs(RunFilter())) == 1


def test_recorded_steps_that_a_body_does_not_call_any_more_are_named(engine: Engine, project: ProjectFolder) -> None:
    """They are no mismatch: the record stands."""
    run_id = failed(engine, project)
    record = engine.store.find_run(run_id)
    project.change("flow", "return third(get(second(found)))", "return third(found)")
    found = rehearse(engine.store, engine.artifacts, record, resolve(Reference.from_json(record.entry)))
    assert (found.end, found.new, found.unasked) == ("returned", ("flow/third[0]",), ("flow/second[0]",))


def test_two_versions_run_side_by_side_in_one_engine(tmp_path: Path, project: ProjectFolder) -> None:
    """Each in workers of its own code, which they import from the pack: the files are gone."""
    gated = FLOW.replace("def flow(x):", "def flow(x, gate):\n    gate()").replace(
        'raise ValueError("not yet")', "return x"
    )
    project.write({"flow": gated})
    gates: list[threading.Event] = []

    def begin(engine: Engine) -> object:
        gate = threading.Event()
        gates.append(gate)
        workflow = project.load()
        function = workflow.function
        workflow.function = lambda x: function(x, gate.wait)
        return engine.start(workflow, "one")

    with Engine("memory:", home=tmp_path, artifacts=tmp_path / "artifacts", workers=1) as engine:
        first = begin(engine)
        project.forget()
        project.change("parts/helper", "VERSION = 1", "VERSION = 2")
        second = begin(engine)
        for file in project.folder.rglob("*.py"):
            file.unlink()
        for gate in gates:
            gate.set()
        assert first.result() == ["one by 1", 1]  # type: ignore[attr-defined]
        assert second.result() == ["one by 2", 2]  # type: ignore[attr-defined]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="only Linux says which files are open")
def test_a_closed_engine_has_no_file_of_a_pack_open(tmp_path: Path, project: ProjectFolder) -> None:
    """Not even until Python's collector of circles comes, which may be long: each engine left one."""
    gc.disable()
    try:
        with Engine(tmp_path / "store.db", home=tmp_path, runtime=InlineRuntime()) as engine:
            engine.start(project.load(), "one").wait()
            assert open_packs(tmp_path)
        assert open_packs(tmp_path) == []
    finally:
        gc.enable()


def open_packs(folder: Path) -> list[str]:
    """Files of packs in the folder that this process has open."""
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # another thread has closed it
            found.append(str(descriptor.readlink()))
    return [path for path in found if path.startswith(str(folder)) and ".pack" in path]


# ---- packing --------------------------------------------------------------------------------


def packed(project: ProjectFolder) -> set[str]:
    found = pack_of_reference(Reference("flow", "flow", str(project.folder / "flow.py")), "/")
    assert found is not None
    return set(found.modules)


def test_hidden_files_links_that_lead_out_and_what_is_no_python_are_left_out(
    project: ProjectFolder, tmp_path: Path
) -> None:
    """Secrets beside the modules are never packed; what is left out is said."""
    outside = tmp_path / "outside.py"
    outside.write_text("SECRET = 1\n")
    (project.folder / "linked.py").symlink_to(outside)
    (project.folder / ".env").write_text("PASSWORD=1\n")
    (project.folder / "key.pem").write_text("-----BEGIN\n")
    project.write(
        {
            "flow": "import linked, json, numpy\nimport space.deep.inner\n" + FLOW,
            "space/deep/inner": "from . import missing\n",
        }
    )
    found = pack_of_reference(Reference("flow", "flow", str(project.folder / "flow.py")), "/")
    assert found is not None
    assert set(found.modules) == {"flow", "parts", "parts.helper", "space", "space.deep", "space.deep.inner"}
    assert found.modules["space.deep"].kind == "namespace"
    assert list(found.manifest["left_out"]) == ["linked"]
    assert "out of" in found.manifest["left_out"]["linked"]
    assert "numpy" in found.manifest["distributions"]
    assert b"PASSWORD" not in b"".join(found.source(name) for name in found.modules)


def test_a_run_whose_modules_lie_in_folders_without_init_goes_on_in_another_process(
    engine: Engine, project: ProjectFolder
) -> None:
    """Namespace packages in each other: nothing of them is imported when they are held against the pack."""
    project.write({"flow": FLOW.replace("from parts", "from space.deep"), "space/deep/helper": HELPER})
    run_id = failed(engine, project)
    run = engine.resume(run_id)
    run.wait()
    assert run.failure is not None
    assert run.failure.type == "ValueError"
    project.forget()
    project.change("flow", 'raise ValueError("not yet")', "return x")
    project.change("space/deep/helper", "VERSION = 1", "VERSION = 2")
    again = engine.resume(run_id)
    again.wait()
    assert again.failure is not None
    assert again.failure.type == "ValueError"


def test_code_that_can_not_be_packed_is_refused_in_one_line(
    project: ProjectFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module that is no Python, one that can't be read, and too much of it."""
    project.write({"flow": FLOW + "\ndef late():\n    import broken\n", "broken": "def f(:\n"})
    with pytest.raises(
        CodeNotPacked, match=r"broken\.py, line 1 is no Python: .*\. Correct it, or take away"
    ) as raised:
        packed(project)
    assert "\n" not in str(raised.value)
    project.write({"broken": ""})
    reads = Path.read_bytes

    def refuse(path: Path) -> bytes:
        if path.name == "broken.py":
            raise PermissionError(13, "Permission denied")
        return reads(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(CodeNotPacked, match=r"broken\.py can't be read: permission denied\.$"):
        packed(project)
    monkeypatch.undo()
    monkeypatch.setattr(packing, "FILES_MAX", 3)
    with pytest.raises(CodeNotPacked, match=r"reaches 4 modules .* The largest are flow\.py"):
        packed(project)


def test_a_module_that_is_loaded_is_packed_as_it_was_loaded(engine: Engine, project: ProjectFolder) -> None:
    """What this process runs is the code from before the edit, and so is the pack of a second run."""
    workflow = project.load()
    first, second = engine.start(workflow, "one"), None
    project.change("parts/helper", "VERSION = 1", "VERSION = 2")
    second = engine.start(workflow, "two")
    codes = {code_of(engine.store, engine.store.find_run(run.id)) for run in (first, second)}
    assert len(codes) == 1
    first.wait()
    second.wait()


# ---- importing ------------------------------------------------------------------------------


def test_what_is_imported_from_a_pack_looks_as_it_did(project: ProjectFolder, tmp_path: Path, engine: Engine) -> None:
    """`__file__`, data beside it, lines of a traceback; compiled once, and compiled again if that was damaged."""
    project.write({"flow": FLOW, "parts/broken": "def fail():\n    raise ValueError('here')\n"})
    project.change("flow", "from parts import helper", "from parts import broken, helper")
    (project.folder / "parts" / "data.txt").write_text("data")
    pack = pack_of_reference(Reference("flow", "flow", str(project.folder / "flow.py")), "/")
    assert pack is not None
    project.write({"parts/broken": "# other\n"})
    bytecode = tmp_path / "bytecode"
    install(pack, str(bytecode))
    import importlib.resources

    module = importlib.import_module("parts.broken")
    assert module.__file__ == str(project.folder / "parts" / "broken.py")
    assert importlib.resources.files("parts").joinpath("data.txt").read_text() == "data"
    with pytest.raises(ValueError, match="here") as raised:
        module.fail()
    assert "raise ValueError('here')" in "".join(traceback.format_exception(raised.value))
    kept = sorted(bytecode.iterdir())
    assert len(kept) == 2
    importer = PackImporter(pack, str(bytecode))
    for file in kept:
        file.write_bytes(b"\0" * 100)
    assert importer.get_code("parts.broken").co_filename == module.__file__
    assert importer.get_source("parts.broken") == "def fail():\n    raise ValueError('here')\n"


def test_a_code_is_found_compared_and_written_out(engine: Engine, project: ProjectFolder, tmp_path: Path) -> None:
    """By run or digest; against today's; into a new folder only, and nowhere else."""
    run_id = failed(engine, project)
    pack = find_code(engine.store, run_id[:8])
    assert find_code(engine.store, pack.digest[:8]).digest == pack.digest
    with pytest.raises(RunNotFound, match="no run and no code 'ffff'"):
        find_code(engine.store, "ffff")
    today = code_today(pack)
    assert today is not None
    assert list(code_difference(pack, today)) == []
    project.change("parts/helper", "VERSION = 1", "VERSION = 2")
    today = code_today(pack)
    assert today is not None
    assert [line for line in code_difference(pack, today) if line[:1] in "+-"] == [
        "--- a/parts/helper.py",
        "+++ b/parts/helper.py",
        "-VERSION = 1",
        "+VERSION = 2",
    ]
    files = export_code(pack, tmp_path / "out")
    assert [file.relative_to(tmp_path / "out").as_posix() for file in files] == [
        "flow.py",
        "parts/__init__.py",
        "parts/helper.py",
    ]
    assert (tmp_path / "out" / "parts" / "helper.py").read_text() == HELPER
    with pytest.raises(BadArguments, match="not an empty folder"):
        export_code(pack, tmp_path / "out")
    with pytest.raises(RunNotFound, match=r"no module 'parts\.helpr'\. Did you mean parts\.helper\?"):
        module_named(pack, "parts.helpr")
    hostile = load_pack(engine.store, pack.digest)
    hostile.modules["flow"] = hostile.modules["flow"]._replace(file="../../flow.py")
    with pytest.raises(BadArguments, match="out of its folder"):
        export_code(hostile, tmp_path / "other")
    assert engine.store.steps(engine.store.find_run(run_id).number)[0].state is StepState.SUCCEEDED


def test_a_run_takes_its_code_to_another_store(project: ProjectFolder, tmp_path: Path) -> None:
    """Exported with it, held against its digests, and gone on with there though the files are gone."""
    with Engine(tmp_path / "a.db", home=tmp_path, runtime=InlineRuntime()) as here:
        run_id = failed(here, project)
        export_run(here.store, here.artifacts, here.store.find_run(run_id), tmp_path / "run.tar")
    for file in project.folder.rglob("*.py"):
        file.unlink()
    with Engine(tmp_path / "b.db", home=tmp_path / "there", runtime=InlineRuntime()) as there:
        import_run(there.store, there.artifacts, tmp_path / "run.tar")
        run = there.resume(run_id)
        run.wait()
        assert run.failure is not None
        assert 'raise ValueError("not yet")' in run.failure.traceback
    data = (tmp_path / "run.tar").read_bytes()
    assert HELPER.encode() in data
    (tmp_path / "bad.tar").write_bytes(data.replace(HELPER.encode(), HELPER.replace("1", "2").encode()))
    with Engine(tmp_path / "c.db", home=tmp_path / "third", runtime=InlineRuntime()) as third:
        with pytest.raises(ArtifactDamaged, match=r"code .* in the archive is damaged"):
            import_run(third.store, third.artifacts, tmp_path / "bad.tar")
        assert all_packs(third.store) == []
