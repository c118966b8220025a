"""What importing the library loads, each in a fresh interpreter."""

import subprocess
import sys

import pytest

import pointrend

#: The pipeline around the network, and what only it needs.
PIPELINE = ("pipeline", "ray", "mlflow", "dvc", "pandas", "pyarrow", "pycocotools", "pydantic", "yaml")


def run(code: str) -> list[str]:
    """The words that the code prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_names_load_without_the_pipeline() -> None:
    loaded = run(
        "import sys, pointrend\n"
        "for name in pointrend.__all__: getattr(pointrend, name)\n"
        "import pointrend.drawing, pointrend.pictures\n"
        "print(*sys.modules)"
    )
    assert {"torch", "pointrend.instance", "pointrend.weights"} <= set(loaded)
    assert not {name.partition(".")[0] for name in loaded} & set(PIPELINE)


def test_the_models_by_name_need_no_torch() -> None:
    loaded = run(
        "import sys, pointrend\n"
        "pointrend.list_models(), pointrend.PointSampling('grid', 49, 1, 0), pointrend.Rendering(28, 49)\n"
        "print(*sys.modules)"
    )
    assert "pointrend" in loaded
    assert not {name.partition(".")[0] for name in loaded} & {"torch", "torchvision", "numpy", *PIPELINE}


def test_the_command_works_where_only_the_library_is_installed() -> None:
    """``pip install pointrend`` brings none of the pipeline's packages."""
    # Some releases of typer bring pydantic along.
    missing = [name for name in PIPELINE if name not in ("pipeline", "pydantic")]
    words = run(
        "import sys\n"
        f"for name in {missing!r}: sys.modules[name] = None\n"  # their import fails
        "from pointrend.cli import main\n"
        "sys.argv = ['pointrend', 'models']\n"
        "main()"
    )
    assert "maskrcnn_tiny_fpn" in words


def test_the_page_works_where_only_the_library_and_its_extra_are_installed() -> None:
    """``pip install pointrend[ui]`` brings none of the pipeline's packages."""
    assert run(
        "import sys\n"
        f"for name in {PIPELINE!r}: sys.modules[name] = None\n"  # their import fails
        "import pointrend.ui.command, pointrend.ui.server\n"
        "print('loaded')"
    ) == ["loaded"]


def test_every_public_name_is_there() -> None:
    assert all(hasattr(pointrend, name) for name in pointrend.__all__)


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="'pointrend' has no attribute 'build_modle'"):
        pointrend.build_modle  # noqa: B018
