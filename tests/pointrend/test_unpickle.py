import io
import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from pointrend.unpickle import UnexpectedContent, unpickle_arrays

ARRAYS = {
    "single": np.arange(6, dtype="f4").reshape(2, 3) / 7,
    "double": np.array([1e300, -0.0, np.inf]),
    "half": np.array([0.5, 1.5], "f2"),
    "bytes": np.arange(256, dtype="u1"),
    "counts": np.array([-1, 2**40], "i8"),
    "flags": np.array([[True], [False]]),
    "big endian": np.array([1, 2, 300], ">i4"),
    "columns first": np.asfortranarray(np.arange(24.0).reshape(2, 3, 4)),
    "no axes": np.array(3, "i8"),
    "nothing in it": np.zeros((0, 3), "f4"),
}


def loads(data: bytes) -> Any:
    return unpickle_arrays(io.BytesIO(data))


class Python2Pickler(pickle._Pickler):
    """Writes bytes and strings as Python 2 did, without telling one from the other."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def save_string(self, value: str | bytes) -> None:
        data = value.encode("latin1") if isinstance(value, str) else value
        self.write(pickle.BINSTRING + len(data).to_bytes(4, "little") + data)
        self.memoize(value)

    dispatch[str] = dispatch[bytes] = save_string


class TestArrays:
    @pytest.mark.parametrize("protocol", range(6))
    @pytest.mark.parametrize("name", ARRAYS)
    def test_every_protocol(self, name: str, protocol: int) -> None:
        array = ARRAYS[name]
        found = loads(pickle.dumps(array, protocol))
        expected = torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=True))
        assert found.dtype == expected.dtype
        assert found.shape == expected.shape
        assert torch.equal(found, expected)

    @pytest.mark.parametrize("protocol", range(4))
    def test_of_numpy_1(self, protocol: int) -> None:
        data = pickle.dumps(ARRAYS["single"], protocol)
        assert b"numpy._core.multiarray" in data or protocol > 3
        old = data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
        assert torch.equal(loads(old), torch.from_numpy(ARRAYS["single"]))

    def test_of_python_2(self) -> None:
        file = io.BytesIO()
        Python2Pickler(file, protocol=2).dump({"conv1_w": ARRAYS["single"], "all": ARRAYS["bytes"]})
        found = loads(file.getvalue())
        assert torch.equal(found["conv1_w"], torch.from_numpy(ARRAYS["single"]))
        assert found["all"].tolist() == list(range(256))

    def test_what_surrounds_them(self) -> None:
        content = {"model": OrderedDict(a=np.ones(2)), "__author__": "someone", "list": [1, (2.5, None)], "on": True}
        found = loads(pickle.dumps(content, 2))
        assert torch.equal(found["model"].pop("a"), torch.ones(2, dtype=torch.float64))
        assert found == {"model": {}, "__author__": "someone", "list": [1, (2.5, None)], "on": True}

    def test_scalars(self) -> None:
        assert loads(pickle.dumps([np.float32(0.5), np.int64(7)], 2)) == [0.5, 7]

    def test_can_be_written_to(self) -> None:
        found = loads(pickle.dumps(ARRAYS["single"]))
        found += 1
        assert found[0, 0] == 1


class Call:
    """Pickles as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


class TestRefusals:
    @pytest.mark.parametrize("protocol", [0, 2, 4])
    def test_nothing_is_called(self, protocol: int, tmp_path: Path) -> None:
        victim = tmp_path / "victim"
        with pytest.raises(UnexpectedContent, match=r"names (posix|nt)\.mkdir, which arrays do not need"):
            loads(pickle.dumps({"model": Call(os.mkdir, str(victim))}, protocol))
        assert not victim.exists()

    @pytest.mark.parametrize(
        "name",
        ["builtins\neval", "os\nsystem", "numpy\nload", "numpy.core\nmultiarray", "torch\nload", "builtins\ngetattr"],
    )
    def test_other_names(self, name: str) -> None:
        with pytest.raises(UnexpectedContent, match=name.replace("\n", r"\.")):
            loads(b"c" + name.encode() + b"\n(S'1'\ntR.")

    def test_attributes_of_what_is_allowed(self) -> None:
        with pytest.raises(UnexpectedContent, match=r"numpy\.ndarray\.__init__"):
            loads(b"\x80\x04\x8c\x05numpy\x8c\x10ndarray.__init__\x93.")

    @pytest.mark.parametrize(
        "array",
        [np.array([{}], object), np.zeros(2, "f4,i4"), np.array(["text"]), np.zeros(2, "c8"), np.zeros(1, "M8[s]")],
    )
    def test_arrays_of_no_numbers(self, array: np.ndarray) -> None:
        with pytest.raises(UnexpectedContent, match="expected numbers"):
            loads(pickle.dumps(array))

    def test_fewer_bytes_than_the_shape_needs(self) -> None:
        data = pickle.dumps(np.zeros((2, 3), "f4"), 2)
        assert data.count(b"K\x02K\x03\x86") == 1
        with pytest.raises(UnexpectedContent, match=r"shape \(2, 200\) has 24 bytes, expected 1600"):
            loads(data.replace(b"K\x02K\x03\x86", b"K\x02K\xc8\x86"))
