"""--fetch_weights fills a folder for --weights_dir, from a hub that is played by a server here."""
import hashlib
import http.server
import threading
from typing import ClassVar

import pytest
import timm
from huggingface_hub import constants as hub_constants
from huggingface_hub import file_download

from grandmaster_train import main
from modeling import weights as weights_module
from modeling.weights import file_in, find_weights
from running import fetching
from running.fetching import fetch_into
from utils import UserError, digest_json

NAME = "mobilenetv3_small_050"
HUB_ID = timm.get_pretrained_cfg(NAME).hf_hub_id
FILE = bytes(range(256)) * 12_000      # 3 MB


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the hub as a download asks for. `cut`: how many answers end in the middle."""

    protocol_version = "HTTP/1.1"
    files: ClassVar = {}
    cut = 0
    ranges: ClassVar = []
    asked: ClassVar = []

    def do_HEAD(self):
        self.asked.append(("HEAD", self.path.split("?")[0]))
        self.answer(with_body=False)

    def do_GET(self):
        self.asked.append(("GET", self.path.split("?")[0]))
        self.answer(with_body=True)

    def answer(self, with_body):
        data = self.files.get(self.path.split("?")[0])
        if data is None:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start = 0
        if asked := self.headers.get("Range"):
            start = int(asked.removeprefix("bytes=").split("-")[0])
        if with_body:
            type(self).ranges.append(start)
        self.send_response(206 if asked else 200)
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(data) - start))
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if not with_body:
            return
        if type(self).cut:
            type(self).cut -= 1
            self.wfile.write(data[start:len(data) // 2])
            self.close_connection = True
        else:
            self.wfile.write(data[start:])

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The server's handler class; the hub's client asks it, with an empty cache."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    paths = hub_constants.HUGGINGFACE_CO_URL_TEMPLATE.removeprefix(hub_constants.ENDPOINT)
    for name, value in {"ENDPOINT": endpoint, "HUGGINGFACE_CO_URL_TEMPLATE": endpoint + paths,
                        "HF_HUB_OFFLINE": False}.items():
        for module in (hub_constants, file_download):      # older versions have names of their own
            if hasattr(module, name):
                monkeypatch.setattr(module, name, value)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(fetching, "cached_file", lambda _: None)
    weights_module.hub_reachable.cache_clear()
    Hub.files = {f"/{HUB_ID}/resolve/main/model.safetensors": FILE}
    Hub.cut = 0
    Hub.ranges = []
    Hub.asked = []
    yield Hub
    server.shutdown()
    server.server_close()
    weights_module.hub_reachable.cache_clear()


def test_sizes_and_licences_are_said_before_anything_is_downloaded(hub, tmp_path):
    lines = fetch_into(tmp_path / "w", [NAME], "tiny")
    assert next(lines) == (f"scale tiny: 1 network(s), 0 in {tmp_path / 'w'} already, 3.1 MB to "
                           "fetch")
    assert next(lines) == (f"{NAME}.safetensors: 3.1 MB from hub {HUB_ID}, licence apache-2.0")
    assert hub.ranges == []
    assert list(lines)[-1] == f"pass it on as --weights_dir {tmp_path / 'w'}"


def test_the_folder_holds_what_weights_dir_finds_and_the_licences(hub, tmp_path, capsys):
    argv = ["--fetch_weights", str(tmp_path / "w"), "--set", f"model.backbones={NAME}"]
    assert main(argv) == 0
    assert {path.name for path in (tmp_path / "w").iterdir()} == {f"{NAME}.safetensors",
                                                                  "LICENCES.txt"}
    assert find_weights(NAME, str(tmp_path / "w"), "require").kind == "weights_dir"
    assert (tmp_path / "w" / f"{NAME}.safetensors").read_bytes() == FILE
    assert (tmp_path / "w/LICENCES.txt").read_text() == (
        f"{NAME}.safetensors: {HUB_ID}, licence apache-2.0\n")
    capsys.readouterr()
    before = len(hub.ranges)
    assert main(argv) == 0
    assert "1 in " in capsys.readouterr().out and len(hub.ranges) == before


def test_a_download_that_was_cut_goes_on_where_it_was(hub, tmp_path, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)
    monkeypatch.setattr(hub_constants, "DOWNLOAD_CHUNK_SIZE", 100_000)
    hub.cut = 100      # more often than the client tries
    with pytest.raises(UserError, match="what was begun goes on"):
        list(fetch_into(tmp_path / "w", [NAME], "tiny"))
    hub.cut = 0
    hub.ranges.clear()
    list(fetch_into(tmp_path / "w", [NAME], "tiny"))
    assert hub.ranges == [15 * 100_000]      # of a half of 1,536,000 bytes in whole pieces
    assert file_in(str(tmp_path / "w"), NAME).read_bytes() == FILE


def test_the_address_of_each_file_is_asked_for_right_before_its_download(hub, tmp_path):
    other = "mobilenetv3_small_075"
    paths = [f"/{timm.get_pretrained_cfg(name).hf_hub_id}/resolve/main/model.safetensors"
             for name in (NAME, other)]
    hub.files = dict.fromkeys(paths, FILE)
    list(fetch_into(tmp_path / "w", [NAME, other], "tiny"))
    found = [each for each in hub.asked if each[1] in paths]
    assert found[-4:] == [("HEAD", paths[0]), ("GET", paths[0]),
                          ("HEAD", paths[1]), ("GET", paths[1])]


def test_a_file_that_is_not_what_the_hub_says_is_not_kept(hub, tmp_path):
    lines = fetch_into(tmp_path / "w", [NAME], "tiny")
    next(lines)
    begun = tmp_path / "w/.download"
    begun.mkdir()
    etag = hashlib.sha256(FILE).hexdigest()
    (begun / f"{NAME}.safetensors.{digest_json(etag)}").write_bytes(b"x" * 1000)
    with pytest.raises(UserError, match="its sha256 is another"):
        list(lines)
    assert list(fetch_into(tmp_path / "w", [NAME], "tiny"))
    assert file_in(str(tmp_path / "w"), NAME).read_bytes() == FILE


def test_without_a_network_one_sentence_says_so(hub, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fetching, "hub_reachable", lambda: False)
    argv = ["--fetch_weights", str(tmp_path / "w"), "--set", f"model.backbones={NAME}"]
    assert main(argv) == 2
    assert f"--fetch_weights must reach the hub for {NAME}" in capsys.readouterr().err


def test_weights_of_the_cache_are_copied_without_a_network(tmp_path, monkeypatch):
    cached = tmp_path / "cache/pytorch_model.bin"
    cached.parent.mkdir()
    cached.write_bytes(FILE)
    monkeypatch.setattr(fetching, "cached_file", lambda _: str(cached))
    list(fetch_into(tmp_path / "w", [NAME], "tiny"))
    assert (tmp_path / "w" / f"{NAME}.pth").read_bytes() == FILE == cached.read_bytes()
