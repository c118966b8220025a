"""Reads annotation files, and says what a file or folder is that holds no COCO instances: the tool that wrote it, and
how that tool exports COCO's format."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

NOT_COCO = "not a COCO instances file"
LISTS = ("images", "annotations", "categories")
READ = "expected COCO instances: a JSON object with the lists images, annotations and categories"
_SHOWN_KEYS = 4

#: What files of other formats are, with how to get COCO instances from them.
LABEL_STUDIO = "Label Studio's JSON list of tasks: in Label Studio choose Export, COCO (polygon or brush labels)"
LABELME = (
    "labelme's JSON of one image: labelme's examples/instance_segmentation/labelme2coco.py makes one COCO file of the "
    "folder"
)
VIA = "VIA's project: in VIA choose Annotation, Export Annotations (COCO format)"
CVAT = "CVAT's XML: in CVAT choose Export task dataset, COCO 1.0"
VOC = "Pascal VOC's XML of one image, which has boxes and no masks: export COCO (segmentation) from the tool"
YOLO = (
    "YOLO's format: export COCO (segmentation) from the tool instead; in Roboflow, Download Dataset, COCO Segmentation"
)
CREATE_ML = "CreateML's JSON, which has boxes and no masks: in Roboflow choose Download Dataset, COCO Segmentation"
RESULTS = "COCO results, which are predictions: give the file with the ground truth"
CAPTIONS = "COCO captions, which have no masks: give the file instances_*.json"
PANOPTIC = "COCO panoptic, whose masks are PNGs: give the file instances_*.json"
PAGE = "a web page or XML: export or download the file anew"


def _keys(value: Any) -> set[str]:
    """The keys of a JSON object, or of the first entry of a list of objects."""
    if isinstance(value, list):
        value = next((entry for entry in value if isinstance(entry, dict)), {})
    return set(value) if isinstance(value, dict) else set()


def recognise(content: Any) -> str:
    """What some JSON is, and how to get COCO instances from it; empty if it is of no known tool."""
    keys = _keys(content)
    if isinstance(content, list):
        if "image_id" in keys and keys & {"segmentation", "bbox", "score"}:
            return RESULTS
        if ("data" in keys and keys & {"annotations", "completions", "predictions"}) or "annotation_id" in keys:
            return LABEL_STUDIO
        return CREATE_ML if {"image", "annotations"} <= keys else ""
    if "shapes" in keys and keys & {"imagePath", "imageData", "imageHeight"}:
        return LABELME
    if any(key.startswith("_via_") for key in keys) or {"project", "metadata", "view"} <= keys:
        return VIA
    if isinstance(content, dict) and {"filename", "regions"} <= _keys(list(content.values())):
        return VIA
    if isinstance(content, dict) and isinstance(content.get("annotations"), list):
        entries = _keys(content["annotations"])
        if "segments_info" in entries:
            return PANOPTIC
        if "caption" in entries:
            return CAPTIONS
    return ""


def format_problems(content: Any) -> list[str]:
    """What keeps some JSON from being COCO instances, one message or one for each missing list; empty for nothing."""
    if known := recognise(content):
        return [f"{NOT_COCO}, but {known}"]
    if not isinstance(content, dict):
        kind = f"a list of {len(content)}" if isinstance(content, list) else "one value"
        return [f"not a JSON object but {kind}, so {NOT_COCO}; {READ}"]
    missing = [key for key in LISTS if not isinstance(content.get(key), list)]
    if len(missing) == len(LISTS) and not content.keys() & set(LISTS):
        shown = ", ".join(map(repr, list(content)[:_SHOWN_KEYS])) + (", ..." if len(content) > _SHOWN_KEYS else "")
        return [f"{NOT_COCO}, but {f'a JSON object with {shown}' if content else 'an empty JSON object'}; {READ}"]
    return [f"no list {key!r}: {NOT_COCO}" for key in missing]


def parse_json(content: bytes) -> Any:
    """The JSON in a file's content.

    Raises:
        ValueError: saying what is wrong with the content, and where.
    """
    if not content.strip():
        raise ValueError("the file is empty, so not JSON: export or download it again")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"not JSON: byte {error.start + 1} is no text in UTF-8; {READ}") from error
    if text.lstrip().startswith("<"):
        known = recognise_text(text)
        raise ValueError(f"not JSON, but {known or PAGE}")
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        # Decoders report where the text, the number or the word began that has no end.
        rest = text[error.pos :].rstrip()
        cut_word = any(word.startswith(rest) for word in ("true", "false", "null", "NaN", "-"))
        if cut_word or error.msg.startswith("Unterminated string"):
            raise ValueError(
                f"not JSON, or truncated: the file is cut off after {len(content):,} bytes, at line "
                f"{1 + text.count(chr(10))}; export or download it again"
            ) from error
        raise ValueError(f"not JSON: {error.msg} at {where}; export it again, or mend it there") from error


def recognise_text(text: str) -> str:
    """What a text file of another format is, and how to get COCO instances from it; empty if it is of no known tool."""
    if "<annotations" in text and ("<meta" in text or "<image" in text or "<version" in text):
        return CVAT
    return VOC if "<annotation>" in text else CVAT if "<annotations" in text else ""


def recognise_file(path: Path) -> str:
    """What a file is that is neither JSON nor YAML; empty if it is of no known tool."""
    suffix = path.suffix.lower()
    if suffix == ".xml":
        return recognise_text(path.read_bytes()[:10_000].decode("utf-8", "replace")) or "XML"
    if suffix == ".zip":
        return "an archive: unpack it, and give the .json file in it"
    if suffix == ".txt":
        return YOLO
    return "VIA's table: in VIA choose Annotation, Export Annotations (COCO format)" if suffix == ".csv" else ""


def recognise_yaml(content: Any) -> str:
    """What YAML is that is no file of configs/datasets."""
    return YOLO if isinstance(content, Mapping) and {"names", "train"} <= content.keys() else ""


def recognise_folder(files: Sequence[Path]) -> str:
    """What the files below a folder are that is no dataset of images and label PNGs; empty if unknown."""
    by_suffix: dict[str, list[Path]] = {}
    for file in files:
        by_suffix.setdefault(file.suffix.lower(), []).append(file)
    for file in by_suffix.get(".json", [])[:5]:
        try:
            content = parse_json(file.read_bytes())
        except (OSError, ValueError):
            continue
        if not format_problems(content):
            return f"it holds the instances file {file}: give that with --data"
        if known := recognise(content):
            return f"{file} is {known}"
    if by_suffix.get(".xml"):
        return f"{by_suffix['.xml'][0]} is {recognise_file(by_suffix['.xml'][0])}"
    texts = [file for file in by_suffix.get(".txt", []) if file.parent.name == "labels" or "labels" in file.parts]
    return f"{texts[0]} is {YOLO}" if texts else ""


def counted_suffixes(files: Sequence[Path]) -> str:
    """How many files there are of each kind, such as "3 .txt, 1 .yaml"."""
    counts = Counter(file.suffix.lower() or "without suffix" for file in files)
    return ", ".join(f"{count} {suffix}" for suffix, count in counts.most_common(5)) or "no file"
