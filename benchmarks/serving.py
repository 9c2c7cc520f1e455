"""A server under load: how many photos a second, how long each waits, and whether every answer is right.

    python benchmarks/serving.py FOLDER [SECONDS [CLIENTS]]      # of photos; 300 s, 64 clients

Run it where a study with a champion is (`python -m catdog.train ...` before). Each client sends one to three photos at a time, one
in twenty of them bad, and compares every answer, bit for bit, with the model's answer to that photo alone. In the middle the server
is stopped with SIGTERM, while the clients go on, and started again. The forward pass alone, in batches of 32 and without decoding,
is timed before and after; as clients share the machine with the server, CPU seconds of the server are compared with those of the
forward pass.
"""

import io
import os
import random
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import numpy as np
import psutil
import requests

DISTINCT = 200
BAD = 0.05


def start_server() -> "tuple[subprocess.Popen[str], str]":
    """Starts the server on a free port; returns it, and its address, once it answers."""
    server = subprocess.Popen(
        [sys.executable, "-m", "catdog.serve", "port=0", "queue=512"], stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    line = next(line for line in server.stdout if "serving" in line)
    address = line.split(" at ")[1].partition(";")[0]
    while True:
        try:
            requests.get(f"{address}/health", timeout=5)
            return server, address
        except requests.ConnectionError:
            time.sleep(0.1)


class Load:
    """Clients that ask until they are told to stop.

    Args:
        photos: the content of each photo, and the probabilities expected.
    """

    def __init__(self, photos: list[tuple[bytes, list[float]]]) -> None:
        self.photos = photos
        self.address = ""
        self.ended = threading.Event()
        self.pause = threading.Event()
        self.lock = threading.Lock()
        self.seconds: list[float] = []
        self.answered = self.refused = self.bad = self.wrong = self.lost = 0

    def client(self, seed: int) -> None:
        """One client."""
        rng = random.Random(seed)
        session = requests.Session()
        while not self.ended.is_set():
            if self.pause.is_set():
                session.close()
                session = requests.Session()
                time.sleep(0.05)
                continue
            chosen = [None if rng.random() < BAD else rng.choice(self.photos) for _ in range(rng.randint(1, 3))]
            files = [("photos", (f"{n}.jpg", photo[0] if photo else b"no photo")) for n, photo in enumerate(chosen)]
            began = time.perf_counter()
            try:
                response = session.post(f"{self.address}/predict", files=files, timeout=120)
            except requests.RequestException as error:
                # Only a connection that was refused, because no server runs at that time, carried no request.
                with self.lock:
                    self.lost += not is_refused(error)
                time.sleep(0.05)
                continue
            self.check(chosen, response, time.perf_counter() - began)

    def check(self, chosen: list[Any], response: requests.Response, seconds: float) -> None:
        """Counts one answer."""
        with self.lock:
            if response.status_code == 429:
                self.refused += 1
                return
            if response.status_code == 400 and not any(chosen):
                self.bad += len(chosen)
                return
            if response.status_code != 200:
                self.wrong += 1
                return
            self.seconds.append(seconds)
            for photo, answer in zip(chosen, response.json()["answers"], strict=True):
                if photo is None:
                    self.bad += 1
                    self.wrong += "error" not in answer
                else:
                    self.answered += 1
                    self.wrong += list(answer.get("probabilities", {}).values()) != photo[1]


def is_refused(error: BaseException | None) -> bool:
    """Whether a connection was refused, as an exception or one of its causes says."""
    while error is not None and not isinstance(error, ConnectionRefusedError):
        error = error.__cause__ or error.__context__
    return error is not None


def time_forward(model: Any, images: np.ndarray) -> tuple[float, float]:
    """Returns wall and CPU seconds an image of the forward pass alone, in batches of 32."""
    model.predict_on_batch(images[:32])
    began, cpu = time.perf_counter(), time.process_time()
    for start in range(0, len(images) - 31, 32):
        model.predict_on_batch(images[start : start + 32])
    count = len(images) // 32 * 32
    return (time.perf_counter() - began) / count, (time.process_time() - cpu) / count


def main(folder: str, seconds: float, clients: int) -> None:
    """Loads the server, and prints a table."""
    from catdog.data.images import decode_image
    from catdog.deployment.photo_files import find_images
    from catdog.deployment.prediction import answer_images
    from catdog.study import Study

    model = Study.choose(None, None, tracking_uri="sqlite:///mlruns/mlflow.db").model()
    size = model.image_size
    contents = [file.read_bytes() for file in find_images([folder])[:DISTINCT]]
    images = np.stack([decode_image(io.BytesIO(content), size, size) for content in contents])
    expected = [[float(each) for each in answer_images(model.loaded, image[None])[0]] for image in images]
    load = Load(list(zip(contents, expected, strict=True)))
    before = time_forward(model.loaded, images)
    server, load.address = start_server()
    threads = [threading.Thread(target=load.client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    process = psutil.Process(server.pid)
    served, cpu, memory = 0.0, 0.0, []
    for half in (0, 1):
        time.sleep(2)
        spent, began = sum(process.cpu_times()[:2]), time.monotonic()
        answered = load.answered
        while time.monotonic() - began < seconds / 2:
            time.sleep(1)
            memory.append(process.memory_info().rss / 1e6)
        cpu += sum(process.cpu_times()[:2]) - spent
        served += load.answered - answered
        if half == 0:
            # The clients go on: what they lose by the signal is to be seen.
            os.kill(server.pid, signal.SIGTERM)
            time.sleep(1)
            load.pause.set()
            assert server.wait(60) == 0
            server, load.address = start_server()
            process = psutil.Process(server.pid)
            load.pause.clear()
    load.ended.set()
    for thread in threads:
        thread.join()
    os.kill(server.pid, signal.SIGTERM)
    assert server.wait(60) == 0
    after = time_forward(model.loaded, images)
    p50, p99 = np.percentile(load.seconds, [50, 99])
    forward = (before[1] + after[1]) / 2
    tenth = max(1, len(memory) // 10)
    rows = {
        "photos a second, clients on the same cores": f"{served / seconds:.1f}",
        "the forward pass alone, images a second": f"{2 / (before[0] + after[0]):.1f}",
        "CPU ms a photo, of the server": f"{1e3 * cpu / served:.1f}",
        "CPU ms an image, of the forward pass alone": f"{1e3 * forward:.1f}",
        "forward pass / server, in CPU time": f"{forward / (cpu / served):.2f}",
        "a request of 1 to 3 photos: p50, p99": f"{p50:.2f} s, {p99:.2f} s",
        "answers, bad photos, refused requests": f"{load.answered:,}, {load.bad:,}, {load.refused:,}",
        "wrong answers, lost requests": f"{load.wrong}, {load.lost}",
        "memory, at first and at last": f"{np.mean(memory[:tenth]):.0f} MB, {np.mean(memory[-tenth:]):.0f} MB",
    }
    print(f"\n{clients} clients, {seconds:g} s, {model.words}, {size} pixels\n\n| | |\n|---|---|")
    for name, value in rows.items():
        print(f"| {name} | {value} |")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 300, int(sys.argv[3]) if len(sys.argv) > 3 else 64)
