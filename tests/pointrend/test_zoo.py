import hashlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from torch import nn

from pointrend import load_weights, save_weights
from pointrend.zoo import ZOO, address, cache_folder, fetch

CONTENT = bytes(range(256)) * 5000
MD5, SHA256 = hashlib.md5(CONTENT).hexdigest(), hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Server:
    """What is at each path, and what was asked for."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    cut: int | None = None  # bytes after which the connection breaks off
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def server() -> Iterator[Server]:
    served = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.asked.append(self.path)
            if self.path not in served.files:
                self.send_error(404)
                return
            content = served.files[self.path]
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: served.cut])

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        served.url = f"http://127.0.0.1:{http.server_port}"
        threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield served
        http.shutdown()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("POINTREND_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def kept(cache: Path) -> list[Path]:
    return [path for path in cache.rglob("*") if path.is_file()]


class TestFetch:
    @pytest.mark.parametrize("name", ["R-50.pkl", f"model_final_{MD5[:6]}.pkl", f"model-{SHA256[:8]}.pth"])
    def test_downloads_once(self, name: str, server: Server, cache: Path) -> None:
        server.files[f"/some/{name}"] = CONTENT
        first, second = fetch(f"{server.url}/some/{name}"), fetch(f"{server.url}/some/{name}")
        assert first == second
        assert first.name == name
        assert first.read_bytes() == CONTENT
        assert kept(cache) == [first]
        assert server.asked == [f"/some/{name}"]

    def test_equal_names_of_other_models(self, server: Server) -> None:
        server.files |= {"/a/R-50.pkl": b"a", "/b/R-50.pkl": b"b"}
        assert [fetch(f"{server.url}/{folder}/R-50.pkl").read_bytes() for folder in "ab"] == [b"a", b"b"]

    @pytest.mark.parametrize(
        ("name", "algorithm"), [("model_final_edd263.pkl", "md5"), ("maskrcnn-bf2d0c1e.pth", "sha256")]
    )
    def test_another_file_than_its_name_promises(self, name: str, algorithm: str, server: Server, cache: Path) -> None:
        server.files[f"/{name}"] = CONTENT
        with pytest.raises(
            ValueError, match=rf"{name}: the file's {algorithm} is [0-9a-f]+, expected it to begin with"
        ):
            fetch(f"{server.url}/{name}")
        assert kept(cache) == []

    @pytest.mark.parametrize("cut", [0, 1, 700_000, len(CONTENT) - 1])
    def test_broken_off_and_again(self, cut: int, server: Server, cache: Path) -> None:
        server.files["/R-50.pkl"], server.cut = CONTENT, cut
        with pytest.raises(OSError, match=rf"R-50.pkl: download failed .*{cut} of {len(CONTENT)} bytes"):
            fetch(f"{server.url}/R-50.pkl")
        assert kept(cache) == []
        server.cut = None
        assert fetch(f"{server.url}/R-50.pkl").read_bytes() == CONTENT

    def test_not_there(self, server: Server, cache: Path) -> None:
        with pytest.raises(OSError, match=r"nothing.pkl: download failed \(404"):
            fetch(f"{server.url}/nothing.pkl")
        assert kept(cache) == []

    def test_no_server(self) -> None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{unused.getsockname()[1]}/R-50.pkl"
            with pytest.raises(OSError, match=r"R-50.pkl: download failed \(.*refused"):
                fetch(url)

    def test_cache_that_is_a_file(self, server: Server, cache: Path) -> None:
        server.files["/R-50.pkl"] = CONTENT
        cache.write_bytes(b"")
        with pytest.raises(OSError, match="cache"):
            fetch(f"{server.url}/R-50.pkl")


class TestAddress:
    def test_published(self) -> None:
        base = "https://dl.fbaipublicfiles.com/detectron2/"
        url = f"{base}PointRend/InstanceSegmentation/pointrend_rcnn_R_50_FPN_3x_coco/164955410/model_final_edd263.pkl"
        assert address("pointrend_rcnn_R_50_FPN_3x_coco") == url
        assert address(url.replace(base, "detectron2://")) == url
        assert address(url) == url
        assert address("R-101") == f"{base}ImageNetPretrained/MSRA/R-101.pkl"

    @pytest.mark.parametrize("source", ["model.pkl", "folder/R-50", "R-50.pkl", "/https://model.pkl", ""])
    def test_of_a_file(self, source: str) -> None:
        assert address(source) is None

    def test_no_file_is_there_twice(self) -> None:
        assert len(set(ZOO.values())) == len(ZOO)

    def test_cache_folder(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.delenv("POINTREND_CACHE")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        assert cache_folder() == tmp_path / "pointrend"
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setenv("HOME", str(tmp_path))
        assert cache_folder() == tmp_path / ".cache" / "pointrend"


class TestLoadWeights:
    def test_from_a_url(self, server: Server, tmp_path: Path) -> None:
        torch.manual_seed(0)
        saved, loaded = nn.Linear(3, 2), nn.Linear(3, 2)
        save_weights(saved, tmp_path / "linear.safetensors")
        server.files["/linear.safetensors"] = (tmp_path / "linear.safetensors").read_bytes()
        load_weights(loaded, f"{server.url}/linear.safetensors")
        assert torch.equal(loaded.weight, saved.weight)

    def test_by_name(self, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("pointrend.zoo._BASE", f"{server.url}/")
        with pytest.raises(OSError, match=r"MSRA/R-50.pkl: download failed \(404"):
            load_weights(nn.Linear(3, 2), "R-50")
        assert server.asked == ["/ImageNetPretrained/MSRA/R-50.pkl"]
