"""A server of a model: whatever comes in, each photo gets the answer that it gets alone, or one sentence."""

import base64
import gc
import io
import json
import os
import random
import shutil
import signal
import socket
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import requests
from PIL import Image
from support import TINY, run_catdog, start_catdog

from catdog.data.images import UnreadableImageError

pytest.importorskip("python_multipart", reason="catdog.serve needs its extra: pip install 'catdog[serve]'")
pytest.importorskip("prometheus_client", reason="catdog.serve needs its extra: pip install 'catdog[serve]'")

SIZE = 32
MAX_BYTES = 200_000
MAX_PHOTOS = 8


@dataclass
class Toy:
    """A model in the store, but for the store."""

    loaded: Any
    version: str = "1"
    name: str = "toy"
    run_id: str = "0" * 32
    class_names: tuple[str, ...] = ("cats", "dogs")
    image_size: int = SIZE
    found: Any = field(init=False)

    def __post_init__(self) -> None:
        self.found = SimpleNamespace(uri=f"models:/m-{self.version}")

    @property
    def words(self) -> str:
        return f"{self.name} version {self.version}"


def build_model(seed: int) -> Any:
    import keras

    keras.utils.set_random_seed(seed)
    return keras.Sequential([
        keras.Input((SIZE, SIZE, 3), dtype="uint8"), keras.layers.Rescaling(1 / 255), keras.layers.Conv2D(8, 3, activation="relu"),
        keras.layers.MaxPooling2D(), keras.layers.Flatten(), keras.layers.Dense(64, "relu"), keras.layers.Dense(2),
        keras.layers.Softmax(),
    ])  # fmt: skip


@pytest.fixture(scope="module")
def models() -> tuple[Any, Any]:
    return build_model(0), build_model(1)


@contextmanager
def running(service: Any, token: str | None = None, local: bool = False, grace_s: int | None = None) -> Iterator[str]:
    """Runs the application on a real socket; gives its address. At the end it is told to stop, as by SIGTERM."""
    import uvicorn

    from catdog.deployment.serving.app import build_app
    from catdog.deployment.serving.body import BodyReader
    from catdog.deployment.serving.server import PartingServer

    parting = threading.Event()
    app = build_app(service, BodyReader(MAX_BYTES, MAX_PHOTOS), token, local=local, parting=parting)
    listening = socket.create_server(("127.0.0.1", 0))
    server = PartingServer(uvicorn.Config(
        app, log_config=None, access_log=False, server_header=False, lifespan="off", timeout_graceful_shutdown=grace_s,
    ), parting)  # fmt: skip
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listening.close()
        service.close()


def build_service(find: Callable[[], Any], queue: int = 64) -> Any:
    from catdog.deployment.serving.service import PhotoService

    return PhotoService(find, queue, 4, None)


@pytest.fixture(scope="module")
def address(models) -> Iterator[str]:
    toy = Toy(models[0])
    with running(build_service(lambda: toy)) as found:
        yield found


def draw_photo(seed: int, kind: str = "JPEG", turned: bool = False) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (60, 40, 3), np.uint8)
    image, out = Image.fromarray(pixels), io.BytesIO()
    exif = Image.Exif()
    if turned:
        exif[0x0112] = 6
    image.save(out, kind, exif=exif)
    return out.getvalue()


def expect(model: Any, photo: bytes) -> dict[str, float]:
    """What the model answers to this photo alone."""
    from catdog.deployment.prediction import answer_images

    return dict(zip(("cats", "dogs"), map(float, answer_images(model, decode(photo)[None])[0]), strict=True))


def decode(photo: bytes) -> np.ndarray:
    """The image that the model is asked about."""
    from catdog.data.images import decode_image

    return decode_image(io.BytesIO(photo), SIZE, SIZE)


def post(address: str, **options: Any) -> requests.Response:
    return requests.post(f"{address}/predict", timeout=60, **options)


@pytest.mark.parametrize("turned", [False, True])
def test_each_way_of_sending_a_photo_gets_the_answer_of_predict_bit_for_bit(address, models, turned) -> None:
    photo = draw_photo(1, turned=turned)
    as_text = base64.b64encode(photo).decode()
    ways: list[dict[str, Any]] = [
        {"files": {"photos": ("a.jpg", photo)}},
        {"data": photo, "headers": {"content-type": "image/jpeg"}},
        {"data": photo, "headers": {"content-type": "application/octet-stream"}},
        {"json": {"photos": [{"name": "a.jpg", "data": as_text}]}},
        {"json": {"photos": [f"data:image/jpeg;base64,{as_text}"]}},
    ]
    for way in ways:
        found = post(address, **way).json()
        assert found["answers"][0]["probabilities"] == expect(models[0], photo)
        assert found["model"]["version"] == "1"


def test_answers_do_not_depend_on_what_else_is_asked(address, models) -> None:
    """Ninety photos at once, in requests of one to three: none is lost, mixed up or different in its last bit."""
    photos = [draw_photo(seed) for seed in range(90)]
    groups = [
        photos[:30],
        *[photos[30:60][i : i + 2] for i in range(0, 30, 2)],
        *[photos[60:][i : i + 3] for i in range(0, 30, 3)],
    ]
    groups = [[photo] for photo in groups[0]] + groups[1:]

    def ask(group: list[bytes]) -> list[dict[str, float]]:
        response = post(address, files=[("photos", (f"{n}.jpg", photo)) for n, photo in enumerate(group)])
        while response.status_code == 429:
            time.sleep(0.05)
            response = post(address, files=[("photos", (f"{n}.jpg", photo)) for n, photo in enumerate(group)])
        return [answer["probabilities"] for answer in response.json()["answers"]]

    with ThreadPoolExecutor(16) as pool:
        found = [answer for answers in pool.map(ask, groups) for answer in answers]
    assert found == [expect(models[0], photo) for group in groups for photo in group]


def test_a_photo_among_others_that_cannot_be_read_is_named(address) -> None:
    files = [("photos", ("a.jpg", draw_photo(0))), ("photos", ("notes.txt", b"hello"))]
    response = post(address, files=files)
    assert response.status_code == 200
    first, second = response.json()["answers"]
    assert first["class"] in ("cats", "dogs")
    assert second == {"photo": "notes.txt", "error": "not an image in a supported format"}


def test_half_a_character_in_a_name_is_no_error(address) -> None:
    """JSON can hold a lone surrogate, UTF-8 cannot."""
    photo = base64.b64encode(draw_photo(0)).decode()
    response = post(address, data=json.dumps({"photos": [{"name": "a\ud800", "data": photo}]}),
                    headers={"content-type": "application/json"})  # fmt: skip
    assert (response.status_code, response.json()["answers"][0]["photo"]) == (200, "a?")


def bomb() -> bytes:
    """A PNG of a few kilobytes, with sixty million pixels."""
    out = io.BytesIO()
    Image.new("1", (10_000, 6_000)).save(out, "PNG")
    return out.getvalue()


def multipart(body: bytes) -> dict[str, Any]:
    return {"data": body, "headers": {"content-type": "multipart/form-data; boundary=x"}}


FORM_PHOTO = b"--x\r\nContent-Disposition: form-data; name=p; filename=a.jpg\r\n\r\n" + draw_photo(0) + b"\r\n"
BAD: dict[str, tuple[Callable[[], dict[str, Any]], int, str]] = {
    "no body": (lambda: {"data": b"", "headers": {"content-type": "image/jpeg"}}, 400, "the file is empty"),
    "text": (lambda: {"data": b"hello", "headers": {"content-type": "image/png"}}, 400, "not an image in a supported format"),
    "truncated": (lambda: {"data": draw_photo(0)[:500], "headers": {"content-type": "image/jpeg"}}, 400, "the file is cut short"),
    "bomb": (lambda: {"data": bomb(), "headers": {"content-type": "image/png"}}, 400, "10000 x 6000 pixels; the limit is"),
    "type": (lambda: {"data": b"x", "headers": {"content-type": "text/html"}}, 415, "content-type must be multipart/form-data"),
    "large": (lambda: {"data": b"x" * (MAX_BYTES + 1), "headers": {"content-type": "image/png"}}, 413, "larger than 0.2 MB"),
    "large in chunks": (
        lambda: {"data": iter([b"x" * 50_000] * 30), "headers": {"content-type": "image/png"}}, 413, "larger than 0.2 MB"
    ),
    "many": (lambda: {"files": [("p", (f"{n}", b"x")) for n in range(1000)]}, 413, "more than 8 photos in a request"),
    "many values in JSON": (lambda: {"json": {"photos": [""] * 9_000}}, 413, "the JSON has too many values for 8 photos"),
    "many in JSON": (lambda: {"json": {"photos": ["eA=="] * 1000}}, 413, "1000 photos; the limit is 8 a request"),
    "no photo": (lambda: {"files": {"note": (None, "hello")}}, 400, "the request has no photo"),
    "form": (lambda: multipart(b"--x\r\nnonsense"), 400, "the form is cut short"),
    "form without its end": (lambda: multipart(FORM_PHOTO + FORM_PHOTO[:-2]), 400, "the form is cut short"),
    "boundary": (lambda: {"data": b"x", "headers": {"content-type": "multipart/form-data"}}, 400, "form is malformed"),
    "json": (lambda: {"data": b"{", "headers": {"content-type": "application/json"}}, 400, "JSON must be"),
    "deep json": (lambda: {"data": b"[" * 7_000, "headers": {"content-type": "application/json"}}, 400, "JSON must be"),
    "base64": (lambda: {"json": {"photos": ["%%%"]}}, 400, "photo 1 of the JSON is not in base64"),
    "option": (lambda: {"files": {"p": ("a.jpg", draw_photo(0))}, "params": {"heatmap": "perhaps"}}, 400, "heatmap: "),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_gets_one_sentence(address, name) -> None:
    make, status, sentence = BAD[name]
    response = post(address, **make())
    assert (response.status_code, list(response.json())) == (status, ["detail"])
    assert sentence in response.json()["detail"]
    assert requests.get(f"{address}/health", timeout=10).json() == {"status": "ok"}


@contextmanager
def connected(address: str, sent: bytes) -> Iterator[socket.socket]:
    """A connection on which something has been sent."""
    host, _, port = address.removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(sent)
        yield connection


def talk(address: str, sent: bytes) -> str:
    """What the server sends until it closes the connection."""
    with connected(address, sent) as connection:
        return b"".join(iter(lambda: connection.recv(65_536), b"")).decode("latin-1")


def get_metrics(address: str) -> str:
    return requests.get(f"{address}/metrics", timeout=10).text


def begin(length: int, body: bytes = b"") -> bytes:
    """The first part of a request of a photo."""
    head = f"POST /predict HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: image/jpeg\r\nContent-Length: {length}\r\n\r\n"
    return head.encode() + body


@pytest.mark.parametrize("limit", ["READ_S", "IDLE_S"])
def test_a_request_that_does_not_arrive_is_given_up(address, monkeypatch, limit) -> None:
    monkeypatch.setattr(f"catdog.deployment.serving.body.{limit}", 0.2)
    answer = talk(address, begin(10, b"12345"))
    assert answer.startswith("HTTP/1.1 408")
    assert "did not arrive" in answer


def test_uploads_that_only_begin_lock_nobody_out(address) -> None:
    with ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(connected(address, begin(MAX_BYTES, b"12345")))
        assert post(address, files={"p": ("a.jpg", draw_photo(0))}).status_code == 200


def test_too_many_large_requests_are_refused(address) -> None:
    with ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(connected(address, begin(MAX_BYTES, b"x" * (MAX_BYTES - 1))))
        held = f"catdog_held_bytes {8 * (MAX_BYTES - 1) / 1e6:.6f}e+06"
        wait_until(lambda: held in get_metrics(address))
        refused = post(address, files={"p": ("a.jpg", draw_photo(0))})
        assert "too many large requests" in refused.json()["detail"]
        assert refused.headers["retry-after"] == "1"
        assert requests.get(f"{address}/health", timeout=10).status_code == 200
    wait_until(lambda: post(address, files={"p": ("a.jpg", draw_photo(0))}).status_code == 200)


def test_a_long_name_is_not_sent_back(address) -> None:
    photo = {"name": "a" * 5_000 + ".jpg", "data": base64.b64encode(draw_photo(0)).decode()}
    assert post(address, json={"photos": [photo]}).json()["answers"][0]["photo"] == "a" * 255


def test_photos_of_a_client_that_has_gone_are_not_answered(models) -> None:
    slow = Gated(models[0])
    service = build_service(lambda: Toy(slow))
    slow.asked = 0
    slow.gate.clear()
    slow.images.clear()
    photo = draw_photo(9)
    with running(service) as address, ThreadPoolExecutor(1) as pool:
        other = pool.submit(post, address, files={"p": ("a.jpg", draw_photo(0))})
        wait_until(lambda: slow.asked == 1)
        with connected(address, begin(len(photo), photo)):
            wait_until(lambda: service.pending == 2)
        wait_until(lambda: service.pending == 1)
        slow.gate.set()
        assert other.result().status_code == 200
        wait_until(lambda: service.pending == 0)
        assert np.array_equal(slow.images[0], decode(draw_photo(0)))
        assert not any(np.array_equal(image, decode(photo)) for image in slow.images)
        assert 'catdog_requests_total{path="/predict",status="499"} ' in get_metrics(address)


def test_a_request_that_takes_too_long_is_given_up(models, monkeypatch) -> None:
    monkeypatch.setattr("catdog.deployment.serving.app.ANSWER_S", 0.2)
    slow = Gated(models[0])
    service = build_service(lambda: Toy(slow))
    slow.gate.clear()
    with running(service) as address:
        response = post(address, files={"p": ("a.jpg", draw_photo(0))})
        assert (response.status_code, response.headers["retry-after"]) == (503, "1")
        assert "no answer within" in response.json()["detail"]
        slow.gate.set()


def test_a_request_that_outlasts_the_end_of_the_server_gets_a_sentence(models, caplog) -> None:
    slow = Gated(models[0])
    service = build_service(lambda: Toy(slow))
    slow.asked = 0
    slow.gate.clear()
    with ThreadPoolExecutor(1) as pool:
        with running(service, grace_s=1) as address:
            waiting = pool.submit(post, address, files={"p": ("a.jpg", draw_photo(0))})
            wait_until(lambda: slow.asked == 1)
            threading.Timer(4, slow.gate.set).start()
        response = waiting.result(30)
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    assert response.json() == {"detail": "the server is being stopped; try again in a moment"}
    assert "Traceback" not in caplog.text


def test_a_request_in_flight_is_answered_before_the_end(models) -> None:
    slow = Gated(models[0])
    service = build_service(lambda: Toy(slow))
    slow.asked = 0
    slow.gate.clear()
    with ThreadPoolExecutor(1) as pool:
        with running(service, grace_s=30) as address:
            waiting = pool.submit(post, address, files={"p": ("a.jpg", draw_photo(0))})
            wait_until(lambda: slow.asked == 1)
            threading.Timer(0.5, slow.gate.set).start()
        assert waiting.result(30).status_code == 200


def test_a_request_on_its_way_when_the_server_ends_is_answered(models) -> None:
    """On a connection that was waiting for a request; before, it was closed at once."""
    service = build_service(lambda: Toy(models[0]))
    photo = {"p": ("a.jpg", draw_photo(0))}
    with requests.Session() as session, requests.Session() as silent:
        with ThreadPoolExecutor(1) as pool, running(service) as address:
            assert silent.get(f"{address}/health", timeout=10).headers.get("connection") != "close"
            assert session.post(f"{address}/predict", files=photo, timeout=10).status_code == 200

            def send_later() -> requests.Response:
                time.sleep(0.4)
                return session.post(f"{address}/predict", files=photo, timeout=10)

            late = pool.submit(send_later)
            began = time.monotonic()
        assert late.result().status_code == 200
        assert late.result().headers["connection"] == "close"
        # A client that keeps its connection and sends nothing holds the end up for a second.
        assert 0.9 < time.monotonic() - began < 5
    with pytest.raises(requests.ConnectionError):
        requests.get(f"{address}/health", timeout=10)


def test_a_photo_at_which_the_model_fails_is_named(models, caplog) -> None:
    from catdog.system.errors import UserError

    bad = draw_photo(1)
    expected = expect(models[0], draw_photo(0))

    class Picky:
        def predict_on_batch(self, images: np.ndarray) -> np.ndarray:
            if any(np.array_equal(image, decode(bad)) for image in images):
                raise UserError("model: /secret/place answered nan")
            answer: np.ndarray = models[0].predict_on_batch(images)
            return answer

    with running(build_service(lambda: Toy(Picky()))) as address:
        both = post(address, files=[("p", ("a.jpg", draw_photo(0))), ("p", ("b.jpg", bad))])
        alone = post(address, files={"p": ("b.jpg", bad)})
    assert both.status_code == 200
    assert both.json()["answers"][0]["probabilities"] == expected
    assert both.json()["answers"][1] == {"photo": "b.jpg", "error": "the model gave no answer to this photo"}
    assert (alone.status_code, alone.json()) == (500, {"detail": "the model gave no answer to this photo"})
    assert "answered nan" in caplog.text


def test_photos_that_wait_are_answered_together(models) -> None:
    slow = Gated(models[0])
    service = build_service(lambda: Toy(slow))
    assert service.served.largest_batch == 16
    slow.asked = 0
    slow.gate.clear()
    photos = [draw_photo(seed) for seed in range(24)]
    with running(service) as address, ThreadPoolExecutor(24) as pool:
        first = pool.submit(post, address, files={"p": ("a.jpg", photos[0])})
        wait_until(lambda: slow.asked == 1)
        others = [pool.submit(post, address, files={"p": ("a.jpg", photo)}) for photo in photos[1:]]
        wait_until(lambda: service._batcher._waiting.qsize() == 23)
        slow.gate.set()
        for photo, future in zip(photos, [first, *others], strict=True):
            assert future.result().json()["answers"][0]["probabilities"] == expect(models[0], photo)
    # 16, then 4, 2 and 1.
    assert slow.asked == 1 + 4


def test_a_photo_is_let_go_once_it_is_answered(models) -> None:
    """Not when the garbage is collected: under load, that would be GBs later."""
    from catdog.deployment.serving import service as module

    jobs: list[Any] = []
    service = build_service(lambda: Toy(models[0]))

    def note(run: Any, job: Any) -> None:
        jobs.append(weakref.ref(job))
        run(job)

    service._run = partial(note, service._run)
    gc.collect()
    gc.disable()
    try:
        futures = service.submit([draw_photo(0), b"no photo"])
        assert isinstance(futures[0].result(30), module.PhotoAnswer)
        with pytest.raises(UnreadableImageError):
            futures[1].result(30)
        del futures
        wait_until(lambda: all(job() is None for job in jobs), 5)
        assert len(jobs) == 2
    finally:
        gc.enable()
        service.close()


def test_a_model_that_takes_no_batches_answers_one_by_one(models, caplog) -> None:
    class Small:
        def predict_on_batch(self, images: np.ndarray) -> np.ndarray:
            if len(images) > 2:
                raise MemoryError("too many")
            answers: np.ndarray = models[0].predict_on_batch(images)
            return answers

    with running(build_service(lambda: Toy(Small()))) as address:
        found = post(address, files={"p": ("a.jpg", draw_photo(0))}).json()
    assert found["answers"][0]["probabilities"] == expect(models[0], draw_photo(0))
    assert "the model does not answer 16 images at once" in caplog.text


def test_a_model_whose_answers_depend_on_the_batch_answers_one_by_one(models, caplog) -> None:
    class Shifted:
        """In a batch of four or more, the last bit of a probability is another."""

        def predict_on_batch(self, images: np.ndarray) -> np.ndarray:
            answers: np.ndarray = models[0].predict_on_batch(images)
            return np.nextafter(answers, np.float32(2)) if len(images) >= 4 else answers

    caplog.set_level("INFO")
    with running(build_service(lambda: Toy(Shifted()))) as address, ThreadPoolExecutor(8) as pool:
        photos = [draw_photo(seed) for seed in range(8)]
        found = list(pool.map(lambda photo: post(address, files={"p": ("a.jpg", photo)}).json(), photos))
    assert [each["answers"][0]["probabilities"] for each in found] == [expect(models[0], photo) for photo in photos]
    assert "toy version 1 answers photos one by one" in caplog.text


def test_a_server_for_this_machine_answers_no_foreign_page(models) -> None:
    """A page from elsewhere, whose name suddenly leads to 127.0.0.1, or that sends a form to it."""
    with running(build_service(lambda: Toy(models[0])), local=True) as address:
        port = address.rpartition(":")[2]
        photo = {"p": ("a.jpg", draw_photo(0))}
        for host in (f"127.0.0.1:{port}", f"localhost:{port}", f"[::1]:{port}", "LOCALHOST"):
            assert post(address, files=photo, headers={"host": host}).status_code == 200
        assert post(address, files=photo, headers={"origin": address}).status_code == 200
        for headers in ({"host": f"evil.example:{port}"}, {"host": "127.0.0.1.evil.example"}, {"origin": "http://evil.example"},
                        {"origin": "null"}, {"origin": "http://localhost:1"}):  # fmt: skip
            refused = post(address, files=photo, headers=headers)
            assert (refused.status_code, list(refused.json())) == (403, ["detail"])
        page = requests.get(address, timeout=10)
        assert "frame-ancestors 'none'" in page.headers["content-security-policy"]


def test_nothing_of_the_machine_is_told(address) -> None:
    for path in ("/nosuch", "/docs", "/redoc", "/model"):
        response = requests.get(address + path, timeout=10)
        assert "server" not in response.headers
        assert "site-packages" not in response.text
        assert "Traceback" not in response.text
    # `requests` would send these as /etc/passwd.
    for path in ("/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "//etc/passwd", "/./model/../../etc/passwd"):
        asked = f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        assert talk(address, asked.encode()).startswith("HTTP/1.1 404")
    assert requests.get(f"{address}/predict", timeout=10).status_code == 405


def wait_until(true: Callable[[], Any], timeout_s: float = 30) -> None:
    """Waits until something is so; fails if it never is."""
    until = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < until, "it took too long"
        time.sleep(0.01)


class Gated:
    """A model that answers only while its gate is open; it counts how often it is asked, and keeps the images."""

    def __init__(self, model: Any) -> None:
        self.model, self.gate, self.asked = model, threading.Event(), 0
        self.images: list[np.ndarray] = []
        self.gate.set()

    def predict_on_batch(self, images: np.ndarray) -> np.ndarray:
        self.asked += 1
        self.images.extend(images)
        answer: np.ndarray = self.model.predict_on_batch(images)
        self.gate.wait(30)
        return answer


def test_a_full_queue_is_said(models) -> None:
    slow = Gated(models[0])
    service = build_service(lambda: Toy(slow), queue=8)
    slow.gate.clear()
    with running(service) as address, ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(post, address, files={"p": ("a.jpg", draw_photo(0))}) for _ in range(8)]
        wait_until(lambda: service.pending == 8)
        refused = post(address, files={"p": ("a.jpg", draw_photo(0))})
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        slow.gate.set()
        assert [future.result().status_code for future in waiting] == [200] * 8
        assert service.pending == 0


def test_a_new_champion_is_taken_over_and_no_request_is_dropped(models) -> None:
    current = [Toy(models[0])]
    service = build_service(lambda: current[0])
    photo = draw_photo(3)
    expected = {"1": expect(models[0], photo), "2": expect(models[1], photo)}
    seen: list[str] = []
    with running(service) as address:
        ended = threading.Event()

        def ask() -> None:
            while not ended.is_set():
                found = post(address, files={"p": ("a.jpg", photo)}).json()
                assert found["answers"][0]["probabilities"] == expected[found["model"]["version"]]
                seen.append(found["model"]["version"])

        with ThreadPoolExecutor(3) as pool:
            asking = [pool.submit(ask) for _ in range(3)]

            def seen_more(count: int) -> bool:
                for future in asking:
                    if future.done():
                        future.result()
                return len(seen) >= count

            try:
                wait_until(lambda: seen_more(5))
                current[0] = Toy(models[1], "2")
                service.look()
                before = len(seen)
                wait_until(lambda: seen_more(before + 10))
            finally:
                ended.set()
        for future in asking:
            future.result()
        assert seen[-1] == "2"
        assert requests.get(f"{address}/model", timeout=10).json()["version"] == "2"
        assert 'version="2"' in requests.get(f"{address}/metrics", timeout=10).text


def test_the_store_is_watched(models) -> None:
    from catdog.deployment.serving.service import PhotoService

    current = [Toy(models[0])]
    service = PhotoService(lambda: current[0], 8, 1, 0.01)
    try:
        current[0] = Toy(models[1], "2")
        wait_until(lambda: service.served.model.version == "2")
    finally:
        service.close()
    service._watcher.join(10)
    assert not service._watcher.is_alive()


def test_a_store_that_is_away_is_asked_again(models, caplog) -> None:
    current = [Toy(models[0])]
    service = build_service(lambda: current[0])
    current.clear()
    assert service.look() == 0
    assert "still serving toy version 1: the store does not answer" in caplog.text
    current.append(Toy(models[1], "2"))
    service.look()
    assert service.served.model.version == "2"
    service.close()


def test_a_champion_that_cannot_be_loaded_is_named_and_not_loaded_all_the_time(models, caplog, monkeypatch) -> None:
    class Broken:
        asked = 0

        def predict_on_batch(self, images: np.ndarray) -> np.ndarray:
            Broken.asked += 1
            raise ValueError("a layer is missing")

    now = [1000.0]
    monkeypatch.setattr("catdog.deployment.serving.service.time", SimpleNamespace(monotonic=lambda: now[0]))
    current = [Toy(models[0])]
    service = build_service(lambda: current[0])
    current[0] = Toy(Broken(), "4")
    for _ in range(5):
        service.look()
    assert Broken.asked == 1
    for wait_s, asked in ((61, 2), (61, 2), (60, 3), (3000, 4)):
        now[0] += wait_s
        service.look()
        assert Broken.asked == asked
    assert caplog.text.count("still serving toy version 1: toy version 4 cannot be loaded: a layer is missing") == 4
    assert caplog.text.count("Traceback") == 1
    # Another champion is loaded at once.
    current[0] = Toy(models[1], "5")
    service.look()
    assert service.served.model.version == "5"
    service.close()


def build_graph() -> Any:
    """A model with a graph inside, which Grad-CAM cuts in two."""
    import keras

    inputs = keras.Input((SIZE, SIZE, 3))
    maps = keras.layers.Conv2D(4, 3, activation="relu")(inputs)
    both = keras.layers.Add()([maps, keras.layers.Conv2D(4, 1)(maps)])
    graph = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(both))
    return keras.Sequential([
        keras.Input((SIZE, SIZE, 3), dtype="uint8"), keras.layers.Rescaling(1 / 255), graph, keras.layers.Dense(2),
        keras.layers.Softmax(),
    ])  # fmt: skip


def test_evidence_adds_to_the_model_only_once() -> None:
    model = build_graph()
    service = build_service(lambda: Toy(model))

    def count_nodes() -> int:
        return sum(len(layer._inbound_nodes) for layer in model._flatten_layers())

    answers = [future.result(60) for future in service.submit([draw_photo(0)] * 4, heatmap=True)]
    nodes = count_nodes()
    answers += [future.result(60) for future in service.submit([draw_photo(0)] * 4, heatmap=True)]
    service.close()
    assert count_nodes() == nodes
    assert answers[0].heatmap is not None
    assert len({answer.heatmap for answer in answers}) == 1


def test_an_answer_whose_evidence_fails_stands(models, monkeypatch, caplog) -> None:
    monkeypatch.setattr("catdog.deployment.serving.service._draw_heatmap", lambda *_: 1 / 0)
    with running(build_service(lambda: Toy(models[0]))) as address:
        answer = post(address, files={"p": ("a.jpg", draw_photo(0))}, params={"heatmap": "true"}).json()["answers"][0]
    assert answer["no_heatmap"] == "the map could not be computed"
    assert answer["probabilities"] == expect(models[0], draw_photo(0))
    assert "ZeroDivisionError" in caplog.text


def test_large_photos_delay_no_others(models, monkeypatch) -> None:
    from catdog.deployment.serving import service as module

    gate, decode = threading.Event(), module.decode_image
    out = io.BytesIO()
    Image.new("RGB", (100, 100)).save(out, "PNG")
    large = out.getvalue()
    monkeypatch.setattr(module, "LARGE_PIXELS", 5_000)

    def slow_if_large(source, *arguments: Any) -> np.ndarray:
        if source.getvalue() == large:
            gate.wait(30)
        return decode(source, *arguments)

    monkeypatch.setattr(module, "decode_image", slow_if_large)
    service = build_service(lambda: Toy(models[0]))
    waiting = service.submit([large] * 8)
    assert service.submit([draw_photo(0)])[0].result(10).class_name in ("cats", "dogs")
    assert not any(future.done() for future in waiting)
    gate.set()
    assert len({future.result(30).probabilities.tobytes() for future in waiting}) == 1
    service.close()


def test_a_service_that_has_ended_counts_no_photo_as_waiting(models) -> None:
    service = build_service(lambda: Toy(models[0]))
    service.close()
    with pytest.raises(RuntimeError):
        service.submit([draw_photo(0)] * 3)
    assert service.pending == 0


def test_a_token_is_asked_for(models) -> None:
    with running(build_service(lambda: Toy(models[0])), "secret") as address:
        photo = {"p": ("a.jpg", draw_photo(0))}
        refused = post(address, files=photo)
        assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
        assert post(address, files=photo, headers={"authorization": "bearer secret"}).status_code == 200
        assert post(address, files=photo, headers={"authorization": "Basic secret"}).status_code == 401
        document = requests.get(f"{address}/openapi.json", timeout=10).json()
        assert document["components"]["securitySchemes"] == {"token": {"type": "http", "scheme": "bearer"}}
        assert document["paths"]["/predict"]["post"]["security"] == [{"token": []}]
        assert "security" not in document["paths"]["/health"]["get"]
        assert post(address, files=photo, headers={"authorization": "Bearer wrong"}).status_code == 401
        assert post(address, files=photo, headers={"authorization": "Bearer secret"}).status_code == 200
        assert requests.get(f"{address}/metrics", timeout=10).status_code == 401
        assert requests.get(f"{address}/model", timeout=10).status_code == 401
        assert requests.get(address, timeout=10).status_code == 200
        assert requests.get(f"{address}/health", timeout=10).status_code == 200


def test_a_defect_tells_clients_nothing(models, monkeypatch, caplog) -> None:
    service = build_service(lambda: Toy(models[0]))
    monkeypatch.setattr(service, "submit", lambda *_, **__: 1 / 0)
    with running(service) as address:
        response = post(address, files={"p": ("a.jpg", draw_photo(0))})
    assert (response.status_code, response.json()) == (500, {"detail": "internal error"})
    assert "ZeroDivisionError" in caplog.text


def test_evidence_is_drawn_over_the_photo(address) -> None:
    answer = post(address, files={"p": ("a.jpg", draw_photo(0))}, params={"heatmap": "true"}).json()["answers"][0]
    image = Image.open(io.BytesIO(base64.b64decode(answer["heatmap"].partition(",")[2])))
    assert (image.format, image.size) == ("PNG", (SIZE, SIZE))


def test_what_openapi_says_has_examples(address) -> None:
    document = requests.get(f"{address}/openapi.json", timeout=10).json()
    operation = document["paths"]["/predict"]["post"]
    assert {*operation["requestBody"]["content"]} == {"multipart/form-data", "image/jpeg", "application/json"}
    assert "429" in operation["responses"]
    assert "422" not in operation["responses"]
    assert "ValidationError" not in document["components"]["schemas"]
    assert "securitySchemes" not in document["components"]
    assert "a.jpg" in json.dumps(document)


def mutate(rng: random.Random, photo: bytes) -> tuple[str, dict[str, str], bytes]:
    """A request with something wrong: its photo, its form, its headers or its address."""
    body = bytearray(photo)
    for _ in range(rng.choice((0, 1, 5, 50))):
        body[rng.randrange(len(body))] = rng.randrange(256)
    cut = bytes(body[: rng.choice((len(body), len(body), rng.randrange(len(body) + 1)))])
    boundary = rng.choice(("x", "", "y" * 80, "x\r\n", '"x"'))
    form = (
        b"--x\r\nContent-Disposition: form-data; name=p; filename=a.jpg\r\n\r\n"
        + cut
        + rng.choice((b"\r\n--x--\r\n", b"", b"\r\n--x", b"--"))
    )
    form = rng.choice((form, form.replace(b"\r\n", b"\n"), form * 3, form[rng.randrange(60) :]))
    document = json.dumps(
        {
            "photos": [
                {
                    "name": rng.choice(("a", None, 3, "\ud800")),
                    "data": rng.choice((base64.b64encode(cut).decode(), None, 1, "é")),
                }
            ]
        }
    )
    kind, content = rng.choice([
        ("image/jpeg", cut), (f"multipart/form-data; boundary={boundary.strip()}", form), ("multipart/form-data", form),
        ("application/json", document.encode("utf-8", "surrogatepass")), ("application/json", cut), ("", cut),
        (rng.choice(("a" * 300, "image/", ";", "multipart/form-data; boundary=\xff")), cut),
    ])  # fmt: skip
    path = rng.choice(
        (
            "/predict",
            "/predict",
            "/predict",
            "/predict?heatmap=true",
            "/predict?heatmap=%00",
            "/%2e%2e/",
            "/predict/",
            "/model",
        )
    )
    return path, {"content-type": kind}, content


def fuzz(address: str, count: int, seed: int = 0) -> dict[int, int]:
    """Sends mutated requests; returns how often each status came."""
    rng = random.Random(seed)
    photos = [draw_photo(number, kind) for number in range(3) for kind in ("JPEG", "PNG", "WEBP", "TIFF", "GIF")]
    found: dict[int, int] = {}
    with requests.Session() as session:
        for _ in range(count):
            path, headers, content = mutate(rng, rng.choice(photos))
            headers = {name: value.encode("latin-1") for name, value in headers.items()}
            try:
                status = session.request(rng.choice(("POST", "POST", "POST", "PUT", "GET")), address + path, data=content,
                                         headers=headers, timeout=60).status_code  # fmt: skip
            except requests.exceptions.InvalidHeader:
                continue
            found[status] = found.get(status, 0) + 1
    return found


def test_no_mutated_request_makes_an_error_of_ours(address) -> None:
    found = fuzz(address, 400)
    assert set(found) <= {200, 307, 400, 404, 405, 408, 413, 415, 429}, found
    assert found[200] > 20
    assert found[400] > 20


@pytest.fixture
def browser() -> Iterator[Any]:
    browser_path = next((found for name in ("chromium", "google-chrome") if (found := shutil.which(name))), None)
    if browser_path is None:
        pytest.skip("needs Chromium or Chrome")
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, address) -> Callable[[int], Any]:
    def open_at(width: int) -> Any:
        page = browser.new_context(viewport={"width": width, "height": 900}).new_page()
        page.set_default_timeout(30_000)
        page.problems = []
        page.on("console", lambda message: page.problems.append(message.text) if message.type == "error" else None)
        page.on("request", lambda request: None if request.url.startswith(("blob:", "data:", address)) else
                page.problems.append(request.url))  # fmt: skip
        page.goto(address)
        return page

    return open_at


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_answers_photos_and_says_what_is_none(open_page, models, width) -> None:
    page = open_page(width)
    page.get_by_text("toy version 1, 2 classes: cats, dogs").wait_for()
    photo = draw_photo(5, turned=True)
    expected = expect(models[0], photo)
    # By keyboard: Tab reaches the field, which a browser opens with Enter.
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "files"
    from catdog.data.images import IMAGE_SUFFIXES

    assert set(page.get_attribute("#files", "accept").split(",")) == IMAGE_SUFFIXES
    page.set_input_files("#files", [
        {"name": "turned.jpg", "mimeType": "image/jpeg", "buffer": photo},
        {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"hello"},
    ])  # fmt: skip
    page.get_by_text("2 of 2 photos answered").wait_for()
    best = max(expected, key=lambda name: expected[name])
    good = page.locator("li", has_text="turned.jpg")
    assert good.locator(".answer").inner_text() == best
    assert f"{100 * expected[best]:.1f}%" in good.inner_text()
    assert "not an image in a supported format" in page.locator("li", has_text="notes.txt").inner_text()
    good.get_by_role("button", name="Show the evidence in turned.jpg").press("Enter")
    good.get_by_alt_text("Grad-CAM").wait_for()
    page.wait_for_function("document.activeElement.textContent.startsWith('Right: where the evidence')")
    # In the browser's colours, the thumbnail is the photo turned upright.
    assert good.locator("canvas").evaluate("canvas => [canvas.width, canvas.height]") == [60, 40]
    assert page.locator("li", has_text="notes.txt").locator("canvas").count() == 0
    # Dropped as by a mouse.
    page.evaluate("""content => {
        const transfer = new DataTransfer();
        transfer.items.add(new File([Uint8Array.from(atob(content), c => c.charCodeAt(0))], "dropped.jpg", {type: "image/jpeg"}));
        document.dispatchEvent(new DragEvent("drop", {dataTransfer: transfer, bubbles: true, cancelable: true}));
    }""", base64.b64encode(photo).decode())  # fmt: skip
    page.get_by_text("3 of 3 photos answered").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    # A refused photo is a status 400, which browsers show in their console.
    assert [problem for problem in page.problems if "status of 400" not in problem] == []


@pytest.mark.slow
def test_the_page_asks_for_the_token(browser, models) -> None:
    with running(build_service(lambda: Toy(models[0])), "a+b%c/d&e") as address:
        known = "toy version 1, 2 classes: cats, dogs"
        page = browser.new_page()
        page.set_default_timeout(30_000)
        page.goto(address)
        page.get_by_text("this server needs a token").wait_for()
        assert page.evaluate("document.activeElement.id") == "token"
        page.keyboard.type("wrong")
        page.keyboard.press("Enter")
        page.get_by_text("this server needs a token").wait_for()
        page.fill("#token", "a+b%c/d&e")
        page.get_by_role("button", name="Use it").click()
        page.get_by_text(known).wait_for()
        assert page.locator("#login").is_hidden()
        for typed in ("#token=a+b%25c/d&e", "#token=a+b%c/d&e"):
            page = browser.new_page()
            page.goto(address)
            page.get_by_text("this server needs a token").wait_for()
            # Typed into the address later, it loads no page anew.
            page.evaluate("hash => { location.hash = hash; }", typed)
            page.get_by_text(known).wait_for()


@pytest.mark.slow
def test_a_folder_that_is_dropped_is_explained(open_page) -> None:
    page = open_page(1280)
    page.evaluate("""() => {
        const event = new Event("drop", {bubbles: true, cancelable: true});
        const file = new File([], "holiday");
        const item = {kind: "file", webkitGetAsEntry: () => ({isDirectory: true, name: "holiday"})};
        event.dataTransfer = {files: [file], items: [item]};
        document.dispatchEvent(event);
    }""")
    page.get_by_text("holiday: a folder cannot be dropped; drop the photos in it").wait_for()
    assert page.locator("li").count() == 0


def import_command() -> Any:
    """The module of the command; other tests run it as `python -m` does, and find it not imported yet."""
    from catdog import serve

    sys.modules.pop("catdog.serve", None)
    return serve


@pytest.mark.parametrize("name", ["uvicorn", "fastapi", "python_multipart", "prometheus_client"])
def test_a_missing_package_is_named(monkeypatch, name) -> None:
    from catdog.system.errors import UserError

    serve = import_command()
    for module in [each for each in sys.modules if each.startswith("catdog.deployment.serving.")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=rf"catdog\.serve needs {name}: pip install 'catdog\[serve\]'"):
        serve._serve(SimpleNamespace(token=None), None)


@pytest.mark.parametrize("token", ["two words", "näher", "line\nbreak"])
def test_a_token_that_no_client_can_send_is_refused(token) -> None:
    from catdog.system.errors import UserError

    serve = import_command()
    with pytest.raises(UserError, match="printable ASCII without spaces"):
        serve._serve(SimpleNamespace(token=token), None)


@pytest.mark.slow
def test_the_command_answers_like_predict_and_ends_when_told_to(tmp_path, cache) -> None:
    assert run_catdog(tmp_path, cache, "train", "model=cnn", *TINY, "study=pets").code == 0
    photo = tmp_path / "a.jpg"
    photo.write_bytes(draw_photo(7))
    expected = json.loads(run_catdog(tmp_path, cache, "predict", str(photo), "study=pets", "format=json").out)[0]
    server = start_catdog(tmp_path, cache, "serve", "study=pets", "port=0", "host=0.0.0.0")
    try:
        assert server.stdout is not None
        first = next(line for line in server.stdout if "serving" in line)
        assert first.startswith("serving pets version 1 at http://")
        assert "everyone who reaches this machine can use the server" in next(iter(server.stdout))
        port = int(first.partition(";")[0].rpartition(":")[2])
        found = post(f"http://127.0.0.1:{port}", files={"photos": ("a.jpg", photo.read_bytes())}).json()["answers"][0]
        assert found["class"] == expected["class"]
        for name, probability in found["probabilities"].items():
            assert np.float32(probability) == np.float32(expected[f"probability_{name}"])
        # A request of which half has arrived before SIGTERM is answered.
        content = photo.read_bytes()
        with connected(f"http://127.0.0.1:{port}", begin(len(content), content[:100])) as connection:
            wait_until(lambda: "catdog_held_bytes 100.0" in get_metrics(f"http://127.0.0.1:{port}"))
            os.kill(server.pid, signal.SIGTERM)
            time.sleep(1)
            connection.sendall(content[100:])
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
        out, _ = server.communicate(timeout=60)
        assert server.returncode == 0, out
        assert out.endswith("stopped\n")
    finally:
        server.kill()
    taken = socket.create_server(("127.0.0.1", 0))
    refused = run_catdog(tmp_path, cache, "serve", "study=pets", f"port={taken.getsockname()[1]}")
    taken.close()
    assert refused.code == 2
    assert "cannot be listened on: Address already in use. Name another with port=, or 0." in refused.err
