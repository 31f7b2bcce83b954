"""Served models: the client against a recording server, and against MLflow's real one."""

import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as stn
from registry_homes import N_ATOMS, SHAPE, enter_home, registered, tiny_model

from tasks.children import free_port
from vaesc.errors import ConfigError, DataError, ServingError
from vaesc.registry import load_model
from vaesc.registry.model_definition import METHODS
from vaesc.registry.serving import _check_free, serve, serving_environment
from vaesc.serving import ModelClient, _request

# The client against a server that records


class Recorder(http.server.BaseHTTPRequestHandler):
    """Answers each request with its own data, or with what it was told to."""

    seen: list
    answer = None

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.seen.append((np.asarray(body["inputs"], np.float32), body["params"]))
        status, said = self.answer or (200, {"predictions": body["inputs"]})
        self.send_response(status)
        self.end_headers()
        self.wfile.write(said if isinstance(said, bytes) else json.dumps(said).encode())

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def recording():
    handler = type("Handler", (Recorder,), {"seen": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", handler
    server.shutdown()
    server.server_close()


@pytest.fixture
def recorder(recording):
    url, handler = recording
    handler.seen.clear()
    handler.answer = None
    return url, handler


@given(
    stn.arrays(
        np.float32, st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4)),
        elements=st.floats(allow_nan=False, allow_infinity=False, width=32),
    )
)  # fmt: skip
def test_every_float32_arrives_as_it_was(data):
    sent = json.loads(_request(data, {"method": "encode"}))
    arrived = np.asarray(sent["inputs"], np.float32)
    assert arrived.shape == data.shape
    assert np.array_equal(arrived, data)
    assert sent["params"] == {"method": "encode"}


@pytest.mark.parametrize(
    ("dtype", "said"),
    [("f8", "float32"), ("f2", "float32"), ("u1", "uint8"), ("i4", "int64"), ("?", "bool")],
)
def test_images_keep_their_kind(recorder, dtype, said):
    url, handler = recorder
    images = np.random.default_rng(0).integers(0, 2, (3, 4, 5)).astype(dtype)
    client = ModelClient(url, (4, 5))
    for given_shape in (images, images.reshape(3, 20)):
        assert np.array_equal(client.reconstruct(given_shape), images)
    for data, params in handler.seen:
        assert np.array_equal(data, images)
        assert params == {"method": "reconstruct", "dtype": said}


def test_large_arrays_go_in_pieces_and_come_back_whole(recorder):
    url, handler = recorder
    images = np.random.default_rng(0).random((10, 4, 5), np.float32)
    found = ModelClient(url, (4, 5), images_per_request=4).encode(images)
    assert np.array_equal(found, images)
    assert [len(data) for data, _ in handler.seen] == [4, 4, 2]


def test_a_dark_piece_of_a_batch_of_bytes_is_not_taken_for_one_of_floats(recorder):
    """Floats of 0..255 whose first piece holds nothing above 1: it takes a bright image along."""
    url, handler = recorder
    images = np.zeros((6, 4, 5))
    images[1, 0, 0], images[5, 3, 3] = 1, 250
    found = ModelClient(url, (4, 5), images_per_request=2).score(images)
    assert np.array_equal(found, images)
    assert [float(data.max()) for data, _ in handler.seen] == [250, 250, 250]
    assert [len(data) for data, _ in handler.seen] == [3, 3, 2]


def test_codes_go_with_as_many_axes_as_images(recorder):
    from scipy.sparse import csr_array

    url, handler = recorder
    codes = np.eye(3, 7)
    for given_codes in (codes, csr_array(codes)):
        ModelClient(url, (2, 4, 5)).decode(given_codes)
    assert {data.shape for data, _ in handler.seen} == {(3, 1, 1, 7)}


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        (np.zeros((2, 4, 6)), r"images must have shape \(n, 4, 5\) or \(n, 20\), got \(2, 4, 6\)"),
        (np.zeros((4, 5)), "a single image needs a leading axis"),
        (np.zeros((0, 4, 5)), "there are no images to send"),
        (np.full((1, 4, 5), np.nan), "must be finite"),
        (np.full((1, 4, 5), 1e300), "must be finite in float32"),
        (np.full((1, 4, 5), 2**24 + 1), "integers must lie in"),
        (np.full((1, 4, 5), "a"), "must be bool, integers or floats"),
        (np.full((1, 4, 5), 1j), "must be bool, integers or floats"),
        (np.full((1, 4, 5), None), "must be bool, integers or floats"),
    ],
)
def test_what_cannot_be_sent_is_refused_here(recorder, images, sentence):
    url, handler = recorder
    with pytest.raises(DataError, match=sentence):
        ModelClient(url, (4, 5)).encode(images)
    if images.ndim != 2:
        with pytest.raises(DataError):
            ModelClient(url, (4, 5)).decode(images)
    assert handler.seen == []


@pytest.mark.parametrize(
    ("answer", "error", "sentence"),
    [
        (
            (400, {"message": "Failed to predict data '[[1]]'. \nError: Failed. Error: too wide"}),
            DataError, "refuses this: too wide$",
        ),
        ((404, b"nothing here"), DataError, "refuses this: Not Found"),
        ((500, b"Internal Server Error"), ServingError, "failed with status 500"),
        ((200, b"<html>"), ServingError, "answers, but not with predictions"),
        ((200, {"other": 1}), ServingError, "answers, but not with predictions"),
        ((200, {"predictions": "a"}), ServingError, "answers, but not with predictions"),
        ((200, {"predictions": [1]}), ServingError, r"answers 2 rows with an array of shape \(1,"),
        ((200, {"predictions": 1}), ServingError, r"answers 2 rows with an array of shape \(\)"),
    ],
)  # fmt: skip
def test_what_a_server_says_wrong_becomes_one_sentence(recorder, answer, error, sentence):
    url, handler = recorder
    handler.answer = answer
    with pytest.raises(error, match=sentence) as raised:
        ModelClient(url, (4, 5)).score(np.zeros((2, 4, 5)))
    assert "\n" not in str(raised.value)


def test_a_server_that_is_not_there_or_slow_is_said_so():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        with pytest.raises(ServingError, match=r"nothing answers at .* \(.*refused\); start"):
            ModelClient(url, (4, 5)).score(np.zeros((2, 4, 5)))
        listening.listen()
        with pytest.raises(ServingError, match=r"nothing answers at .* \(timed out\)"):
            ModelClient(url, (4, 5), timeout=0.2).score(np.zeros((2, 4, 5)))


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("127.0.0.1:5080", {}), ("file:///etc/passwd", {}), ("http://", {}),
        ("http://host", {"timeout": 0}), ("http://host", {"images_per_request": 0}),
        ("http://host", {"shape": ()}), ("http://host", {"shape": (0, 5)}),
    ],
)  # fmt: skip
def test_a_client_of_nothing_is_refused(url, options):
    with pytest.raises(ConfigError):
        ModelClient(url, **{"shape": (4, 5), **options})


def test_a_port_that_is_taken_is_found_before_a_model_is_loaded():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match=r"port \d+ of 127.0.0.1 cannot be .* --port"):
            serve("no such model", port=taken.getsockname()[1])
    with pytest.raises(ConfigError, match="--workers must be at least 1, got 0"):
        serve("no such model", workers=0)
    for port in (0, 65536):
        with pytest.raises(ConfigError, match="from 1 to 65535"):
            _check_free("127.0.0.1", port)


# MLflow's server


def refined_model(seed):
    """A model of bytes, coded with its decoder: amounts at k = 1, descent above."""
    model = tiny_model(seed, high=255.0)
    amounts = np.tile(np.linspace(-2, 2, 5, dtype=np.float32), (N_ATOMS, 1))
    model.dictionary = replace(model.dictionary, amounts=amounts, descent_steps=4)
    return model


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        folder = enter_home(tmp_path_factory.mktemp("serving") / "home", patch)
        registered(folder)
        refined_model(1).save(folder / "refined")
        yield folder


def started(command, folder, retry=True):
    """Start a server at a free port; return the port, the process and its log."""
    port = free_port()
    log = folder / f"{port}.log"
    with log.open("w") as out:
        process = subprocess.Popen(
            [*command, "--port", str(port)], cwd=folder, env=serving_environment(), stdout=out,
            stderr=out, start_new_session=True,
        )  # fmt: skip
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=2).close()
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
        else:
            return port, process, log
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    said = log.read_text()
    if retry and process.poll() is not None and "in use" in said:  # somebody took it before us
        log.unlink()
        return started(command, folder, retry=False)
    raise AssertionError(said)


@pytest.fixture(scope="module")
def champion(home):
    """`mlflow models serve` with the champion: its address, process and log."""
    command = [
        sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/vaesc@champion",
        "--env-manager", "local",
    ]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{home / 'mlflow.db'}")
        port, process, log = started(command, home)
    try:
        yield f"http://127.0.0.1:{port}", process, log
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def batch(seed, n=100):
    return np.random.default_rng(seed).random((n, *SHAPE), dtype=np.float32)


def ask(client, method, images, codes):
    return getattr(client, method)(codes if method == "decode" else images)


def expected(model, method, images, codes):
    found = ask(model, method, images, codes)
    return found.toarray() if method == "encode" else found


@pytest.mark.slow
@pytest.mark.service
def test_two_hundred_requests_of_a_hundred_images(champion, home):
    """In float64, from four threads at once, by every method: what load_model returns."""
    model = load_model("champion", device="cpu")
    client = ModelClient(champion[0], SHAPE)

    def one(seed):
        method, images = METHODS[seed % len(METHODS)], batch(seed)
        codes = model.encode(images)
        found = ask(client, method, images.astype(np.float64), codes)
        return np.abs(found - expected(model, method, images, codes)).max()

    with ThreadPoolExecutor(4) as pool:
        differences = list(pool.map(one, range(200)))
    assert len(differences) == 200
    assert max(differences) <= 1e-6


@pytest.mark.slow
@pytest.mark.service
def test_a_large_batch_is_answered_in_pieces(champion, home):
    model, images = load_model("champion", device="cpu"), batch(0, 2500)
    client = ModelClient(champion[0], SHAPE)
    assert np.array_equal(client.reconstruct(images), model.reconstruct(images))
    assert np.array_equal(client.encode(images), model.encode(images).toarray())


@pytest.mark.slow
@pytest.mark.service
def test_the_client_says_what_the_server_refuses(champion):
    client = ModelClient(champion[0], SHAPE)
    with pytest.raises(DataError, match=r"refuses this: codes must have shape \(n, 12\)"):
        client.decode(np.zeros((2, N_ATOMS + 1)))
    with pytest.raises(DataError, match="refuses this: images must lie in the range"):
        client.score(batch(0) + 9)
    with pytest.raises(DataError, match=r"refuses this: images must have shape \(n, 4, 5\)"):
        ModelClient(champion[0], (5, 4)).encode(batch(0).reshape(-1, 5, 4))
    with pytest.raises(DataError, match=r"refuses this: Shape of input .* does not match"):
        ModelClient(champion[0], (20,)).encode(batch(0).reshape(-1, 20))


GOOD = [[[0.5] * 5] * 4]
JSON = "application/json"


def body(inputs, **params):
    return json.dumps({"inputs": inputs, "params": params}).encode()


MALFORMED = {
    "wrong width": (body([[[0.5] * 6] * 4]), JSON),
    "too few axes": (body([[0.5] * 20]), JSON),
    "no axes": (body(0.5), JSON),
    "ragged": (body([[[0.5] * 5] * 3 + [[0.5] * 4]]), JSON),
    "words": (body([[["grey"] * 5] * 4]), JSON),
    "objects": (body([[[{}] * 5] * 4]), JSON),
    "records": (body([{"pixel": 1}]), JSON),
    "nulls": (body([[[None] * 5] * 4]), JSON),
    "NaN": (body([[[float("nan")] * 5] * 4]), JSON),
    "infinity": (body([[[1e39] * 5] * 4]), JSON),
    "out of range": (body([[[77.0] * 5] * 4]), JSON),
    "empty": (body([]), JSON),
    "empty rows": (body([[]]), JSON),
    "null": (body(None), JSON),
    "codes of wrong width": (body([[[0.5] * (N_ATOMS + 1)]], method="decode"), JSON),
    "codes that are NaN": (body([[[float("nan")] * N_ATOMS]], method="decode"), JSON),
    "unknown method": (body(GOOD, method="sing"), JSON),
    "method of a wrong type": (body(GOOD, method=["encode"]), JSON),
    "unknown dtype": (body(GOOD, dtype="object"), JSON),
    "floats said to be integers": (body(GOOD, dtype="uint8"), JSON),
    "params that are none": (b'{"inputs": [[[0.5]]], "params": [1]}', JSON),
    "no inputs": (b"{}", JSON),
    "two inputs": (b'{"inputs": [], "instances": []}', JSON),
    "a list": (b"[1, 2]", JSON),
    "a number": (b"1", JSON),
    "nothing": (b"", JSON),
    "not JSON": (b"{inputs: oh no", JSON),
    "half of JSON": (body(GOOD)[:-9], JSON),
    "not UTF-8": (b'{"inputs": "\xff\xfe"}', JSON),
    "nested deeply": (b'{"inputs": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", JSON),
    "nested within limits": (b'{"inputs": ' + b"[" * 900 + b"]" * 900 + b"}", JSON),
    "a number of many digits": (b'{"inputs": [[[' + b"9" * 5000 + b"]]]}", JSON),
    "a data frame": (b'{"dataframe_split": {"columns": ["a"], "data": [[1]]}}', JSON),
    "records of nonsense": (b'{"dataframe_records": [[1], 2, {"a": {}}]}', JSON),
    "a chat": (b'{"messages": [{"role": "user", "content": "hello"}]}', JSON),
    "CSV": (b"a,b\n1,2\n", "text/csv"),
    "no CSV": (b'"', "text/csv"),
    "no parquet": (b"PAR1", "application/vnd.apache.parquet"),
    "another charset": (body(GOOD), "application/json; charset=latin-1"),
    "another type": (body(GOOD), "application/octet-stream"),
    "a type of nonsense": (b"{", ";;;=;"),
}


def post(url, content, content_type=JSON):
    headers = {"Content-Type": content_type} if content_type else {}
    request = urllib.request.Request(f"{url}/invocations", content, headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


@pytest.mark.slow
@pytest.mark.service
@pytest.mark.parametrize("what", MALFORMED)
def test_a_malformed_request_gets_a_sentence(champion, what):
    url, process, log = champion
    content, content_type = MALFORMED[what]
    status, said = post(url, content, content_type)

    assert 400 <= status < 500, (status, said[:2000], log.read_text()[-3000:])
    assert len(said.decode().split()) >= 4
    if content_type == JSON:
        assert len(json.loads(said)["message"].split()) >= 4
    assert b"Traceback" not in said
    assert post(url, body(GOOD))[0] == 200
    assert process.poll() is None


@pytest.mark.slow
@pytest.mark.service
def test_a_request_that_names_no_type_is_taken_for_json(champion):
    """urllib would name one by itself."""
    url, _, _ = champion
    host, port = url.removeprefix("http://").split(":")
    content = body(GOOD)
    head = f"POST /invocations HTTP/1.0\r\nContent-Length: {len(content)}\r\n\r\n".encode()
    with socket.create_connection((host, int(port)), 60) as connection:
        connection.sendall(head + content)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 200")


@pytest.mark.slow
@pytest.mark.service
def test_vaesc_serves_a_refined_model_of_bytes_and_leaves_nothing_behind(home):
    """Its own command, from a folder: images may be bytes, and those all but black stay so."""
    command = [sys.executable, "-m", "vaesc", "models", "serve", str(home / "refined")]
    before = {p.name for p in home.iterdir()}
    port, process, log = started(command, home)
    try:
        model = load_model(home / "refined", device="cpu")
        client = ModelClient(f"http://127.0.0.1:{port}", SHAPE)
        gray = np.random.default_rng(0).integers(0, 256, (100, *SHAPE), np.uint8)
        for images in (
            gray,
            gray.astype(np.int32),
            gray.astype(np.float64),
            gray // 200,
            batch(0),
        ):
            codes = model.encode(images)
            for method in METHODS:
                found = ask(client, method, images, codes)
                wanted = expected(model, method, images, codes)
                assert np.abs(found - wanted).max() <= 1e-6, (method, images.dtype)
        dark = client.score(gray // 200)
        assert not np.allclose(dark, client.score((gray // 200).astype(np.float32)))
        assert b"message" in post(f"http://127.0.0.1:{port}", b"{")[1]
        with pytest.raises(OSError, match="refused"):  # not on other interfaces
            socket.create_connection((own_address(), port), 2)
    finally:
        process.send_signal(signal.SIGINT)
        code = process.wait(60)
    assert code == 0, log.read_text()
    assert f"answers at http://127.0.0.1:{port}" in log.read_text()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), 2)
    assert {p.name for p in home.iterdir()} - {log.name} == before


def own_address():
    """Return an address of this machine that is not 127.0.0.1; 127.0.0.2 where there is none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            return "127.0.0.2"
        return probe.getsockname()[0]
