"""What a user may have meant by a name that catdog does not have: a typing error, or the name that another tool uses."""

import re
from collections.abc import Iterable
from pathlib import Path

# Keys that have been renamed, and what to write instead.
MOVED_KEYS = {
    "trainer.optimizer": "optimizer=NAME, a group of its own: optimizer=adamw",
    "speed.late_relu": "speed.relu_after_pooling",
    "tracking.spool": "tracking.outbox",
}

# What users of Keras, Lightning, timm, Hugging Face and YOLO type, by the key that catdog has for it.
FOREIGN_NAMES = {
    "trainer.learning_rate": "lr init_lr initial_lr base_lr lr0 initial_learning_rate",
    "trainer.epochs": "max_epochs num_epochs n_epochs num_train_epochs nb_epochs nb_epoch train_epochs n_epoch",
    "trainer.batch_size": "bs batch train_batch_size per_device_train_batch_size minibatch_size",
    "trainer.schedule": "sched scheduler lr_scheduler lr_schedule lr_scheduler_type decay_schedule",
    "trainer.warmup_epochs": "warmup warmup_steps num_warmup_steps warmup_ratio",
    "trainer.patience": "early_stopping early_stop early_stopping_patience patience_epochs",
    "trainer.precision": "amp mixed_precision fp16 bf16 dtype half torch_dtype dtype_policy",
    "trainer.devices": "accelerator device gpus gpu num_gpus n_gpus num_devices strategy",
    "trainer.ema": "model_ema model_ema_decay ema_decay ema_momentum use_ema swa stochastic_weight_avg",
    "trainer.average_flips": "tta test_time_augmentation flip_tta hflip_tta tta_flip augment_test",
    "trainer.backbone_rate": "backbone_lr encoder_lr layer_decay lr_mult",
    "trainer.jit": "jit_compile compile torchcompile torch_compile xla",
    "trainer.class_weights": "class_weight",
    "trainer.keep": "save_best_only load_best_model_at_end",
    "trainer.keep_metric": "checkpoint_metric metric_for_best_model",
    "optimizer": "opt optim optimizer_name opt_name",
    "optimizer.weight_decay": "wd decay",
    "optimizer.betas": "beta_1 beta_2 beta1 beta2 opt_betas adam_beta1 adam_beta2",
    "optimizer.epsilon": "eps opt_eps adam_epsilon",
    "optimizer.global_clipnorm": "gradient_clip_val clip_grad clip_grad_norm max_grad_norm grad_clip gradient_clipping",
    "optimizer.options.gradient_accumulation_steps": "gradient_accumulation_steps accumulate_grad_batches grad_accum_steps",
    "loss": "criterion loss_fn loss_function",
    "loss.label_smoothing": "smoothing label_smoothing_factor",
    "head.dropout": "drop drop_rate dropout_rate",
    "head.units": "hidden_units hidden_size dense_units",
    "head.pooling": "pool global_pool gp",
    "preprocessing.image_size": "img_size imgsz input_size resolution crop_size target_size input_shape resize",
    "preprocessing": "normalize normalization rescale mean std",
    "augmentation.mix.mixup": "mixup_alpha",
    "augmentation.mix.cutmix": "cutmix_alpha",
    "augmentation.mix.probability": "mixup_prob cutmix_prob",
    "augmentation": "aug augment augmentations transform transforms data_augmentation aa auto_augment hflip vflip color_jitter",
    "model": "arch architecture net network model_name",
    "backbone": "base_model encoder feature_extractor",
    "backbone.weights": "pretrained checkpoint_path initial_checkpoint pretrained_weights",
    "backbone.trainable_layers": "freeze freeze_backbone frozen trainable unfreeze fine_tune",
    "dataset.archive": "data data_dir data_path dataset_path dataset_dir data_root train_dir image_dir images folder",
    "dataset.holdout_fraction": "val_split validation_split val_fraction val_size valid_size",
    "dataset.test_fraction": "test_split test_size",
    "dataset.max_images_per_class": "limit_train_batches max_samples max_train_samples fast_dev_run overfit_batches subset",
    "dataset.split_seed": "split_random_state",
    "seed": "seed_everything random_state random_seed manual_seed rng_seed seeds",
    "study": "experiment_name exp_name project run_name exp",
    "tracking.uri": "logger log_dir logdir tracking_uri mlflow_uri default_root_dir output_dir save_dir wandb tensorboard",
    "hydra.launcher.n_jobs": "n_jobs jobs parallel num_processes",
    "hydra.launcher.plan_only": "dry_run dryrun",
}  # fmt: skip
# What these keys take, where it is not what the other tool takes.
REMARKS = {
    "trainer.schedule": "It is constant or cosine.",
    "trainer.patience": "It is a number of epochs.",
    "trainer.precision": "It is auto, float32, mixed_float16 or mixed_bfloat16.",
    "trainer.jit": "It is auto, always or never.",
    "trainer.class_weights": "It is none, balanced or {CLASS: WEIGHT}.",
    "trainer.ema": "It is the decay of the moving average, such as 0.99.",
    "trainer.average_flips": "It is true or false.",
    "trainer.backbone_rate": "It is a factor of the learning rate.",
    "trainer.warmup_epochs": "It counts epochs.",
    "trainer.devices": "It is one or all; CUDA_VISIBLE_DEVICES=-1 in the environment means the CPU.",
    "optimizer.betas": "It takes both: optimizer.betas=[0.9,0.999].",
    "backbone.weights": "It is imagenet, null or a weights file; model=mobilenet has a pre-trained backbone.",
    "backbone.trainable_layers": "It is 0 (frozen), all, or N for the last N layers.",
    "dataset.archive": "Your own images: dataset=folder dataset.archive=PATH.",
    "dataset.holdout_fraction": "It is the share held out of training; dataset.test_fraction of it becomes test, the rest val.",
    "dataset.test_fraction": "It is a share of the images held out of training.",
    "tracking.uri": "Runs are recorded in MLflow.",
    "trainer.keep": "It is best or last.",
    "seed": "Several seeds are a sweep: -m seed=0,1,2.",
}

# What those users look for and catdog does not have, and what to do instead.
_BLOCKS = "A Residual block of a backbone has it: drop (docs/ingredients.md)."
_SEARCH = (
    "catdog does not search for values by itself; -m sweeps those you list: -m trainer.learning_rate=0.001,0.0003."
)
_STEPS = "Training is counted in whole epochs: trainer.epochs."
_SCHEDULES = "The schedules are constant and cosine, which falls to 0: trainer.schedule=cosine."
MISSING = {
    **dict.fromkeys(("drop_path", "drop_path_rate", "stochastic_depth", "stochastic_depth_rate"), _BLOCKS),
    **dict.fromkeys(("n_trials", "max_trials", "num_trials", "trials", "sampler", "pruner", "search_space"), _SEARCH),
    **dict.fromkeys(("max_steps", "steps_per_epoch", "val_check_interval", "num_train_steps", "max_iter"), _STEPS),
    **dict.fromkeys(("milestones", "step_size", "lr_decay", "decay_rate", "min_lr", "eta_min", "lrf"), _SCHEDULES),
    **dict.fromkeys(
        ("num_classes", "n_classes", "nb_classes", "classes", "class_mode", "labels"),
        "There is nothing to set: the classes are the folders of the data set.",
    ),
    **dict.fromkeys(
        ("resume", "resume_from_checkpoint", "ckpt_path", "checkpoint"),
        "There is nothing to set: the same command resumes an interrupted run.",
    ),
    **dict.fromkeys(
        ("num_workers", "workers", "dataloader_num_workers", "prefetch"),
        "There is nothing to set: images are decoded once, by all CPUs.",
    ),
    **dict.fromkeys(("shuffle", "shuffle_buffer"), "There is nothing to set: each epoch has an order of its own."),
    **dict.fromkeys(
        ("monitor", "metrics", "metric"),
        "The kept epoch is the best one on val by trainer.keep_metric; trainer.keep=last keeps the last.",
    ),
    **dict.fromkeys(
        ("k_folds", "folds", "n_folds", "kfold", "cv", "n_splits"),
        "catdog has no cross-validation; it repeats a run with other seeds: -m seed=0,1,2.",
    ),
    **dict.fromkeys(("verbose", "progress_bar", "enable_progress_bar", "quiet"), "catdog has no such setting."),
}

_BY_NAME = {name: key for key, names in FOREIGN_NAMES.items() for name in names.split()}


def find_foreign(key: str) -> tuple[str, str]:
    """Returns catdog's key for the name that another tool uses, and a sentence about it; either may be "".

    Args:
        key: as typed, with or without a group: lr, optimizer.lr, max-epochs.
    """
    name = _normalize(key.rpartition(".")[2])
    if name in MISSING:
        return "", MISSING[name]
    found = _BY_NAME.get(name, "")
    return found, REMARKS.get(found, "")


def suggest_key(key: str, known: Iterable[str]) -> list[str]:
    """Returns the keys that a user may have meant, the best ones only: at most two, none if all are far from it.

    A key qualifies if it is the same in another group, differs by a few letters, or shares a word.

    Args:
        key: as typed, such as trainer.epoch.
        known: the keys that exist, such as trainer.epochs.
    """
    known = list(dict.fromkeys(known))
    name = _leaf(key)
    same = [each for each in known if _leaf(each) == name]
    if 0 < len(same) <= MOST:
        return same
    parent = key.rpartition(".")[0]
    parents = [each.rpartition(".")[0] for each in known]
    near_parent = parent if parent in parents else suggest(parent, parents)
    in_group = [each for each in known if each.rpartition(".")[0] == near_parent]
    for candidates in (in_group, known):
        near = suggest(name, map(_leaf, candidates))
        found = [each for each in candidates if _leaf(each) == near]
        if 0 < len(found) <= MOST:
            return found
    shared = {each: _share_words(name, _leaf(each)) for each in known}
    best = max(shared.values(), default=0.0)
    found = [each for each, score in shared.items() if score == best > 0]
    return found if len(found) <= MOST else []


MOST = 2


def suggest(name: str, known: Iterable[str]) -> str:
    """Returns the name that a user may have meant: the one that differs by the fewest letters, or ""."""
    typed = _normalize(name)
    by_name = {_normalize(each): each for each in known}
    squashed = {each.replace("_", ""): each for each in by_name}
    if typed.replace("_", "") in squashed:
        return by_name[squashed[typed.replace("_", "")]]
    if len(typed) < SHORTEST:
        return ""
    # A quarter of the letters, and in a short name one.
    limit = max(1, len(typed) // 4)
    distance, best = min(((_distance(typed, each), each) for each in by_name), default=(limit + 1, ""))
    return by_name[best] if distance <= limit else ""


# Among shorter names almost everything is one letter away.
SHORTEST = 3
# The shortest word whose sharing means something.
SHORTEST_WORD = 4


def suggest_path(path: Path) -> str:
    """Returns the path that a user may have meant by one that does not exist: its first missing part is replaced; or ""."""
    missing = next((each for each in reversed([path, *path.parents]) if not each.exists()), None)
    if missing is None or not missing.name:
        return ""
    try:
        names = {each.name: each for each in missing.parent.iterdir()}
    except OSError:
        return ""
    near = suggest(missing.name, [name for name in names if not name.startswith(".")])
    if not near:
        return ""
    meant = names[near] / path.relative_to(missing)
    return str(meant if meant.exists() else names[near])


def ask(found: Iterable[str]) -> str:
    """Returns " Did you mean A or B?", or "" if there is nothing to suggest."""
    names = [each for each in found if each]
    return f" Did you mean {' or '.join(names)}?" if names else ""


def _leaf(key: str) -> str:
    return _normalize(key.rpartition(".")[2])


def _normalize(name: str) -> str:
    return name.lower().replace("-", "_")


def _share_words(one: str, other: str) -> float:
    """Returns the share of words that two names have in common; 0 unless one of them is long enough to mean something."""
    first, second = set(re.split(r"[_\W]+", one)), set(re.split(r"[_\W]+", other))
    common = {word for word in first & second if len(word) >= SHORTEST_WORD}
    return len(common) / len(first | second)


def _distance(one: str, other: str) -> int:
    """Returns the number of letters to insert, delete, replace or swap with their neighbour to make one name of the other."""
    rows = [list(range(len(other) + 1))]
    for i, letter in enumerate(one, 1):
        row = [i]
        for j, wanted in enumerate(other, 1):
            cost = min(row[-1] + 1, rows[-1][j] + 1, rows[-1][j - 1] + (letter != wanted))
            if i > 1 and j > 1 and letter == other[j - 2] and one[i - 2] == wanted:
                cost = min(cost, rows[-2][j - 2] + 1)
            row.append(cost)
        rows.append(row)
    return rows[-1][-1]
