"""A pack: the modules of a project as they were when a run was started; and importing from one.

    manifest   what is in it, as JSON; its SHA-256 names the pack
    file       u32 length | manifest | the modules' bytes, one after the other: what workers are given

The *finder* goes to the front of `sys.meta_path` and serves exactly the pack's modules: whatever has become of their files,
and of sys.path. `__file__` is where the module was, so that data beside it is found where it still is, and tracebacks
show its lines as they were. What is not in the pack is looked for as always.

Bytecode is kept beside the file, under the digests of what it was compiled from, so that the next worker need not compile.

May import errors only: workers load it.
"""

from __future__ import annotations

import hashlib
import json
import marshal
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, NamedTuple

from dagengine.errors import LoadError

FORMAT = 1


class Packed(NamedTuple):
    """A module in a pack. `root`: number of the folder that it was found in; `file`: its path in that folder.

    kind: "module", "package", or "namespace" (a package without `__init__`, and without bytes)
    """

    root: int
    file: str
    digest: str
    size: int
    kind: str


class Pack:
    """`read`: the bytes under a digest."""

    def __init__(self, manifest: dict[str, Any], read: Callable[[str], bytes]) -> None:
        if manifest.get("format") != FORMAT:
            raise LoadError(
                f"the run's code is packed in format {manifest.get('format')}, which this version of dagengine does not"
                " know. Use the version that started the run, or a later one."
            )
        self.manifest = manifest
        self.read = read
        self.text = text_of(manifest)
        self.digest = hashlib.sha256(self.text.encode()).hexdigest()
        self.modules = {name: Packed(*fields) for name, fields in manifest["modules"].items()}

    def path(self, name: str) -> str:
        """Where the module was when it was packed."""
        module = self.modules[name]
        return str(Path(self.manifest["roots"][module.root]) / module.file)

    def source(self, name: str) -> bytes:
        module = self.modules[name]
        return b"" if module.kind == "namespace" else self.read(module.digest)

    def write_to(self, path: Path) -> None:
        """Make the file, whole or not at all."""
        header = self.text.encode()
        parts = [len(header).to_bytes(4, "big"), header, *map(self.read, _order(self.modules))]
        _write_private(path, b"".join(parts))

    @classmethod
    def of_file(cls, path: str) -> Pack:
        """Raises OSError or LoadError. Its modules are read when they are wanted."""
        file = _File(path)
        length = int.from_bytes(file.read(0, 4), "big")
        try:
            manifest = json.loads(file.read(4, length))
        except ValueError:
            raise LoadError(f"{path} is damaged. Remove it, and resume the run: it is made again.") from None
        places: dict[str, tuple[int, int]] = {}
        at = 4 + length
        sizes = {fields[2]: fields[3] for fields in manifest["modules"].values()}
        for digest in _order({name: Packed(*fields) for name, fields in manifest["modules"].items()}):
            places[digest] = (at, sizes[digest])
            at += sizes[digest]

        def read(digest: str) -> bytes:
            offset, size = places[digest]
            data = file.read(offset, size)
            if hashlib.sha256(data).hexdigest() != digest:
                raise LoadError(f"{path} is damaged. Remove it, and resume the run: it is made again.")
            return data

        return cls(manifest, read)


def _write_private(path: Path, data: bytes) -> None:
    """A file for this user alone, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(data)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


class _File:
    """An open file; whoever imports from it need not mind if its name goes."""

    _descriptor = -1

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def read(self, offset: int, size: int) -> bytes:
        return os.pread(self._descriptor, size, offset)

    def __del__(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)


def text_of(manifest: dict[str, Any]) -> str:
    return json.dumps(manifest, sort_keys=True, separators=(",", ":"))


def _order(modules: dict[str, Packed]) -> list[str]:
    """The digests of the files, each once, in the order in which they lie in the file."""
    return sorted({module.digest for module in modules.values() if module.kind != "namespace"})


# ---- importing ------------------------------------------------------------------------------


class PackImporter:
    """Finder and loader of one pack's modules. `bytecode`: the folder for compiled modules; None: compile each time."""

    def __init__(self, pack: Pack, bytecode: str | None) -> None:
        self.pack = pack
        self._bytecode = bytecode

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        module = self.pack.modules.get(name)
        if module is None:
            return None
        where = self.pack.path(name)
        if module.kind == "namespace":
            spec = ModuleSpec(name, None, is_package=True)
            spec.submodule_search_locations = [where]
            return spec
        loader: Any = self
        spec = ModuleSpec(name, loader, origin=where, is_package=module.kind == "package")
        spec.has_location = True
        if spec.submodule_search_locations is not None:
            spec.submodule_search_locations.append(str(Path(where).parent))
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        name = module.__spec__.name if module.__spec__ is not None else module.__name__
        _show_lines(self.pack.path(name), self.pack.source(name))
        exec(self.get_code(name), module.__dict__)  # noqa: S102 - what importing is

    def get_code(self, name: str) -> CodeType:
        where = self.pack.path(name)
        kept = None
        if self._bytecode is not None:
            known = f"{self.pack.modules[name].digest}\n{where}\n{sys.flags.optimize}".encode()
            stem = hashlib.sha256(known).hexdigest()
            kept = Path(self._bytecode) / f"{stem}.{sys.implementation.cache_tag}"
            code = _compiled(kept)
            if code is not None:
                return code
        code = compile(self.pack.source(name), where, "exec", dont_inherit=True)
        if kept is not None:
            _keep_compiled(kept, code)
        return code

    # ---- what Python's own tools ask a loader -------------------------------------------------

    def get_source(self, name: str) -> str:
        return _decoded(self.pack.source(name))

    def get_filename(self, name: str) -> str:
        return self.pack.path(name)

    def is_package(self, name: str) -> bool:
        return self.pack.modules[name].kind == "package"

    def get_data(self, path: str) -> bytes:
        """Data beside the modules: it is not packed."""
        return Path(path).read_bytes()

    def get_resource_reader(self, name: str) -> Any:
        from importlib.readers import FileReader
        from types import SimpleNamespace

        return FileReader(SimpleNamespace(path=self.pack.path(name)))  # type: ignore[arg-type]


def _decoded(source: bytes) -> str:
    from importlib.util import decode_source

    return decode_source(source)


def _show_lines(path: str, source: bytes) -> None:
    """Have tracebacks show these lines for the file, if it holds others by now."""
    try:
        if Path(path).read_bytes() == source:
            return
    except OSError:
        pass
    import linecache

    lines = _decoded(source).splitlines(keepends=True)
    linecache.cache[path] = (len(source), None, lines, path)  # no time of change: it is not held against the file


def _compiled(kept: Path) -> CodeType | None:
    try:
        data = kept.read_bytes()
    except OSError:
        return None
    # A machine that lost power may have left anything, and what is wrong for marshal may end the process.
    if hashlib.sha256(data[32:]).digest() != data[:32]:
        return None
    code = marshal.loads(data[32:])
    return code if isinstance(code, CodeType) else None


def _keep_compiled(kept: Path, code: CodeType) -> None:
    data = marshal.dumps(code)
    try:
        kept.parent.mkdir(mode=0o700, exist_ok=True)
        _write_private(kept, hashlib.sha256(data).digest() + data)
    except OSError:
        pass  # a full disk costs time here, nothing else


def importers() -> Iterator[PackImporter]:
    """Those that are installed in this process."""
    return (found for found in sys.meta_path if isinstance(found, PackImporter))


def install(pack: Pack, bytecode: str | None) -> None:
    """Have the pack's modules imported from it from here on. Once for each pack; those that are loaded stay."""
    if all(other.pack.digest != pack.digest for other in importers()):
        sys.meta_path.insert(0, PackImporter(pack, bytecode))


def install_file(path: str) -> None:
    """As `install`, of a file that `Pack.write_to` has made. Raises LoadError."""
    if any(other.pack.digest == Path(path).stem for other in importers()):
        return
    try:
        pack = Pack.of_file(path)
    except OSError as error:
        raise LoadError(
            f"the run's code can't be read from {path}: {(error.strerror or str(error)).lower()}"
        ) from error
    install(pack, str(Path(path).with_name("bytecode")))


def serves(name: str, path: str) -> bool:
    """Whether an installed pack has this module, which was at this path."""
    return any(name in other.pack.modules and other.pack.path(name) == path for other in importers())
