"""Visitors of a service without a token: pages that may use it, names to ask it by, and where it may listen."""

import http.client
import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from fastapi.testclient import TestClient

from frugal_rt.cli import main
from frugal_rt.runtime.service.app import create_app
from frugal_rt.runtime.service.intake import Options
from frugal_rt.runtime.service.visitors import Visitors, is_local, name_of

from ..waiting import until
from .asking import error, png, restore

AT = "http://localhost:8000"


@pytest.fixture(scope="module")
def guarded(pool):
    """A service as on 127.0.0.1:8000, with a name and a page's origin allowed."""
    visitors = Visitors.at("127.0.0.1", ["Pictures.example"], ["https://a.test"])
    with TestClient(create_app(pool, Options(origins=["https://a.test"]), visitors=visitors), base_url=AT) as client:
        yield client


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("localhost", "localhost"),
        ("LocalHost:8000", "localhost"),
        ("localhost.:80", "localhost"),
        ("127.0.0.1:8000", "127.0.0.1"),
        ("[::1]:8000", "::1"),
        ("[::1]", "::1"),
        ("", ""),
        ("a:b", "a:b"),
        ("localhost:80@evil.test", "localhost:80@evil.test"),
        ("evil.test#localhost", "evil.test#localhost"),
    ],
)
def test_a_name_is_that_of_host_without_its_port(host, name):
    assert name_of(host) == name


@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1:8000", "[::1]:8000", "pictures.example", "PICTURES.example:1"]
)
def test_it_goes_by_its_names(guarded, host):
    assert guarded.get("/v1/service", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("host", ["evil.test", "evil.test:8000", "localhost.evil.test", "192.168.1.5", "", "null"])
def test_it_goes_by_no_other_but_for_the_probes(guarded, host):
    for path in ("/v1/service", "/", "/openapi.json", "/nothing", "/v1/jobs/1"):
        assert "does not go by the name" in error(guarded.get(path, headers={"Host": host}), 403)
    assert "does not go by the name" in error(restore(guarded, headers={"Host": host}), 403)
    for path in ("/livez", "/readyz", "/metrics"):
        assert guarded.get(path, headers={"Host": host}).status_code == 200


def test_one_that_listens_everywhere_goes_by_any_address(pool):
    with TestClient(create_app(pool, visitors=Visitors.at("0.0.0.0", [], [])), base_url=AT) as client:
        for host, status in (
            ("10.1.2.3:8000", 200),
            ("[fe80::1]", 200),
            ("evil.test", 403),
            ("10.1.2.3.nip.test", 403),
        ):
            assert client.get("/v1/service", headers={"Host": host}).status_code == status


REFUSED = [
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"},
    {"Origin": "https://b.test"},
    {"Origin": "null"},
    {"Origin": ""},
    {"Origin": "http://localhost:8001"},
    {"Origin": "http://localhost:8000.evil.test"},
    {"Origin": "http://[::1"},
]


@pytest.mark.parametrize("headers", REFUSED, ids=str)
def test_other_pages_begin_nothing(guarded, headers):
    assert "pages of other origins" in error(restore(guarded, headers=headers), 403)
    assert guarded.get("/v1/service", headers=headers).status_code == 403
    assert guarded.delete("/v1/jobs/1", headers=headers).status_code == 403


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Sec-Fetch-Site": "none"},
        {"Sec-Fetch-Site": "same-origin", "Origin": AT},
        {"Sec-Fetch-Site": "cross-site", "Origin": "https://a.test"},
    ],
    ids=str,
)
def test_its_own_and_those_that_are_allowed_do(guarded, headers):
    assert restore(guarded, steps=2, headers=headers).status_code == 200


def test_a_link_opens_the_page_and_embeds_nothing(guarded):
    by_link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert guarded.get("/", headers=by_link).status_code == 200
    assert (
        guarded.get("/page.js", headers={"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}).status_code
        == 403
    )
    assert guarded.post("/", headers=by_link).status_code == 403


def test_with_a_token_pages_are_kept_out_by_it_alone(pool):
    options = Options(token="secret", origins=["https://a.test"])
    with TestClient(create_app(pool, options, visitors=Visitors.at("127.0.0.1", [], options.origins))) as client:
        for scheme in ("Bearer", "bearer", "BEARER", "bearer "):
            headers = {"Authorization": f"{scheme} secret", "Host": "any.test", "Origin": "https://b.test"}
            assert client.get("/v1/service", headers=headers).status_code == 200
        for given in ("Basic secret", "secret", "Bearer", "Bearer secre", "Bearer secret2", "Bearersecret"):
            assert client.get("/v1/service", headers={"Authorization": given}).status_code == 401
        asking = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
        for origin, status in (("https://a.test", 200), ("https://b.test", 401)):
            assert client.options("/v1/restore", headers={"Origin": origin, **asking}).status_code == status


def test_every_answer_says_how_it_may_be_used(guarded):
    answers = [guarded.request(method, path) for method, path in (("GET", "/livez"), ("HEAD", "/v1/service"))]
    answers += [guarded.get(path) for path in ("/", "/page.js", "/page.css", "/sample.png", "/metrics", "/nothing")]
    answers += [guarded.get("/openapi.json"), guarded.put("/v1/restore"), restore(guarded, b"no picture")]
    answers += [restore(guarded, steps=2), guarded.get("/", headers={"Host": "evil.test"})]
    for answer in answers:
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] in ("no-store", "no-cache")
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert len(answer.headers.get_list("content-security-policy")) == 1
        if answer.status_code >= 400:
            assert answer.headers["content-type"] == "application/json"


def test_a_bug_is_an_answer_in_json_and_in_the_log(pool, monkeypatch, caplog):
    with TestClient(create_app(pool)) as client:
        monkeypatch.setattr("frugal_rt.runtime.service.app.PRESETS", {"x": object()})
        answer = client.get("/v1/service")
        assert "the service failed over this request" in error(answer, 500)
        assert answer.headers["x-request-id"] in answer.json()["error"]
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert "Traceback" in caplog.text


def test_parameters_come_once_and_content_types_in_any_case(client):
    given = {"parameters": json.dumps({"steps": 2})}
    assert client.post("/v1/restore", files={"image": png()}, data=given).status_code == 200
    as_files = {"image": png(), "parameters": ("p.json", given["parameters"], "application/json")}
    assert client.post("/v1/restore", files=as_files).status_code == 200
    both = client.post("/v1/restore", params=given, files={"image": png()}, data=given)
    assert "parameters are given twice" in error(both, 422)
    query = "parameters=%7B%7D&parameters=%7B%7D"
    assert "parameters are given twice" in error(client.post(f"/v1/restore?{query}", content=png()), 422)
    for name in ("image", "mask", "parameters"):
        files = [("image", png()), (name, png()), (name, png())]
        assert "twice" in error(client.post("/v1/restore", files=files), 422)
    form = client.build_request("POST", "/v1/restore", files={"image": png()}, data=given)
    odd = form.headers["content-type"].replace("multipart/form-data", "MultiPart/Form-Data")
    assert client.post("/v1/restore", content=form.read(), headers={"Content-Type": odd}).status_code == 200


@pytest.mark.parametrize(
    "kernel", ["gaussian:1e-300", "gaussian:2,1e-9", "gaussian:0.01", "gaussian:inf", "gaussian:nan"]
)
def test_a_blur_that_is_none_is_refused_where_parameters_are_read(client, kernel):
    assert "0.05 pixels or more" in error(restore(client, task="deblur", kernel=kernel), 422)


def test_a_client_s_timeout_is_no_longer_than_the_operator_s(pool):
    with TestClient(create_app(pool, Options(timeout=0.05))) as client:
        assert "deadline" in error(restore(client, steps=1000, timeout=3600), 504)


def test_a_proxy_s_path_is_that_of_every_address(pool):
    with TestClient(create_app(pool), root_path="/pictures") as client:
        answer = restore(client, query="", headers={"Prefer": "respond-async"}, steps=2)
        assert answer.status_code == 202, answer.text
        assert answer.headers["location"] == f"/pictures/v1/jobs/{answer.json()['id']}"
        assert client.get(answer.headers["location"].removeprefix("/pictures")).status_code == 200


# As `frugal-rt serve` is run.


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "pictures.example"])
def test_listening_beyond_this_machine_is_asked_for(host, monkeypatch):
    monkeypatch.delenv("FRUGAL_RT_TOKEN", raising=False)
    told = CliRunner().invoke(main, ["serve", "--host", host])
    assert told.exit_code == 1
    assert told.stderr == (
        f"Error: on {host} anyone who reaches this machine may send requests: give --token-file or FRUGAL_RT_TOKEN, or "
        "say --allow-anonymous\n"
    )


def test_hosts_of_this_machine_alone():
    assert all(map(is_local, ("localhost", "127.0.0.1", "127.8.8.8", "::1", "LOCALHOST")))
    assert not any(map(is_local, ("0.0.0.0", "::", "", "10.0.0.1", "localhost.evil.test")))


def test_a_root_path_that_is_none_is_refused():
    told = CliRunner().invoke(main, ["serve", "--root-path", "pictures/"])
    assert told.exit_code == 1
    assert "--root-path is a path such as /restore" in told.stderr


class OverFile(http.client.HTTPConnection):
    """A connection over a Unix socket."""

    def __init__(self, path: Path):
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self._path))


def status(path: Path) -> int:
    connection = OverFile(path)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status
    except OSError:
        return 0
    finally:
        connection.close()


def test_a_unix_socket_is_listened_on_taken_over_from_the_dead_and_left_to_the_next(tiny_plan, tmp_path):
    path = tmp_path / "s"
    command = [sys.executable, "-m", "frugal_rt", "serve", "-e", str(tiny_plan), "--backend", "cpu", "--uds", str(path)]
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))  # its file stays
    for succeeded in (False, True):
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            try:
                until(lambda: status(path) == 200, 60)
                second = subprocess.run(command, capture_output=True, text=True, check=False)
                assert second.returncode == 1
                assert f"cannot listen on {path}" in second.stderr
                assert status(path) == 200
                if succeeded:
                    path.rename(tmp_path / "old")
                    with socket.socket(socket.AF_UNIX) as successor:
                        successor.bind(str(path))
            finally:
                process.terminate()
                process.wait(60)
        assert path.exists() == succeeded


@pytest.mark.parametrize(
    "said", [b"\0\1\2\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"]
)
def test_what_is_no_http_is_told_so_in_json(serve, said):
    serving = one(serve)
    with socket.create_connection(serving.address, timeout=10) as connection:
        connection.sendall(said)
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"content-type: application/json" in head.lower()
    assert b"nosniff" in head
    assert json.loads(body) == {"error": "this is no HTTP request that can be read"}


begun: list = []


def one(serve):
    """One service for the tests of a module."""
    if not begun:
        begun.append(serve())
    return begun[0]
