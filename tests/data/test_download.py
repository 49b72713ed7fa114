"""Downloads from local servers that answer like the hub and like a file server."""

import hashlib
import io
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from conftest import make_spec, run_script
from tf4ctr.data.download import fetch
from tf4ctr.errors import InputError

FILES = {
    "train.csv": b"click,user\n1,2\n" * 20_000,
    "valid.csv": b"click,user\n0,2\n",
    "test.csv": b"click,user\n1,3\n",
}


def md5(content):
    return hashlib.md5(content).hexdigest()


def archive():
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as zipped:  # not compressed: large enough to be cut in the middle
        for name, data in FILES.items():
            zipped.writestr(f"Toy_x1/{name}", data)
    return content.getvalue()


class Server(ThreadingHTTPServer):
    def __init__(self, content):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.ranges, self.cut = content, [], 0
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        if self.path.startswith("/api/"):  # a request of the hub's client besides the file, once per process
            self.send_error(404)
            return
        content = self.server.content
        start = int((self.headers.get("Range") or "bytes=0-").split("=")[1].split("-")[0]) if body else 0
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("ETag", f'"{md5(content)}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        if not body:
            return
        self.server.ranges.append(start)
        if self.server.cut:
            self.server.cut -= 1
            self.wfile.write(content[start : start + 100_000])
            self.close_connection = True
            return
        self.wfile.write(content[start:])

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    server = Server(archive())
    yield server
    server.shutdown()


def toy(tmp_path, **download):
    sums = {name: md5(data) for name, data in FILES.items()}
    return make_spec(tmp_path / "raw", fields=["user"], download={"md5": sums, **download})


def names(spec):
    return {path.name for path in spec.raw_dir.iterdir() if path.is_file()}


def test_a_hub_archive_is_unpacked(tmp_path, server, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    spec = toy(tmp_path, hub="reczoo/Toy_x1")
    fetch(spec)
    assert {name: (spec.raw_dir / name).read_bytes() for name in FILES} == FILES
    assert names(spec) == {*FILES}
    requests = len(server.ranges)
    fetch(spec)
    assert len(server.ranges) == requests  # nothing is downloaded twice


def test_an_interrupted_download_resumes(tmp_path, server, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    # bytes that the client writes at a time, 10 MB by default: smaller parts are lost
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 10_000)
    server.cut = 1
    spec = toy(tmp_path, hub="reczoo/Toy_x1")
    for _ in range(2):
        try:
            fetch(spec)
            break
        except InputError:
            continue
    assert {name: (spec.raw_dir / name).read_bytes() for name in FILES} == FILES
    assert any(start > 0 for start in server.ranges)


def test_a_member_with_a_wrong_checksum_is_refused_and_gets_no_final_name(tmp_path, server, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    spec = toy(tmp_path, hub="reczoo/Toy_x1")
    spec.download["md5"]["valid.csv"] = "0" * 32
    with pytest.raises(InputError, match=r"valid\.csv in .*Toy_x1\.zip has md5 [0-9a-f]{32}, expected 0{32}"):
        fetch(spec)
    assert not names(spec) & {*FILES}


def test_an_archive_is_downloaded_by_url(tmp_path, server):
    sums = {"toy.zip": md5(server.content)}
    spec = make_spec(
        tmp_path / "raw", download={"url": f"{server.url}/a/toy.zip", "md5": sums, "unpack": ["Toy_x1/train.csv"]}
    )
    fetch(spec)
    assert names(spec) == {"train.csv"}


def test_an_archive_with_a_wrong_checksum_is_refused(tmp_path, server):
    download = {"url": f"{server.url}/a/toy.zip", "md5": {"toy.zip": "0" * 32}, "unpack": ["train.csv"]}
    spec = make_spec(tmp_path / "raw", download=download)
    with pytest.raises(InputError, match="the checksum is not the expected md5 0{32}"):
        fetch(spec)
    assert not names(spec)


def test_a_dataset_without_a_download_says_how_to_get_it(tmp_path):
    with pytest.raises(
        InputError, match=r"toy cannot be downloaded automatically\.\nAsk the owner\.\nThen put the files into"
    ):
        fetch(make_spec(tmp_path / "raw", source="Ask the owner."))


def test_without_a_network_there_is_one_clear_error(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the attempts of the hub's client
    with pytest.raises(
        InputError,
        match=r"Toy_x1\.zip of reczoo/Toy_x1 cannot be downloaded \(.*\): check the network.* continues with the part",
    ):
        fetch(toy(tmp_path, hub="reczoo/Toy_x1"))


def test_prepare_downloads_with_download_true(tmp_path):
    result = run_script(
        "prepare.py", "dataset=avazu", "~dataset.download", "download=true", f"dataset.raw_dir={tmp_path}/raw"
    )
    assert result.returncode == 2
    assert "avazu cannot be downloaded automatically" in result.stderr
    assert "kaggle competitions download -c avazu-ctr-prediction" in result.stderr
    assert "Traceback" not in result.stderr
