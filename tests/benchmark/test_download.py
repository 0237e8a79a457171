import errno
import hashlib
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest

from autoseg.benchmark import download
from autoseg.benchmark.download import fetch
from autoseg.benchmark.registry import Entry
from autoseg.core.errors import DownloadError

CONTENT = np.random.default_rng(0).bytes(300_000)


@dataclass
class Behaviour:
    """What the server does, and what it was asked."""

    breaks_at: list[int] = field(default_factory=list)
    """Bytes after which the next answers break off; later answers are whole."""
    honours_range: bool = True
    status: int = 200
    ranges: list[str | None] = field(default_factory=list)


@dataclass
class Server:
    behaviour: Behaviour
    address: str

    def entry(self, md5: str = hashlib.md5(CONTENT).hexdigest()) -> Entry:
        return Entry(
            name="toy", title="Toy", licence="CC0", citation="none", num_cases=1, address=self.address, md5=md5
        )


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    behaviour = Behaviour()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            behaviour.ranges.append(asked)
            if behaviour.status != 200:
                self.send_error(behaviour.status)
                return
            first = int(re.findall(r"\d+", asked)[0]) if asked and behaviour.honours_range else 0
            if first >= len(CONTENT):
                self.send_error(416)
                return
            self.send_response(206 if first else 200)
            if first:
                self.send_header("Content-Range", f"bytes {first}-{len(CONTENT) - 1}/{len(CONTENT)}")
            self.send_header("Content-Length", str(len(CONTENT) - first))
            self.end_headers()
            length = behaviour.breaks_at.pop(0) if behaviour.breaks_at else len(CONTENT)
            self.wfile.write(CONTENT[first : first + length])

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(download, "PAUSE_S", 0.0)
    monkeypatch.setattr(download, "CHUNK_BYTES", 10_000)
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield Server(behaviour, f"http://127.0.0.1:{httpd.server_port}/sub/Task99_Toy.tar")
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def refusal(entry: Entry, folder: Path) -> str:
    with pytest.raises(DownloadError) as caught:
        fetch(entry, folder)
    return str(caught.value)


def test_archive_arrives_under_its_name(server: Server, tmp_path: Path) -> None:
    path = fetch(server.entry(), tmp_path / "new")

    assert path == tmp_path / "new" / "Task99_Toy.tar"
    assert path.read_bytes() == CONTENT
    assert [file.name for file in path.parent.iterdir()] == ["Task99_Toy.tar"]


def test_archive_that_is_there_is_not_fetched_again(server: Server, tmp_path: Path) -> None:
    fetch(server.entry(), tmp_path)
    fetch(server.entry(), tmp_path)

    assert len(server.behaviour.ranges) == 1


def test_broken_transfer_goes_on_by_itself(server: Server, tmp_path: Path) -> None:
    server.behaviour.breaks_at = [100_000, 50_000, 20_000, 10_000]

    assert fetch(server.entry(), tmp_path).read_bytes() == CONTENT
    assert server.behaviour.ranges == [None, "bytes=100000-", "bytes=150000-", "bytes=170000-", "bytes=180000-"]


def test_transfer_given_up_is_resumed_by_the_next_call(server: Server, tmp_path: Path) -> None:
    server.behaviour.breaks_at = [100_000, 0, 0, 0]

    message = refusal(server.entry(), tmp_path)
    assert "100000 bytes are kept in" in message
    assert "--source FILE_OR_FOLDER" in message

    server.behaviour.breaks_at = []
    assert fetch(server.entry(), tmp_path).read_bytes() == CONTENT
    assert server.behaviour.ranges[-1] == "bytes=100000-"


def test_server_that_ignores_ranges_is_fetched_from_the_start(server: Server, tmp_path: Path) -> None:
    server.behaviour.honours_range = False
    server.behaviour.breaks_at = [100_000]

    assert fetch(server.entry(), tmp_path).read_bytes() == CONTENT
    assert server.behaviour.ranges == [None, "bytes=100000-"]


def test_part_that_is_whole_is_only_verified(server: Server, tmp_path: Path) -> None:
    (tmp_path / "Task99_Toy.tar.part").write_bytes(CONTENT)

    assert fetch(server.entry(), tmp_path).read_bytes() == CONTENT


def test_wrong_checksum_removes_the_file(server: Server, tmp_path: Path) -> None:
    message = refusal(server.entry(md5="0" * 32), tmp_path)

    assert f"MD5 of the download must be {'0' * 32}, got {hashlib.md5(CONTENT).hexdigest()}" in message
    assert "--source FILE_OR_FOLDER" in message
    assert list(tmp_path.iterdir()) == []


def test_part_of_another_file_is_caught_and_the_next_call_succeeds(server: Server, tmp_path: Path) -> None:
    (tmp_path / "Task99_Toy.tar.part").write_bytes(b"x" * 1000)

    assert "MD5 of the download must be" in refusal(server.entry(), tmp_path)
    assert fetch(server.entry(), tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize(("status", "reason"), [(404, "404 Not Found"), (403, "403 Forbidden"), (503, "503 Service")])
def test_refusal_of_the_server_is_named(server: Server, tmp_path: Path, status: int, reason: str) -> None:
    server.behaviour.status = status

    message = refusal(server.entry(), tmp_path)

    assert message.startswith(f"{server.address}: must be reachable to fetch toy, got the server's answer {reason}")
    assert "--source FILE_OR_FOLDER" in message
    assert len(server.behaviour.ranges) == 1


def test_refused_connection_names_both_ways_out(server: Server, tmp_path: Path) -> None:
    entry = server.entry().model_copy(update={"address": "http://127.0.0.1:1/Task99_Toy.tar"})

    message = refusal(entry, tmp_path)

    assert "Connection refused" in message
    assert "Run the same command again" in message
    assert "download http://127.0.0.1:1/Task99_Toy.tar on another machine and pass it with `--source" in message
    assert "\n" not in message


def test_unknown_host_is_named(server: Server, tmp_path: Path) -> None:
    entry = server.entry().model_copy(update={"address": "http://no-such-host.invalid/Task99_Toy.tar"})

    assert "no-such-host.invalid" in refusal(entry, tmp_path)


class FullDisk:
    """A file on a disk with room for some bytes more."""

    def __init__(self, stream: IO[bytes], room: int) -> None:
        self._stream, self._room = stream, room

    def __enter__(self) -> "FullDisk":
        return self

    def __exit__(self, *exception: object) -> None:
        self._stream.close()

    def write(self, chunk: bytes) -> int:
        self._room -= len(chunk)
        if self._room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self._stream.write(chunk)


def test_full_disk_keeps_what_fits_and_goes_on_later(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_open = Path.open

    def open_on_full_disk(path: Path, mode: str = "r") -> FullDisk | IO[Any]:
        stream = real_open(path, mode)
        return FullDisk(stream, room=120_000) if mode in ("ab", "wb") else stream

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", open_on_full_disk)
        message = refusal(server.entry(), tmp_path)
    assert "got a full disk after 120000 bytes" in message
    assert f"{tmp_path / 'Task99_Toy.tar.part'}: " in message

    assert fetch(server.entry(), tmp_path).read_bytes() == CONTENT
    assert server.behaviour.ranges == [None, "bytes=120000-"]


def test_folder_that_cannot_be_made_is_named(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    assert "the folder must be writable" in refusal(server.entry(), tmp_path / "file" / "below")


def test_dataset_without_address_cannot_be_fetched(tmp_path: Path) -> None:
    entry = Entry(name="phantom", title="", licence="", citation="", num_cases=1)

    with pytest.raises(ValueError, match="phantom must have an address"):
        fetch(entry, tmp_path)
