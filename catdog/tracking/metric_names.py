"""The names of the metrics that a run has once and not by epoch, and what versions before called them.

On the page of a run, MLflow puts metrics into sections by the part of their name before "/". The sections are in alphabetical
order, and metrics without "/" come last. These names have none, so that the page begins with the curves: gap, train, val.
"""

from collections.abc import Mapping

# The epoch with the highest validation accuracy, from 1, and that epoch's measurements.
BEST_EPOCH = "best_epoch"
BEST_VAL_ACCURACY = "best_val_accuracy"
BEST_VAL_LOSS = "best_val_loss"
# Metrics by epoch, and the names of their last values.
FINAL = {
    key: "final_" + key.replace("/", "_")
    for key in ("train/accuracy", "train/loss", "val/accuracy", "val/loss", "gap/accuracy")
}
# The epoch of the kept model, from 1. Its accuracy and loss on its stored predictions, where those of the epoch may differ.
KEPT_EPOCH = "kept_epoch"
KEPT_VAL_ACCURACY = "kept_val_accuracy"
KEPT_VAL_LOSS = "kept_val_loss"
# The kept model's accuracy on val without the advantage that val chose its epoch: the epoch is chosen on one half of the images and
# counted on the other. It is what comparisons go by. If the last epoch is kept, nothing was chosen, and it is the plain accuracy.
FAIR_VAL_ACCURACY = "fair_val_accuracy"
# The kept model's accuracy on the training images, without augmentation and dropout.
CLEAN_TRAIN_ACCURACY = "clean_train_accuracy"
PARAMETERS = "model_parameters"
TRAINABLE_PARAMETERS = "model_trainable_parameters"
MS_PER_IMAGE = "model_ms_per_image"
MS_PER_IMAGE_WITHOUT_FLIP = "model_ms_per_image_without_flip"

# The names in runs of versions before, and today's.
FORMER_NAMES = {
    "best/epoch": BEST_EPOCH,
    "best/val_accuracy": BEST_VAL_ACCURACY,
    "best/val_loss": BEST_VAL_LOSS,
    "final/train_accuracy": FINAL["train/accuracy"],
    "final/train_loss": FINAL["train/loss"],
    "final/val_accuracy": FINAL["val/accuracy"],
    "final/val_loss": FINAL["val/loss"],
    "final/gap_accuracy": FINAL["gap/accuracy"],
    "kept/epoch": KEPT_EPOCH,
    "kept/val_accuracy": KEPT_VAL_ACCURACY,
    "kept/val_loss": KEPT_VAL_LOSS,
    "train/accuracy_clean": CLEAN_TRAIN_ACCURACY,
    "model/parameters": PARAMETERS,
    "model/trainable_parameters": TRAINABLE_PARAMETERS,
    "model/ms_per_image": MS_PER_IMAGE,
    "model/ms_per_image_without_flip": MS_PER_IMAGE_WITHOUT_FLIP,
}


def name_export_metric(format: str, measured: str) -> str:
    """Returns the name of a metric of an exported file, such as `export_onnx_val_accuracy`."""
    return f"export_{format}_{measured}"


def rename_former(metrics: Mapping[str, float]) -> dict[str, float]:
    """Returns metrics under today's names; where both names are there, the value of today's name counts."""
    renamed = {FORMER_NAMES[key]: value for key, value in metrics.items() if key in FORMER_NAMES}
    return renamed | {key: value for key, value in metrics.items() if key not in FORMER_NAMES}
