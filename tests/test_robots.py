import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from curate import robots
from curate.recipe import Web
from curate.robots import LONGEST_FILE, Robots, for_us, opted_out
from curate.sources import FetchError
from curate.web import ask, download, open_session
from tests.web.raw import SITE, RawServer, answer, cause, fake_dns, fetch

HOST = "https://host.example"


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """A failure is not tried again within one call, so that what is asked for can be counted."""
    monkeypatch.setattr(robots, "TRIES", 1)


class Hosts:
    """Answers for robots.txt by site, and the sites that were asked."""

    def __init__(self, **answers: "tuple[int, bytes] | FetchError") -> None:
        self.answers, self.asked = answers, []

    def __call__(self, url: str) -> tuple[int, bytes]:
        self.asked.append(url)
        found = self.answers.get(url.split("/")[2].split(".")[0], (404, b""))
        if isinstance(found, FetchError):
            raise found
        return found


def saying(text: str, cache: Path | None = None) -> Robots:
    return Robots(Hosts(host=(200, text.encode())), cache)


def allows(rules: Robots, target: str) -> bool:
    try:
        rules.admit(HOST, target)
    except FetchError as error:
        if (error.cause, error.transient) != ("robots.txt", False):
            raise
        return False
    return True


@pytest.mark.parametrize(
    ("text", "allowed", "disallowed"),
    [
        ("", ["/", "/a"], []),
        ("User-agent: *\nDisallow:", ["/a"], []),
        ("User-agent: *\nDisallow: /", [], ["/", "/a.jpg"]),
        ("User-agent: *\nDisallow: /private/", ["/", "/private"], ["/private/a.jpg"]),
        ("User-agent: *\nDisallow: /\nAllow: /img/", ["/img/a.jpg"], ["/a.jpg"]),
        ("User-agent: *\nDisallow: /*.jpg$", ["/a.jpg?x", "/a.png"], ["/a.jpg", "/b/c.jpg"]),
        ("User-agent: *\nDisallow: /*?w=", ["/a"], ["/a?w=3"]),
        ("User-agent: *\nDisallow: /größe/", [], ["/gr%C3%B6%C3%9Fe/a"]),
        ("User-agent: DeepRock\nDisallow: /\n\nUser-agent: *\nAllow: /", [], ["/a"]),
        ("User-agent: *\nDisallow: /\n\nUser-agent: deeprock\nAllow: /", ["/a"], []),
        ("User-agent: deeprock/1.0\nDisallow: /", [], ["/a"]),
        ("User-agent: Deep\nDisallow: /\nUser-agent: DeepRockBot\nDisallow: /", ["/a"], []),
        ("User-agent: *bot\nDisallow: /", ["/a"], []),
        ("User-agent: otherbot\nDisallow: /", ["/a"], []),
        ("User-agent: otherbot\nUser-agent: *\nDisallow: /x", ["/a"], ["/x"]),
        ("User-agent: *\nSitemap: https://a/b\n# note\n\nUser-agent: other\nDisallow: /x", ["/a"], ["/x"]),
        ("User-agent: *\nCrawl-hint: 7\nDisallow: /x", ["/a"], ["/x"]),
        ("\ufeffUser-Agent:*\r\nDisallow:/x # why\r\n", ["/a"], ["/x"]),
        ("User-agent: *\nDisallow: /", ["/robots.txt"], []),
        ("Disallow: /\n<html><body>not found</body></html>", ["/a"], []),
        ("\x00\x1b[2J\udcff".encode("utf-8", "replace").decode() * 50, ["/a"], []),
    ],
)
def test_the_rules_for_us_or_else_for_all_are_kept(text, allowed, disallowed):
    rules = saying(text)
    assert [target for target in allowed + disallowed if allows(rules, target)] == allowed


@pytest.mark.parametrize(
    ("answered", "expected"),
    [
        ((404, b""), None),
        ((403, b"User-agent: *\nDisallow: /"), None),
        ((410, b""), None),
        ((500, b""), ("robots.txt unreachable", True)),
        ((503, b""), ("robots.txt unreachable", True)),
        ((429, b""), ("robots.txt unreachable", True)),
        (FetchError("timeout", transient=True), ("robots.txt unreachable", True)),
        (FetchError("too slow", transient=True), ("robots.txt unreachable", True)),
        (FetchError("redirects", transient=False), None),
        (FetchError("unknown host", transient=True), ("unknown host", True)),
        (FetchError("refused address", transient=False), ("refused address", False)),
        (FetchError("tls", transient=False), ("tls", False)),
    ],
)
def test_what_a_missing_file_means(answered, expected):
    """RFC 9309 2.3.1: 4xx allows all; what cannot be reached allows nothing for now."""
    rules = Robots(Hosts(host=answered))
    for _ in range(2):
        if expected is None:
            rules.admit(HOST, "/a")
        else:
            assert cause(lambda: rules.admit(HOST, "/a")) == expected
    assert rules._fetch.asked == [f"{HOST}/robots.txt"]


def test_each_scheme_and_port_of_a_host_has_rules_of_its_own():
    hosts = Hosts()
    rules = Robots(hosts)
    sites = [HOST, "http://host.example", f"{HOST}:8443", "https://www.host.example"]
    for site in sites * 2:
        rules.admit(site, "/a")
    assert hosts.asked == [f"{site}/robots.txt" for site in sites]


def test_a_host_is_asked_once_however_many_threads_want_it():
    asked = []

    def slowly(url: str) -> tuple[int, bytes]:
        asked.append(url)
        time.sleep(0.1)
        return 200, b"User-agent: *\nDisallow: /x"

    rules = Robots(slowly)
    with ThreadPoolExecutor(64) as pool:
        allowed = list(pool.map(lambda n: allows(rules, "/x" if n % 2 else "/a"), range(64)))
    assert allowed == [n % 2 == 0 for n in range(64)]
    assert asked == [f"{HOST}/robots.txt"]


def test_one_failure_that_passes_costs_no_image(monkeypatch):
    monkeypatch.setattr(robots, "TRIES", 3)
    monkeypatch.setattr(robots.time, "sleep", lambda seconds: None)
    answers = [(500, b""), (200, b"User-agent: *\nDisallow: /x")]
    rules = Robots(lambda url: answers.pop(0))
    assert allows(rules, "/a")
    assert not allows(rules, "/x")
    assert answers == []


def test_an_answer_holds_for_a_day_and_a_failure_for_minutes(monkeypatch):
    now = [1e9]
    monkeypatch.setattr(robots.time, "time", lambda: now[0])
    hosts = Hosts(host=(200, b"User-agent: *\nDisallow: /"), down=(500, b""))
    rules = Robots(hosts)
    for passed, asked in [(0, 2), (290, 2), (20, 3), (86_000, 4), (200, 5)]:
        now[0] += passed
        for site in (HOST, "https://down.example"):
            with pytest.raises(FetchError):
                rules.admit(site, "/a")
        assert len(hosts.asked) == asked, passed


def test_answers_are_kept_for_other_runs_and_failures_are_not(tmp_path):
    hosts = Hosts(host=(200, b"User-agent: *\nDisallow: /x"), down=(500, b""), none=(404, b""))
    sites = [HOST, "https://down.example", "https://none.example"]
    for _ in range(2):
        rules = Robots(hosts, tmp_path)
        assert not allows(rules, "/x")
        rules.admit(sites[2], "/x")
        assert cause(lambda rules=rules: rules.admit(sites[1], "/x")) == ("robots.txt unreachable", True)
    assert [url.removesuffix("/robots.txt") for url in hosts.asked] == [HOST, sites[2], sites[1], sites[1]]
    names = [path.name for path in (tmp_path / "robots").iterdir()]
    assert len(names) == 2
    assert all(len(name) == 37 and name.endswith(".json") for name in names)


KEPT = {"site": HOST, "asked_at": 0.0, "rules": "User-agent: *\nDisallow: /"}


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "7", "null", '"x"', "{}", "[" * 100_000, "\x00\xff",
        json.dumps({**KEPT, "site": "https://other.example"}),
        json.dumps({**KEPT, "asked_at": 1e18}),
        json.dumps({**KEPT, "asked_at": "now"}),
        json.dumps({**KEPT, "asked_at": None}),
        json.dumps({**KEPT, "asked_at": float("nan")}),
        json.dumps({**KEPT, "asked_at": -1e300}),
        json.dumps({**KEPT, "rules": ["User-agent: *"]}),
        json.dumps({**KEPT, "rules": "User-agent: *\nDisallow: /\ud800"}),
        json.dumps({**KEPT, "rules": "x" * 3 * LONGEST_FILE}),
    ],
)  # fmt: skip
def test_a_kept_file_that_is_not_what_we_wrote_is_asked_for_anew(text, tmp_path):
    text = text.replace('"asked_at": 0.0', f'"asked_at": {time.time()}')
    saying("", tmp_path).admit(HOST, "/a")
    (path,) = (tmp_path / "robots").iterdir()
    path.write_text(text, "utf-8")
    hosts = Hosts()
    Robots(hosts, tmp_path).admit(HOST, "/a")
    assert len(hosts.asked) == 1
    assert json.loads(path.read_text("utf-8"))["rules"] == ""


def test_a_day_old_kept_file_is_asked_for_anew(tmp_path):
    saying("User-agent: *\nDisallow: /", tmp_path)
    assert not allows(saying("User-agent: *\nDisallow: /", tmp_path), "/a")
    (path,) = (tmp_path / "robots").iterdir()
    kept = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**kept, "asked_at": time.time() - 86_000}), "utf-8")
    assert not allows(saying("", tmp_path), "/a")
    path.write_text(json.dumps({**kept, "asked_at": time.time() - 86_401}), "utf-8")
    assert allows(saying("", tmp_path), "/a")


def test_a_folder_that_cannot_be_written_costs_no_more_than_the_memory(tmp_path):
    (tmp_path / "robots").write_text("a file stands where the folder should be")
    assert not allows(saying("User-agent: *\nDisallow: /", tmp_path), "/a")


def test_thousands_of_agents_before_thousands_of_rules_cost_little():
    """28,000 rules for each of 18,000 agents would be 500 million of them."""
    agents = "".join(f"User-agent: a{n}\n" for n in range(18_000))
    text = agents + "User-agent: *\n" * 2 + "".join(f"Disallow: /{n}\n" for n in range(20_000))
    began = time.process_time()
    rules = saying(text[:LONGEST_FILE])
    assert not allows(rules, "/7")
    assert allows(rules, "/a")
    assert time.process_time() - began < 5
    assert for_us(text).count("User-agent") == 1


def test_memory_holds_so_many_hosts_and_no_more(monkeypatch):
    monkeypatch.setattr(robots, "HELD", 10 * robots.ENTRY)
    hosts = Hosts()
    rules = Robots(hosts)
    for n in range(1000):
        rules.admit(f"https://h{n}.example", "/")
    assert len(rules._held) <= 10
    rules.admit("https://h999.example", "/")
    rules.admit("https://h0.example", "/")
    assert len(hosts.asked) == 1001
    assert rules._size == sum(future.result().size for future in rules._held.values())


def test_a_crawl_delay_is_kept_between_threads():
    rules = saying("User-agent: *\nCrawl-delay: 0.1")
    began = time.monotonic()
    with ThreadPoolExecutor(4) as pool:
        moments = sorted(pool.map(lambda _: (rules.admit(HOST, "/a"), time.monotonic() - began)[1], range(4)))
    for n, moment in enumerate(moments):
        assert moment == pytest.approx(0.1 * n, abs=0.08)
        assert moment >= 0.1 * n


def test_what_would_wait_too_long_for_a_crawl_delay_is_left_for_another_run():
    rules = saying("User-agent: *\nCrawl-delay: 86400")
    rules.admit(HOST, "/a")
    assert cause(lambda: rules.admit(HOST, "/b")) == ("crawl-delay", True)


@pytest.mark.parametrize("delay", ["-3", "nan", "inf", "1e999", "soon"])
def test_a_crawl_delay_that_is_no_time_is_none(delay):
    rules = saying(f"User-agent: *\nCrawl-delay: {delay}")
    for _ in range(3):
        rules.admit(HOST, "/a")


def test_a_disallowed_image_is_not_asked_for():
    file = answer(b"User-agent: deeprock\nDisallow: /private/")
    with RawServer({"/robots.txt": file, "/private/a": answer(b"image"), "/b": answer(b"image")}) as server:
        assert cause(lambda: fetch(server, "/private/a")) == ("robots.txt", False)
        assert fetch(server, "/b") == b"image"
        assert [path for _, path, _ in server.requests] == ["/robots.txt", "/robots.txt", "/b"]
        assert server.requests[0][2]["user-agent"].startswith("deeprock/")


def test_the_path_is_judged_as_it_is_sent():
    file = answer(b"User-agent: *\nDisallow: /private/")
    with RawServer({"/robots.txt": file}) as server:
        for path in ("/a/../private/x", "/%70rivate/x", "/./private/x", "/private/x#/a"):
            assert cause(lambda path=path: fetch(server, path)) == ("robots.txt", False)
        assert {path for _, path, _ in server.requests} == {"/robots.txt"}


def test_a_redirect_is_judged_by_the_robots_txt_of_the_host_it_leads_to():
    leads = answer(b"", "Location: https://b.example/img", status="302 Found")
    with (
        RawServer({"/": leads}) as a,
        RawServer({"/robots.txt": answer(b"User-agent: *\nDisallow: /img"), "/img": answer(b"image")}) as b,
    ):
        web = Web(mirrors={SITE: a.base, "https://b.example": b.base})
        with open_session(web) as session:
            assert cause(lambda: download(session, SITE + "/", web)) == ("robots.txt", False)
            assert ask(session, SITE + "/", web).content == b"image"  # an engine's page is no crawler's business
        assert [path for _, path, _ in b.requests] == ["/robots.txt", "/img"]


def test_a_robots_txt_may_lie_behind_redirects_but_not_in_the_private_network(monkeypatch):
    fake_dns(monkeypatch)["inner.example"] = ["10.0.0.7"]
    moved = answer(b"", "Location: /rules", status="301 Moved")
    inside = answer(b"", "Location: http://inner.example/robots.txt", status="302 Found")
    rules = answer(b"User-agent: *\nDisallow: /x")
    with RawServer({"/robots.txt": moved, "/rules": rules, "/x": answer(b"image")}) as server:
        assert cause(lambda: fetch(server, "/x")) == ("robots.txt", False)
    with RawServer({"/robots.txt": inside, "/x": answer(b"image")}) as server:
        assert cause(lambda: fetch(server, "/x")) == ("refused address", False)


def test_of_an_endless_robots_txt_the_first_half_megabyte_counts():
    def endless() -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\n\r\nUser-agent: *\nDisallow: /x\n"
        while True:
            yield b"Allow: /abcdefgh\n" * 4000

    with RawServer({"/robots.txt": endless, "/a": answer(b"image")}) as server:
        assert fetch(server, "/a") == b"image"
        assert cause(lambda: fetch(server, "/x")) == ("robots.txt", False)


def test_sixty_four_threads_cause_one_request_for_robots_txt_and_a_second_run_none(tmp_path):
    with RawServer({"/robots.txt": answer(b""), "/a": answer(b"image")}) as server:
        web = Web(mirrors={SITE: server.base}, per_host=64)
        for _ in range(2):
            gate = threading.Barrier(32)
            with open_session(web, tmp_path) as session, ThreadPoolExecutor(32) as pool:
                list(pool.map(lambda _, s=session, g=gate: (g.wait(), download(s, SITE + "/a", web)), range(32)))
        assert len(server.times("/robots.txt")) == 1
        assert len(server.times("/a")) == 64


@pytest.mark.parametrize(("tags", "expected"), [(["deeprock: none"], True), (["*: noai"], True), (["a: noai"], False)])
def test_a_tag_may_name_whom_it_means(tags, expected):
    assert opted_out(tags) is expected
