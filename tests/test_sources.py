import html
import json
import logging
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from curate.errors import CurateError
from curate.licenses import permits
from curate.recipe import ImageClass, Recipe, Web
from curate.sources import Answer, FetchError, Source, bing, folder, google
from curate.web import Reply, open_session
from tests.web import pages
from tests.web.raw import RawServer, answer

FIXTURES = Path(__file__).parents[2] / "shared" / "fixtures"
needs_fixtures = pytest.mark.skipif(not FIXTURES.exists(), reason="the saved answers of the engines are not here")
LEGACY = r"""<script>var x="https://www.gstatic.com/og/logo.png";</script><script nonce="x">AF_initDataCallback({
key: 'ds:1', data:[null,[["https://encrypted-tbn0.gstatic.com/images?q\u003dtbn:A\u0026usqp\u003dCAU",183,275],
["https://i.cbc.ca/1.544!/fileImage/cat.JPG",853,1280],["https:\/\/ex.example\/cat",853,1280]]], sideChannel: {}});
</script>"""
UDM2 = r"""<script>var d2 = [1,[0,"d2",["https://encrypted-tbn0.gstatic.com/images?q\u003dtbn:B\u0026s",236,213],
["https://a.example/c.webp?w\u003d1200\u0026h\u003d3",1196,1080],null,0,"rgb(152,114,82)",null,0,{"2000":[null,"a.example",
"68KB"],"2001":[null,null,null,3,9,null,9],"2003":[null,"Id","https://a.example/page","A \"good\" rock \u0026 more"]}],
["https://notgoogle.com/b.png",10,20],["https://www.google.com/logo.png",10,20],["javascript:alert(1)",10,20]];</script>"""


def tile(**facts: object) -> str:
    return f'<div class="imgpt"><a class="iusc" role="link" m="{html.escape(json.dumps(facts))}"></a></div>'


def bing_reply(*tiles: str) -> Reply:
    return Reply(200, "https://www.bing.com/images/async", "".join(tiles).encode())


def google_reply(page: str, status: int = 200) -> Reply:
    return Reply(status, "https://www.google.com/search", page.encode())


def recipe(**options) -> Recipe:
    return Recipe("rocks", (ImageClass("granite", ("granite",)),), **options)


# Bing


@needs_fixtures
@pytest.mark.parametrize(
    ("name", "results", "described"),
    [("retrieval-go_bing_images.html", 47, 35), ("QoderWebSite_async_trimmed_1item.html", 1, 1)],
)
def test_every_result_of_a_saved_bing_page_is_read(name, results, described):
    """Twelve tiles of the first page, those of its side strips, carry no title and no page."""
    saved = (FIXTURES / "bing" / name).read_bytes()
    page = bing.read_page(Reply(200, "", saved))
    assert page.answer is Answer.OK
    assert len(page.candidates) == results == saved.count(b'class="iusc"')
    assert sum(bool(c.title) and c.page_url.startswith("http") for c in page.candidates) == described


@pytest.mark.parametrize(
    "url",
    [
        "https://a.example/rock.png",
        "http://a.example/rock.webp",
        "https://a.example/rock",
        "https://a.example/rock.jpg?v=1&width=1445",
        "https://a.example/Gestein-für-alle/岩石.JPG",
        "https://a.example/rock.png!qt1024_2",
    ],
)
def test_bing_addresses_are_taken_whole_whatever_they_end_in(url):
    page = bing.read_page(bing_reply(tile(murl=url, purl="https://a.example/page", t="A rock")))
    assert [(c.url, c.page_url, c.title) for c in page.candidates] == [(url, "https://a.example/page", "A rock")]


def test_a_bing_title_is_cleaned_and_falls_back_to_the_description():
    page = bing.read_page(
        bing_reply(
            tile(murl="https://a.example/1", t="\ue000granite\ue001 \x1b[31mred\u202e"),
            tile(murl="https://a.example/2", t="", desc="\ue000granite\ue001 rock"),
        )
    )
    assert [c.title for c in page.candidates] == ["granite [31mred", "granite rock"]


def test_a_bing_result_that_cannot_be_read_is_left_out():
    good = tile(murl="https://a.example/1", t="A rock")
    bad = [
        '<a class="iusc" m="{&quot;murl&quot;:"></a>',
        '<a class="iusc"></a>',
        '<a class="iusc" m="[1]"></a>',
        tile(t="no address"),
        tile(murl="javascript:alert(1)"),
        tile(murl="file:///etc/hostname"),
        tile(murl=None),
        tile(murl="https://a.example/" + "x" * 2000),
    ]
    page = bing.read_page(bing_reply(*bad, good))
    assert [c.url for c in page.candidates] == ["https://a.example/1"]


@pytest.mark.parametrize(
    ("url", "taken"),
    [
        ("//a.example/rock.jpg", "https://a.example/rock.jpg"),
        (" https://a.example/my rock \u2003.jpg\n", "https://a.example/my%20rock%20%E2%80%83.jpg"),
        ("https://a.example/rock\u200bs.jpg", "https://a.example/rock%E2%80%8Bs.jpg"),
        ("https://a.example/rock.jpg?a=1&amp;b=2", "https://a.example/rock.jpg?a=1&amp;b=2"),  # as the site has it
    ],
)
def test_bing_addresses_are_made_whole(url, taken):
    page = bing.read_page(bing_reply(tile(murl=url, purl="//a.example/page")))
    assert [(c.url, c.page_url) for c in page.candidates] == [(taken, "https://a.example/page")]


@pytest.mark.parametrize(
    "facts", ['{"murl":"https://a.example/1","t":"A\trock"}', "{&quot;murl&quot;:&quot;https://a.example/1&quot;}"]
)
def test_bing_facts_with_control_codes_or_escaped_twice_are_read(facts):
    page = bing.read_page(bing_reply(f'<a class="iusc" m="{html.escape(facts)}"></a>'))
    assert [c.url for c in page.candidates] == ["https://a.example/1"]


def test_bing_tiles_of_before_2017_are_read():
    """Their facts are a script's object, not JSON; in double quotes, escaped, or in single ones."""
    facts = (
        '{ns:"images",k:"5045",mid:"59EB",surl:"http://a.example/page?a,b:c",\n imgurl:"http://a.example/Test%20Query.jpg",'
        'ow:"480",tft:"0",oi:"http://a.example/other.jpg"}'
    )
    tiles = [f'<div class="dg_u"><a href="#" m="{html.escape(facts)}" t1="Test &amp; Query" t2="650 x 517"></a></div>']
    tiles.append(f"<div class='dg_u'><a href='#' m='{facts}' t1='Test &amp; Query'></a></div>")
    found = bing.read_page(bing_reply(*tiles)).candidates
    expected = ("http://a.example/Test%20Query.jpg", "http://a.example/page?a,b:c", "Test & Query")
    assert [(c.url, c.page_url, c.title) for c in found] == [expected] * 2


def test_a_bing_tile_without_facts_is_read_from_its_link():
    link = "/images/search?view=detailV2&amp;mediaurl=https%3a%2f%2fa.example%2frock.jpg%3fv%3d1%26w%3d2&amp;exph=1"
    copy = (
        "/images/search?mediaurl=https%3a%2f%2fth.bing.com%2fth%2fid%2fR.1%3frik%3dx"
        "%26riu%3dhttp%253a%252f%252fa.example%252forigin.jpg%253fv%253d1%26pid%3dImgRaw"
    )
    tiles = [f'<a class="iusc" m="{{broken" href="{link}"></a>', f'<a class="iusc" href="{copy}"></a>']
    page = bing.read_page(bing_reply(*tiles, '<a class="iusc" href="http://[::1"></a>'))
    assert [c.url for c in page.candidates] == ["https://a.example/rock.jpg?v=1&w=2", "http://a.example/origin.jpg?v=1"]


def test_the_bing_page_for_simple_clients_is_read():
    """As plain clients were sent it in 2016: each result links to the image itself."""
    item = (
        '<div class="item"><a class="thumb" target="_blank" href="{}" h="ID=images,5014.1"><div class="cico">'
        '<img src="http://tse3.mm.bing.net/th?id=OIP.1&amp;pid=1.1" alt=" "/></div></a><div class="meta">'
        '<a class="tit" target="_blank" href="http://a.example/page">a.example</a>'
        '<div class="des">A <b>rock</b> &amp; more</div><div class="fileInfo">300 x 200 jpeg 12kB</div></div></div>'
    )
    hrefs = ["http://a.example/rock?a=1&amp;b=2", "/images/search?q=rock", "javascript:alert(1)"]
    found = bing.read_page(bing_reply(*(item.format(href) for href in hrefs))).candidates
    assert [(c.url, c.page_url, c.title) for c in found] == [
        ("http://a.example/rock?a=1&b=2", "http://a.example/page", "A rock & more")
    ]


def test_a_bing_result_keeps_no_page_that_is_no_web_address():
    page = bing.read_page(bing_reply(tile(murl="https://a.example/1", purl="javascript:alert(1)")))
    assert [c.page_url for c in page.candidates] == [""]


@pytest.mark.parametrize(
    ("wanted", "groups"),
    [
        ("cc", "L2_L3_L4_L5_L6_L7"),
        ("commercial", "L2_L3_L4"),
        ("modify", "L2_L3_L5_L6"),
        ("commercial-modify", "L2_L3"),
        ("public-domain", "L1"),
    ],
)
def test_bing_is_asked_for_the_licence_and_its_filter_is_what_the_results_carry(wanted, groups):
    with RawServer({}) as server:
        server.answers = _Anything(answer(tile(murl="https://a.example/1").encode()))
        page = _search(bing, server, "granite", None, license=wanted)
        ((_, path, _),) = server.requests
    assert f"&qft=+filterui%3Alicense-{groups}" in path
    assert [(c.license, c.license_basis) for c in page.candidates] == [(wanted, "filter")]
    assert permits(wanted, "filter", wanted)


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        ("", Answer.EMPTY),
        ("\n \n", Answer.EMPTY),
        ("<p>There are no results for <b>grxnite</b></p>", Answer.EMPTY),
        (pages.bing_page([], "grxnite"), Answer.EMPTY),
        (pages.BING_CAPTCHA, Answer.BLOCKED),
        (pages.REDESIGNED, Answer.CHANGED),
        ('<a class="iusc" m="{&quot;murl&quot;:"></a>', Answer.CHANGED),
        ('<ul class="dgControl_list"><li><a class="iusc2" m="{}"></a></li></ul>', Answer.CHANGED),
        ("https://www.bing.com/", Answer.CHANGED),
    ],
)
def test_bing_pages_without_results_are_told_apart(page, expected):
    read = bing.read_page(Reply(200, "", page.encode()))
    assert (read.answer, read.candidates, read.cursor) == (expected, (), None)
    assert "Bing" in read.detail


@pytest.mark.parametrize(("first", "following"), [(1, "36"), (36, "71"), (946, "981"), (981, None)])
def test_bing_pages_follow_each_other_by_35_until_1000(first, following):
    assert bing.read_page(bing_reply(tile(murl="https://a.example/1")), first).cursor == following


def test_bing_is_asked_with_an_encoded_query_and_the_cursor_counts_on():
    tiles = "".join(tile(murl=f"https://a.example/{n}") for n in range(35))
    with RawServer({}) as server:
        server.answers = _Anything(answer(tiles.encode()))
        page = _search(bing, server, "granite & Gneis/für=alle", None)
        _search(bing, server, "granite", page.cursor)
        asked = [urlsplit(path) for _, path, _ in server.requests]
    assert [a.path for a in asked] == ["/images/async"] * 2
    assert parse_qs(asked[0].query) == {
        "q": ["granite & Gneis/für=alle"], "async": ["1"], "first": ["1"], "count": ["35"],
    }  # fmt: skip
    assert parse_qs(asked[1].query)["first"] == ["36"]


# Google


@needs_fixtures
@pytest.mark.parametrize(
    ("name", "urls"),
    [
        (
            "synthetic_legacy_AF.html",
            [
                "https://i.cbc.ca/1.5448015.1580501469!/fileImage/httpImage/cat-in-pain-facial-expression-scale.JPG",
                "https://ex.example/cat.jpg",
            ],
        ),
        (
            "synthetic_udm2.html",
            [
                "https://example.com/photos/cappuccino.jpg",
                "https://q5.itc.cn/images01/20240320/e2c7f95da03249c8afee7ca94a017404.jpeg",
                "https://lookaside.fbsbx.com/lookaside/crawler/media/?media_id=100064",
                "https://a.example/b.webp",
                "https://a.example/c.jpg?w=1200&h=3",
            ],
        ),
    ],
)
def test_every_result_of_a_saved_google_shape_is_read(name, urls):
    page = google.read_page(Reply(200, "", (FIXTURES / "google" / name).read_bytes()))
    assert [c.url for c in page.candidates] == urls


@needs_fixtures
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("lead_hunter_enablejs_shell_head.html", "enable JavaScript"),
        ("openserp_search_soft_block.html", "enable JavaScript"),
        ("openserp_search_captcha.html", "captcha"),
        ("openserp_search_captcha_new.html", "captcha"),
    ],
)
@pytest.mark.parametrize("status", [200, 429])
def test_every_saved_refusal_of_google_is_called_blocked(name, said, status):
    page = google.read_page(Reply(status, "", (FIXTURES / "google" / name).read_bytes()))
    if status == 200 or said == "captcha":
        assert page.answer is Answer.BLOCKED
        assert said in page.detail
        assert "another source" in page.detail
    else:
        assert page.answer is Answer.RATE_LIMITED


def test_google_results_come_with_page_and_title_where_the_script_says_them():
    legacy, udm2 = (google.read_page(google_reply(page)).candidates for page in (LEGACY, UDM2))
    assert [c.url for c in legacy] == ["https://i.cbc.ca/1.544!/fileImage/cat.JPG", "https://ex.example/cat"]
    assert [(c.url, c.page_url, c.title) for c in udm2] == [
        ("https://a.example/c.webp?w=1200&h=3", "https://a.example/page", 'A "good" rock & more'),
        ("https://notgoogle.com/b.png", "", ""),
    ]


def test_google_results_inside_a_script_string_are_read():
    """Some pages hold the data as a string of hexadecimal escapes."""
    page = google_reply(r"<script>f('\x5b\x22https://a.example/1.jpg?a\x3d1\x22,10,20\x5d')</script>")
    assert [c.url for c in google.read_page(page).candidates] == ["https://a.example/1.jpg?a=1"]


@pytest.mark.parametrize(
    ("reply", "expected", "said"),
    [
        (google_reply(pages.ENABLE_JS), Answer.BLOCKED, "does not serve plain HTTP clients"),
        (google_reply(pages.SOFT_BLOCK), Answer.BLOCKED, "enable JavaScript"),
        (google_reply(pages.CAPTCHA), Answer.BLOCKED, "captcha"),
        (google_reply(pages.CAPTCHA, 429), Answer.BLOCKED, "captcha"),
        (google_reply("Forbidden", 403), Answer.BLOCKED, "403"),
        (google_reply("Too many", 429), Answer.RATE_LIMITED, "429"),
        (google_reply("", 500), Answer.UNREACHABLE, "500"),
        (google_reply("", 404), Answer.CHANGED, "404"),
        (Reply(302, "", b"", "https://www.google.com/sorry/index?continue=x"), Answer.BLOCKED, "captcha"),
        (Reply(302, "", b"", "https://consent.google.com/ml?continue=x"), Answer.BLOCKED, "consent"),
        (Reply(302, "", b"", "https://www.google.de/"), Answer.CHANGED, "www.google.de"),
        (google_reply(pages.google_page([], "grxnite")), Answer.EMPTY, "no (more) images"),
        (google_reply(pages.REDESIGNED), Answer.CHANGED, "format changed"),
        (google_reply(""), Answer.CHANGED, "format changed"),
    ],
)
def test_google_answers_without_results_are_told_apart(reply, expected, said):
    page = google.read_page(reply)
    assert (page.answer, page.candidates) == (expected, ())
    assert said in page.detail


def test_the_links_of_google_s_basic_page_are_read():
    """Its thumbnails lead over /imgres, which names the image and its page."""
    page = google_reply(
        '<a href="/imgres?imgurl=https://a.example/my%20rock%3Fw%3D1%26h%3D2&amp;imgrefurl=http://a.example/page&amp;h=10&amp;'
        'w=20&amp;tbnid=x"><img></a><a href="https://www.google.com/imgres?imgurl=http%3A%2F%2Fb.example%2F1&amp;'
        'imgrefurl=javascript:1"></a><a href="/imgres?imgurl=https://encrypted-tbn0.gstatic.com/1"></a>'
        '<a href="/url?q=https://c.example/"></a><a href="http://[::1"></a><a></a>'
    )
    assert [(c.url, c.page_url) for c in google.read_page(page).candidates] == [
        ("https://a.example/my%20rock?w=1&h=2", "http://a.example/page"),
        ("http://b.example/1", ""),
    ]


def test_google_is_asked_for_creative_commons_and_its_results_carry_that_filter():
    with RawServer({}) as server:
        server.answers = _Anything(answer(LEGACY.encode()))
        page = _search(google, server, "granite", None, license="cc")
        _search(google, server, "granite", None)
        tbs = [parse_qs(urlsplit(path).query).get("tbs") for _, path, _ in server.requests]
    assert tbs == [["il:cl"], None]
    assert {(c.license, c.license_basis) for c in page.candidates} == {("cc", "filter")}


@pytest.mark.parametrize("wanted", ["commercial", "modify", "commercial-modify", "public-domain"])
def test_google_is_not_asked_for_what_its_filter_cannot_express(wanted):
    with RawServer({}) as server:
        server.answers = _Anything(answer(LEGACY.encode()))
        page = _search(google, server, "granite", None, license=wanted)
        assert server.requests == []
    assert (page.answer, page.candidates, page.cursor) == (Answer.EMPTY, (), None)
    assert f"license = {wanted}" in page.detail


@pytest.mark.parametrize("engine", [bing, google])
def test_without_a_filter_the_engines_state_no_licence_and_a_wrong_one_is_told(engine):
    with RawServer({}) as server:
        server.answers = _Anything(answer((LEGACY + tile(murl="https://a.example/1")).encode()))
        page = _search(engine, server, "granite", None)
        (path,) = [path for _, path, _ in server.requests]
    assert {(c.license, c.license_basis) for c in page.candidates} == {("", "unknown")}
    assert "qft" not in path
    with pytest.raises(CurateError, match="no such choice"):
        engine.open_source(recipe(license="free"), None)


@pytest.mark.parametrize(("start", "following"), [(0, "100"), (800, "900"), (900, None)])
def test_google_pages_follow_each_other_by_100_until_1000(start, following):
    assert google.read_page(google_reply(LEGACY), start).cursor == following


def test_google_is_asked_with_an_encoded_query_and_a_refusal_is_not_followed():
    sorry = answer(b"", "Location: https://www.google.com/sorry/index", status="302 Found")
    with RawServer({}) as server:
        server.answers = _Anything(sorry)
        page = _search(google, server, "granite & Gneis", "300")
        (asked,) = [urlsplit(path) for _, path, _ in server.requests]
    fields = parse_qs(asked.query)
    assert (asked.path, fields["q"], fields["start"], fields["ijn"]) == ("/search", ["granite & Gneis"], ["300"], ["3"])
    assert (page.answer, page.cursor) == (Answer.BLOCKED, "300")


@pytest.mark.parametrize("engine", [bing, google])
def test_an_engine_that_does_not_answer_is_unreachable_and_the_cursor_stays(engine):
    web = Web(mirrors={f"https://www.{name}.com": "http://127.0.0.1:9" for name in ("bing", "google")}, deadline=0.1)
    with open_session(web) as session:
        page = engine.open_source(recipe(web=web), session).search("granite", "granite", "300")
    assert (page.answer, page.cursor) == (Answer.UNREACHABLE, "300")
    assert "connection" in page.detail


def test_the_engines_leave_logging_alone():
    assert not [h for h in logging.getLogger().handlers if type(h) is logging.StreamHandler]


# Folder


@pytest.fixture
def tree(tmp_path) -> Path:
    """Granite with five files, an empty gneiss, and a way out by symbolic links."""
    granite = tmp_path / "tree" / "Granite"
    granite.mkdir(parents=True)
    (tmp_path / "tree" / "gneiss").mkdir()
    for number in range(4):
        (granite / f"{number:03d}.jpg").write_bytes(b"%d" % number)
    (granite / "more").mkdir()
    (granite / "more" / "Stück #1 50%.png").write_bytes(b"odd")
    (granite / ".DS_Store").write_bytes(b"hidden")
    (tmp_path / "secret").write_bytes(b"secret")
    (granite / "out.jpg").symlink_to(tmp_path / "secret")
    (granite / "outside").symlink_to(tmp_path)
    return tmp_path / "tree"


def open_folder(root: Path, **web) -> Source:
    options = Web(**web)
    with open_session(options) as session:
        return folder.open_source(recipe(folder=str(root), web=options), session)


def test_a_folder_is_listed_in_order_a_hundred_a_page_and_every_file_can_be_fetched(tree):
    for number in range(4, 204):
        (tree / "Granite" / f"{number:03d}.jpg").write_bytes(b"%d" % number)
    source = open_folder(tree)
    cursor, pages_seen = None, []
    while True:
        pages_seen.append(source.search("whatever", "granite", cursor))
        if (cursor := pages_seen[-1].cursor) is None:
            break
    assert [len(page.candidates) for page in pages_seen] == [100, 100, 5]
    found = [candidate for page in pages_seen for candidate in page.candidates]
    assert [source.fetch(c.url) for c in found] == [b"%d" % n for n in range(204)] + [b"odd"]
    assert {c.license_basis for c in found} == {"unknown"}
    assert all(c.url.startswith("file:///") for c in found)


def test_a_class_without_a_folder_or_files_is_empty_and_says_so(tree):
    missing = open_folder(tree).search("", "basalt", None)
    assert missing.answer is Answer.EMPTY
    assert "no folder basalt; it holds Granite, gneiss" in missing.detail
    assert open_folder(tree).search("", "gneiss", None).answer is Answer.EMPTY


@pytest.mark.parametrize(("root", "said"), [("", "needs --folder"), ("nowhere", "no such folder")])
def test_a_recipe_without_a_folder_is_told(root, said, tmp_path):
    with pytest.raises(CurateError, match=said):
        open_folder(tmp_path / root if root else Path()) if root else folder.open_source(recipe(), None)


@pytest.mark.parametrize(
    "path", ["/etc/hostname", "{root}/../secret", "{root}/Granite/out.jpg", "{root}/Granite/%2e%2e/%2e%2e/secret"]
)
def test_nothing_outside_the_folder_is_fetched(tree, path):
    with pytest.raises(FetchError) as failure:
        open_folder(tree).fetch("file://" + path.format(root=tree))
    assert (failure.value.cause, failure.value.transient) == ("refused address", False)


@pytest.mark.parametrize(
    "url", ["https://a.example/1.jpg", "file://host/etc/hostname", "/etc/hostname", "file:///a%00b"]
)
def test_only_file_addresses_are_fetched_from_a_folder(tree, url):
    with pytest.raises(FetchError, match="refused address"):
        open_folder(tree).fetch(url)


@pytest.mark.parametrize(
    ("name", "cause"), [("gone.jpg", "404"), ("more", "404"), ("big", "too large"), ("nil", "empty")]
)
def test_a_file_that_is_no_image_of_a_decent_size(tree, name, cause):
    (tree / "Granite" / "big").write_bytes(b"x" * 101)
    (tree / "Granite" / "nil").write_bytes(b"")
    with pytest.raises(FetchError, match=cause):
        open_folder(tree, max_bytes=100).fetch((tree / "Granite" / name).as_uri())


class _Anything(dict):
    """One answer for every path."""

    def __init__(self, always: bytes) -> None:
        self.always = always

    def get(self, *_: object) -> bytes:
        return self.always


def _search(engine, server: RawServer, query: str, cursor: str | None, **options):
    web = Web(mirrors={"https://www.bing.com": server.base, "https://www.google.com": server.base}, deadline=5)
    with open_session(web) as session:
        return engine.open_source(recipe(web=web, **options), session).search(query, "granite", cursor)
