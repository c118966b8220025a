"""Downloads Detectron2's published weights by name, once, into a cache.

The names and addresses are those of its MODEL_ZOO.md and of the READMEs of its PointRend and DeepLab projects.
"""

import hashlib
import http.client
import os
import re
import urllib.error
import urllib.request
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from pointrend.files import atomic_output

#: The environment variable that moves the cache.
CACHE_VARIABLE = "POINTREND_CACHE"
_BASE = "https://dl.fbaipublicfiles.com/detectron2/"
_CHUNK = 1 << 20
_TIMEOUT = 30  # seconds without a byte

_INSTANCE = "PointRend/InstanceSegmentation/"
_SEMANTIC = "Cityscapes-SemanticSegmentation/"
#: The zoo's weights for this library's models: names and paths below the zoo's root.
ZOO = {
    "mask_rcnn_R_50_FPN_1x": "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x/137260431/model_final_a54504.pkl",
    "mask_rcnn_R_50_FPN_3x": "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x/137849600/model_final_f10217.pkl",
    "mask_rcnn_R_101_FPN_3x": "COCO-InstanceSegmentation/mask_rcnn_R_101_FPN_3x/138205316/model_final_a3ec72.pkl",
    "mask_rcnn_X_101_32x8d_FPN_3x": (
        "COCO-InstanceSegmentation/mask_rcnn_X_101_32x8d_FPN_3x/139653917/model_final_2d9806.pkl"
    ),
    "mask_rcnn_R_50_FPN_cityscapes": "Cityscapes/mask_rcnn_R_50_FPN/142423278/model_final_af9cf5.pkl",
    **{
        name: f"{_INSTANCE}{name}/{file}"
        for name, file in (
            ("pointrend_rcnn_R_50_FPN_1x_coco", "164254221/model_final_736f5a.pkl"),
            ("pointrend_rcnn_R_50_FPN_3x_coco", "164955410/model_final_edd263.pkl"),
            ("pointrend_rcnn_R_101_FPN_3x_coco", "28119983/model_final_3f4d2a.pkl"),
            ("pointrend_rcnn_X_101_32x8d_FPN_3x_coco", "28119989/model_final_ba17b9.pkl"),
            ("pointrend_rcnn_R_50_FPN_1x_cityscapes", "164255101/model_final_115bfb.pkl"),
        )
    },
    "pointrend_semantic_R_101_FPN_1x_cityscapes": (
        "PointRend/SemanticSegmentation/pointrend_semantic_R_101_FPN_1x_cityscapes/202576688/model_final_cf6ac1.pkl"
    ),
    "deeplab_v3_R_103_os16_mg124_poly_90k_bs16": (
        f"DeepLab/{_SEMANTIC}deeplab_v3_R_103_os16_mg124_poly_90k_bs16/28041665/model_final_0dff1b.pkl"
    ),
    # ImageNet backbones, to train from.
    "R-50": "ImageNetPretrained/MSRA/R-50.pkl",
    "R-101": "ImageNetPretrained/MSRA/R-101.pkl",
    "X-101-32x8d": "ImageNetPretrained/FAIR/X-101-32x8d.pkl",
    "R-103": "DeepLab/R-103.pkl",
}

#: The models that the zoo's weights are for, by :func:`pointrend.list_models`. Backbones are no models.
ZOO_MODELS = {
    "mask_rcnn_R_50_FPN_1x": "maskrcnn_r50_fpn_coco",
    "mask_rcnn_R_50_FPN_3x": "maskrcnn_r50_fpn_coco",
    "mask_rcnn_R_101_FPN_3x": "maskrcnn_r101_fpn_coco",
    "mask_rcnn_X_101_32x8d_FPN_3x": "maskrcnn_x101_fpn_coco",
    "mask_rcnn_R_50_FPN_cityscapes": "maskrcnn_r50_fpn_cityscapes",
    "pointrend_rcnn_R_50_FPN_1x_coco": "pointrend_rcnn_r50_fpn_coco",
    "pointrend_rcnn_R_50_FPN_3x_coco": "pointrend_rcnn_r50_fpn_coco",
    "pointrend_rcnn_R_101_FPN_3x_coco": "pointrend_rcnn_r101_fpn_coco",
    "pointrend_rcnn_X_101_32x8d_FPN_3x_coco": "pointrend_rcnn_x101_fpn_coco",
    "pointrend_rcnn_R_50_FPN_1x_cityscapes": "pointrend_rcnn_r50_fpn_cityscapes",
    "pointrend_semantic_R_101_FPN_1x_cityscapes": "pointrend_semantic_fpn_r101_cityscapes",
    "deeplab_v3_R_103_os16_mg124_poly_90k_bs16": "deeplabv3_r103_cityscapes",
}


def address(source: str) -> str | None:
    """The URL of a name of :data:`ZOO`, a ``detectron2://`` path or a URL; None for anything else, such as a file."""
    if source in ZOO:
        return _BASE + ZOO[source]
    if source.startswith("detectron2://"):
        return _BASE + source.removeprefix("detectron2://")
    return source if source.startswith(("http://", "https://")) else None


def cache_folder() -> Path:
    """``$POINTREND_CACHE``, or ``pointrend`` in the user's cache folder."""
    if folder := os.environ.get(CACHE_VARIABLE):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pointrend"


def fetch(url: str) -> Path:
    """The file at a URL, downloaded on first use.

    A download goes to a temporary file and enters the cache only when it is complete and its hash is right. Detectron2
    ends a file's name in the first digits of its MD5 (``model_final_edd263.pkl``), torchvision in those of
    its SHA-256 (``-bf2d0c1e.pth``).

    Raises:
        OSError: naming the URL, if it cannot be read whole.
        ValueError: if the file's hash is not the one in its name.
    """
    parts = urlsplit(url)
    # URLs that differ in their query only are different files.
    query = hashlib.sha256(parts.query.encode()).hexdigest()[:16] if parts.query else ""
    path = cache_folder() / parts.netloc.replace(":", "_") / query / parts.path.lstrip("/")
    if path.is_file():
        return path
    with atomic_output(path) as fresh:
        try:
            with urllib.request.urlopen(url, timeout=_TIMEOUT) as response, fresh.open("wb") as file:
                _copy(response, file, path.name)
        except (OSError, http.client.HTTPException) as error:
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            code = f"{error.code} " if isinstance(error, urllib.error.HTTPError) else ""
            raise OSError(f"{url}: download failed ({code}{reason}); nothing was kept, try again") from error
        _check_hash(fresh, url)
    return path


def _copy(response: http.client.HTTPResponse, file: BinaryIO, name: str) -> None:
    length = response.headers.get("Content-Length")
    total = int(length) if length is not None else None
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(name, total=total)
        while chunk := response.read(_CHUNK):
            file.write(chunk)
            progress.advance(task, len(chunk))
    if total is not None and file.tell() != total:
        raise ConnectionError(f"the connection broke off after {file.tell()} of {total} bytes")


def _check_hash(path: Path, url: str) -> None:
    promised = re.search(r"_([0-9a-f]{6})\.pkl$|-([0-9a-f]{8,})\.pth$", path.name)
    if promised is None:
        return
    algorithm, digits = ("md5", promised[1]) if promised[1] else ("sha256", promised[2])
    with path.open("rb") as file:
        found = hashlib.file_digest(file, algorithm).hexdigest()
    if not found.startswith(digits):
        raise ValueError(f"{url}: the file's {algorithm} is {found}, expected it to begin with {digits}; try again")
