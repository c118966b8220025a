"""What all stages share: where a dataset's files are, and processes behind an HTTP proxy."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path

import pytest

from pipeline.stage import Stage, bypass_proxy_for_loopback, code_version, errors_as_messages

SYNTHETIC = '{"source": "cityscapes", "task": "semantic", "root": "streets", "synthetic": true, %s}'
REAL = '{"source": "cityscapes", "task": "semantic", "root": "cityscapes", %s}'
SPLITS = '"train": {"images": "a", "labels": "b"}, "val": {"images": "c", "labels": "d"}'


@pytest.mark.parametrize("data_root", ["data", "/elsewhere", "s3://bucket/data"])
def test_drawn_images_lie_in_the_project_whatever_the_data_root(
    data_root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "params.yaml").write_text(f"{{scale: demo, data_root: '{data_root}', cluster: laptop}}")
    (tmp_path / "selection.yaml").write_text("{synthetic: [], datasets: {}, runs: {}, sweeps: {}}")
    folder = tmp_path / "outputs" / "demo" / "config" / "datasets"
    folder.mkdir(parents=True)
    (folder / "drawn.json").write_text(SYNTHETIC % SPLITS)
    (folder / "real.json").write_text(REAL % SPLITS)
    monkeypatch.chdir(tmp_path)
    stage = Stage()
    assert stage.images("drawn").root == str(stage.outputs.drawn("streets"))
    assert stage.outputs.drawn("streets") == tmp_path / "outputs/demo/drawn/streets"
    expected = {"data": f"{tmp_path}/data", "/elsewhere": "/elsewhere", "s3://bucket/data": "s3://bucket/data"}
    assert stage.images("real").root == f"{expected[data_root]}/cityscapes"


class TestProxy:
    @staticmethod
    @contextmanager
    def server(status: int, answer: object) -> Iterator[tuple[str, list[str]]]:
        """A server on loopback that answers everything alike; its URL and the requests that it has had."""
        requests: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                requests.append(self.path)
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                body = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_CONNECT = do_GET  # noqa: N815

            def log_message(self, *arguments: object) -> None:
                pass

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield f"http://127.0.0.1:{server.server_port}", requests
            server.shutdown()

    def test_servers_of_this_machine_are_reached_beside_a_proxy_that_refuses(self) -> None:
        code = """
import sys
from mlflow import MlflowClient
from ray.job_submission import JobSubmissionClient
from pipeline.stage import run_stage

def refused(call):
    try:
        call()
    except Exception:
        return True

calls = [lambda: JobSubmissionClient(sys.argv[1]).get_version(), lambda: MlflowClient(sys.argv[1]).search_experiments()]
assert all(map(refused, calls)), "the proxy is no obstacle"
run_stage(lambda: print([call() for call in calls]))
"""
        answer = {"version": "4", "ray_version": "2", "ray_commit": "3", "experiments": []}
        with self.server(503, {}) as (proxy, refused), self.server(200, answer) as (url, answered):
            environment = {"http_proxy": proxy, "HTTP_PROXY": proxy, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
            result = subprocess.run([sys.executable, "-c", code, url], env=environment, capture_output=True, text=True)
            assert result.returncode == 0, result.stderr
            assert len(refused) >= 2
            assert {path.split("/")[2].split("?")[0] for path in answered} == {"version", "2.0"}

    def test_other_exceptions_stay(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("no_proxy", "intra.net, 127.0.0.1")
        monkeypatch.setenv("NO_PROXY", ".example.org")
        for _ in range(2):
            bypass_proxy_for_loopback()
            for name in ("no_proxy", "NO_PROXY"):
                hosts = os.environ[name]
                assert hosts == "intra.net,127.0.0.1,.example.org,localhost,::1"


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def have_code(folder: Path) -> None:
    (folder / "pipeline").mkdir()
    (folder / "pipeline" / "__init__.py").touch()


def test_the_code_s_version(tmp_path: Path) -> None:
    have_code(tmp_path)
    git(tmp_path, "init", "--quiet")
    (tmp_path / "file").write_text("1")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "--quiet", "-m", "first")
    git(tmp_path, "tag", "-a", "v1", "-m", "a tag is no commit")
    commit = git(tmp_path, "rev-parse", "HEAD")[:12]
    assert code_version(tmp_path) == commit
    (tmp_path / "untracked").write_text("")
    assert code_version(tmp_path) == commit
    (tmp_path / "file").write_text("2")
    assert code_version(tmp_path) == f"{commit}-dirty"


def test_the_version_of_code_without_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    have_code(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert code_version(tmp_path) == "unknown"


def test_the_version_of_code_where_there_is_no_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    have_code(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert code_version(tmp_path) == "unknown"


def test_the_version_of_installed_code_is_the_package_s(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")  # the project's own repository has no code
    assert code_version(tmp_path) == f"pointrend {version('pointrend')}"


def test_a_missing_library_is_a_message(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, errors_as_messages():
        import no_such_library.part  # noqa: F401
    assert ended.value.code == 1
    expected = "error: this needs no_such_library, which is not installed: pip install 'pointrend[pipeline]'\n"
    assert capsys.readouterr().err == expected


def test_a_missing_module_of_this_project_is_no_message() -> None:
    with pytest.raises(ModuleNotFoundError), errors_as_messages():
        import pipeline.no_such_module  # noqa: F401
