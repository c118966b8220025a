"""Settings as flat parameters, by which runs are compared in MLflow. What a run does not have is left out."""

from pipeline.config.evaluations import EvaluationSetting, RenderingConfig
from pipeline.config.experiments import RunConfig
from pipeline.config.models import InstanceModelConfig
from pointrend.specs import MODELS


def run_parameters(config: RunConfig) -> dict[str, str]:
    """The parameters of a training; the two ratios only where points are sampled by uncertainty."""
    network, sampling = config.model, config.sampling
    if isinstance(network, InstanceModelConfig):
        head = "PointRend" if network.has_point_head else "4xconv"
        _, _, backbone = network.name.partition("_rcnn_" if network.has_point_head else "_")
        train_size = "-".join(map(str, sorted({min(network.train_min_sizes), max(network.train_min_sizes)})))
        sizes = {"train_size": train_size, "test_size": str(network.test_min_size)}
    else:
        head = f"{network.architecture} + PointRend" if network.has_point_head else network.architecture
        backbone = MODELS[network.name].backbone
        sizes = {"train_size": "x".join(map(str, network.crop_size))}
    parameters = {
        "dataset": config.dataset,
        "head": head,
        "backbone": backbone,
        "seed": str(config.seed),
        "batch_size": str(config.schedule.batch_size),
        "updates": str(config.schedule.updates),
        "learning_rate": str(config.schedule.learning_rate),
        "precision": config.schedule.precision,
        "norm": network.norm,
        **sizes,
    }
    if sampling is not None:
        parameters |= {"sampling": sampling.strategy, "train_points": str(sampling.num_points)}
        if sampling.strategy == "biased":
            parameters["oversample_ratio"] = f"{sampling.oversample_ratio:g}"
            parameters["importance_sample_ratio"] = f"{sampling.importance_sample_ratio:g}"
    if config.train != "all":
        parameters["train"] = config.train
    if config.point_head_size is not None:
        layers, channels = config.point_head_size
        parameters |= {"point_layers": str(layers), "point_channels": str(channels)}
    return parameters


def setting_parameters(setting: EvaluationSetting) -> dict[str, str]:
    """The parameters of an evaluation, beside those of its training."""
    if isinstance(setting, RenderingConfig):
        own = {"resolution": setting.resolution, "subdivision_points": setting.num_points}
    else:
        own = {"output_stride": setting.output_stride, "subdivision_points": setting.num_points}
    return {key: str(value) for key, value in own.items() if value}
