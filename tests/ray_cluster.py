"""A Ray cluster of two nodes on this machine, led by a process of its own, as no test loads both Ray and TensorFlow."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any


class RayCluster:
    """A cluster that another process leads."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self.address: str = self._read()

    def add_node(self, resources: Mapping[str, int]) -> int:
        """Adds a node with one CPU, and returns its number."""
        return int(self._ask("add", resources))

    def lose_node(self, number: int) -> None:
        """Kills all processes of a node."""
        self._ask("lose", number)

    def _ask(self, *words: Any) -> Any:
        assert self._process.stdin is not None
        print(json.dumps(words), file=self._process.stdin, flush=True)
        return self._read()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the process that leads the Ray cluster has ended"
        return json.loads(line)


@contextmanager
def running_cluster() -> Iterator[RayCluster]:
    """Starts a cluster of two nodes, one of which has the resource `turn`, and stops it afterwards."""
    # Its nodes have variables of their own, which say nothing to a run that is started from elsewhere.
    environment = os.environ | {"MLFLOW_TRACKING_URI": "sqlite:///store-of-the-node.db"}
    with subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdin is not None
        try:
            yield RayCluster(process)
        except BaseException:
            process.terminate()
            raise
        # At the end of its input it stops the cluster.
        process.stdin.close()
        assert process.wait(60) == 0


def _lead() -> None:
    from ray.cluster_utils import Cluster

    answers, sys.stdout = sys.stdout, sys.stderr

    def answer(value: Any) -> None:
        print(json.dumps(value), file=answers, flush=True)

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "resources": {"turn": 1}})
    nodes = [cluster.head_node, cluster.add_node(num_cpus=1)]
    processes = [info.process for node in nodes for infos in node.all_processes.values() for info in infos]
    answer(str(cluster.address))
    for line in sys.stdin:
        verb, value = json.loads(line)
        if verb == "add":
            node = cluster.add_node(num_cpus=1, resources=value)
            nodes.append(node)
            processes += [info.process for infos in node.all_processes.values() for info in infos]
            answer(len(nodes) - 1)
        else:
            cluster.remove_node(nodes[value], allow_graceful=False)
            answer(None)
    cluster.shutdown()
    # Ray kills them and does not wait.
    for process in processes:
        process.wait()


if __name__ == "__main__":
    _lead()
