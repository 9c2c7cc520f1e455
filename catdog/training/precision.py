"""Which device trains, in which numeric precision, and why."""

import contextlib
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from catdog.config.schema import TrainerConfig
from catdog.data.cache import count_cpus
from catdog.system.errors import UserError

# Tensor cores for float16 came with this compute capability: below it, float16 saves memory but no time.
# Source: NVIDIA, "Train With Mixed Precision", and Keras' mixed precision guide.
FLOAT16_CAPABILITY = (7, 0)
BFLOAT16_CPU_FLAGS = {"avx512_bf16", "amx_bf16"}


@dataclass(frozen=True)
class Precision:
    """A Keras dtype policy and the reason for it.

    Attributes:
        policy: float32, mixed_float16 or mixed_bfloat16.
        reason: why, in words for the log.
    """

    policy: str
    reason: str


def configure_gpus() -> list[Any]:
    """Makes GPU memory grow on demand and returns TensorFlow's physical GPUs; no GPU is an empty list."""
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        # Refused once the GPU is in use, by an earlier run in this process: the setting is in force by then.
        with contextlib.suppress(RuntimeError):
            tf.config.experimental.set_memory_growth(gpu, True)
    return gpus


def choose_precision(config: TrainerConfig) -> Precision:
    """Returns the policy that `trainer.precision` asks for, or, for auto, the fastest one that is safe on this machine.

    Raises:
        UserError: mixed_float16 without a GPU.
    """
    import tensorflow as tf

    gpus = configure_gpus()
    if config.precision == "mixed_float16" and not gpus:
        raise UserError(
            "trainer.precision: mixed_float16 needs a GPU, and TensorFlow sees none: on a CPU float16 is far slower than "
            "float32. Use trainer.precision=auto."
        )
    if config.precision != "auto":
        return Precision(config.precision, "as trainer.precision asks")
    if gpus:
        used = gpus if config.devices == "all" else gpus[:1]
        details = [tf.config.experimental.get_device_details(gpu) for gpu in used]
        return choose_for_gpus([tuple(d["compute_capability"]) for d in details if d.get("compute_capability")])
    return choose_for_cpu(read_cpu_flags())


def choose_for_gpus(capabilities: list[tuple[int, ...]]) -> Precision:
    """Returns auto's choice for GPUs of these compute capabilities, such as [(8, 0)]; empty where they are unknown."""
    if not capabilities:
        return Precision("float32", "the GPU does not tell its compute capability")
    lowest = min(capabilities)
    shown = ".".join(map(str, lowest))
    if lowest >= FLOAT16_CAPABILITY:
        return Precision("mixed_float16", f"the GPU has compute capability {shown}, 7.0 or more")
    return Precision("float32", f"the GPU has compute capability {shown}, less than 7.0")


def choose_for_cpu(flags: set[str]) -> Precision:
    """Returns auto's choice for a CPU with these feature flags, in the names of Linux' /proc/cpuinfo."""
    found = sorted(BFLOAT16_CPU_FLAGS & flags)
    if found:
        return Precision("mixed_bfloat16", f"no GPU; the CPU has bfloat16 instructions ({', '.join(found)})")
    return Precision("float32", "no GPU, and no bfloat16 instructions found in the CPU")


def read_cpu_flags() -> set[str]:
    """Returns the CPU's feature flags; the empty set where the system has no /proc/cpuinfo or is not x86."""
    path = Path("/proc/cpuinfo")
    if platform.machine().lower() not in ("x86_64", "amd64") or not path.exists():
        return set()
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("flags"):
            return set(line.partition(":")[2].split())
    return set()


@contextlib.contextmanager
def use_policy(policy: str) -> Iterator[None]:
    """Makes a dtype policy Keras' global one for the layers built inside, and puts the former one back."""
    import keras

    former = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(former)


def make_deterministic(config: TrainerConfig) -> None:
    """Makes TensorFlow's operations give the same bits every time, where `trainer.deterministic` says so.

    Source: tf.config.experimental.enable_op_determinism. On a CPU it costs nothing measurable here; on a GPU some
    operations become slower, and one without a deterministic version raises.
    """
    import tensorflow as tf

    if config.deterministic:
        tf.config.experimental.enable_op_determinism()


def choose_jit(config: TrainerConfig) -> bool:
    """Returns whether training steps are compiled with XLA, as `trainer.jit` says.

    auto is no on a CPU, where XLA takes 11 times as long for the small CNN (benchmarks/README.md), where `trainer.deterministic`
    is set, because not all operations are deterministic in XLA, and where several devices share the batches.

    Source: Keras' own "auto" leaves XLA out for the same reasons.
    """
    if config.jit != "auto":
        return config.jit == "always"
    return bool(configure_gpus()) and not config.deterministic and config.devices == "one"


def count_threads() -> int:
    """Returns the CPU threads that one operation of TensorFlow is divided among."""
    import tensorflow as tf

    return tf.config.threading.get_intra_op_parallelism_threads() or count_cpus()


def build_strategy(config: TrainerConfig) -> Any:
    """Returns TensorFlow's strategy for `trainer.devices`: one device, or a mirror over all GPUs (without any: all CPUs).

    Raises:
        UserError: a batch cannot be divided evenly among the devices.
    """
    import tensorflow as tf

    if config.devices == "one":
        return tf.distribute.get_strategy()
    logical = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    if config.batch_size % len(logical):
        raise UserError(
            f"trainer.batch_size: must be a multiple of the {len(logical)} devices that trainer.devices=all takes, received "
            f"{config.batch_size}."
        )
    return tf.distribute.MirroredStrategy([device.name for device in logical])
