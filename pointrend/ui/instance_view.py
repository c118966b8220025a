"""The page's view of an instance model: objects, and one of them from coarse to fine.

Shape letters: R regions, M the side of a region mask, H W rows and columns.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pointrend.instance import MaskRCNN, PointRendMaskHead
from pointrend.instance_inference import Detections
from pointrend.overlays import BACKGROUND, draw_overlay, outline, shade
from pointrend.points import Size, upsample
from pointrend.predict import class_infos, network_input
from pointrend.regions import Instances, regions
from pointrend.specs import FOUR_CONV_SIDE, Rendering
from pointrend.steps import Grid, object_panels, object_steps
from pointrend.subdivision import num_point_predictions
from pointrend.ui.pictures import Picture, Window, enlarged, scaled
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
from pointrend.wording import counted

#: How much of the surroundings of a box is shown, as a share of its longer side.
MARGIN = 0.08
#: The longer side of a step's panel in pixels.
STEP_PANEL = 360
#: The contour of a cut-out in pixels, and how much of its surroundings is replaced by the background.
CONTOUR, CONTOUR_COLOUR, DIMMED = 2, (255, 255, 255), 0.78


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
        drawn = draw_overlay(shown, instances, self.classes, legend=False)
        size = side_by_side((masks.shape[-1], masks.shape[-1]))
        return Overlay(drawn, seconds, f"{counted(len(masks), 'mask')} of {size}")

    def _window(self, index: int) -> Window:
        """A box and some of its surroundings, within the image."""
        x0, y0, x1, y1 = self.boxes[index]
        margin = MARGIN * max(x1 - x0, y1 - y0)
        height, width = self.size
        return max(0, x0 - margin), max(0, y0 - margin), min(width, x1 + margin), min(height, y1 + margin)

    def _cut_out(self, index: int, probabilities: Tensor) -> np.ndarray:
        """An object cut out with its mask (M, M), pasted as into images, before dimmed surroundings."""
        x0, y0, x1, y1 = self._window(index)
        canvas = enlarged(self.picture.pixels, (x0, y0, x1, y1))
        height, width = canvas.shape[:2]
        box = torch.tensor([self.boxes[index]]) - torch.tensor([x0, y0, x0, y0])
        box *= torch.tensor([width / (x1 - x0), height / (y1 - y0)] * 2)
        labels, scores = torch.tensor([self.labels[index]]), torch.tensor([self.scores[index]])
        instances = Instances((height, width), box, labels, scores, probabilities.float().cpu()[None])
        (region,) = regions(instances)
        rows, columns = slice(region.top, None), slice(region.left, None)
        dimmed = (canvas * (1 - DIMMED) + np.array(BACKGROUND) * DIMMED).astype(np.uint8)
        mask = region.mask.numpy()
        view = dimmed[rows, columns][: mask.shape[0], : mask.shape[1]]
        original = canvas[rows, columns][: mask.shape[0], : mask.shape[1]]
        view[mask] = original[mask]
        view[outline(region.mask, CONTOUR).numpy()] = CONTOUR_COLOUR
        return dimmed

    @torch.inference_mode()
    def details(self, choice: Choice) -> Details:
        index = choice.index
        if not 0 <= index < len(self.boxes):
            raise ValueError(f"there is no object {index + 1}; {len(self.boxes)} were found")
        plain = Panel("Image", "What the network sees.", enlarged(self.picture.pixels, self._window(index)))
        name = self.classes[self.labels[index]].name
        if not isinstance(self.model.mask_head, PointRendMaskHead):
            mask = self.model.region_masks(self._chosen(torch.tensor([index], device=self.device)))[0][0, 0]
            size = side_by_side((mask.shape[-1], mask.shape[-1]))
            return Details(
                f"The mask of this {name} has {size} cells, however large the object is in the picture. Choose weights "
                "with PointRend to compare.",
                [plain, Panel(size, "Mask R-CNN's usual mask.", self._cut_out(index, mask))],
            )
        # The 28x28 mask is shown beside a coarser one, too.
        finest = max(choice.resolution, FOUR_CONV_SIDE)
        grids = object_steps(self.model, self.detections, index, Rendering(finest, choice.points))
        steps = [grid for grid in grids if grid.logits.shape[-1] <= choice.resolution]
        return Details(
            self._summary(name, steps, choice), [plain, *self._panels(index, grids, choice)], self._steps(index, steps)
        )

    def _panels(self, index: int, grids: Sequence[Grid], choice: Choice) -> list[Panel]:
        """The object cut out with the coarse mask, with one as fine as usual, and with the chosen one."""
        masks = {grid.logits.shape[-1]: grid.logits[0].sigmoid() for grid in grids}
        texts = {
            choice.resolution: "Computed again only where it matters: along the outline.",
            FOUR_CONV_SIDE: "As fine as Mask R-CNN's usual masks.",
            grids[0].logits.shape[-1]: "The first guess: where the object roughly is.",
        }
        return [
            Panel(
                ("PointRend, " if side > FOUR_CONV_SIDE else "") + side_by_side((side, side)),
                text,
                self._cut_out(index, masks[side]),
            )
            for side, text in sorted(texts.items())
        ]

    def _steps(self, index: int, steps: Sequence[Grid]) -> list[Panel]:
        """The object's box with the cells and the points of each step."""
        x0, y0, x1, y1 = box = self.boxes[index]
        height, width = scaled((y1 - y0, x1 - x0), STEP_PANEL)
        drawn = object_panels(self.picture.pixels, box, steps, self.colours[index], (width, height))
        sides = [step.logits.shape[-1] for step in steps]
        return [
            Panel(side_by_side((side, side)), step_text(len(step.points), side**2), image)
            for side, step, image in zip(sides, steps, drawn, strict=True)
        ]

    def _summary(self, name: str, steps: Sequence[Grid], choice: Choice) -> str:
        """How many points the mask took, and how much of it they changed."""
        sides = [step.logits.shape[-1] for step in steps]
        if len(sides) == 1:
            return f"This {name} as it is guessed first. Move the slider of the resolution to the right to refine it."
        # As the model renders: of the grids that are predicted as a whole, the last makes the others superfluous.
        dense = sum(side**2 <= choice.points for side in sides[1:])
        predicted = num_point_predictions([(side, side) for side in sides[1:][max(0, dense - 1) :]], choice.points)
        final = steps[-1].logits[None] >= 0
        changes = []
        for step, side in zip(steps, sides, strict=True):
            if side == sides[0] or (side == FOUR_CONV_SIDE < sides[-1]):
                changed = (upsample(step.logits[None], (sides[-1], sides[-1])) >= 0) != final
                changes.append(f"from the {side_by_side((side, side))} one in {float(changed.float().mean()):.1%}")
        return (
            f"The mask of this {name}: {point_count(predicted, sides[-1] ** 2)} It differs {' and '.join(changes)} of "
            "the box's area."
        )
