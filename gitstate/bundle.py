"""Where a command's modules come from: one file that holds them, half the time of importing them one by one.

    gitstate/__pycache__/<command>.<cache tag>[.opt-N].bundle

Each module stands there as its compiled code, with time and size of the source it was made from, as in a .pyc file. A
module whose source has changed since is imported as usual, and the bundle is made anew when the command has ended.
Where the directory can't be written there is none, and nothing else changes.

The modules that were loaded together are one part, and are unpacked together: they share their names and constants. A
part ends where git is started. What only another call of the command loads is a part of its own.

A run may take days, and an upgrade replaces or removes these files meanwhile. What is imported after that would be code
of another version in the midst of the old one: `hold_own_code` keeps it as it was.
"""

from __future__ import annotations

import marshal
import os
import sys
from _imp import source_hash

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from importlib.abc import Loader
    from importlib.machinery import ModuleSpec, SourceFileLoader
    from types import CodeType, ModuleType

    #: Size in bytes and hash of a part.
    Stamp = tuple[int, bytes]
    #: Source file, its mtime in nanoseconds, its size, whether the module is a package, the number of the part that has
    #: its code, and the modules of ours that are loaded while it is, in their order.
    Entry = tuple[str, int, int, bool, int, tuple[str, ...]]
    #: What tells whether a file was replaced or written: no installer can set the second.
    Identity = tuple[int, int, int, int]
else:
    from _frozen_importlib import ModuleSpec
    from _frozen_importlib_external import SourceFileLoader

    Loader = object
    ModuleType = type(sys)

_DIRECTORY = os.path.dirname(os.path.abspath(__file__))
#: Who asks Python for the time of each import (`-X importtime`) gets it.
_SKIPS_IMPORTLIB = "importtime" not in sys._xoptions and not os.environ.get("PYTHONPROFILEIMPORTTIME")
#: Changes when the layout of the file does.
_FORMAT = 5
#: After these modules git is started, and works while the rest is unpacked: they end a part.
_LAST_OF_PART = ("gitstate.git.opening", "gitstate.save.save", "gitstate.recover.recover")
#: The bytes of a number in the file, and of a hash (that of Python's own hash-based .pyc files).
_NUMBER, _HASH = 4, 8
#: What no run, loop or guard imports after its start: these packages stand above them, or are loaded by then.
NOT_HELD = ("agent_hooks", "cli", "fleet", "history", "integrations", "loops")
#: What a file says of itself in more bytes is damaged.
_MOST = 1 << 20


class Bundle(Loader):
    """The bundle of one command: a finder and loader for `sys.meta_path`."""

    def __init__(self, command: str) -> None:
        self.name = command
        optimized = f".opt-{sys.flags.optimize}" if sys.flags.optimize else ""
        file_name = f"{command}.{sys.implementation.cache_tag}{optimized}.bundle"
        self._path = os.path.join(_DIRECTORY, "__pycache__", file_name)
        self._modules: dict[str, Entry] = {}
        #: The file, open, and where in it each part is; and the code of the modules of those unpacked.
        self._fd = -1
        self._parts: list[tuple[int, Stamp]] = []
        self._code: dict[int, dict[str, CodeType]] = {}
        #: The modules of ours whose import has begun, in that order.
        self._begun: list[str] = []
        #: Some module was imported as usual: the file lacks it, or holds an older one.
        self._misses = False

    def use(self) -> None:
        """Let imports find what the file holds. A file that can't be read holds nothing."""
        try:
            self._fd = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            begin = os.pread(self._fd, _NUMBER + _HASH, 0)
            head = os.pread(self._fd, min(int.from_bytes(begin[:_NUMBER], "little"), _MOST), len(begin))
            start = len(begin) + len(head)
            # Only bytes that this package wrote are unpacked: `marshal` makes anything of others, or ends the process.
            if begin[_NUMBER:] == _hash(head):
                modules, stamps = marshal.loads(head)
                for stamp in stamps:
                    self._parts.append((start, stamp))
                    start += stamp[0]
                self._modules = modules
        except (OSError, EOFError, ValueError, TypeError):
            self._misses = True
        sys.meta_path.insert(0, self)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """What Python asks of a finder: the module from the bundle, or None for the next finder."""
        if not name.startswith("gitstate."):
            return None
        self._begun.append(name)
        entry = self._modules.get(name)
        if entry is None or not self._is_current(entry):
            self._misses = True
            return None
        if _SKIPS_IMPORTLIB:
            self._load_inner(entry)
        return _spec(name, self, entry[0], entry[3])

    def _load_inner(self, entry: Entry) -> None:
        """Load what a module imports, up to the first that Python has to import."""
        for inner in entry[5]:
            if inner not in sys.modules and not self._load(inner):
                break

    def _load(self, name: str) -> bool:
        """Do for a module what Python's import does, in a third of the time; False where it has to be done by that."""
        entry = self._modules.get(name)
        package, _, last = name.rpartition(".")
        if entry is None or package not in sys.modules or not self._is_current(entry):
            return False
        self._load_inner(entry)
        module = ModuleType(name)
        spec = module.__spec__ = _spec(name, self, entry[0], entry[3])
        module.__loader__, module.__package__ = self, spec.parent
        if spec.submodule_search_locations is not None:
            module.__path__ = spec.submodule_search_locations
        sys.modules[name] = module
        try:
            self.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
        setattr(sys.modules[package], last, module)
        return True

    def create_module(self, spec: ModuleSpec) -> None:
        """Python makes the module."""

    def exec_module(self, module: ModuleType) -> None:
        """What Python asks of a loader: run the module's code."""
        entry = self._modules[module.__name__]
        module.__file__ = entry[0]
        name = module.__name__
        code = self._codes_of(entry[4]).get(name) or SourceFileLoader(name, entry[0]).get_code(name)
        assert code is not None
        exec(code, module.__dict__)

    def _codes_of(self, part: int) -> dict[str, CodeType]:
        """The code of the modules of a part; none where its bytes are damaged."""
        if part not in self._code:
            # Of the others not one byte is read: to touch new memory for them would take longer than that.
            start, (size, stamp) = self._parts[part]
            try:
                data = os.pread(self._fd, size, start)
            except OSError:
                data = b""
            is_whole = _hash(data) == stamp
            self._misses = self._misses or not is_whole
            self._code[part] = marshal.loads(data) if is_whole else {}
        return self._code[part]

    def renew(self) -> None:
        """Write the file anew where it lacked a module that was loaded. Raises nothing: it only saves time."""
        if not self._misses or not os.access(os.path.dirname(self._path), os.W_OK):
            return
        try:
            self._write(self._renewed())
        except Exception:
            # The command has done its work: whatever is wrong with its cache must not change how it ends.
            return

    def _is_current(self, entry: Entry) -> bool:
        if not entry[0].startswith(os.path.join(_DIRECTORY, "")):
            # The package was copied with what Python compiled: the other one is none of this command's business.
            return False
        try:
            info = os.stat(entry[0])
        except OSError:
            return False
        return (info.st_mtime_ns, info.st_size) == entry[1:3]

    def _renewed(self) -> bytes:
        """The file as it should be: the modules that it held before, and in a part of their own those it lacked.

        Another call of the same command loads others: a `recover` that restores something, and one that does not.
        """
        current = {name: entry for name, entry in self._modules.items() if self._is_current(entry)}
        modules = {name: entry for name, entry in current.items() if name in self._codes_of(entry[4])}
        parts = [
            {name: code for name, code in self._codes_of(part).items() if name in modules}
            for part in range(len(self._parts))
        ]
        lacking: list[dict[str, CodeType]] = [{}]
        for name, module in list(sys.modules.items()):
            if name in modules or not name.startswith("gitstate.") or name.endswith("__main__"):
                continue
            spec = module.__spec__
            if spec is None or spec.origin is None or not isinstance(spec.loader, SourceFileLoader):
                continue
            info = os.stat(spec.origin)
            code = spec.loader.get_code(name)
            if code is not None:
                entry = (os.path.abspath(spec.origin), info.st_mtime_ns, info.st_size, hasattr(module, "__path__"))
                modules[name] = (*entry, len(parts) + len(lacking) - 1, self._loaded_by(name))
                lacking[-1][name] = code
            if name in _LAST_OF_PART and lacking[-1]:
                lacking.append({})
        # Else each change of the sources would leave a part that holds nothing.
        filled = [number for number, part in enumerate((*parts, *lacking)) if part]
        modules = {name: (*entry[:4], filled.index(entry[4]), entry[5]) for name, entry in modules.items()}
        data = [marshal.dumps((*parts, *lacking)[number]) for number in filled]
        stamps: list[Stamp] = [(len(part), _hash(part)) for part in data]
        head = marshal.dumps((modules, stamps))
        return b"".join((len(head).to_bytes(_NUMBER, "little"), _hash(head), head, *data))

    def _loaded_by(self, name: str) -> tuple[str, ...]:
        """The modules whose import began after that of `name` and had ended before it, in the order of their ends."""
        ended = list(sys.modules)
        later = self._begun[self._begun.index(name) + 1 :] if name in self._begun else []
        # Python puts a module at the end of `sys.modules` when it is loaded.
        return tuple(other for other in ended[: ended.index(name)] if other in later)

    def _write(self, data: bytes) -> None:
        temporary = f"{self._path}.{os.getpid()}"
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        try:
            with open(fd, "wb") as file:
                file.write(data)
                file.flush()
                # A power cut must not leave a file of the right name with other bytes.
                os.fsync(fd)
            os.rename(temporary, self._path)
        except BaseException:
            os.unlink(temporary)
            raise


def _hash(data: bytes) -> bytes:
    """A hash that tells damaged bytes, and those of another layout of this file; 0.3 ms for a megabyte."""
    return source_hash(_FORMAT, data)


class OwnCode(Loader):
    """The sources of the modules that are not loaded yet, packed: a finder and loader for `sys.meta_path`."""

    def __init__(self) -> None:
        from zlib import compress

        #: By the name of the module: its file, what that was, and its text. Packed they are 150 kB.
        self._held: dict[str, tuple[str, Identity, bytes]] = {}
        for name, path in _sources("gitstate", _DIRECTORY):
            if name not in sys.modules and name.split(".")[1] not in NOT_HELD:
                try:
                    with open(path, "rb", 0) as file:
                        self._held[name] = path, _identity(os.fstat(file.fileno())), compress(file.read(), 1)
                except OSError:
                    # Whoever imports it is told.
                    continue

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """What Python asks of a finder: the module as it was, where its file has changed; else None."""
        if name not in self._held:
            return None
        source, identity, _ = self._held[name]
        try:
            if _identity(os.stat(source)) == identity:
                return None
        except OSError:
            pass
        return _spec(name, self, source, os.path.basename(source) == "__init__.py")

    def create_module(self, spec: ModuleSpec) -> None:
        """Python makes the module."""

    def exec_module(self, module: ModuleType) -> None:
        """What Python asks of a loader: run the module's code."""
        from zlib import decompress

        module.__file__, _, packed = self._held[module.__name__]
        exec(compile(decompress(packed), module.__file__, "exec", dont_inherit=True), module.__dict__)


def _spec(name: str, loader: Loader, source: str, is_package: bool) -> ModuleSpec:
    spec = ModuleSpec(name, loader, origin=source, is_package=is_package)
    if spec.submodule_search_locations is not None:
        spec.submodule_search_locations.append(os.path.dirname(source))
    return spec


def hold_own_code() -> None:
    """From now on import gitstate's modules as they are now, whatever becomes of their files. Idempotent."""
    if not any(isinstance(finder, OwnCode) for finder in sys.meta_path):
        sys.meta_path.insert(0, OwnCode())


def _identity(info: os.stat_result) -> Identity:
    return info.st_mtime_ns, info.st_ctime_ns, info.st_size, info.st_ino


def _sources(package: str, directory: str) -> Iterator[tuple[str, str]]:
    """The name and the file of each module of a package, and of those inside it."""
    try:
        entries = list(os.scandir(directory))
    except OSError:
        entries = []
    for entry in entries:
        stem = entry.name.removesuffix(".py")
        if stem != entry.name:
            yield package if stem == "__init__" else f"{package}.{stem}", entry.path
        elif stem.isidentifier() and entry.is_dir():
            yield from _sources(f"{package}.{stem}", entry.path)
