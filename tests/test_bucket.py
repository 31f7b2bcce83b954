"""A place on S3 that is none, or a server that says no: one sentence each, before or after."""

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from vaesc import bucket as bucket_module
from vaesc.bucket import Bucket
from vaesc.bucket_errors import AwayError, BucketError
from vaesc.cli import main
from vaesc.config import DatasetConfig
from vaesc.datasets import check
from vaesc.errors import ConfigError
from vaesc.remote import STORE

REGION = "<Error><Code>{}</Code><Region>eu-west-1</Region></Error>"


@pytest.fixture
def server(monkeypatch):
    """A server that answers everything alike: its handler, whose `answer` is to be set."""

    class Handler(BaseHTTPRequestHandler):
        answer = (200, {}, "")

        def do_GET(self):
            status, headers, body = self.answer
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body.encode())

        do_PUT = do_GET

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    Handler.url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(bucket_module, "_RETRIES", 0)
    monkeypatch.setenv("AWS_ENDPOINT_URL", Handler.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "hush")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    yield Handler
    server.shutdown()
    server.server_close()


ODD = ["s3://vaesc/a//b", "s3://vaesc//a", "s3://vaesc/../b", "s3://vaesc/a/.", "s3://vaesc/a\nb",
       "s3://vaesc/a\udcffb"]  # fmt: skip


@pytest.mark.parametrize("url", ODD)
def test_a_prefix_that_no_client_takes_is_refused(url):
    with pytest.raises(ConfigError, match="must have a name between any two slashes"):
        Bucket(url)


@pytest.mark.parametrize("command", ["doctor", "verify", "gc"])
@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        (STORE, "s3://vaesc/a//b", "VAESC_STORE: a place on S3 must have a name between any two"),
        (STORE, "s3://vaesc/a\udcffb", r"got 'a\udcffb' in 's3://vaesc/a\udcffb'"),
        ("AWS_ENDPOINT_URL", "localhost:9000", " AWS_ENDPOINT_URL must be http://host:port or"),
    ],
)
def test_every_command_says_so_in_one_sentence(
    command, name, value, sentence, monkeypatch, capfd, tmp_path
):
    monkeypatch.setenv("VAESC_HOME", str(tmp_path))
    monkeypatch.setenv(STORE, "s3://vaesc")
    monkeypatch.setenv(name, value)
    assert main([command]) == (1 if command == "doctor" else 2)
    out, err = capfd.readouterr()
    assert sentence in out + err
    assert "Traceback" not in out + err
    assert name == STORE or f"{STORE}:" not in out + err


def test_a_dataset_at_such_a_prefix_is_not_called_damaged():
    with pytest.raises(ConfigError, match="must have a name between"):
        check(DatasetConfig(source="arrays", path="s3://vaesc/a//b"))


def test_a_usual_prefix_is_taken():
    assert Bucket("s3://vaesc/a b/c.zarr/").url == "s3://vaesc/a b/c.zarr"
    assert Bucket("s3://vaesc/").url == "s3://vaesc"


@pytest.mark.parametrize(
    "server",
    ["localhost:9000", "http:/x", "http://", "ftp://x", "http://x:99999", "http://[::1",
     "http://ho st:1", "http://ü:1", "http://%:1", "http://x:1/\n"],
)  # fmt: skip
@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
def test_an_endpoint_that_is_none_is_refused_by_name(server, name, monkeypatch):
    monkeypatch.setenv(name, server)
    with pytest.raises(ConfigError, match=rf"{name} must be http://host:port or https://"):
        Bucket("s3://vaesc")


def test_the_scheme_of_an_endpoint_may_be_in_capitals(server, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url.replace("http", "HTTP"))
    assert Bucket("s3://vaesc").read("key", 10) == b""


@pytest.mark.parametrize(
    ("answer", "region"),
    [
        ((301, {"x-amz-bucket-region": "eu-west-1"}, REGION.format("PermanentRedirect")), ""),
        ((301, {"Location": "/vaesc/key"}, ""), ""),
        ((400, {}, REGION.format("AuthorizationHeaderMalformed")), ", eu-west-1"),
    ],
)
@pytest.mark.parametrize("verb", ["list", "read", "write"])
def test_another_region_is_named(server, answer, region, verb):
    server.answer = answer
    there = Bucket("s3://vaesc")
    tries = {"list": there.has, "read": lambda: there.read("key", 10),
             "write": lambda: there.write("key", b"")}  # fmt: skip
    with pytest.raises(BucketError, match=rf"another region; set AWS_REGION to its own{region}$"):
        tries[verb]()


def test_without_credentials_the_server_is_not_accused(server, monkeypatch):
    """The client asks Amazon's metadata address for some; here that is no one, who says 403."""
    server.answer = (403, {}, "Forbidden")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", server.url)
    with pytest.raises(BucketError, match="there are no credentials for s3://vaesc; set AWS_ACC"):
        Bucket("s3://vaesc").has()


def test_what_may_pass_is_told_from_what_does_not(server):
    for status, kind in ((503, AwayError), (500, AwayError), (429, AwayError), (403, BucketError)):
        server.answer = (status, {}, "")
        with pytest.raises(BucketError) as caught:
            Bucket("s3://vaesc").read("key", 10)
        assert type(caught.value) is kind, status
