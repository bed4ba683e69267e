"""Machine code for inner loops: compiled once by numba, kept for the user, later run without numba.

Importing numba and letting it set itself up takes 0.5 s and 120 MB, more than learning a small vocabulary does. So what
numba makes of a function is kept in the user's cache folder, named by a digest of the sources, the processor and the
versions: a fresh clone finds it, and changed code never meets machine code of before. Code that refers to nothing
outside itself, which is what these loops come to, is mapped into memory and called; any other is loaded by LLVM.

A compiled function takes ``int`` and arrays and returns ``int``. It sees arrays as bare pointers (``Bytes``,
``Int32s``, ``Int64s``: flat, without bounds), calls functions marked ``inlined``, makes no object and raises nothing,
and runs without the interpreter's lock, so that threads run it side by side. Numba takes it for granted that signed
numbers do not overflow; what is to wrap around, as in a hash, must be ``np.uint64``.
"""

from __future__ import annotations

import ctypes
import hashlib
import mmap
import os
import platform
import re
import sys
import threading
import types
from collections.abc import Callable
from functools import cache
from importlib import metadata
from itertools import takewhile
from pathlib import Path
from typing import Any, Generic, ParamSpec, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from pipelines.runs.errors import RetraceError

Bytes = NDArray[np.uint8]
Int32s = NDArray[np.int32]
Int64s = NDArray[np.int64]

P = ParamSpec("P")
T = TypeVar("T")

_DTYPES: dict[str, Any] = {"Bytes": np.uint8, "Int32s": np.int32, "Int64s": np.int64}
_lock = threading.RLock()
# What a file of the cache begins with, and the sections of an object whose code refers to nothing outside itself.
_BARE, _OBJECT = b"bare", b"elf:"
_OF_BARE_CODE = {b"", b".strtab", b".text", b".note.GNU-stack", b".eh_frame", b".rela.eh_frame", b".symtab"}
_mapped: list[mmap.mmap] = []
# The C library, for the one call that makes memory executable.
_C = ctypes.CDLL(None)


def inlined(function: Callable[P, T]) -> Callable[P, T]:
    """Mark a function that compiled functions call."""
    function.inlined = True  # type: ignore[attr-defined]
    return function


@inlined
def spread(number: int) -> int:
    """A number from 0 to 2^63 - 1 for a hash table: its low bits depend on all bits of the given one."""
    mixed = np.uint64(number) * np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio
    return int(np.int64((mixed ^ (mixed >> np.uint64(32))) >> np.uint64(1)))


def compiled(function: Callable[P, int]) -> Compiled[P]:
    """Let a function run as machine code; the module's text says what it may do."""
    return Compiled(function)


class Compiled(Generic[P]):
    """A function that is machine code from its first call on.

    Besides arrays, which must be contiguous and of the type declared, it takes their addresses: ``native`` does so
    without any check, for calls that must be quick. The caller then keeps the arrays alive.
    """

    def __init__(self, function: Callable[P, int]) -> None:
        self.function = function
        names = function.__code__.co_varnames[: function.__code__.co_argcount]
        self._kinds = [str(function.__annotations__[name]) for name in names]
        self._symbol = f"{function.__module__}.{function.__name__}"
        self._native: Callable[..., int] | None = None

    def __call__(self, *arguments: P.args, **_none: P.kwargs) -> int:
        return self.native(*map(_address, self._kinds, arguments))

    @property
    def native(self) -> Callable[..., int]:
        """The machine code itself, over ints and addresses."""
        if self._native is None:
            with _lock:
                self._native = self._native or self._load()
        return self._native

    def _load(self) -> Callable[..., int]:
        path = _cached(f"{self.function.__name__}-{self._digest()}")
        found = _read(path)
        if found is None:
            found = self._compile()
            _write(path, found)
        kinds = (ctypes.c_int64 if kind == "int" else ctypes.c_void_p for kind in self._kinds)
        prototype = ctypes.CFUNCTYPE(ctypes.c_int64, *kinds)
        place = _map if found.startswith(_BARE) else self._load_object
        return cast(Callable[..., int], prototype(place(found[len(_BARE) :])))

    def _load_object(self, code: bytes) -> int:
        engine = _engine()
        engine.add_object_file(_llvm().ObjectFileRef.from_data(code))
        engine.finalize_object()
        return int(engine.get_function_address(self._symbol))

    def _digest(self) -> str:
        """Of all that the machine code depends on."""
        versions = [metadata.version("numba"), metadata.version("llvmlite"), sys.version, sys.platform, _processor()]
        functions = _closure(self.function)
        constants = {name: value for each in functions for name, value in _names(each).items() if type(value) is int}
        whole = hashlib.sha256("\0".join([*versions, repr(sorted(constants.items()))]).encode())
        for source in sorted({__file__, *(each.__code__.co_filename for each in functions)}):
            whole.update(Path(source).read_bytes())
        return whole.hexdigest()[:24]

    def _compile(self) -> bytes:
        """Bare machine code where that is possible, else an object file; each behind its mark."""
        _announce()
        import numba

        kinds: dict[str, Any] = {"int": numba.types.int64}
        for kind, dtype in _DTYPES.items():
            kinds[kind] = numba.types.CPointer(numba.from_dtype(np.dtype(dtype)))
        signature = numba.types.int64(*(kinds[kind] for kind in self._kinds))
        function = numba.cfunc(signature, error_model="numpy")(_linked(self.function))
        module = _llvm().parse_assembly(self._with_plain_entry(function.inspect_llvm(), function.native_name))
        called = [each.name for each in module.functions if each.is_declaration and not each.name.startswith("llvm.")]
        if any(f"@{name}(" in str(each) for each in module.functions if not each.is_declaration for name in called):
            raise NotImplementedError(f"{self.function.__name__} makes an object or raises: it calls {sorted(called)}")
        code: bytes = _machine().emit_object(module)
        sections = {each.name() or b"": each.data() for each in _llvm().ObjectFileRef.from_data(code).sections()}
        alone = sections.keys() <= _OF_BARE_CODE and sys.platform == "linux" and platform.machine() == "x86_64"
        return _BARE + sections[b".text"] if alone else _OBJECT + code

    def _with_plain_entry(self, assembly: str, wrapper: str) -> str:
        """Numba's module with an entry that returns the result, in place of one that reports exceptions."""
        start = assembly.index(f"define i64 @{wrapper}(")
        inner = wrapper.removeprefix("cfunc.")
        kinds = ["i64" if kind == "int" else "ptr" for kind in self._kinds]
        taken = ", ".join(f"{kind} %a{place}" for place, kind in enumerate(kinds))
        entry = (
            f'define i64 @"{self._symbol}"({taken}) {{\n  %result = alloca i64\n  %fault = alloca ptr\n'
            f"  call i32 @{inner}(ptr %result, ptr %fault, {taken})\n"
            "  %value = load i64, ptr %result\n  ret i64 %value\n}\n"
        )
        rest = assembly[:start] + assembly[assembly.index("\n}\n", start) + 3 :]
        first = rest.index("define ")
        body = re.sub(rf"^define (.*@{re.escape(inner)}\()", r"define internal \1", rest[first:], flags=re.MULTILINE)
        # Bare code is entered where it begins.
        return rest[:first] + entry + body


def _address(kind: str, argument: Any) -> int:
    if kind == "int" or isinstance(argument, int):
        return int(argument)
    if argument.dtype != _DTYPES[kind] or not argument.flags.c_contiguous:
        raise TypeError(f"{kind} is a contiguous array of {_DTYPES[kind].__name__}, not one of {argument.dtype}")
    return int(argument.ctypes.data)


def _names(function: Callable[..., Any]) -> dict[str, Any]:
    """The globals that a function names."""
    return {name: function.__globals__.get(name) for name in function.__code__.co_names}


def _closure(function: Callable[..., Any]) -> list[Callable[..., Any]]:
    """A function and all inlined functions it calls, directly or not."""
    called = [each for each in _names(function).values() if getattr(each, "inlined", False)]
    return [function, *(each for callee in called for each in _closure(callee))]


def _linked(function: Callable[..., Any]) -> Callable[..., Any]:
    """A copy of a function that sees the inlined functions it calls as numba's."""
    names = dict(function.__globals__)
    for name, callee in _names(function).items():
        if getattr(callee, "inlined", False):
            names[name] = _inlinable(callee)
    return types.FunctionType(function.__code__, names, function.__name__)


@cache
def _inlinable(function: Callable[..., Any]) -> Any:
    """An inlined function as numba's, made once for all that call it."""
    import numba

    return numba.njit(error_model="numpy", forceinline=True)(_linked(function))


def _cached(name: str) -> Path:
    """Where machine code of a name is kept: in ``NUMBA_CACHE_DIR``, else in the user's cache folder."""
    given = os.environ.get("NUMBA_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME")
    # Without a home, a place that cannot be written: the warning says what to do.
    folder = Path(given or os.environ.get("HOME", os.devnull), "" if given else ".cache")
    return folder / "retrace" / "compiled" / name


def _read(path: Path) -> bytes | None:
    """Machine code from the cache; None when it is not there, or not as it was written."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    return data[32:] if hashlib.sha256(data[32:]).digest() == data[:32] else None


def _write(path: Path, code: bytes) -> None:
    """Put machine code into the cache behind its digest, by a temporary name: nobody reads half of it."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(hashlib.sha256(code).digest() + code)
        partial.replace(path)
    except OSError as fault:
        _warn(f"cannot keep compiled code in {path.parent} ({fault.strerror}), so every run compiles anew")


@cache
def _announce() -> None:
    print("compiling inner loops: some seconds, once on a machine", file=sys.stderr, flush=True)


@cache
def _warn(text: str) -> None:
    print(f"warning: {text}: set NUMBA_CACHE_DIR to a folder that can be written", file=sys.stderr, flush=True)


@cache
def _llvm() -> Any:
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm


def _processor() -> str:
    """Name and features, without LLVM where the system tells them."""
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as file:
            first = takewhile(str.strip, file)
            return "".join(line for line in first if line.startswith(("model name", "flags", "Features", "CPU part")))
    except OSError:
        return f"{_llvm().get_host_cpu_name()} {_llvm().get_host_cpu_features().flatten()}"


def _map(code: bytes) -> int:
    """Put bare machine code into memory for good; returns its address."""
    memory = mmap.mmap(-1, len(code))
    memory.write(code)
    _mapped.append(memory)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    if _C.mprotect(ctypes.c_void_p(address), len(code), mmap.PROT_READ | mmap.PROT_EXEC):
        raise RetraceError("this system forbids programs to run code they have made: nothing can be compiled here")
    return address


def _machine() -> Any:
    name, features = _llvm().get_host_cpu_name(), _llvm().get_host_cpu_features().flatten()
    target = _llvm().Target.from_default_triple()
    return target.create_target_machine(cpu=name, features=features, opt=3, reloc="pic", codemodel="small")


@cache
def _engine() -> Any:
    """Holds what LLVM loaded, as long as the process lives."""
    return _llvm().create_mcjit_compiler(_llvm().parse_assembly(""), _machine())
