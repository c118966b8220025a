"""The page's view of a semantic model: the classes of an image, and one place in it from coarse to fine.

Shape letters: K classes, P points, H W rows and columns of the image.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from pointrend.overlays import draw_overlay, paint, shade
from pointrend.points import Size, upsample
from pointrend.predict import class_infos
from pointrend.regions import Segments, regions, to_tensor
from pointrend.semantic import SemanticSegmenter, extent_of
from pointrend.semantic_inference import CoarsePrediction
from pointrend.steps import ClassGrid, class_grids, image_panels, image_steps
from pointrend.ui.pictures import Picture, Window, enlarged, reduced
from pointrend.ui.views import (
    Choice,
    Details,
    Overlay,
    Panel,
    clock,
    css_color,
    point_count,
    side_by_side,
    step_text,
)

#: Larger pictures are made smaller: all steps of the subdivision are kept, of which the last has every pixel.
MAX_PIXELS = 2**21
#: The side of the enlarged square, as a share of the image's shorter side, and at least in pixels.
SHARE, LEAST = 0.35, 48
STEP_PANEL = 360


class SemanticView:
    """One pass of a semantic model over one picture. The steps of the points that were last asked for are kept."""

    @torch.inference_mode()
    def __init__(self, model: SemanticSegmenter, picture: Picture) -> None:
        self.model = model
        height, width = picture.pixels.shape[:2]
        shrink = min(1.0, (MAX_PIXELS / (height * width)) ** 0.5)
        self.pixels = reduced(picture.pixels, int(max(height, width) * shrink))
        self.shown = picture.shown
        self.size: Size = (self.pixels.shape[0], self.pixels.shape[1])
        self.remark = (
            f"segmented at {self.size[1]} x {self.size[0]}, because the picture has {width * height / 1e6:.0f} million "
            "pixels; `pointrend predict` segments every pixel"
            if self.size != (height, width)
            else None
        )
        self.classes = class_infos(model)
        self.device = next(model.parameters()).device
        image = to_tensor(self.pixels).to(self.device)
        begun = clock(self.device)
        coarse = model.coarse_prediction([image])
        self.seconds = clock(self.device) - begun
        head = model.pointrend
        features = {} if head is None else {head.fine_level: coarse.features[head.fine_level]}
        self.coarse: CoarsePrediction = coarse._replace(features=features)
        self.before = self._at_pixels(coarse.logits[0])
        self.rendered: tuple[int, list[ClassGrid], Tensor, float] | None = None

    def _at_pixels(self, logits: Tensor) -> Tensor:
        """The classes (H, W) of the image's pixels from logits (K, h, w), interpolated."""
        full = upsample(logits[None].float(), extent_of(self.coarse.logits, self.coarse.stride))
        return full[0, :, : self.size[0], : self.size[1]].argmax(0).byte().cpu()

    def _render(self, points: int) -> tuple[list[ClassGrid], Tensor, float]:
        """The steps with so many points, the classes after the step to stride 4 at the image's pixels, seconds."""
        if self.rendered is None or self.rendered[0] != points:
            if self.model.pointrend is None:
                begun = clock(self.device)
                grids = [ClassGrid(self.model.render(self.coarse)[0].argmax(0).byte().cpu(), torch.zeros(0, 2))]
                self.rendered = (points, grids, self.before, clock(self.device) - begun)
            else:
                begun = clock(self.device)
                self.model.render(self.coarse, points)
                seconds = clock(self.device) - begun
                steps = image_steps(self.model, self.coarse, points)
                halfway = self._at_pixels(steps[(len(steps) - 1) // 2].logits)
                self.rendered = (points, class_grids(steps), halfway, seconds)
        return self.rendered[1:]

    def found(self) -> dict[str, Any]:
        return {"objects": [], "seconds": self.seconds, "remark": self.remark}

    @torch.inference_mode()
    def overlay(self, choice: Choice) -> Overlay:
        grids, _, seconds = self._render(choice.points)
        classes = grids[-1].classes[: self.size[0], : self.size[1]]
        height, width = self.shown.shape[:2]
        fitted = np.array(Image.fromarray(classes.numpy()).resize((width, height), Image.Resampling.NEAREST))
        everything = tuple(range(len(self.classes)))
        segments = Segments((height, width), torch.from_numpy(fitted).short(), everything)
        drawn = draw_overlay(self.shown, segments, self.classes, legend=False)
        present, counts = classes.unique(return_counts=True)
        listed = [
            {"name": self.classes[index].name, "share": count / classes.numel(), "color": css_color(shade(index, 0))}
            for count, index in sorted(zip(counts.tolist(), present.tolist(), strict=True), reverse=True)
        ]
        what = f"{side_by_side(self.size)} pixels from {self._cells()} cells"
        return Overlay(drawn, seconds, what, listed)

    def _cells(self) -> str:
        return side_by_side((self.coarse.logits.shape[-2], self.coarse.logits.shape[-1]))

    def _window(self, place: tuple[float, float] | None, after: Tensor) -> Window:
        """A square around a place; without one around where the steps changed most, or most classes meet."""
        height, width = self.size
        side = min(height, width, max(LEAST, round(SHARE * min(height, width))))
        if place is None:
            changed = self.before != after
            if self.model.pointrend is None:
                changed = torch.zeros_like(after, dtype=torch.bool)
                changed[:, 1:] = after[:, 1:] != after[:, :-1]
            density = F.avg_pool2d(changed[None, None].float(), side, max(1, side // 4))[0, 0]
            best = int(density.argmax())
            left, top = best % density.shape[1] * max(1, side // 4), best // density.shape[1] * max(1, side // 4)
        else:
            left = max(0, min(width - side, round(place[0] * width - side / 2)))
            top = max(0, min(height - side, round(place[1] * height - side / 2)))
        return left, top, left + side, top + side

    def _painted(self, classes: Tensor, window: Window) -> np.ndarray:
        """A part of the image with the classes (H, W) of its pixels."""
        canvas = enlarged(self.pixels, window)
        height, width = canvas.shape[:2]
        part = Image.fromarray(classes.numpy()).resize((width, height), Image.Resampling.NEAREST, box=window)
        segments = Segments((height, width), torch.from_numpy(np.array(part)).short(), tuple(range(len(self.classes))))
        for region in regions(segments):
            paint(canvas, region, shade(region.class_index, 0), 1)
        return canvas

    @torch.inference_mode()
    def details(self, choice: Choice) -> Details:
        grids, halfway, _ = self._render(choice.points)
        height, width = self.size
        after = grids[-1].classes[:height, :width]
        window = self._window(choice.place, after)
        x0, y0, x1, y1 = window
        share = (x0 / width, y0 / height, x1 / width, y1 / height)
        coarse = self._cells()
        stride = self.coarse.stride
        plain = Panel("Image", "What the network sees.", enlarged(self.pixels, window))
        first = Panel(
            f"Coarse, {coarse}",
            f"A cell for {stride} × {stride} pixels, interpolated.",
            self._painted(self.before, window),
        )
        if self.model.pointrend is None:
            return Details(
                f"This model predicts {coarse} cells for the whole picture and interpolates between them, so outlines "
                "are rounded and thin things vanish. It has no PointRend head: choose weights with one to compare.",
                [plain, first],
                window=share,
            )
        cells = [grid.classes.shape for grid in grids]
        middle = cells[(len(grids) - 1) // 2]
        panels = [
            plain,
            first,
            Panel(side_by_side(middle), "Halfway: outlines appear.", self._painted(halfway, window)),
            Panel(f"PointRend, {side_by_side(self.size)}", "Every pixel.", self._painted(after, window)),
        ]
        moved = float((self.before != after).float().mean())
        predicted = sum(len(grid.points) for grid in grids)
        summary = point_count(predicted, cells[-1][0] * cells[-1][1])
        summary += f" Of the picture's pixels {moved:.1%} changed their class."
        steps = [
            Panel(side_by_side(size), step_text(len(grid.points), size[0] * size[1]), image)
            for size, grid, image in zip(
                cells, grids, image_panels(self.pixels, grids, STEP_PANEL, window), strict=True
            )
        ]
        return Details(summary, panels, steps, share)
