"""The answers to single images in the validation after each epoch, collected while Keras measures loss and accuracy."""

import logging
from typing import Any

import numpy as np

from catdog.data.epoch_answers import EpochAnswers
from catdog.statistics.metrics import Metric

log = logging.getLogger(__name__)


class ValidationAnswers:
    """Collects what a model answers to each validation image, in the order of the stream.

    Keras' own validation only keeps means. This wraps the model's `compute_metrics`, which Keras calls with each batch's labels and
    logits, so the images are not predicted a second time, and all other results stay bit for bit what they are.

    Args:
        model: compiled, with logits (B, C) as output. A custom `test_step` has to call `compute_metrics`, as Keras' own does.
        images: the number of validation images.
        classes: the number C of classes.
        keep_probabilities: whether to collect the probabilities as well.
        labels: int (N,), the images' classes in their order, for `measure_last`.
        class_names: the names of the classes, for the same.
    """

    def __init__(
        self,
        model: Any,
        images: int,
        classes: int,
        *,
        keep_probabilities: bool = False,
        labels: np.ndarray | None = None,
        class_names: tuple[str, ...] = (),
    ) -> None:
        import tensorflow as tf

        self.images = images
        self.labels = labels
        self.class_names = class_names
        self.strategy = model.distribute_strategy
        self.classes = classes if keep_probabilities else 0
        with self.strategy.scope():
            self.place = self._variable(np.zeros((), np.int64))
            self.answers = self._variable(np.zeros((images, 2 + self.classes), np.float32))
        self._testing = False
        test_step, compute_metrics = model.test_step, model.compute_metrics

        def test(data: Any) -> Any:
            # Keras traces the two steps once each, so this tells them apart in the graphs.
            self._testing = True
            try:
                return test_step(data)
            finally:
                self._testing = False

        def compute(x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
            if self._testing:
                self._collect(tf.convert_to_tensor(y), tf.cast(y_pred, tf.float32))
            return compute_metrics(x, y, y_pred, sample_weight=sample_weight)

        model.test_step, model.compute_metrics = test, compute
        # The steps may have been traced already, by a check of custom code.
        model.test_function = None

    def _variable(self, value: np.ndarray) -> Any:
        import tensorflow as tf

        return tf.Variable(value, trainable=False, aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA)

    def _collect(self, labels: Any, logits: Any) -> None:
        import tensorflow as tf

        if len(labels.shape) == 2 and labels.shape[-1] == logits.shape[-1]:
            labels = tf.argmax(labels, axis=-1)
        labels = tf.cast(tf.reshape(labels, (-1,)), tf.int64)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        right = tf.cast(tf.argmax(logits, axis=-1) == labels, tf.float32)
        columns = [losses[:, None], right[:, None]]
        if self.classes:
            columns.append(tf.nn.softmax(logits))
        found = tf.concat(columns, axis=1)
        if self.strategy.num_replicas_in_sync > 1:
            found = tf.distribute.get_replica_context().all_gather(found, axis=0)
        count = tf.shape(found, tf.int64)[0]
        # The measurement on clean training images uses the same step; there may be more of them, and nobody reads these.
        rows = (self.place + tf.range(count)) % self.images
        self.answers.scatter_update(tf.IndexedSlices(found, rows))
        self.place.assign_add(count)

    def start(self) -> None:
        """Begins with the first image again."""
        self.place.assign(0)

    def add_to(self, answers: EpochAnswers | None, epoch: int) -> EpochAnswers | None:
        """Returns a run's answers with those of the validation that has just ended.

        Returns:
            None if the model's own `test_step` did not let them be collected; then there are none of this run.
        """
        if answers is None:
            return None
        if int(self.place.numpy()) != self.images:
            log.warning(
                "the model's own test_step does not call compute_metrics, so the answers of each epoch are not stored, and the "
                "accuracy of the best epoch, chosen on these images, stays a little too high in comparisons"
            )
            return None
        found = self.answers.numpy()
        return answers.append(epoch, found[:, 1] > 0, found[:, 0], found[:, 2:] if self.classes else None)

    def measure_last(self, answers: EpochAnswers, metric: Metric) -> float:
        """Returns a metric of the last epoch's answers."""
        assert self.labels is not None
        values = answers.last().measure(metric, self.labels, self.class_names)
        assert values is not None
        return float(values.mean())
