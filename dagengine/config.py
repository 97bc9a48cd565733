"""Settings, each with where it came from: an argument, the environment, `config.toml` of the home folder, or a default.

    home        DAGENGINE_HOME        ~/.dagengine
    store       DAGENGINE_STORE       HOME/store.db           a path or a URL
    artifacts   DAGENGINE_ARTIFACTS   beside the store        a path or an fsspec URL
    workers     DAGENGINE_WORKERS     as many as CPUs are free to us

and what this machine lends to runs, sizes as in `512MiB`:

    memory         DAGENGINE_MEMORY         most of what is free          for tasks that say how much they need
    object_memory  DAGENGINE_OBJECT_MEMORY  30 % of what is free          for values that are not yet, or not to be, stored
    spill          DAGENGINE_SPILL          a private temporary folder    where values go that don't fit; URLs, by commas
    room_timeout   DAGENGINE_ROOM_TIMEOUT   60 s                          how long steps wait for room when `spill` is full
    gpus           DAGENGINE_GPUS           what NVML finds               instead of asking NVML
    gpu_memory     DAGENGINE_GPU_MEMORY     0                             of each of these
    resources      DAGENGINE_RESOURCES      none                          named amounts: licence=2,camera=1

How long runs are kept is said in the file's table `[retention]` (`retention.py`).

The first place that says something wins, from left to right: argument, environment, file, default. A setting that can't be
meant is an error with its origin, also when nobody would have read it: a typo in a file must not wait for its day.
Reading settings creates nothing; `create_private` makes a folder when something has to be put in it.

May import nothing of ours but errors, units, validation and, for a file that speaks of it, retention.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from urllib.parse import urlsplit

from dagengine.errors import BadOption, StoreUnavailable
from dagengine.units import parse_duration, parse_size
from dagengine.validation import did_you_mean

if TYPE_CHECKING:
    from dagengine.retention import Retention

Set = TypeVar("Set")

MACHINE = ("memory", "object_memory", "spill", "room_timeout", "gpus", "gpu_memory", "resources")
KEYS = ("store", "artifacts", "workers", *MACHINE)
IN_FILE = (*KEYS, "retention")
"""What `config.toml` may hold."""

MAX_WORKERS = 4096
"""More worker processes than any machine's process limit takes; above it, somebody mistyped."""

MAX_GPUS = 1024

_PASSWORD_PARAMETER = re.compile(r"([?&](?:ssl)?password=)[^&]*")
_LOCAL_SCHEMES = ("sqlite", "file")


@dataclass(frozen=True, slots=True)
class Setting(Generic[Set]):
    """A value and who said so: "argument", the name of a variable, the path of the file, or "default"."""

    value: Set
    origin: str


@dataclass(frozen=True, slots=True)
class Settings:
    home: Setting[Path]
    store: Setting[str]
    artifacts: Setting[str]
    workers: Setting[int]
    memory: Setting[int | None]
    object_memory: Setting[int | None]
    spill: Setting[tuple[str, ...]]
    room_timeout: Setting[float | None]
    gpus: Setting[int | None]
    gpu_memory: Setting[int]
    resources: Setting[tuple[tuple[str, float], ...]]
    retention: Setting[Retention | None]  # None: nothing was said, `Retention()` is meant

    def of_machine(self) -> dict[str, Any]:
        """What was said of the machine, by name: the arguments of the runtime. What nobody said is left out."""
        said = {name: getattr(self, name) for name in MACHINE}
        return {name: setting.value for name, setting in said.items() if setting.origin != "default"}

    @property
    def folder(self) -> Path:
        """Where the store lies, and with it `artifacts/`, `logs/` and `control/`."""
        return store_folder(self.store.value, self.home.value)

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    @property
    def control(self) -> Path:
        return self.folder / "control"

    def to_json(self) -> dict[str, dict[str, Any]]:
        settings = {name: getattr(self, name) for name in ("home", *KEYS)}
        return {name: {"value": _plain(setting.value), "origin": setting.origin} for name, setting in settings.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    return str(value) if isinstance(value, Path) else without_password(value) if isinstance(value, str) else value


def load(
    *,
    home: str | Path | None = None,
    store: str | Path | None = None,
    artifacts: str | Path | None = None,
    workers: int | None = None,
    environ: Mapping[str, str] | None = None,
    **machine: Any,
) -> Settings:
    """The settings, with the arguments above everything else. Raises BadOption; creates nothing.

    `machine`: of the names in MACHINE; sizes are bytes or texts, `spill` a URL or several, `resources` a mapping.
    """
    environ = os.environ if environ is None else environ
    home_setting = _home(home, environ)
    file = home_setting.value / "config.toml"
    said = _read_file(file)

    def pick(name: str, argument: object) -> Setting[Any] | None:
        variable = f"DAGENGINE_{name.upper()}"
        if argument is not None:
            return Setting(argument, "argument")
        if environ.get(variable):
            return Setting(environ[variable], variable)
        if name in said:
            return Setting(said[name], str(file))
        return None

    picked = pick("store", store)
    store_setting = (
        Setting(str(home_setting.value / "store.db"), "default")
        if picked is None
        else Setting(_place("store", picked, file), picked.origin)
    )
    picked = pick("artifacts", artifacts)
    artifacts_setting = (
        Setting(str(store_folder(store_setting.value, home_setting.value) / "artifacts"), "default")
        if picked is None
        else Setting(_place("artifacts", picked, file), picked.origin)
    )
    picked = pick("workers", workers)
    workers_setting = (
        Setting(available_cpus(), "default") if picked is None else Setting(_workers(picked), picked.origin)
    )
    lent: dict[str, Setting[Any]] = {}
    for name in MACHINE:
        picked = pick(name, machine.pop(name, None))
        lent[name] = _NOTHING_SAID[name] if picked is None else Setting(_LENT[name](name, picked), picked.origin)
    if machine:
        raise BadOption(f"there is no setting {next(iter(machine))!r}.{did_you_mean(next(iter(machine)), KEYS)}")
    retention: Setting[Retention | None] = Setting(None, "default")
    if "retention" in said:
        from dagengine.retention import parse

        retention = Setting(parse(said["retention"], str(file)), str(file))
    return Settings(home_setting, store_setting, artifacts_setting, workers_setting, retention=retention, **lent)


def _home(argument: str | Path | None, environ: Mapping[str, str]) -> Setting[Path]:
    if argument is not None:
        return Setting(_absolute(_expand(argument)), "argument")
    if environ.get("DAGENGINE_HOME"):
        return Setting(_absolute(_expand(environ["DAGENGINE_HOME"])), "DAGENGINE_HOME")
    try:
        user = Path(environ["HOME"]) if environ.get("HOME") else Path.home()
    except (RuntimeError, KeyError):
        raise BadOption(
            "there is no home folder: HOME is not set and the user is not known. Set DAGENGINE_HOME."
        ) from None
    return Setting(_absolute(user / ".dagengine"), "default")


def _absolute(path: Path) -> Path:
    try:
        return Path(os.path.abspath(path))  # noqa: PTH100 — unlike resolve(), it keeps the links that the user typed
    except FileNotFoundError:
        raise BadOption(f"{path} can't be found: the working folder is gone. Change to one that exists.") from None


def _read_file(file: Path) -> dict[str, Any]:
    try:
        text = file.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise BadOption(f"{file} can't be read: {error.strerror}. Correct or remove it.") from None
    import tomllib

    try:
        said = tomllib.loads(text.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadOption(f"{file} is not TOML: {error}. Correct or remove it.") from None
    for key in said:
        if key not in IN_FILE:
            raise BadOption(f"{file} has an unknown setting {key!r}.{did_you_mean(key, IN_FILE)}")
    return said


def _place(name: str, picked: Setting[Any], file: Path) -> str:
    """A URL as it is; a path made absolute, relative to the folder of the file that says it, if it is said in one."""
    value = str(picked.value) if isinstance(picked.value, (str, Path)) else ""
    if not value.strip() or "\0" in value:
        raise BadOption(f"{name} is {picked.value!r} ({picked.origin}). Give a path or a URL.")
    if is_url(value):
        return value
    path = _expand(value)
    whole = str(_absolute(file.parent / path if picked.origin == str(file) else path))
    return f"{whole}/" if value.endswith("/") and whole != "/" else whole  # a folder that need not exist yet


def _expand(path: str | Path) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise BadOption(f"{path} names a user that is not known. Give the whole path.") from None


def _workers(picked: Setting[Any]) -> int:
    value = picked.value
    if isinstance(value, str) and value.strip().isascii() and value.strip().lstrip("+-").isdigit():
        value = int(value) if len(value) < 20 else -1
    if type(value) is not int or not 1 <= value <= MAX_WORKERS:
        raise BadOption(f"workers is {picked.value!r} ({picked.origin}). Give a whole number from 1 to {MAX_WORKERS}.")
    return value


def _size(name: str, picked: Setting[Any]) -> int:
    value = picked.value
    try:
        size = parse_size(value) if isinstance(value, str) else value
    except ValueError:
        size = -1
    if type(size) is not int or size < 0:
        raise BadOption(f"{name} is {value!r} ({picked.origin}). Give a size: 512MiB, 24GiB, or a number of bytes.")
    return size


def _duration(name: str, picked: Setting[Any]) -> float:
    try:
        return parse_duration(picked.value)
    except (ValueError, TypeError):
        raise BadOption(f"{name} is {picked.value!r} ({picked.origin}). Give a time: 90s, 5m, 1h30m.") from None


def _count(name: str, picked: Setting[Any]) -> int:
    value = picked.value
    if isinstance(value, str) and value.strip().isascii() and value.strip().isdigit() and len(value) < 10:
        value = int(value)
    if type(value) is not int or not 0 <= value <= MAX_GPUS:
        raise BadOption(f"{name} is {picked.value!r} ({picked.origin}). Give a whole number from 0 to {MAX_GPUS}.")
    return value


def _places(name: str, picked: Setting[Any]) -> tuple[str, ...]:
    value = picked.value
    parts = [str(value)] if isinstance(value, Path) else value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, (list, tuple)) or not all(isinstance(part, str) and part.strip() for part in parts):
        raise BadOption(f"{name} is {value!r} ({picked.origin}). Give folders or URLs, separated by commas.")
    return tuple(part.strip() if is_url(part.strip()) else str(_absolute(_expand(part.strip()))) for part in parts)


def _amounts(name: str, picked: Setting[Any]) -> tuple[tuple[str, float], ...]:
    """A mapping; in the environment `licence=2,camera=1`, on the command line one such word after the other."""
    value = picked.value
    try:
        if isinstance(value, str):
            value = value.split(",")
        pairs = value.items() if isinstance(value, Mapping) else (part.split("=") for part in value)
        amounts = {str(key).strip(): float(amount) for key, amount in pairs}
        if not all(key and 0 <= amount < float("inf") for key, amount in amounts.items()):
            raise ValueError
    except (TypeError, ValueError, AttributeError):
        raise BadOption(f"{name} is {picked.value!r} ({picked.origin}). Give named amounts: licence=2.") from None
    return tuple(sorted(amounts.items()))


_LENT: dict[str, Callable[[str, Setting[Any]], Any]] = {
    "memory": _size,
    "object_memory": _size,
    "spill": _places,
    "room_timeout": _duration,
    "gpus": _count,
    "gpu_memory": _size,
    "resources": _amounts,
}
_NOTHING_SAID: dict[str, Setting[Any]] = {
    "memory": Setting(None, "default"),
    "object_memory": Setting(None, "default"),
    "spill": Setting((), "default"),
    "room_timeout": Setting(None, "default"),
    "gpus": Setting(None, "default"),
    "gpu_memory": Setting(0, "default"),
    "resources": Setting((), "default"),
}


def is_url(text: str) -> bool:
    scheme, colon, rest = text.partition(":")
    plain = scheme.replace("+", "").replace("-", "").isalnum()
    return bool(colon) and len(scheme) > 1 and plain and (rest.startswith("//") or scheme == "memory")


def without_password(url: str) -> str:
    """The URL as it may be shown."""
    if not is_url(url):
        return url
    url = _PASSWORD_PARAMETER.sub(r"\1…", url)
    if "@" not in url:
        return url
    try:
        parts = urlsplit(url)
        password = parts.password
    except ValueError:
        return url.partition("//")[0] + "//…"
    return url if password is None else url.replace(f":{password}@", ":…@", 1)


def store_path(store: str) -> Path | None:
    """The file of a local store; None if the store is not a file."""
    if is_url(store):
        scheme, _, rest = store.partition("://")
        if scheme.split("+")[0] not in _LOCAL_SCHEMES:
            return None
        # sqlite:///relative.db, sqlite:////absolute.db; three slashes before an existing root are taken as absolute
        # by people, and by us: a relative path in a URL depends on the working folder, which nobody wants of a store.
        path = Path("/" + rest.partition("?")[0].lstrip("/"))
    else:
        path = Path(store)
    return path / "store.db" if store.endswith("/") or path.is_dir() else path


def store_folder(store: str, home: Path) -> Path:
    """The folder of a local store; the home folder for any other."""
    path = store_path(store)
    return home if path is None else path.parent


def create_private(folder: Path) -> Path:
    """Make the folder for this user alone, with what is missing above it. Raises StoreUnavailable."""
    try:
        # One by one: of parents that `mkdir` makes by itself, the mode is the umask's.
        for missing in reversed([folder, *folder.parents]):
            if not missing.exists():
                missing.mkdir(mode=0o700, exist_ok=True)
        if not folder.is_dir():
            raise NotADirectoryError
    except OSError as error:
        reason = (
            "a file is in its place" if isinstance(error, (FileExistsError, NotADirectoryError)) else error.strerror
        )
        raise StoreUnavailable(
            f"the folder {folder} can't be created: {reason}. Set DAGENGINE_HOME to a folder that you can write to.",
            store=str(folder),
        ) from None
    return folder


def available_cpus() -> int:
    """CPUs that this process may use: affinity, and the quota of its control group."""
    affinity = getattr(os, "sched_getaffinity", None)
    cpus = len(affinity(0)) if affinity else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            cpus = min(cpus, max(1, round(int(quota) / int(period))))
    except (OSError, ValueError):
        pass
    return max(1, cpus)
