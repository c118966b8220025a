"""Accepts a device: runs what can go wrong on it, times what matters, and writes gpu.json and gpu.md.

    python benchmarks/gpu.py --out DIR
    python benchmarks/gpu.py --out DIR --device cpu --quick

Needs torch, torchvision, pillow, numpy and safetensors; the training also needs pydantic, pyarrow, pycocotools and what
else reads data and scores, but neither Ray nor MLflow nor DVC. Where Detectron2 and its project PointRend can be
imported from a source tree, they run beside this library. docs/gpu.md says what each section is.

The exit status is 1 if a row failed.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import checkout  # noqa: F401 - before pointrend
import torch
from acceptance import agreement, gpu_tests, machine, timing, training
from acceptance.page import counts, page
from acceptance.rows import Budget, Row, Task, carry_out

from pointrend.files import atomic_output

JSON, MARKDOWN = "gpu.json", "gpu.md"
#: Sections that time something.
TIMES = ("mask head", "semantic head", "inference", "training step", "compiled")
SECTIONS = ("tests", "agreement", "training", *TIMES)


def _arguments() -> argparse.Namespace:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--out", type=Path, required=True, help=f"folder to write {JSON} and {MARKDOWN} to")
    options.add_argument("--device", default="cuda", help="cuda or cpu")
    options.add_argument("--quick", action="store_true", help="small inputs, tiny models and few repeats: two minutes")
    options.add_argument(
        "--only",
        nargs="+",
        choices=SECTIONS,
        default=SECTIONS,
        metavar="SECTION",
        help="some of: " + ", ".join(SECTIONS),
    )
    options.add_argument("--minutes", type=float, default=10, help="rows that would start later are listed as not run")
    options.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    options.add_argument(
        "--instances",
        type=_instances,
        metavar="TRAIN.json,IMAGES,VAL.json,IMAGES",
        help="train on instances in COCO's format",
    )
    options.add_argument("--semantic", type=_existing, metavar="FOLDER", help="train on images and label PNGs")
    arguments = options.parse_args()
    if not arguments.minutes > 0:
        options.error(f"--minutes {arguments.minutes:g}: expected more than 0")
    try:
        arguments.device = torch.device(arguments.device)
    except RuntimeError:
        options.error(f"--device {arguments.device}: expected cuda or cpu")
    if arguments.device.type == "cuda" and not torch.cuda.is_available():
        options.error("--device cuda: torch sees no CUDA device; check the driver, or add --device cpu --quick")
    if arguments.device.type not in ("cuda", "cpu"):
        options.error(f"--device {arguments.device}: expected cuda or cpu")
    return arguments


def _existing(text: str) -> Path:
    path = Path(text)
    if not path.exists():
        raise argparse.ArgumentTypeError(f"{path}: no such file or folder")
    return path


def _instances(text: str) -> tuple[Path, ...]:
    parts = text.split(",")
    if len(parts) != 4:
        raise argparse.ArgumentTypeError(f"{text}: expected TRAIN.json,IMAGES,VAL.json,IMAGES")
    return tuple(map(_existing, parts))


def sections(arguments: argparse.Namespace, budget: Budget) -> dict[str, Callable[[], Iterator[Task]]]:
    """What yields the rows of each section, in the order in which they run."""
    device, quick = arguments.device, arguments.quick
    sizes = _sizes(arguments)
    data = (arguments.instances, arguments.semantic)
    every: dict[str, Callable[[], Iterator[Task]]] = {
        "tests": partial(gpu_tests.tasks, device, budget),
        "agreement": partial(agreement.tasks, device, quick),
        "training": partial(training.tasks, *data, device, quick, budget),
        "mask head": partial(timing.mask_heads, device, sizes),
        "semantic head": partial(timing.semantic_heads, device, sizes),
        "inference": partial(timing.whole_models, device, sizes),
        "training step": partial(timing.training_steps, device, sizes),
        # Last, because compiling takes longest.
        "compiled": partial(timing.compiled, device, sizes),
    }
    return {name: tasks for name, tasks in every.items() if name in arguments.only}


def _sizes(arguments: argparse.Namespace) -> timing.Sizes:
    if arguments.quick:
        return timing.QUICK
    return timing.Sizes() if arguments.device.type == "cuda" else timing.CPU


def section_notes(arguments: argparse.Namespace) -> dict[str, str]:
    """What is to be said of each section."""
    cuda, sizes = arguments.device.type == "cuda", _sizes(arguments)
    image, street = (f"{height}x{width}" for height, width in (sizes.image, sizes.street))
    memory = "the device's, as torch allocates it" if cuda else "the process's, which is not exact where it is small"
    times = (
        f"Times are medians of {sizes.repeats} runs after a warm-up, with the device synchronised. Peak memory is "
        f"{memory}: what a run needs beyond what was in use before it, such as the weights."
    )
    found = {
        "agreement": agreement.STATED + ("" if cuda else " Here the CPU is compared with itself."),
        "training": "A few updates of tiny networks: the scores mean nothing." if arguments.quick else "",
        "mask head": f"{sizes.regions} regions, 80 classes, P2 of an image of {image}.",
        "semantic head": f"From stride 4 to {street}, 19 classes.",
        "inference": f"One image of {image}, for semantic labels of {street}; random weights.",
        "training step": f"{sizes.batch} x {image}, 8 objects each; stem and res2 are frozen.",
        "compiled": "As above, with a backbone compiled for images of any size.",
    }
    return {
        name: " ".join(filter(None, (found.get(name), times if name in TIMES else None))) for name in arguments.only
    }


def write(folder: Path, facts: dict[str, Any], found: dict[str, list[Row]], notes: dict[str, str]) -> None:
    """Writes both files, or neither."""
    content = {
        "machine": facts,
        "rows": counts(found),
        "sections": {name: [row.as_dict() for row in rows] for name, rows in found.items()},
        "notes": notes,
    }
    with atomic_output(folder / JSON) as path:
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        path.with_name(MARKDOWN).write_text(page(facts, found, notes), encoding="utf-8")


def main() -> int:
    arguments = _arguments()
    arguments.out.mkdir(parents=True, exist_ok=True)  # what cannot be written to should fail now
    torch.set_num_threads(arguments.threads)
    budget = Budget(arguments.minutes)

    def say(line: str) -> None:
        print(f"{budget.used:5.0f} s  {line}", file=sys.stderr, flush=True)

    facts = machine.describe(arguments.device) | {"command": " ".join(["benchmarks/gpu.py", *sys.argv[1:]])}
    found = carry_out(sections(arguments, budget), budget, say)
    facts["seconds"] = round(budget.used)
    write(arguments.out, facts, found, section_notes(arguments))
    counted = counts(found)
    say(", ".join(f"{count} {status}" for status, count in counted.items()) + f"; see {arguments.out / MARKDOWN}")
    return 1 if counted["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
