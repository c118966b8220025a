"""Reads arrays from pickle files without executing anything that the file names.

A pickle names functions to call. Here the few names that arrays need are mapped to the stand-ins below, which check
their arguments and make tensors; any other name is an error. Not even NumPy's own functions are called.
"""

import math
import pickle
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

import torch
from torch import Tensor

#: NumPy's type codes that have a torch counterpart.
_DTYPES = {
    "f2": torch.float16,
    "f4": torch.float32,
    "f8": torch.float64,
    "i1": torch.int8,
    "i2": torch.int16,
    "i4": torch.int32,
    "i8": torch.int64,
    "u1": torch.uint8,
    "b1": torch.bool,
}


class UnexpectedContent(Exception):  # noqa: N818
    """A pickle holds something other than arrays: it is no weight file, or a malicious one."""


class _DType:
    """Stands for ``numpy.dtype``: a type code and a byte order."""

    def __init__(self, code: str, align: bool = False, copy: bool = False) -> None:
        if code not in _DTYPES:
            raise UnexpectedContent(f"an array of type {code!r}, expected numbers")
        self.dtype, self.big_endian = _DTYPES[code], False

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.big_endian = state[1] == ">"


class _Array:
    """Stands for ``numpy.ndarray``, which is made empty and then given its state."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, data = state
        self.tensor = _tensor(data, dtype, shape, "F" if fortran else "C")


def _tensor(data: str | bytes | bytearray, dtype: _DType, shape: tuple[int, ...], order: str) -> Tensor:
    raw = data.encode("latin1") if isinstance(data, str) else data  # Python 2 wrote bytes as strings
    expected = math.prod(shape) * dtype.dtype.itemsize
    if len(raw) != expected:
        raise UnexpectedContent(f"an array of shape {shape} has {len(raw)} bytes, expected {expected}")
    if not raw:
        return torch.empty(shape, dtype=dtype.dtype)
    flat = torch.frombuffer(bytearray(raw), dtype=torch.uint8)
    if dtype.big_endian:
        flat = flat.view(-1, dtype.dtype.itemsize).flip(1).flatten()
    values = flat.view(dtype.dtype)
    return values.view(shape) if order == "C" else values.view(shape[::-1]).permute(*range(len(shape) - 1, -1, -1))


def _new_array(cls: type, shape: tuple[int, ...], code: str | bytes) -> _Array:
    return _Array()


def _array_of_buffer(data: bytes | bytearray, dtype: _DType, shape: tuple[int, ...], order: str) -> _Array:
    array = _Array()
    array.tensor = _tensor(data, dtype, shape, order)
    return array


def _scalar(dtype: _DType, data: str | bytes) -> float:
    return _tensor(data, dtype, (), "C").item()


def _latin1(text: str, encoding: str) -> bytes:
    return text.encode("latin1")


def _no_bytes() -> bytes:
    return b""


_STAND_INS: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "dtype"): _DType,
    ("numpy", "ndarray"): _Array,
    ("_codecs", "encode"): _latin1,
    ("__builtin__", "bytes"): _no_bytes,
    ("collections", "OrderedDict"): dict,
    # NumPy 2 renamed its inner module.
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _new_array for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _array_of_buffer for core in ("core", "_core")},
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        if (module, name) not in _STAND_INS:
            raise UnexpectedContent(f"names {module}.{name}, which arrays do not need")
        return _STAND_INS[module, name]


def _as_tensors(value: object) -> object:
    if isinstance(value, _Array):
        return value.tensor
    if isinstance(value, Mapping):
        return {key: _as_tensors(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_as_tensors(item) for item in value)
    return value


def unpickle_arrays(file: BinaryIO) -> object:
    """Reads a pickle of dicts, lists, strings, numbers and NumPy arrays, from Python 2 or 3; arrays become tensors.

    Raises:
        UnexpectedContent: if it names anything else, or an array holds anything but numbers.
        Exception: of many types, if the file is truncated or not a pickle.
    """
    return _as_tensors(_Unpickler(file, encoding="latin1").load())
