"""DeepLabV3 and SemanticFPN, with and without PointRend: Section 5 and Appendix B of the paper."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pointrend.semantic
from pointrend import SemanticSegmenter, build_model
from pointrend.points import grid_points
from pointrend.semantic import SemanticPointRend, mean_cross_entropy, sample_labels
from pointrend.semantic_inference import render_coarse
from pointrend.specs import PAPER_POINTS_PER_STEP, PAPER_SAMPLING, PAPER_SEMANTIC_SAMPLING

PLAIN = ("deeplabv3_tiny", "semantic_fpn_tiny")
POINTREND = tuple(f"pointrend_{name}" for name in PLAIN)
SIZES = [(64, 96), (33, 47), (1, 1), (5, 70)]


def tiny(name: str, seed: int = 0, **options: Any) -> SemanticSegmenter:
    """Three classes, and predictors with opinions."""
    torch.manual_seed(seed)
    model = build_model(name, **{"num_classes": 3, **options})
    assert isinstance(model, SemanticSegmenter)
    for module, layer in model.named_modules():
        if module.endswith("predictor"):
            nn.init.normal_(layer.weight, std=1 / layer.weight[0].numel() ** 0.5)  # type: ignore[arg-type, index]
    return model


def point_rend(*args: Any, points_per_step: int = PAPER_POINTS_PER_STEP) -> SemanticPointRend:
    return SemanticPointRend(*args, sampling=PAPER_SEMANTIC_SAMPLING, points_per_step=points_per_step)


def picture(height: int, width: int, seed: int = 0) -> Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed))


def target(height: int, width: int, label: int | None = None) -> dict[str, Tensor]:
    labels = torch.arange(height * width).view(height, width) % 3 if label is None else None
    return {"labels": torch.full((height, width), label) if labels is None else labels}


@pytest.mark.parametrize("name", PLAIN + POINTREND)
class TestInference:
    @torch.inference_mode()
    def test_logits_at_each_image_s_size(self, name: str) -> None:
        out = tiny(name).eval()([picture(*size) for size in SIZES])
        assert [tuple(logits.shape) for logits in out] == [(3, *size) for size in SIZES]
        assert all(logits.isfinite().all() for logits in out)

    @torch.inference_mode()
    def test_a_coarse_prediction_is_rendered_as_often_as_one_likes(self, name: str) -> None:
        model = tiny(name).eval()
        coarse = model.coarse_prediction([picture(40, 50), picture(40, 50, seed=1)])
        for points in (3, 700):
            rendered = model.render(coarse, points)
            assert rendered.shape == (2, 3, 40, 50)
            if model.pointrend is not None:
                model.pointrend.points_per_step = points
            torch.testing.assert_close(rendered[0], model([picture(40, 50)])[0], atol=1e-4, rtol=1e-4)

    @torch.inference_mode()
    def test_an_image_does_not_see_the_others(self, name: str) -> None:
        model = tiny(name).eval()
        images = [picture(40, 50), picture(64, 32, seed=1), picture(40, 50, seed=2)]
        for image, together in zip(images, model(images), strict=True):
            torch.testing.assert_close(model([image])[0], together)

    @torch.inference_mode()
    def test_images_of_one_size_run_as_a_batch(self, name: str) -> None:
        model = tiny(name).eval()
        images = [picture(40, 50), picture(40, 50, seed=1)]
        for image, together in zip(images, model(images), strict=True):
            torch.testing.assert_close(model([image])[0], together, atol=1e-4, rtol=1e-4)

    @torch.inference_mode()
    def test_one_class(self, name: str) -> None:
        (logits,) = tiny(name, num_classes=1).eval()([picture(20, 30)])
        assert logits.shape == (1, 20, 30)

    @torch.inference_mode()
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision_on_the_cpu(self, name: str, dtype: torch.dtype) -> None:
        model = tiny(name).eval()
        single = model([picture(64, 64)])[0]
        half = model.to(dtype)([picture(64, 64)])[0]
        assert half.dtype == dtype
        assert (half.argmax(0) == single.argmax(0)).float().mean() > 0.9

    def test_gradients_can_flow_at_inference(self, name: str) -> None:
        image = picture(32, 32).requires_grad_()
        tiny(name).eval()([image])[0].square().sum().backward()
        assert image.grad is not None
        assert image.grad.abs().sum() > 0


class TestSubdivision:
    """The point head predicts the most uncertain pixels; elsewhere the coarse prediction is interpolated."""

    @staticmethod
    def constant_points(model: SemanticSegmenter) -> None:
        """Every point is of class 2, and surely so."""
        assert model.pointrend is not None
        nn.init.zeros_(model.pointrend.point_head.predictor.weight)  # type: ignore[arg-type]
        with torch.no_grad():
            model.pointrend.point_head.predictor.bias.copy_(torch.tensor([0.0, 0.0, 100.0]))  # type: ignore[union-attr, operator]

    @torch.inference_mode()
    @pytest.mark.parametrize(("name", "steps"), [(POINTREND[0], 4), (POINTREND[1], 2)])
    def test_doubles_from_the_coarse_stride_to_every_pixel(self, name: str, steps: int) -> None:
        model = tiny(name, points_per_step=7).eval()
        asked = []
        assert model.pointrend is not None
        model.pointrend.point_head.register_forward_hook(lambda _, __, logits: asked.append(logits.shape[2]))
        model([picture(64, 96)])
        assert asked == [7] * steps

    @torch.inference_mode()
    @pytest.mark.parametrize("name", POINTREND)
    def test_what_no_point_touches_is_doubled_and_doubled_again(self, name: str) -> None:
        model = tiny(name, points_per_step=2).eval()
        self.constant_points(model)
        (rendered,) = model([picture(64, 96)])
        doubled = model.coarse_logits(model.transform([picture(64, 96)]))[1]
        while doubled.shape[2] < 64:
            doubled = F.interpolate(doubled, scale_factor=2, mode="bilinear", align_corners=False)
        touched = (rendered - doubled[0]).abs().amax(0) > 1e-4
        points = (rendered == torch.tensor([0.0, 0.0, 100.0])[:, None, None]).all(0)
        assert 2 <= points.sum() <= touched.sum() < 64 * 96 / 2

    @torch.inference_mode()
    def test_as_many_points_as_pixels_predict_every_pixel(self) -> None:
        model = tiny(POINTREND[1], points_per_step=64 * 96).eval()
        self.constant_points(model)
        (logits,) = model([picture(64, 96)])
        assert torch.equal(logits, torch.tensor([0.0, 0.0, 100.0])[:, None, None].expand(3, 64, 96))

    @torch.inference_mode()
    def test_the_most_uncertain_pixels_are_where_two_classes_meet(self) -> None:
        """Class 0 gives way to class 1 from left to right: of 32 columns the eight in the middle are asked for."""
        head = point_rend("p2", 4, 3, points_per_step=32 * 8)
        coarse = torch.linspace(4, -4, 16).expand(1, 1, 16, 16)
        coarse = torch.cat((coarse, -coarse, torch.full_like(coarse, -9)), dim=1)
        nn.init.zeros_(head.point_head.predictor.weight)  # type: ignore[arg-type]
        rendered = render_coarse(head, {"p2": torch.randn(1, 4, 16, 16)}, coarse, 4, 32 * 8)
        zero = (rendered[0] == 0).all(0).nonzero()[:, 1]
        assert (zero.min(), zero.max()) == (25, 38)  # the outermost pixels of the eight are interpolated on

    @torch.inference_mode()
    def test_fine_features_are_read_at_the_same_pixels(self) -> None:
        """With a coarse map that reaches further beyond the image than res2: 20 pixels are 2 cells of 16, 5 of 4."""
        head = point_rend("res2", 2, 1)
        seen = {}
        head.point_head.register_forward_pre_hook(lambda _, args: seen.update(fine=args[0], coarse=args[1]))
        ramp = (torch.arange(5) + 0.5) * 4  # the value is the pixel
        fine = torch.stack((ramp.expand(5, 5), ramp[:, None].expand(5, 5)))[None]
        coarse = ((torch.arange(2) + 0.5) * 16).expand(1, 1, 2, 2)
        pixels = torch.tensor([[[8.0, 10.0], [12.5, 9.0], [9.0, 17.0]]])
        head.point_logits({"res2": fine}, coarse, 16, pixels / 32)
        torch.testing.assert_close(seen["fine"][0].T, pixels[0])
        torch.testing.assert_close(seen["coarse"][0, 0], pixels[0, :, 0])


@pytest.mark.parametrize("name", PLAIN + POINTREND)
class TestTraining:
    def test_losses_and_gradients(self, name: str) -> None:
        model = tiny(name)
        losses = model([picture(*size) for size in SIZES[:2]], [target(*size) for size in SIZES[:2]])
        expected = {"loss_semantic", "loss_semantic_point"} if name in POINTREND else {"loss_semantic"}
        assert losses.keys() == expected
        sum(losses.values()).backward()
        without = [key for key, value in model.named_parameters() if value.grad is None or not value.grad.any()]
        assert without == []

    def test_undecided_loss_is_the_logarithm_of_the_classes(self, name: str) -> None:
        model = build_model(name, num_classes=7)
        for loss in model([picture(64, 64)], [target(64, 64)]).values():
            assert loss.item() == pytest.approx(torch.tensor(7.0).log().item(), abs=0.1)

    def test_ignored_pixels_teach_nothing(self, name: str) -> None:
        model = tiny(name)
        losses = model([picture(32, 48)], [target(32, 48, 255)])
        assert all(loss.item() == 0 for loss in losses.values())
        sum(losses.values()).backward()
        assert not any(value.grad is not None and value.grad.any() for value in model.parameters())

    def test_learns_a_picture_by_heart(self, name: str) -> None:
        model = tiny(name)
        image = torch.zeros(3, 64, 64)
        image[:, 20:45, 10:50] = 1
        wanted = image[0].long()
        optimizer = torch.optim.Adam(model.parameters(), 1e-3)
        for _ in range(12):
            optimizer.zero_grad()
            sum(model([image], [{"labels": wanted}]).values()).backward()
            optimizer.step()
        with torch.inference_mode():
            (logits,) = model.eval()([image])
        assert (logits.argmax(0) == wanted).float().mean() > 0.9


class TestTrainingPoints:
    @pytest.fixture
    def asked(self, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
        """The labels of every cross-entropy."""
        labels: list[Tensor] = []

        def recording(logits: Tensor, wanted: Tensor) -> Tensor:
            labels.append(wanted)
            return mean_cross_entropy(logits, wanted)

        monkeypatch.setattr(pointrend.semantic, "mean_cross_entropy", recording)
        return labels

    @pytest.mark.parametrize(("size", "points"), [((768, 768), 2304), ((512, 1024), 2048)])
    def test_as_many_as_a_stride_16_map_has(self, size: tuple[int, int], points: int, asked: list[Tensor]) -> None:
        """The numbers of Section 5, of DeepLabV3's and SemanticFPN's crops."""
        head = point_rend("p2", 2, 3)
        features = {"p2": torch.zeros(1, 2, size[0] // 4, size[1] // 4)}
        coarse = torch.randn(1, 3, size[0] // 16, size[1] // 16)
        head.loss(features, coarse, 16, torch.zeros(1, *size, dtype=torch.int64), [size])
        assert asked[0].shape == (1, points)

    def test_sampling_can_be_given(self, asked: list[Tensor]) -> None:
        tiny(POINTREND[1], sampling=replace(PAPER_SAMPLING, num_points=11))([picture(64, 64)] * 2, [target(64, 64)] * 2)
        assert asked[1].shape == (2, 11)

    @pytest.mark.parametrize("name", POINTREND)
    def test_none_lies_beyond_its_image(self, name: str, asked: list[Tensor]) -> None:
        sizes = [(64, 20), (30, 90)]
        tiny(name)([picture(*size) for size in sizes], [target(*size, 1) for size in sizes])
        dense, points = asked
        assert (dense == 255).any()
        assert (points == 1).all()

    def test_labels_are_those_of_the_pixels_that_points_lie_in(self) -> None:
        labels = torch.arange(12).view(1, 3, 4)
        assert torch.equal(sample_labels(labels, grid_points((3, 4))[None] * torch.tensor([4, 3])), labels.flatten(1))
        points = torch.tensor([[[0.0, 0.0], [3.99, 0.99], [0.5, 2.999], [4.0, 3.0]]])
        assert sample_labels(labels, points).tolist() == [[0, 3, 8, 11]]

    def test_two_classes_that_meet_draw_points_to_their_border(self, monkeypatch: pytest.MonkeyPatch) -> None:
        head = point_rend("p2", 2, 2)
        coarse = torch.linspace(9, -9, 32).expand(1, 1, 32, 32)
        seen: list[Tensor] = []

        def recording(labels: Tensor, points: Tensor) -> Tensor:
            seen.append(points)
            return sample_labels(labels, points)

        monkeypatch.setattr(pointrend.semantic, "sample_labels", recording)
        head.loss(
            {"p2": torch.zeros(1, 2, 128, 128)},
            torch.cat((coarse, -coarse), dim=1),
            16,
            torch.zeros(1, 512, 512, dtype=torch.int64),
            [(512, 512)],
        )
        # This third of the width holds a third of the 3 N candidates, more than the 0.75 N to choose from them.
        near = ((seen[0][..., 0] - 256).abs() < 512 / 6).float().mean().item()
        assert near == pytest.approx(0.75 + 0.25 / 3, abs=0.05)


class TestMeanCrossEntropy:
    def test_by_hand(self) -> None:
        logits = torch.tensor([[[0.0, 3.0], [0.0, 0.0]]])
        assert mean_cross_entropy(logits, torch.tensor([[0, 255]])).item() == pytest.approx(0.693147, abs=1e-5)

    def test_nothing_to_average(self) -> None:
        logits = torch.randn(1, 3, 4, requires_grad=True)
        loss = mean_cross_entropy(logits, torch.full((1, 4), 255))
        loss.backward()
        assert loss.item() == 0
        assert logits.grad is not None
        assert not logits.grad.any()


class TestOutputStride:
    """Table 6, second row."""

    @torch.inference_mode()
    def test_twice_the_resolution_with_the_same_weights(self) -> None:
        model = tiny("deeplabv3_tiny").eval()
        batch = model.transform([picture(64, 96)])
        before = {name: value.clone() for name, value in model.state_dict().items()}
        assert model.coarse_logits(batch)[1].shape == (1, 3, 4, 6)
        model.set_output_stride(8)
        assert model.coarse_logits(batch)[1].shape == (1, 3, 8, 12)
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert model([picture(64, 96)])[0].shape == (3, 64, 96)

    @torch.inference_mode()
    @pytest.mark.parametrize("name", ["deeplabv3_tiny", "pointrend_deeplabv3_tiny"])
    def test_built_so_or_set_so(self, name: str) -> None:
        one, other = tiny(name, output_stride=8).eval(), tiny(name).eval()
        other.set_output_stride(8)
        assert torch.equal(one([picture(40, 60)])[0], other([picture(40, 60)])[0])

    def test_back_again(self) -> None:
        model = tiny("deeplabv3_tiny").eval()
        with torch.inference_mode():
            (before,) = model([picture(40, 60)])
            model.set_output_stride(8)
            model.set_output_stride(16)
            assert torch.equal(model([picture(40, 60)])[0], before)

    def test_refuses(self) -> None:
        with pytest.raises(ValueError, match="output_stride is 4, expected 8 or 16"):
            tiny("deeplabv3_tiny").set_output_stride(4)
        with pytest.raises(ValueError, match="only DeepLabV3"):
            tiny("semantic_fpn_tiny").set_output_stride(8)


class TestErrors:
    def test_no_targets(self) -> None:
        with pytest.raises(ValueError, match="training needs targets"):
            tiny("deeplabv3_tiny")([picture(32, 32)])

    def test_no_images(self) -> None:
        with pytest.raises(ValueError, match="empty"):
            tiny("deeplabv3_tiny").eval()([])

    @pytest.mark.parametrize("labels", [torch.zeros(30, 32).long(), torch.zeros(32, 32)])
    def test_labels_of_another_size_or_type(self, labels: Tensor) -> None:
        with pytest.raises(ValueError, match=r"labels of image 1 are .*expected int64 .*32, 32"):
            tiny("deeplabv3_tiny")([picture(32, 32)] * 2, [target(32, 32), {"labels": labels}])

    @pytest.mark.parametrize("label", [3, 254, 256, -1])
    def test_a_label_that_is_no_class(self, label: int) -> None:
        wanted = target(32, 32)
        wanted["labels"][5, 7] = label
        with pytest.raises(ValueError, match=f"hold {label}, expected classes 0 to 2, or 255"):
            tiny("semantic_fpn_tiny")([picture(32, 32)], [wanted])

    @pytest.mark.parametrize("training", [True, False])
    def test_nan_in_an_image(self, training: bool) -> None:
        images = [picture(32, 32), picture(20, 32)]
        images[1][1, 5, 5] = torch.nan
        with pytest.raises(ValueError, match=r"image 1, of shape .* holds NaN"):
            tiny("pointrend_semantic_fpn_tiny").train(training)(images, [target(32, 32), target(20, 32)])

    @pytest.mark.parametrize(
        ("name", "broken", "message"),
        [
            ("deeplabv3_tiny", "head.predictor.bias", "the coarse prediction"),
            ("pointrend_deeplabv3_tiny", "head.predictor.bias", "the coarse prediction"),
            (
                "pointrend_semantic_fpn_tiny",
                "backbone.fpn.layer_blocks.0.0.weight",
                "coarse prediction|feature map 'p2'",
            ),
        ],
    )
    def test_nan_in_features(self, name: str, broken: str, message: str) -> None:
        model = tiny(name).eval()
        nn.init.constant_(model.get_parameter(broken), torch.nan)
        with torch.inference_mode(), pytest.raises(ValueError, match=message):
            model([picture(40, 40)])

    def test_nan_in_fine_features_alone(self) -> None:
        head = point_rend("p2", 2, 3)
        with pytest.raises(ValueError, match="feature map 'p2'"):
            render_coarse(head, {"p2": torch.full((1, 2, 8, 8), torch.nan)}, torch.randn(1, 3, 8, 8), 4, 10)
