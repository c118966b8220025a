"""The page's view of an instance model: objects, and one of them from coarse to fine.

Shape letters: R regions, M the side of a region mask, H W rows and columns.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pointrend.instance import MaskRCNN, PointRendMaskHead
from pointrend.instance_inference import Detections
from pointrend.overlays import draw_overlay, paint, shade
from pointrend.points import Size
from pointrend.predict import class_infos, network_input
from pointrend.regions import Instances, regions
from pointrend.specs import FOUR_CONV_SIDE, Rendering
from pointrend.steps import object_panels, object_steps
from pointrend.subdivision import num_point_predictions
from pointrend.ui.pictures import Picture, Window, enlarged
from pointrend.ui.views import Choice, Details, Overlay, Panel, clock, css_color, step_text, times_fewer

#: How much of the surroundings of a box is shown, as a share of its longer side.
MARGIN = 0.08
#: The longer side of a step's panel in pixels.
STEP_PANEL = 360
CONTOUR = 3


class InstanceView:
    """One pass of a detector over one picture."""

    @torch.inference_mode()
    def __init__(self, model: MaskRCNN, picture: Picture) -> None:
        self.model, self.picture = model, picture
        self.size: Size = (picture.pixels.shape[0], picture.pixels.shape[1])
        self.classes = class_infos(model)
        self.device = next(model.parameters()).device
        image = network_input(model, picture.pixels)
        begun = clock(self.device)
        found = model.detect([image])
        self.seconds = clock(self.device) - begun
        found.original_sizes = [self.size]
        head = model.mask_head
        if isinstance(head, PointRendMaskHead):  # the other levels are not used again
            found.features = {head.fine_level: found.features[head.fine_level]}
        self.detections = found
        self.boxes: list[Window] = [(x0, y0, x1, y1) for x0, y0, x1, y1 in found.original_boxes()[0].tolist()]
        self.labels = (found.labels[0] - 1).tolist()
        self.scores = found.scores[0].float().tolist()
        # As in overlays: objects of one class have shades in order of scores.
        self.colours = [shade(label, self.labels[:index].count(label)) for index, label in enumerate(self.labels)]

    def found(self) -> dict[str, Any]:
        height, width = self.size
        objects = [
            {
                "name": self.classes[label].name,
                "score": score,
                "box": [box[0] / width, box[1] / height, box[2] / width, box[3] / height],
                "color": css_color(colour),
            }
            for label, score, box, colour in zip(self.labels, self.scores, self.boxes, self.colours, strict=True)
        ]
        return {"objects": objects, "seconds": self.seconds}

    def _chosen(self, kept: Tensor) -> Detections:
        """Some of the detections."""
        found = self.detections
        boxes, labels, scores = found.boxes[0][kept], found.labels[0][kept], found.scores[0][kept]
        return replace(found, boxes=[boxes], labels=[labels], scores=[scores])

    @torch.inference_mode()
    def overlay(self, choice: Choice) -> Overlay:
        found = self._chosen((self.detections.scores[0] >= choice.score).nonzero()[:, 0])
        has_pointrend = isinstance(self.model.mask_head, PointRendMaskHead)
        rendering = Rendering(choice.resolution, choice.points) if has_pointrend else None
        begun = clock(self.device)
        masks = self.model.region_masks(found, rendering)[0][:, 0]
        seconds = clock(self.device) - begun
        shown = self.picture.shown
        found.original_sizes = [(shown.shape[0], shown.shape[1])]
        instances = Instances(
            found.original_sizes[0],
            found.original_boxes()[0].cpu(),
            found.labels[0].cpu() - 1,
            found.scores[0].float().cpu(),
            masks.float().cpu(),
        )
        drawn = draw_overlay(shown, instances, self.classes)
        side, count = masks.shape[-1], len(masks)
        what = f"{count} mask{'s' if count != 1 else ''} of {side} × {side}"
        return Overlay(drawn, round(shown.shape[0] * drawn.shape[1] / shown.shape[1]), seconds, what)

    def _window(self, index: int) -> Window:
        """A box and some of its surroundings, within the image."""
        x0, y0, x1, y1 = self.boxes[index]
        margin = MARGIN * max(x1 - x0, y1 - y0)
        height, width = self.size
        return max(0, x0 - margin), max(0, y0 - margin), min(width, x1 + margin), min(height, y1 + margin)

    def _painted(self, index: int, probabilities: Tensor) -> np.ndarray:
        """The surroundings of an object with its mask (M, M), pasted as it is pasted into images."""
        x0, y0, x1, y1 = self._window(index)
        canvas = enlarged(self.picture.pixels, (x0, y0, x1, y1))
        height, width = canvas.shape[:2]
        box = torch.tensor([self.boxes[index]]) - torch.tensor([x0, y0, x0, y0])
        box *= torch.tensor([width / (x1 - x0), height / (y1 - y0)] * 2)
        labels, scores = torch.tensor([self.labels[index]]), torch.tensor([self.scores[index]])
        instances = Instances((height, width), box, labels, scores, probabilities.float().cpu()[None])
        for region in regions(instances):
            paint(canvas, region, self.colours[index], CONTOUR)
        return canvas

    @torch.inference_mode()
    def details(self, choice: Choice) -> Details:
        index = choice.index
        if not 0 <= index < len(self.boxes):
            raise ValueError(f"there is no object {index + 1}; {len(self.boxes)} were found")
        plain = Panel("Image", "What the network sees.", enlarged(self.picture.pixels, self._window(index)))
        name = self.classes[self.labels[index]].name
        if not isinstance(self.model.mask_head, PointRendMaskHead):
            mask = self.model.region_masks(self._chosen(torch.tensor([index], device=self.device)))[0][0, 0]
            side = mask.shape[-1]
            usual = Panel(f"{side} × {side}", "Mask R-CNN's usual mask.", self._painted(index, mask))
            return Details(
                f"The mask of this {name} has {side} × {side} cells, however large the object is in the picture. This "
                "head cannot draw it finer: choose weights with PointRend to compare.",
                [plain, usual],
            )
        # The 28x28 mask is shown beside a coarser one, too.
        finest = max(choice.resolution, FOUR_CONV_SIDE)
        grids = object_steps(self.model, self.detections, index, Rendering(finest, choice.points))
        masks = {grid.logits.shape[-1]: self._painted(index, grid.logits[0].sigmoid()) for grid in grids}
        coarse = grids[0].logits.shape[-1]
        texts = {
            choice.resolution: "Drawn finer only where it matters: along the outline.",
            FOUR_CONV_SIDE: "As fine as Mask R-CNN's usual masks.",
            coarse: "The first guess: where the object roughly is.",
        }
        panels = [
            Panel(f"PointRend, {side} × {side}" if side > FOUR_CONV_SIDE else f"{side} × {side}", text, masks[side])
            for side, text in sorted(texts.items())
        ]
        steps = [grid for grid in grids if grid.logits.shape[-1] <= choice.resolution]
        sides = [grid.logits.shape[-1] for grid in steps]
        box = self.boxes[index]
        scale = STEP_PANEL / max(box[2] - box[0], box[3] - box[1])
        size = (max(1, round((box[2] - box[0]) * scale)), max(1, round((box[3] - box[1]) * scale)))
        drawn = object_panels(self.picture.pixels, box, steps, self.colours[index], size)
        dense = sum(side**2 <= choice.points for side in sides[1:])
        predicted = num_point_predictions([(side, side) for side in sides[1:][max(0, dense - 1) :]], choice.points)
        summary = f"This {name} at {choice.resolution} × {choice.resolution}: "
        if len(sides) == 1:
            summary += "the coarse prediction alone. Move the slider to the right to refine it."
        else:
            summary += times_fewer(predicted, choice.resolution**2)
        return Details(
            summary,
            [plain, *panels],
            [
                Panel(f"{side} × {side}", step_text(len(step.points), side**2), image)
                for side, step, image in zip(sides, steps, drawn, strict=True)
            ],
        )
