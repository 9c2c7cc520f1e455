"""Archives from servers, zips and folders, sound and unsound."""

import errno
import hashlib
import http.server
import io
import logging
import multiprocessing
import os
import random
import re
import socket
import stat
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from catdog.data import download
from catdog.data.fetch import check_reachable, fetch_archive, find_images_root
from catdog.system.errors import UserError

PHOTO = b"not decoded here " * 2000
TREE = {
    "pets/train/cats/a.jpg": PHOTO,
    "pets/train/dogs/b.jpg": b"b" * 500,
    "pets/validation/cats/c.jpg": b"c" * 500,
    "pets/validation/dogs/d.jpg": os.urandom(300_000),  # does not pack: the zip is larger than a chunk of a download
}


def write_zip(path: Path, entries: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


def files_below(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_nothing_extracted(cache: Path) -> None:
    assert [path for path in (cache / "extracted").glob("*") if path.is_dir()] == []


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    return write_zip(tmp_path / "pets.zip", TREE)


# --- local folders ------------------------------------------------------------------------------------------------


def make_tree(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return folder


@pytest.mark.parametrize(
    ("names", "root"),
    [
        (["train/cats/a.jpg", "validation/cats/b.jpg"], "."),
        (["cats/a.jpg", "dogs/b.jpg"], "."),
        (["pets/train/cats/a.jpg", "pets/validation/cats/b.jpg", "pets/readme.txt"], "pets"),
        (["pets/cats/a.jpg", "pets/dogs/b.jpg", "readme.txt"], "pets"),
        (["outer/inner/cats/a.jpg", "outer/inner/dogs/b.jpg"], "outer/inner"),
        (["cats/a.jpg"], "."),
        (["pets/cats/a.jpg"], "pets"),
        (["pets/cats/a.jpg", "pets/dogs/b.jpg", "stray.jpg"], "."),
        (["pets/cats/a.jpg", "pets/dogs/b.jpg", "__MACOSX/pets/._x", ".git/objects/x"], "pets"),
        (["cats/a.jpg", "cats/.thumbnails/a.jpg"], "."),
        (["a.jpg"], "."),
    ],
)
def test_images_root(tmp_path: Path, names: list[str], root: str) -> None:
    assert find_images_root(make_tree(tmp_path, *names)) == tmp_path / root


def test_local_folder_is_used_where_it_is(tmp_path: Path, cache: Path) -> None:
    folder = make_tree(tmp_path / "wrapper", "pets/train/cats/a.jpg", "pets/validation/cats/b.jpg")
    assert fetch_archive(str(folder), cache) == folder / "pets"
    assert not cache.exists()


def test_home_is_understood(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    make_tree(tmp_path / "pets", "cats/a.jpg", "dogs/b.jpg")
    assert fetch_archive("~/pets", cache) == tmp_path / "pets"


@pytest.mark.parametrize("location", ["", "/no/such/pets.zip", "s3://bucket/pets.zip"])
def test_places_that_are_not_there(location: str, cache: Path) -> None:
    with pytest.raises(UserError) as caught:
        fetch_archive(location, cache)
    for words in ("dataset.archive", location, "CATDOG_ARCHIVE", "dataset=synthetic"):
        assert words in str(caught.value)


# --- zips ---------------------------------------------------------------------------------------------------------


def test_a_mistyped_path_is_compared_with_its_neighbours(tmp_path: Path, cache: Path) -> None:
    make_tree(tmp_path / "my_photos" / "train", "cats/1.jpg", "dogs/1.jpg")
    for typed, meant in (
        ("my_photo", "my_photos"),
        ("my_photo/train", "my_photos/train"),
        ("my_photos/trian", "my_photos/train"),
    ):
        with pytest.raises(UserError, match=re.escape(f"Did you mean {tmp_path / meant}?")):
            fetch_archive(str(tmp_path / typed), cache)
    with pytest.raises(UserError) as caught:
        fetch_archive(str(tmp_path / "elsewhere"), cache)
    assert "Did you mean" not in str(caught.value)


def test_zip_is_extracted_once(pets: Path, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    root = fetch_archive(str(pets), cache)
    assert root.name == "pets"
    assert files_below(root.parent) == TREE
    assert "extracted 4 files" in caplog.text
    inode = (root / "train/cats/a.jpg").stat().st_ino
    caplog.clear()
    assert fetch_archive(str(pets), cache) == root
    assert (root / "train/cats/a.jpg").stat().st_ino == inode
    assert caplog.messages == []


def test_content_is_the_key_not_place_or_time(pets: Path, cache: Path, tmp_path: Path) -> None:
    root = fetch_archive(str(pets), cache)
    moved = pets.rename(tmp_path / "other.zip")
    os.utime(moved, (0, 0))
    assert fetch_archive(str(moved), cache) == root
    same_length = {**TREE, "pets/train/dogs/b.jpg": b"B" * 500}
    changed = fetch_archive(str(write_zip(moved, same_length)), cache)
    assert changed != root
    assert (changed / "train/dogs/b.jpg").read_bytes() == b"B" * 500


@pytest.mark.parametrize("harm", [Path.unlink, lambda path: path.write_bytes(b"short")], ids=["removed", "changed"])
def test_harmed_extraction_is_repeated(
    pets: Path, cache: Path, harm: Callable[[Path], object], caplog: pytest.LogCaptureFixture
) -> None:
    root = fetch_archive(str(pets), cache)
    harm(root / "train/cats/a.jpg")
    assert files_below(fetch_archive(str(pets), cache).parent) == TREE
    assert "extracting it again" in caplog.text


def test_clutter_is_left_out(tmp_path: Path, cache: Path) -> None:
    clutter = {"__MACOSX/pets/train/cats/._a.jpg": b"x", "pets/.DS_Store": b"x", "pets/train/cats/._a.jpg": b"x"}
    root = fetch_archive(str(write_zip(tmp_path / "mac.zip", TREE | clutter)), cache)
    assert files_below(root.parent) == TREE


def test_empty_folders_are_kept(tmp_path: Path, cache: Path) -> None:
    root = fetch_archive(str(write_zip(tmp_path / "a.zip", {"cats/a.jpg": b"a", "dogs/": b""})), cache)
    assert (root / "dogs").is_dir()


def test_names_in_any_script(tmp_path: Path, cache: Path) -> None:
    entries = {"猫/фото.jpg": b"1", "hündchen/é.jpg": b"2"}
    assert files_below(fetch_archive(str(write_zip(tmp_path / "a.zip", entries)), cache)) == entries


def test_utf8_names_without_the_flag_as_macos_writes_them(tmp_path: Path, cache: Path) -> None:
    path = write_zip(tmp_path / "mac.zip", {"XXX/a.jpg": b"1", "dogs/b.jpg": b"2"})
    assert len("猫".encode()) == 3
    path.write_bytes(path.read_bytes().replace(b"XXX", "猫".encode()))
    assert set(files_below(fetch_archive(str(path), cache))) == {"猫/a.jpg", "dogs/b.jpg"}


@pytest.mark.parametrize(
    "name",
    ["../escaped.jpg", "cats/../../escaped.jpg", "/escaped.jpg", "C:/escaped.jpg", "C:escaped.jpg", "..\\escaped.jpg"],
)
def test_entries_that_leave_the_folder_are_refused(tmp_path: Path, cache: Path, name: str) -> None:
    path = write_zip(tmp_path / "evil.zip", {"cats/a.jpg": b"a", name: b"evil"})
    with pytest.raises(UserError, match=r"evil\.zip holds an entry that may leave its folder") as caught:
        fetch_archive(str(path), cache)
    assert repr(name) in str(caught.value)
    assert_nothing_extracted(cache)
    assert not list(tmp_path.rglob("escaped*"))


def test_links_are_refused(tmp_path: Path, cache: Path) -> None:
    link = zipfile.ZipInfo("cats/link.jpg")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(UserError, match="holds a link"):
        fetch_archive(str(tmp_path / "link.zip"), cache)


@pytest.mark.parametrize("entries", [{"cats": b"", "cats/a.jpg": b""}, {"cats/a.jpg": b"1", "./cats/a.jpg/b": b"2"}])
def test_a_file_that_is_a_folder_too(tmp_path: Path, cache: Path, entries: dict[str, bytes]) -> None:
    with pytest.raises(UserError, match="more than one entry"):
        fetch_archive(str(write_zip(tmp_path / "a.zip", entries)), cache)
    assert_nothing_extracted(cache)


def test_names_that_the_disk_refuses(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(UserError, match="name that this disk refuses"):
        fetch_archive(str(write_zip(tmp_path / "a.zip", {"cats/a.jpg": b"1", f"cats/{'x' * 300}.jpg": b""})), cache)
    assert_nothing_extracted(cache)


def test_no_zip(tmp_path: Path, cache: Path) -> None:
    for name, content in {"page.zip": b"<!DOCTYPE html>" * 100, "empty.zip": b""}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"{name} is not a zip archive"):
            fetch_archive(str(tmp_path / name), cache)


def test_zip_of_nothing(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(UserError, match="holds no files"):
        fetch_archive(str(write_zip(tmp_path / "a.zip", {})), cache)


def test_truncated_zip(pets: Path, cache: Path) -> None:
    os.truncate(pets, pets.stat().st_size // 2)
    with pytest.raises(UserError, match=r"pets\.zip is cut short or damaged"):
        fetch_archive(str(pets), cache)


def test_a_zip_cut_anywhere_is_never_used(pets: Path, cache: Path) -> None:
    content = pets.read_bytes()
    rng = random.Random(0)
    for cut in [1, *rng.sample(range(2, len(content)), 25), len(content) - 1]:
        pets.write_bytes(content[:cut])
        with pytest.raises(UserError, match=r"pets\.zip is (cut short or damaged|not a zip archive)"):
            fetch_archive(str(pets), cache)
        assert_nothing_extracted(cache)
    pets.write_bytes(content)
    assert fetch_archive(str(pets), cache).is_dir()


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_flipped_bytes_in_a_zip(tmp_path: Path, cache: Path, method: int) -> None:
    path = tmp_path / "flipped.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("cats/a.jpg", b"sound")
        archive.writestr("dogs/b.jpg", os.urandom(20_000))
    content = bytearray(path.read_bytes())
    for offset in range(8000, 8010):
        content[offset] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"flipped\.zip is cut short or damaged"):
        fetch_archive(str(path), cache)
    assert_nothing_extracted(cache)


@pytest.mark.parametrize("kind", ["zip", "folder"])
def test_no_permission(pets: Path, cache: Path, tmp_path: Path, kind: str) -> None:
    path = pets if kind == "zip" else make_tree(tmp_path / "pets", "cats/a.jpg", "dogs/b.jpg")
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user, probably root, may read everything")
    try:
        with pytest.raises(UserError, match=rf"{path.name} cannot be read: {os.strerror(errno.EACCES)}"):
            fetch_archive(str(path), cache)
    finally:
        path.chmod(0o700)


def test_encrypted_zip(pets: Path, cache: Path) -> None:
    content = bytearray(pets.read_bytes())
    for found in re.finditer(rb"PK\x01\x02", bytes(content)):
        content[found.start() + 8] |= 1
    pets.write_bytes(content)
    with pytest.raises(UserError, match="is encrypted"):
        fetch_archive(str(pets), cache)


def test_zip_bomb_is_not_unpacked(pets: Path, cache: Path) -> None:
    # Declares sizes of nearly 4 GiB each; the sum is more than any disk here has.
    entry = b"PK\x01\x02"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for index in range(30_000):
            archive.writestr(f"cats/{index}.jpg", b"")
    content = bytearray(buffer.getvalue())
    for found in re.finditer(re.escape(entry), bytes(content)):
        content[found.start() + 24 : found.start() + 28] = b"\xfe\xff\xff\xff"
    pets.write_bytes(content)
    with pytest.raises(UserError, match=r"needs 128,\d{3},\d{3} MB, but its disk has"):
        fetch_archive(str(pets), cache)
    assert_nothing_extracted(cache)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on the size of files")
def test_disk_full_while_extracting(pets: Path, cache: Path) -> None:
    script = """
import resource, sys
from pathlib import Path
from catdog.data.fetch import fetch_archive
from catdog.system.errors import UserError

resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    fetch_archive(sys.argv[1], Path(sys.argv[2]))
except UserError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script, pets, cache], capture_output=True, text=True, check=True)
    assert "the disk is full" in done.stdout
    assert_nothing_extracted(cache)


def fetch_after_barrier(location: str, cache: Path, barrier: Barrier, messages: "multiprocessing.Queue[str]") -> None:
    class Forward(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.put(record.getMessage())

    logging.basicConfig(level=logging.INFO, handlers=[Forward()])
    barrier.wait()
    messages.put(f"root {fetch_archive(location, cache)}")


def test_two_processes_download_and_extract_once(server: "Server", cache: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier, messages = context.Barrier(2), context.Queue()
    server.pause_s = 0.3  # so that the second process comes while the first downloads
    arguments = (server.url, cache, barrier, messages)
    processes = [context.Process(target=fetch_after_barrier, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    said: list[str] = []
    while sum(message.startswith("root") for message in said) < 2:
        said.append(messages.get(timeout=30))
    for process in processes:
        process.join(timeout=30)
        assert process.exitcode == 0
    messages.close()
    assert len({message for message in said if message.startswith("root")}) == 1
    assert sum(message.startswith("extracted") for message in said) == 1
    assert "another process is downloading the same file: waiting for it" in said
    assert len(server.ranges) == 1


# --- downloads ----------------------------------------------------------------------------------------------------


class Server:
    """A real HTTP server of one file, whose manners the tests spoil.

    Attributes:
        content: what it serves.
        etag: the validator it sends; None sends none.
        breaks: after how many bytes the next answers break off; None answers in full.
        takes_ranges: whether it knows Range.
        pause_s: how long it thinks before every answer.
        stall_s: how long it then falls silent in the middle.
        status: what it answers instead of the content; 200: the content.
        ranges: the Range header of every request, in order.
    """

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.etag: str | None = '"one"'
        self.breaks: list[int | None] = []
        self.takes_ranges = True
        self.sends_length = True
        self.pause_s = 0.0
        self.stall_s = 0.0
        self.status = 200
        self.ranges: list[str | None] = []
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://user:secret@127.0.0.1:{self.http.server_port}/pets.zip?token=secret"

    def answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        wanted = request.headers.get("Range")
        self.ranges.append(wanted)
        time.sleep(self.pause_s)
        if self.status != 200:
            request.send_error(self.status)
            return
        start = 0
        if wanted and self.takes_ranges and request.headers.get("If-Range") in (None, self.etag):
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(self.content):
                request.send_error(416)
                return
            request.send_response(206)
            request.send_header("Content-Range", f"bytes {start}-{len(self.content) - 1}/{len(self.content)}")
        else:
            request.send_response(200)
        if self.sends_length:
            request.send_header("Content-Length", str(len(self.content) - start))
        if self.etag:
            request.send_header("ETag", self.etag)
        request.end_headers()
        end = self.breaks.pop(0) if self.breaks else None
        request.wfile.write(self.content[start : end if end is None else start + end])
        request.wfile.flush()
        if end is not None:
            time.sleep(self.stall_s)


@pytest.fixture
def server(pets: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(download, "RECONNECT_PAUSES_S", (0.0, 0.0, 0.0))
    served = Server(pets.read_bytes())
    thread = threading.Thread(target=served.http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield served
    served.http.shutdown()
    thread.join()
    served.http.server_close()


def downloads(cache: Path) -> list[str]:
    return sorted(path.name for path in (cache / "downloads").iterdir() if not path.name.endswith(".lock"))


def download_name(server: Server) -> str:
    return f"{hashlib.sha256(server.url.encode()).hexdigest()[:12]}-pets.zip"


def test_download_is_kept(server: Server, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    root = fetch_archive(server.url, cache)
    assert files_below(root.parent) == TREE
    assert downloads(cache) == [download_name(server)]
    assert "downloaded 0.3 MB" in caplog.text
    server.status = 500
    assert fetch_archive(server.url, cache) == root
    assert server.ranges == [None]


def test_a_break_in_the_middle_is_taken_up_there(server: Server, cache: Path) -> None:
    server.breaks = [200_000, 10, None]
    assert files_below(fetch_archive(server.url, cache).parent) == TREE
    assert [re.fullmatch(r"bytes=\d+-", wanted or "") is not None for wanted in server.ranges] == [False, True, True]
    assert int((server.ranges[1] or "")[6:-1]) >= 100_000
    assert downloads(cache) == [download_name(server)]


def test_the_next_run_takes_up_what_this_one_gave_up(server: Server, cache: Path) -> None:
    server.breaks = [150_000, 0, 0, 0]
    with pytest.raises(UserError, match=r"broke off.* Run the same command again to resume it") as caught:
        fetch_archive(server.url, cache)
    assert "secret" not in str(caught.value)
    assert len(server.ranges) == 4
    assert files_below(fetch_archive(server.url, cache).parent) == TREE
    assert int((server.ranges[4] or "")[6:-1]) >= 100_000


@pytest.mark.parametrize("manner", ["takes_ranges", "etag", "weak etag", "other version"])
def test_servers_that_cannot_resume_start_over(server: Server, cache: Path, manner: str) -> None:
    server.breaks = [150_000, 0, 0, 0]
    if manner == "takes_ranges":
        server.takes_ranges = False
    elif manner != "other version":
        server.etag = {"etag": None, "weak etag": 'W/"one"'}[manner]
    with pytest.raises(UserError):
        fetch_archive(server.url, cache)
    assert (set(server.ranges) == {None}) == (manner in ("etag", "weak etag"))
    if manner == "other version":
        changed = {**TREE, "pets/train/dogs/b.jpg": b"B" * 500}
        server.content = write_zip(cache.parent / "changed.zip", changed).read_bytes()
        server.etag = '"two"'
        assert files_below(fetch_archive(server.url, cache).parent) == changed
    else:
        assert files_below(fetch_archive(server.url, cache).parent) == TREE


def test_a_part_that_is_already_whole(server: Server, cache: Path) -> None:
    (cache / "downloads").mkdir(parents=True)
    part = cache / "downloads" / f"{download_name(server)}.part"
    part.write_bytes(server.content)
    part.with_name(part.name + ".validator").write_text('"one"')
    assert files_below(fetch_archive(server.url, cache).parent) == TREE
    assert server.ranges == [f"bytes={len(server.content)}-", None]


def test_a_part_that_nobody_asked_for(server: Server, cache: Path) -> None:
    server.status = 206
    with pytest.raises(UserError, match="not requested"):
        fetch_archive(server.url, cache)


def test_a_server_that_tells_no_length(server: Server, cache: Path) -> None:
    server.sends_length = False
    assert files_below(fetch_archive(server.url, cache).parent) == TREE


def test_silence_in_the_middle(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "STALL_TIMEOUT_S", 0.2)
    server.breaks = [100_000, 0, 0, 0]
    server.stall_s = 1.0
    start_s = time.monotonic()
    with pytest.raises(UserError, match="it stopped answering"):
        fetch_archive(server.url, cache)
    assert time.monotonic() - start_s < 3.5


@pytest.mark.parametrize("status", [403, 404, 503])
def test_http_errors(server: Server, cache: Path, status: int) -> None:
    server.status = status
    with pytest.raises(UserError, match=rf"127\.0\.0\.1:\d+/pets\.zip cannot be downloaded: .*{status}") as caught:
        fetch_archive(server.url, cache)
    assert "secret" not in str(caught.value)
    assert "CATDOG_ARCHIVE" in str(caught.value)
    assert downloads(cache) == []


@pytest.mark.parametrize("damage", [b"<html>sign in first</html>", None], ids=["a page", "a truncated zip"])
def test_a_damaged_download_is_removed_and_fetched_again(server: Server, cache: Path, damage: bytes | None) -> None:
    sound = server.content
    server.content = damage or sound[: len(sound) // 2]
    with pytest.raises(UserError, match="It was removed; run the same command again"):
        fetch_archive(server.url, cache)
    assert downloads(cache) == []
    server.content = sound
    assert files_below(fetch_archive(server.url, cache).parent) == TREE


def test_a_host_without_a_name(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    with pytest.raises(UserError, match="host name is not found") as caught:
        fetch_archive("http://no-such-host.invalid/pets.zip", cache)
    assert "dataset=synthetic" in str(caught.value)


def test_a_port_where_nobody_listens(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{reserved.getsockname()[1]}/pets.zip"
        with pytest.raises(UserError, match=os.strerror(errno.ECONNREFUSED)):
            fetch_archive(url, cache)


def test_a_server_that_never_answers(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(download, "CONNECT_TIMEOUT_S", 0.4)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        start_s = time.monotonic()
        with pytest.raises(UserError, match="no answer within"):
            fetch_archive(f"http://127.0.0.1:{silent.getsockname()[1]}/pets.zip", cache)
        assert time.monotonic() - start_s < 5.0


def test_many_addresses_that_drop_packets_share_one_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    silent = socket.create_server(("127.0.0.1", 0), backlog=0)
    address = silent.getsockname()
    waiting = []
    for _ in range(4):  # a full backlog: further connections get no answer at all
        waiting.append(socket.socket())
        waiting[-1].setblocking(False)
        waiting[-1].connect_ex(address)
    one = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", address)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [one] * 20)
    start_s = time.monotonic()
    with pytest.raises(OSError, match="no answer within"):
        check_reachable(f"http://many.example:{address[1]}/weights.h5", timeout_s=0.3)
    assert time.monotonic() - start_s < 3.0
    for connection in (*waiting, silent):
        connection.close()  # what is left of the request is refused from here on


def test_the_deadline_is_short_enough() -> None:
    assert download.CONNECT_TIMEOUT_S < 20
    reconnecting_s = len(download.RECONNECT_PAUSES_S) * download.RECONNECT_TIMEOUT_S + sum(download.RECONNECT_PAUSES_S)
    assert reconnecting_s < 20


def test_reachable_is_a_host_that_answers_anything(server: Server) -> None:
    for status in (200, 404):
        server.status = status
        check_reachable(server.url)
    assert len(server.ranges) == 2


def test_not_reachable_is_no_user_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    with pytest.raises(OSError, match="host name is not found"):
        check_reachable("https://no-such-host.invalid/weights/")
