"""``pointrend ui``: the server, as a browser and as others ask it, and the page in a headless Chromium."""

import base64
import http.client
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

import browser
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from pointrend import build_model, save_weights
from pointrend.cli import app
from pointrend.metadata import ClassInfo
from pointrend.runs import all_runs, drawn_images
from pointrend.ui import server
from pointrend.ui import session as session_module
from pointrend.ui.session import Session, Weights

CLASSES = (ClassInfo(7, "square"), ClassInfo(3, "a/b"), ClassInfo(11, "<b>leaf</b>"))
PIXELS = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
RUNS = ("a_pointrend-0", "b_4xconv-0", "c_semantic-0", "d_plain-0")


def png(pixels: np.ndarray = PIXELS, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, options.pop("format", "PNG"), **options)
    return file.getvalue()


@pytest.fixture(scope="module")
def project(tiny_model: Callable[..., nn.Module], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of each kind of model."""
    root = tmp_path_factory.mktemp("project")
    instance: Any = tiny_model("pointrend")
    nn.init.constant_(instance.mask_head.coarse_head.predictor.bias, 1)
    torch.manual_seed(1)
    semantic: Any = build_model("pointrend_semantic_fpn_tiny", num_classes=3)
    plain: Any = build_model("semantic_fpn_tiny", num_classes=3)
    for model in (semantic, plain):
        nn.init.normal_(model.head.predictor.weight, std=1.0)
    for name, model in zip(RUNS, (instance, tiny_model("4xconv"), semantic, plain), strict=True):
        folder = root / "outputs" / "toy" / "train" / name
        folder.mkdir(parents=True)
        save_weights(model, folder / "model.safetensors", classes=CLASSES, origin={"dataset": "shapes"})
    drawn = root / "outputs" / "toy" / "drawn" / "shapes" / "val"
    drawn.mkdir(parents=True)
    (drawn / "1.png").write_bytes(png())
    return root


class Server(NamedTuple):
    process: "subprocess.Popen[str]"
    port: int

    def ask(self, path: str, body: bytes | None = None, method: str | None = None, **headers: str) -> Any:
        """The status, the headers, and the content: of JSON what it says."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method or ("GET" if body is None else "POST"), path, body, named)
            response = connection.getresponse()
            content = response.read()
            return response.status, response.headers, content
        finally:
            connection.close()

    def get(self, path: str, body: bytes | None = None, **query: Any) -> Any:
        """The answer of the API, which must be no error."""
        status, _, content = self.ask(f"/api/{path}?{urlencode(query)}", body)
        assert status == 200, content
        return json.loads(content)

    def error(self, path: str, body: bytes | None = None, **query: Any) -> tuple[int, str]:
        status, _, content = self.ask(f"/api/{path}?{urlencode(query)}", body)
        return status, json.loads(content)["error"]


def start(folder: Path, *arguments: str) -> Server:
    program = [sys.executable, "-c", "from pointrend.cli import app; app()", "ui", "--port", "0", *arguments]
    process = subprocess.Popen(
        program,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.match(r"http://127\.0\.0\.1:(\d+) ", line)
    assert found, line
    return Server(process, int(found[1]))


@pytest.fixture(scope="module")
def running(project: Path) -> Iterator[Server]:
    running = start(project)
    yield running
    running.process.kill()
    running.process.wait()


def settings(running: Server, name: str) -> dict[str, Any]:
    """A picture opened with the weights of a run, as the page's query."""
    offered = running.get("weights")["weights"]
    index = next(index for index, known in enumerate(offered) if known["name"] == name)
    known = offered[index]
    picture = running.get("pictures", png(), name="a.png")["picture"]
    return {"weights": index, "picture": picture, "resolution": known["resolution"], "points": known["num_points"]}


def pixels_of(url: str) -> np.ndarray:
    kind, _, content = url.partition(",")
    assert kind == "data:image/jpeg;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))


class TestAnswers:
    def test_the_runs_of_the_project_are_offered_the_most_telling_first(self, running: Server) -> None:
        answer = running.get("weights")
        assert [known["name"] for known in answer["weights"]] == list(RUNS)
        assert [(known["task"], known["pointrend"]) for known in answer["weights"]] == [
            ("instance", True), ("instance", False), ("semantic", True), ("semantic", False)
        ]  # fmt: skip
        assert answer["start"] == 0
        assert [bool(known["resolutions"]) for known in answer["weights"]] == [True, False, False, False]
        assert [bool(known["points"]) for known in answer["weights"]] == [True, False, True, False]
        assert [known["note"] is None for known in answer["weights"]] == [True, False, False, False]

    def test_objects_from_coarse_to_fine(self, running: Server) -> None:
        query = settings(running, "a_pointrend-0")
        objects = running.get("found", **query)["objects"]
        assert len(objects) == 5
        assert {known["name"] for known in objects} <= {known.name for known in CLASSES}
        assert all(0 <= value <= 1 for known in objects for value in known["box"])

        details = running.get("details", **{**query, "resolution": 112, "points": 100}, object=1)
        titles = [panel["title"].replace("\xa0", " ") for panel in details["panels"]]
        assert titles == ["Image", "7 × 7", "28 × 28", "PointRend, 112 × 112"]
        texts = [step["text"] for step in details["steps"]]
        assert texts[0] == "the coarse prediction"
        assert texts[1:] == [f"100 of {side**2:,} cells predicted" for side in (14, 28, 56, 112)]
        assert "400 points were predicted instead of all 12,544 cells (3.2%)" in details["summary"]
        shown = [pixels_of(panel["image"]) for panel in details["panels"]]
        assert len({image.shape for image in shown}) == 1
        assert all(np.abs(shown[0].astype(int) - image).max() > 50 for image in shown[1:])

        overlay = running.get("overlay", **query, score=0)
        assert overlay["masks"].startswith("5 masks of 28")
        assert pixels_of(overlay["image"]).shape[:2] == (64 * 8, 96 * 8)
        assert running.get("overlay", **query, score=1)["masks"].startswith("0 masks")

    def test_points_of_grids_that_are_predicted_as_a_whole_count_once(self, running: Server) -> None:
        query = settings(running, "a_pointrend-0")
        details = running.get("details", **{**query, "resolution": 56, "points": 784})
        assert "1,568 points were predicted instead of all 3,136 cells" in details["summary"]

    def test_a_resolution_below_28_is_shown_beside_28(self, running: Server) -> None:
        query = {**settings(running, "a_pointrend-0"), "resolution": 14}
        details = running.get("details", **query)
        assert [panel["title"].replace("\xa0", " ") for panel in details["panels"]] == [
            "Image", "7 × 7", "14 × 14", "28 × 28"
        ]  # fmt: skip
        assert len(details["steps"]) == 2
        assert running.get("details", **{**query, "resolution": 7})["summary"].endswith("to refine it.")

    def test_the_usual_head_has_one_mask_and_no_steps(self, running: Server) -> None:
        details = running.get("details", **settings(running, "b_4xconv-0"))
        assert [panel["title"].replace("\xa0", " ") for panel in details["panels"]] == ["Image", "28 × 28"]
        assert details["steps"] == []

    def test_places_from_coarse_to_fine(self, running: Server) -> None:
        query = settings(running, "c_semantic-0")
        overlay = running.get("overlay", **query)
        assert sum(known["share"] for known in overlay["classes"]) == pytest.approx(1)
        details = running.get("details", **query, x=0, y=1)
        assert details["window"] == [0, 1 - 48 / 64, 0.5, 1]
        assert len(details["panels"]) == 4
        assert len(details["steps"]) == 3  # strides 4, 2 and 1
        fewer = running.get("details", **{**query, "points": 128}, x=0, y=1)
        assert "256 points were predicted" in fewer["summary"]
        chosen = running.get("details", **query)["window"]
        assert chosen[2] - chosen[0] == 0.5

    def test_a_semantic_model_without_pointrend_has_its_coarse_prediction(self, running: Server) -> None:
        details = running.get("details", **settings(running, "d_plain-0"))
        assert [panel["title"].replace("\xa0", " ") for panel in details["panels"]] == ["Image", "Coarse, 24 × 16"]
        assert details["steps"] == []

    def test_pictures_are_read_as_people_see_them(self, running: Server) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6  # turned by a quarter
        opened = running.get("pictures", png(format="JPEG", exif=exif), name="p.jpg")
        assert (opened["width"], opened["height"]) == (64, 96)

    def test_drawn_pictures_can_be_opened(self, running: Server) -> None:
        assert running.get("weights")["weights"][0]["examples"] == 1
        assert running.ask("/api/examples/0/0")[2] == png()
        assert running.ask("/api/examples/0/1")[0] == 404
        assert running.ask("/api/examples/9/0")[0] == 404


class TestErrors:
    def test_a_picture_that_cannot_be_read_is_one_message(self, running: Server) -> None:
        status, message = running.error("pictures", b"no picture", name="../x/broken.png")
        assert (status, message) == (
            400, "broken.png: not a readable image (no image of a known format: save it as PNG, JPEG or TIFF)"
        )  # fmt: skip
        assert running.error("pictures", png()[:300], name="half.png")[1].startswith("half.png: not a readable image")
        dark = png(np.full((4, 4), 4000, np.uint16))
        assert "--bits" in running.error("pictures", dark, name="dark.png")[1]

    def test_a_picture_is_read_with_the_range_of_each_model(self, tiny_model: Callable[..., nn.Module]) -> None:
        model: Any = tiny_model("4xconv")

        def weights(limits: tuple[float, float] | None) -> Weights:
            return Weights("w", "w", replace(model.metadata, pixel_range=limits))

        offered = [weights((0, 4000)), weights((2000, 6000)), weights(None)]
        session = Session(offered, 0, torch.device("cpu"), bits=None)
        opened = session.open(0, png(np.full((8, 8), 3000, np.uint16)), "a.png")["picture"]
        seen = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Session, "load", lambda self, index: model)
            patch.setattr(session_module, "InstanceView", lambda model, picture: picture)
            for index in (0, 1, 0):
                picture: Any = session.view(index, opened)
                seen.append(picture.pixels[0, 0, 0])
            with pytest.raises(ValueError, match=r"a\.png: has 16-bit values up to 3000"):
                session.view(2, opened)
        assert seen == [191, 64, 191]  # 255 * 3000 / 4000, 255 * 1000 / 4000
        twelve = Session(offered, 0, torch.device("cpu"), bits=12)  # --bits overrules the model
        twelve.open(0, png(np.full((8, 8), 4095, np.uint16)), "b.png")
        assert next(iter(twelve._pictures._values.values())).pixels[0, 0, 0] == 255

    def test_only_what_the_page_offers_can_be_asked_for(self, running: Server) -> None:
        query = settings(running, "a_pointrend-0")
        assert running.error("details", **{**query, "resolution": 7 * 2**20})[1].startswith("resolution is 7340032")
        assert running.error("overlay", **{**query, "points": 10**9})[1].startswith("points is 1000000000, expected")
        assert "no object 6" in running.error("details", **query, object=5)[1]
        assert "no weights 4" in running.error("found", **{**query, "weights": 4})[1]
        assert "no weights -1" in running.error("found", **{**query, "weights": -1})[1]
        assert "weights is '/etc/passwd'" in running.error("found", **{**query, "weights": "/etc/passwd"})[1]
        assert "not open any more" in running.error("found", **{**query, "picture": "../a"})[1]

    def test_a_file_that_is_too_large_is_refused_before_it_is_read(self, running: Server) -> None:
        with socket.create_connection(("127.0.0.1", running.port)) as connection:
            head = f"POST /api/pictures HTTP/1.1\r\nHost: localhost\r\nContent-Length: {server.MAX_BYTES + 1}\r\n\r\n"
            connection.sendall(head.encode())
            connection.settimeout(30)
            assert connection.recv(1000).startswith(b"HTTP/1.1 413 ")

    @pytest.mark.parametrize(
        "headers",
        [
            {"Host": "evil.example:7860"},
            {"Host": "127.0.0.1.evil.example"},
            {"Host": ""},
            {"Origin": "http://evil.example"},
            {"Origin": "http://127.0.0.1:1"},
            {"Origin": "null"},
            {"Sec_Fetch_Site": "cross-site"},
            {"Sec_Fetch_Site": "same-site"},
        ],
    )
    def test_others_are_refused(self, running: Server, headers: dict[str, str]) -> None:
        assert running.ask("/api/pictures?name=a.png", png(), **headers)[0] == 403
        assert running.ask("/api/weights", **headers)[0] == 403

    def test_the_page_itself_is_not(self, running: Server) -> None:
        own = {"Origin": f"http://localhost:{running.port}", "Host": f"localhost:{running.port}"}
        assert running.ask("/api/pictures?name=a.png", png(), Sec_Fetch_Site="same-origin", **own)[0] == 200
        status, headers, _ = running.ask("/", Sec_Fetch_Site="cross-site")  # a link to it
        assert status == 200
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]

    def test_it_listens_on_the_loopback_interface_only(self, running: Server) -> None:
        listening = Path("/proc/net/tcp")
        if not listening.exists():
            pytest.skip("needs /proc")
        port = f":{running.port:04X}"
        rows = [line.split()[1:4] for line in listening.read_text().splitlines()[1:]]
        assert [local for local, _, state in rows if local.endswith(port) and state == "0A"] == [f"0100007F{port}"]
        assert port not in Path("/proc/net/tcp6").read_text()


class TestCommand:
    def test_control_c_ends_it(self, project: Path) -> None:
        running = start(project, "--weights", str(project / "outputs/toy/train/b_4xconv-0/model.safetensors"))
        answer = running.get("weights")
        assert answer["start"] == 0
        assert answer["weights"][0]["name"].endswith("b_4xconv-0/model.safetensors")
        assert len(answer["weights"]) == 5
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(30) == 0

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ([], "there are no runs in "),
            (["--weights", "nothing-0"], "nothing-0: no such weight file"),
            (["--device", "abacus"], "--device abacus"),
        ],
    )
    def test_errors_at_the_start(
        self, arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        result = CliRunner().invoke(app, ["ui", *arguments])
        assert result.exit_code == 1
        assert f"error: {message}" in result.stderr

    def test_a_port_in_use(self, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(project)
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            result = CliRunner().invoke(app, ["ui", "--port", str(port)])
        assert result.exit_code == 1
        assert f"error: port {port} is in use; choose another one with --port" in result.stderr

    @pytest.mark.parametrize("name", ["starlette", "uvicorn"])
    def test_without_the_extra(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, name, None)
        result = CliRunner().invoke(app, ["ui"])
        assert result.exit_code == 1
        assert f"the page needs {name}, which is not installed: pip install 'pointrend[ui]'" in result.stderr


class TestRuns:
    def test_the_score_is_where_f1_was_best_and_the_highest_ap_comes_first(self, project: Path, tmp_path: Path) -> None:
        trained = project / "outputs" / "toy" / "train" / RUNS[0] / "model.safetensors"
        for name, scores in {
            "a-0": {"AP": 30.0, "F1": 70.0, "F1_score": 0.42},
            "b-0": {"AP": 40.0, "F1": 60.0, "F1_score": 0.37},
            "c-0": None,
        }.items():
            folder = tmp_path / "outputs" / "own"
            (folder / "train" / name).mkdir(parents=True)
            shutil.copy(trained, folder / "train" / name)
            if scores:
                (folder / "metrics").mkdir(exist_ok=True)
                (folder / "metrics" / f"{name}.json").write_text(json.dumps(scores))
        weights, _ = session_module.offered_weights(tmp_path)
        assert {each.name: each.answer()["least_score"] for each in weights} == {"a-0": 0.42, "b-0": 0.37, "c-0": 0.5}
        assert weights[session_module.best(weights)].name == "b-0"

    def test_runs_that_scales_share_are_named_with_their_scale(self, tmp_path: Path) -> None:
        for name in ("demo/train/a-0", "mine/train/a-0", "mine/train/b-0"):
            (tmp_path / "outputs" / name).mkdir(parents=True)
            (tmp_path / "outputs" / name / "model.safetensors").touch()
        assert list(all_runs(tmp_path)) == ["demo/a-0", "mine/a-0", "b-0"]

    def test_drawn_images_are_those_of_the_runs_dataset(self, tmp_path: Path) -> None:
        weights = tmp_path / "outputs" / "demo" / "train" / "a-0" / "model.safetensors"
        for name in ("shapes/val/1.png", "shapes/train/2.png", "streets/leftImg8bit/val/x/3.png", "streets/gt/4.png"):
            path = tmp_path / "outputs" / "demo" / "drawn" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        assert [path.name for path in drawn_images(weights, "shapes", 9)] == ["1.png"]
        assert [path.name for path in drawn_images(weights, "streets_semantic", 9)] == ["3.png"]
        assert drawn_images(weights, "", 9) == drawn_images(weights, "coco", 9) == []


READY = (
    "state.picture !== null && !document.body.classList.contains('busy') && at('panels').children.length > 1 && "
    "at('timings').rows.length === 2"
)


@pytest.fixture(scope="module")
def chromium(running: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[browser.Browser]:
    with browser.Browser(tmp_path_factory.mktemp("profile")) as opened:
        opened.open(f"http://127.0.0.1:{running.port}/")
        opened.wait("typeof state === 'object' && state.offered.length > 0")
        yield opened


@pytest.mark.skipif(browser.PROGRAM is None, reason="needs Chromium")
class TestPage:
    @pytest.fixture
    def page(self, chromium: browser.Browser, tmp_path: Path) -> browser.Browser:
        """The page with a picture that was chosen, and the first weights."""
        (tmp_path / "a.png").write_bytes(png())
        self.choose(chromium, 0)
        chromium.run("at('score').value = 0; at('score').dispatchEvent(new Event('input'))")
        chromium.choose_file("#file", tmp_path / "a.png")
        chromium.wait(f"state.file?.name === 'a.png' && {READY} && state.found.objects.length === 5")
        return chromium

    @staticmethod
    def choose(page: browser.Browser, weights: int) -> None:
        page.run(f"at('weights').value = {weights}; at('weights').dispatchEvent(new Event('change'))")

    @staticmethod
    def slide(page: browser.Browser, name: str, value: int) -> None:
        page.run(f"at('{name}').value = {value}; at('{name}').dispatchEvent(new Event('input'))")

    @staticmethod
    def titles(page: browser.Browser, where: str = "panels") -> list[str]:
        titles = page.run(f"[...document.querySelectorAll('#{where} b')].map((title) => title.textContent)")
        return [title.replace("\xa0", " ") for title in titles]

    def test_a_picture_from_coarse_to_fine(self, page: browser.Browser, running: Server) -> None:
        assert self.titles(page) == ["Image", "7 × 7", "28 × 28"]
        assert page.run("[...document.images].every((image) => image.complete && image.naturalWidth > 0)")
        self.slide(page, "resolution", 5)
        page.wait("at('steps').children.length === 6")
        assert self.titles(page) == ["Image", "7 × 7", "28 × 28", "PointRend, 224 × 224"]
        assert page.run("at('resolution-value').textContent") == "224 × 224"
        page.wait("at('timings').textContent.includes('224')")
        self.slide(page, "points", 0)
        page.wait("at('steps').textContent.includes('16 of 50,176 cells predicted')")
        # Names of classes are text, and the page is complete without another server.
        assert page.run("document.querySelectorAll('#list b').length") == 0
        asked = [url for url in page.requests if not url.startswith(("data:", "about:"))]
        assert all(url.startswith(f"http://127.0.0.1:{running.port}/") for url in asked)
        assert page.errors == []

    def test_a_click_chooses_an_object(self, page: browser.Browser) -> None:
        chosen = page.run(
            "(() => {"
            "  const area = (o) => (o.box[2] - o.box[0]) * (o.box[3] - o.box[1]);"
            "  const smallest = state.found.objects.map((o, i) => [area(o), i]).sort((a, b) => a[0] - b[0])[0][1];"
            "  const [x0, y0, x1, y1] = state.found.objects[smallest].box;"
            "  const place = at('overlay').getBoundingClientRect();"
            "  at('overlay').dispatchEvent(new MouseEvent('click', { bubbles: true,"
            "    clientX: place.left + place.width * (x0 + x1) / 2, clientY: place.top + place.height * (y0 + y1) / 2"
            "  }));"
            "  return smallest;"
            "})()"
        )
        assert page.run("state.object") == chosen
        pressed = "[...document.querySelectorAll('#list button')].map((entry) => entry.getAttribute('aria-pressed'))"
        assert page.run(pressed) == ["true" if index == chosen else "false" for index in range(5)]

    def test_a_high_score_hides_all(self, page: browser.Browser) -> None:
        self.slide(page, "score", 1)
        page.wait("at('summary').textContent.startsWith('No object has a score of 0.99 or more')")
        assert page.run("at('panels').hidden")

    def test_the_lowest_score_is_the_weights_own_until_it_is_moved(self, page: browser.Browser) -> None:
        page.run("state.scoreChosen = false; state.offered[1].least_score = 0.37")
        self.choose(page, 1)
        assert page.run("[at('score').value, at('score-value').textContent]") == ["0.37", "0.37"]
        self.slide(page, "score", 0.6)
        self.choose(page, 2)
        self.choose(page, 1)
        assert page.run("at('score').value") == "0.6"

    def test_other_weights_on_the_same_picture(self, page: browser.Browser) -> None:
        self.choose(page, 1)
        page.wait(f"{READY} && at('panels').children.length === 2")
        assert page.run("at('resolution').disabled && at('points').disabled && !at('note').hidden")
        self.choose(page, 2)
        page.wait(f"{READY} && at('panels').children.length === 4 && at('list').children.length > 0")
        assert page.run("at('resolution-label').hidden && !at('points').disabled")
        self.choose(page, 3)
        page.wait(f"{READY} && at('panels').children.length === 2")
        assert page.errors == []

    def test_a_dropped_file_that_is_no_picture_is_one_message(self, page: browser.Browser) -> None:
        page.run(
            "(() => { const dropped = new DataTransfer(); dropped.items.add(new File(['no'], '<i>.png'));"
            "  dispatchEvent(new DragEvent('drop', { dataTransfer: dropped, cancelable: true })); })()"
        )
        page.wait("!at('message').hidden")
        assert page.run("at('message').textContent") == (
            "<i>.png: not a readable image (no image of a known format: save it as PNG, JPEG or TIFF)"
        )
        assert page.run("at('result').hidden")

    @pytest.mark.parametrize("dark", [False, True])
    def test_on_a_phone_nothing_is_wider_than_the_screen(
        self, chromium: browser.Browser, dark: bool, running: Server
    ) -> None:
        chromium.open(f"http://127.0.0.1:{running.port}/", 390, 800, dark=dark)
        chromium.wait("typeof state === 'object' && state.picture !== null")  # the drawn picture, by itself
        self.slide(chromium, "score", 0)
        chromium.wait(READY)
        assert chromium.run("document.documentElement.scrollWidth") <= 390
        lightness = chromium.run("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0]")
        assert (lightness < 60) if dark else (lightness > 220)
