import re

import pandas as pd
import pytest
from markdown_it import MarkdownIt

from curate.attribution import chosen, credited, deed, escape, link, markdown, write_attribution
from curate.errors import CurateError
from curate.manifest import read_manifest

HOSTILE = (
    "[x](javascript:alert(1))",
    "![x](https://evil.example/x.png)",
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "| a | b |",
    "# heading",
    "line\n\n# heading\n===",
    "1. list\n- list",
    "> quote",
    "`code` ```",
    "**bold** _it_ ~~gone~~",
    "https://evil.example www.evil.example a@evil.example",
    "<https://evil.example>",
    "&lt;script&gt; &#60;script&#62;",
    "[x]: https://evil.example",
    "[x][1] [^1]",
    "\\[x](https://evil.example)",
    "\\<script>",
    "$$x$$ :smile: --- ***",
    "]]> --> <!-- x",
    "\x1b[31mred\u202e",
    "=HYPERLINK(1)",
)


def rows(*changes: dict) -> pd.DataFrame:
    """Accepted photographs under CC BY 4.0, but for the changes."""
    plain = {
        "label": "oak",
        "status": "accepted",
        "source": "openverse",
        "url": "https://images.example/1.jpg",
        "page_url": "https://photos.example/1",
        "title": "An oak",
        "creator": "Ada",
        "license": "CC-BY-4.0",
        "license_url": "https://creativecommons.org/licenses/by/4.0/",
        "license_basis": "asserted",
    }
    table = pd.DataFrame([{**plain, **change} for change in changes])
    numbers = [f"{i:016x}" for i in range(len(table))]
    return table.assign(image_id=numbers, file_name=[f"images/{n}.jpg" for n in numbers])


def items(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("- ")]


def test_every_image_is_listed_once_by_licence_the_commonest_first():
    table = credited(
        rows(
            {},
            {"license": "CC0-1.0", "license_url": None, "title": "Two"},
            {},
            {"license": "CC BY-SA 3.0 de", "license_url": None},
        )
    )
    text = markdown(table, "accepted images")
    assert "4 accepted images." in text
    assert [line for line in text.splitlines() if line.startswith("## ")] == [
        "## CC\\-BY\\-4\\.0 (2)",
        "## CC0\\-1\\.0 (1)",
        "## CC\\-BY\\-SA\\-3\\.0\\-DE (1)",
    ]
    assert items(text)[0] == "- An oak, by Ada. <https://photos.example/1> (oak, 0000000000000000)"
    assert len(items(text)) == 4
    assert "Licence: <https://creativecommons.org/licenses/by/4.0/>" in text
    assert "Licence: <https://creativecommons.org/licenses/by-sa/3.0/de/>" in text


def test_what_is_to_be_decided_is_counted_first_and_stands_apart():
    manifest = rows(
        {},
        {"license": None, "license_url": None, "license_basis": "unknown", "title": "nobody knows"},
        {"license": "commercial", "license_url": None, "license_basis": "filter", "title": "filtered"},
        {"license": "All rights reserved", "license_url": None, "title": "hers alone"},
        {"license_basis": None, "title": "said by nobody"},
    )
    table = credited(manifest)
    assert table["rights"].tolist() == ["stated", "unknown", "filter", "reserved", "unknown"]
    text = markdown(table, "accepted images")
    counts = [line.split("|")[1:3] for line in text.splitlines() if line.startswith("| ")][1:]
    assert [(name.strip(), int(n)) for name, n in counts] == [
        ("Licence unknown", 2),
        ("A search filter only", 1),
        ("All rights reserved", 1),
        ("Licence stated", 1),
    ]
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    assert headings == [
        "## To be decided: Licence unknown (2)",
        "## To be decided: A search filter only (1)",
        "## To be decided: All rights reserved (1)",
        "## CC\\-BY\\-4\\.0 (1)",
    ]
    assert [item.split(",")[0] for item in items(text)] == [
        "- nobody knows",
        "- said by nobody",
        "- filtered",
        "- hers alone",
        "- An oak",
    ]
    assert "search filter commercial" in text


def test_the_set_is_what_is_accepted_else_what_is_not_out():
    manifest = rows({"status": "rejected"}, {"status": "duplicate"}, {"status": "candidate"}, {"status": "accepted"})
    assert credited(manifest)["image_id"].tolist() == [manifest["image_id"][3]]
    assert chosen(manifest) == "accepted images"
    waiting = manifest[manifest["status"] != "accepted"]
    assert credited(waiting)["image_id"].tolist() == [manifest["image_id"][2]]
    assert "neither rejected nor duplicates" in chosen(waiting)


@pytest.mark.parametrize("text", HOSTILE)
def test_text_from_the_web_is_only_text_in_the_markdown(text):
    manifest = rows({"title": text, "creator": text, "label": text, "license": text, "license_url": None})
    page = markdown(credited(manifest), "accepted images")
    renderer = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    html = renderer.render(page)
    plain = renderer.render(
        markdown(credited(rows({"license_url": None, "license": "free to use"})), "accepted images")
    )
    for sign in ("<script", "<img", "<em", "<strong", "<code", "<s>", "<ol", "<blockquote", "<hr", "<!--"):
        assert sign not in html
    for sign in ("<h1", "<h2", "<td", "<tr", "<li", "<ul", "<p>"):
        assert html.count(sign) <= plain.count(sign) + (sign == "<p>")
    assert re.findall("<a [^>]*>", html) == ['<a href="https://photos.example/1">']


@pytest.mark.parametrize("text", HOSTILE)
def test_escaped_text_reads_as_it_was(text):
    """What a reader sees is the text itself, its control codes apart; only a joiner in what looks like mail is more."""
    html = MarkdownIt("commonmark").renderInline(f"x {escape(text)}")
    shown = html.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", '"').replace("&amp;", "&")
    cleaned = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    assert shown.replace("\u2060", "") == f"x {cleaned}"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://a.example/b?c=1&d=%20x", "<https://a.example/b?c=1&d=%20x>"),
        ("https://a.example/b> <script>", "<https://a.example/b%3E%20%3Cscript%3E>"),
        ("https://a.example/b\n](x)|`y`", "<https://a.example/b%20%5D(x)%7C%60y%60>"),
        ("HTTPS://a.example/é", "<HTTPS://a.example/%C3%A9>"),
        ("javascript:alert(1)", "javascript&#58;alert\\(1\\)"),
        ("data:text/html,x", "data&#58;text/html,x"),
        ("https://", "https&#58;//"),
        ("https://[bad", "https&#58;//\\[bad"),
        ("file:///etc/passwd", "file&#58;///etc/passwd"),
    ],
)
def test_only_web_addresses_become_links_and_none_breaks_out(url, shown):
    assert link(url) == shown


@pytest.mark.parametrize(
    ("license", "page"),
    [
        ("CC-BY-4.0", "https://creativecommons.org/licenses/by/4.0/"),
        ("CC-BY-NC-SA-2.0", "https://creativecommons.org/licenses/by-nc-sa/2.0/"),
        ("CC-BY-NC-ND-1.0", "https://creativecommons.org/licenses/by-nd-nc/1.0/"),
        ("CC0-1.0", "https://creativecommons.org/publicdomain/zero/1.0/"),
        ("CC-PDM-1.0", "https://creativecommons.org/publicdomain/mark/1.0/"),
        ("CC-BY", ""),
        ("MIT", ""),
    ],
)
def test_a_recognised_licence_has_its_canonical_page(license, page):
    assert deed(license) == page


def test_the_csv_holds_the_same_and_runs_no_formula(tmp_path):
    titles = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "plain", "two\nlines", 'a "quoted", b']
    manifest = rows(*({"title": title, "creator": "=cmd|' /C calc'!A0"} for title in titles))
    write_attribution(manifest, tmp_path / "out" / "ATTRIBUTION.md")
    raw = (tmp_path / "out" / "ATTRIBUTION.csv").read_text()
    assert not any(
        cell.lstrip('"')[:1] in ("=", "+", "-", "@") for line in raw.splitlines() for cell in line.split(",")
    )
    table = read_manifest(tmp_path / "out" / "ATTRIBUTION.csv")
    assert table["title"].tolist() == ["=1+1", "+1", "-1", "@SUM(A1)", "=1", "plain", "two lines", 'a "quoted", b']
    assert set(table["rights"]) == {"stated"}
    assert set(table["license_url"]) == {"https://creativecommons.org/licenses/by/4.0/"}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["ATTRIBUTION.csv", "ATTRIBUTION.md"]


def test_no_address_of_this_machine_is_published(tmp_path):
    manifest = rows(
        {"url": "file:///home/ada/oak.jpg", "page_url": None}, {"url": "https://a.example/1", "page_url": None}
    )
    table = write_attribution(manifest, tmp_path / "A.md")
    assert table["url"].tolist()[1] == "https://a.example/1"
    for name in ("A.md", "A.csv"):
        assert "/home/ada" not in (tmp_path / name).read_text()
    assert [item.split(". ")[1].split(" (")[0] for item in items((tmp_path / "A.md").read_text())] == [
        "no source page",
        "<https://a.example/1>",
    ]


def test_a_manifest_without_provenance_is_all_unknown(tmp_path):
    manifest = rows({}, {})[["image_id", "file_name", "label", "status"]]
    table = write_attribution(manifest, tmp_path / "A.md")
    assert table["rights"].tolist() == ["unknown", "unknown"]
    assert "- untitled, by unknown. no source page (oak, 0000000000000000)" in (tmp_path / "A.md").read_text()


def test_the_manifest_is_never_written_over_and_mistakes_are_named(tmp_path):
    with pytest.raises(CurateError, match="would replace the manifest"):
        write_attribution(rows({}), tmp_path / "m.md", read_from=tmp_path / "m.csv")
    with pytest.raises(CurateError, match=r"ends in \.md"):
        write_attribution(rows({}), tmp_path / "m.csv")
    with pytest.raises(CurateError, match="nothing to attribute"):
        write_attribution(rows({"status": "rejected"}), tmp_path / "m.md")
    with pytest.raises(CurateError, match="no column status"):
        write_attribution(rows({}).drop(columns="status"), tmp_path / "m.md")
    (tmp_path / "file").write_text("")
    with pytest.raises(CurateError, match="cannot be written"):
        write_attribution(rows({}), tmp_path / "file" / "m.md")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_is_too_long_is_cut():
    assert escape("a" * 500) == "a" * 199 + "…"
