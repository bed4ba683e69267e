"""Machine code for inner loops: compiled once by numba, kept for the user, later loaded without numba.

Importing numba and letting it set itself up takes 0.5 s and 75 MB, more than learning a small vocabulary does; loading
an object file with llvmlite alone takes 0.06 s. So what numba makes of a function is kept as an object file in the
user's cache folder, named by a digest of the sources, the processor and the versions: a fresh clone finds it, and
changed code never meets machine code of before.

A compiled function takes ``int`` and arrays and returns ``int``. It sees arrays as bare pointers (``Bytes``,
``Int32s``, ``Int64s``: flat, without bounds), calls functions marked ``inlined``, makes no object and raises nothing,
and runs without the interpreter's lock, so that threads run it side by side. Numba takes it for granted that signed
numbers do not overflow; what is to wrap around, as in a hash, must be ``np.uint64``.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import sys
import threading
import types
from collections.abc import Callable
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, Generic, ParamSpec, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Int32s = NDArray[np.int32]
Int64s = NDArray[np.int64]

P = ParamSpec("P")
T = TypeVar("T")

_DTYPES: dict[str, Any] = {"Bytes": np.uint8, "Int32s": np.int32, "Int64s": np.int64}
_lock = threading.RLock()
# What machine code may call: the C library and the interpreter.
_C = ctypes.CDLL(None)
# Numba's own, named on a path that no compiled function takes: none raises, or more than these would be missing.
_NEVER_CALLED = ("numba_gil_ensure", "numba_gil_release")


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
        self._symbol = f"retrace_{function.__name__}"
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
        path = _cached(f"{self.function.__name__}-{self._digest()}.o")
        code = _read(path)
        if code is None:
            code = self._compile()
            _write(path, code)
        engine = _engine()
        engine.add_object_file(_llvm().ObjectFileRef.from_data(code))
        engine.finalize_object()
        kinds = (ctypes.c_int64 if kind == "int" else ctypes.c_void_p for kind in self._kinds)
        prototype = ctypes.CFUNCTYPE(ctypes.c_int64, *kinds)
        return cast(Callable[..., int], prototype(engine.get_function_address(self._symbol)))

    def _digest(self) -> str:
        """Of all that the machine code depends on."""
        versions = [metadata.version("numba"), metadata.version("llvmlite"), sys.version, _llvm().get_default_triple()]
        whole = hashlib.sha256("\0".join([*versions, *_processor()]).encode())
        for source in [__file__, *sorted(_sources(self.function))]:
            whole.update(Path(source).read_bytes())
        return whole.hexdigest()[:24]

    def _compile(self) -> bytes:
        _announce()
        import numba

        kinds: dict[str, Any] = {"int": numba.types.int64}
        for kind, dtype in _DTYPES.items():
            kinds[kind] = numba.types.CPointer(numba.from_dtype(np.dtype(dtype)))
        signature = numba.types.int64(*(kinds[kind] for kind in self._kinds))
        function = numba.cfunc(signature, error_model="numpy")(_linked(self.function, numba.njit, {}))
        module = _llvm().parse_assembly(function.inspect_llvm().replace(function.native_name, self._symbol))
        declared = {each.name for each in [*module.functions, *module.global_variables] if each.is_declaration}
        missing = [name for name in declared if not (name.startswith("llvm.") or hasattr(_C, name))]
        if not set(missing) <= set(_NEVER_CALLED):
            raise NotImplementedError(f"{self.function.__name__} makes an object or raises: it needs {sorted(missing)}")
        code: bytes = _machine().emit_object(module)
        return code


def _address(kind: str, argument: Any) -> int:
    if kind == "int" or isinstance(argument, int):
        return int(argument)
    if argument.dtype != _DTYPES[kind] or not argument.flags.c_contiguous:
        raise TypeError(f"{kind} is a contiguous array of {_DTYPES[kind].__name__}, not one of {argument.dtype}")
    return int(argument.ctypes.data)


def _sources(function: Callable[..., Any]) -> set[str]:
    """The files of a function and of all inlined functions it calls."""
    found = {function.__code__.co_filename}
    for name in function.__code__.co_names:
        callee: Any = function.__globals__.get(name)
        if getattr(callee, "inlined", False):
            found |= _sources(callee)
    return found


def _linked(function: Callable[..., Any], njit: Callable[..., Any], made: dict[str, Any]) -> Callable[..., Any]:
    """A copy of a function that sees the inlined functions it calls as numba's, each made once."""
    names = dict(function.__globals__)
    for name in function.__code__.co_names:
        if getattr(names.get(name), "inlined", False):
            if name not in made:
                made[name] = njit(error_model="numpy", forceinline=True)(_linked(names[name], njit, made))
            names[name] = made[name]
    return types.FunctionType(function.__code__, names, function.__name__)


def _cached(name: str) -> Path:
    """Where machine code of a name is kept: in ``NUMBA_CACHE_DIR``, else in the user's cache folder."""
    given = os.environ.get("NUMBA_CACHE_DIR")
    folder = Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
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


def _processor() -> tuple[str, str]:
    return _llvm().get_host_cpu_name(), _llvm().get_host_cpu_features().flatten()


def _machine() -> Any:
    name, features = _processor()
    target = _llvm().Target.from_default_triple()
    return target.create_target_machine(cpu=name, features=features, opt=3, codemodel="jitdefault", jit=True)


@cache
def _engine() -> Any:
    """Holds what was loaded, as long as the process lives."""
    for name in _NEVER_CALLED:
        if _llvm().address_of_symbol(name) is None:
            _llvm().add_symbol(name, ctypes.cast(_C.abort, ctypes.c_void_p).value)
    return _llvm().create_mcjit_compiler(_llvm().parse_assembly(""), _machine())
