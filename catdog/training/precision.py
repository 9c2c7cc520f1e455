"""Chooses the device and the numeric precision of a training, with the reason."""

import contextlib
import os
import platform
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from catdog.config.schema import TrainerConfig
from catdog.system.cpus import count_cpus
from catdog.system.errors import UserError

# The first compute capability with tensor cores for float16. Below it, float16 saves memory but no time.
# Source: NVIDIA, "Train With Mixed Precision", and Keras' mixed precision guide.
FLOAT16_CAPABILITY = (7, 0)
# Source: the levels of oneDNN, ONEDNN_MAX_CPU_ISA, as Linux names their flags.
VECTOR_FLAGS = frozenset(
    [
        "sse4_1",
        "avx",
        "avx2",
        "fma",
        "avx_vnni",
        "avx512f",
        "avx512_vnni",
        "avx512_bf16",
        "avx512_fp16",
        "amx_int8",
        "amx_bf16",
    ]
)
DEVICES = Path("/dev")
GPU_DEVICE_FILES = ("nvidia*", "nvhost*", "nvmap", "kfd", "dxg")
BFLOAT16_CPU_FLAGS = {"avx512_bf16", "amx_bf16"}


@dataclass(frozen=True)
class Precision:
    """A Keras dtype policy and the reason for it.

    Attributes:
        policy: float32, mixed_float16 or mixed_bfloat16.
        reason: the reason in words, for the log.
        device: the kind of device that trains, cpu or gpu.
    """

    policy: str
    reason: str
    device: str = "cpu"

    @property
    def runtime(self) -> dict[str, str]:
        """The part that the result of a run depends on."""
        return {"precision": self.policy, "device": self.device}


def configure_gpus() -> list[Any]:
    """Makes GPU memory grow on demand and returns TensorFlow's physical GPUs; an empty list if there are none."""
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        # TensorFlow refuses this once an earlier run in this process has used the GPU; the setting is in force by then.
        with contextlib.suppress(RuntimeError):
            tf.config.experimental.set_memory_growth(gpu, True)
    return gpus


def read_capabilities() -> list[tuple[int, ...]]:
    """Returns the compute capability of each GPU that TensorFlow sees, such as (8, 0); () for one that does not report it."""
    from catdog.training import preload  # noqa: F401  it keeps TensorFlow's import quiet

    # isort: split
    import tensorflow as tf

    gpus = configure_gpus()
    return [tuple(tf.config.experimental.get_device_details(gpu).get("compute_capability") or ()) for gpu in gpus]


def may_have_gpu() -> bool:
    """Returns whether TensorFlow may find a GPU here, without importing it. False is certain.

    Source: the device files of NVIDIA's drivers (on Jetson, nvhost and nvmap), of AMD's (kfd) and of the Windows Subsystem for
    Linux (dxg); GPUs of other systems need a TensorFlow plug-in.
    """
    if (Path(sysconfig.get_path("purelib")) / "tensorflow-plugins").is_dir():
        return True
    if os.environ.get("CUDA_VISIBLE_DEVICES", "all").strip() in ("", "-1"):
        return False
    return any(next(DEVICES.glob(name), None) for name in GPU_DEVICE_FILES)


_asked: dict[str | None, list[tuple[int, ...]]] = {}


def find_gpus(ask: Callable[[], list[tuple[int, ...]]] = read_capabilities) -> list[tuple[int, ...]]:
    """Returns the compute capability of each GPU; it does not import TensorFlow if there is certainly no GPU.

    Args:
        ask: asks TensorFlow, as `read_capabilities` does; it is called once per process.
    """
    if not may_have_gpu():
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible not in _asked:
        _asked[visible] = ask()
    return _asked[visible]


def plan_precision(config: TrainerConfig, ask: Callable[[], list[tuple[int, ...]]] = read_capabilities) -> Precision:
    """Returns what `choose_precision` will return when the run trains on this machine; fast if there is no GPU.

    Args:
        config: the config's section `trainer`.
        ask: asks TensorFlow for GPUs as `read_capabilities` does, possibly in another process.

    Raises:
        UserError: mixed_float16 was requested without a GPU.
    """
    return _choose(config, find_gpus(ask))


def choose_precision(config: TrainerConfig, planned: Mapping[str, str] | None = None) -> Precision:
    """Returns the policy that `trainer.precision` asks for; for auto, the fastest one that is safe on this machine.

    A planned run uses the planned precision: all runs of a sweep have the same precision, even on GPUs of several kinds.

    Args:
        config: the config's section `trainer`.
        planned: precision and device, as in `Precision.runtime`; None without a plan.

    Raises:
        UserError: mixed_float16 was requested without a GPU, or the kind of device is not the planned one.
    """
    gpus = read_capabilities()
    device = "gpu" if gpus else "cpu"
    if planned and planned["device"] != device:
        raise UserError(
            f"the run was planned for a {planned['device'].upper()}, but on the machine that trains it TensorFlow finds "
            f"{'a GPU' if gpus else 'no GPU that it can use'}. Run the command again; to train on the CPU, set "
            "CUDA_VISIBLE_DEVICES=-1 in its environment."
        )
    found = _choose(config, gpus)
    if planned and planned["precision"] != found.policy:
        return Precision(planned["precision"], f"as planned; on this device auto would be {found.policy}", device)
    return found


def _choose(config: TrainerConfig, gpus: list[tuple[int, ...]]) -> Precision:
    if config.precision == "mixed_float16" and not gpus:
        raise UserError(
            "trainer.precision: mixed_float16 needs a GPU, and TensorFlow sees none: on a CPU float16 is far slower than "
            "float32. Use trainer.precision=auto."
        )
    if config.precision != "auto":
        return Precision(config.precision, "as trainer.precision asks", "gpu" if gpus else "cpu")
    if gpus:
        used = gpus if config.devices == "all" else gpus[:1]
        return choose_for_gpus([capability for capability in used if capability])
    return choose_for_cpu(read_cpu_flags())


def choose_for_gpus(capabilities: list[tuple[int, ...]]) -> Precision:
    """Returns auto's choice for GPUs of these compute capabilities, such as [(8, 0)]; empty where they are unknown."""
    if not capabilities:
        return Precision("float32", "the GPU does not tell its compute capability", "gpu")
    lowest = min(capabilities)
    shown = ".".join(map(str, lowest))
    if lowest >= FLOAT16_CAPABILITY:
        return Precision("mixed_float16", f"the GPU has compute capability {shown}, 7.0 or more", "gpu")
    return Precision("float32", f"the GPU has compute capability {shown}, less than 7.0", "gpu")


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


def name_cpu() -> str:
    """Returns the instructions by which TensorFlow chooses its kernels, such as "avx2 fma"; "" where they are not known."""
    return " ".join(sorted(read_cpu_flags() & VECTOR_FLAGS))


@contextlib.contextmanager
def use_policy(policy: str) -> Iterator[None]:
    """Sets Keras' global dtype policy for the layers built in the block, and restores the former policy afterwards."""
    import keras

    former = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(former)


def make_deterministic(config: TrainerConfig) -> None:
    """Makes TensorFlow's operations deterministic, bit for bit, if `trainer.deterministic` is true.

    Source: tf.config.experimental.enable_op_determinism. On a CPU, no cost was measurable here. On a GPU some operations become
    slower, and an operation without a deterministic version raises an exception.
    """
    import tensorflow as tf

    if config.deterministic:
        tf.config.experimental.enable_op_determinism()


def choose_jit(config: TrainerConfig) -> bool:
    """Returns whether training steps are compiled with XLA, as `trainer.jit` says.

    auto means no in three cases: on a CPU, where XLA takes 11 times as long for the small CNN (benchmarks/README.md); with
    `trainer.deterministic`, because not all operations are deterministic in XLA; and when several devices share the batches.

    Source: Keras' own "auto" does not use XLA for the same reasons.
    """
    if config.jit != "auto":
        return config.jit == "always"
    return bool(configure_gpus()) and not config.deterministic and config.devices == "one"


def count_threads() -> int:
    """Returns the number of CPU threads that share one TensorFlow operation."""
    import tensorflow as tf

    return tf.config.threading.get_intra_op_parallelism_threads() or count_cpus()


def build_strategy(config: TrainerConfig) -> Any:
    """Returns TensorFlow's strategy for `trainer.devices`: one device, or mirrored over all GPUs, or all CPUs if there is no GPU.

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
