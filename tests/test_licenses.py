import pytest

from curate.errors import CurateError
from curate.licenses import MEANING, WANTED, allowed, credit_line, identify, permits, require_wanted

FREE = {"commercial", "modify", "commercial-modify"}
NAMES = {
    # Wikimedia Commons, LicenseShortName, License and UsageTerms
    "CC BY-SA 4.0": "CC-BY-SA-4.0",
    "CC BY-SA 3.0 de": "CC-BY-SA-3.0-DE",
    "CC BY-SA 2.5 it": "CC-BY-SA-2.5-IT",
    "CC BY 3.0 IGO": "CC-BY-3.0-IGO",
    "CC BY-SA 3.0,2.5,2.0,1.0": "CC-BY-SA-3.0",
    "cc-by-sa-3.0-migrated": "CC-BY-SA-3.0",
    "Creative Commons Attribution-Share Alike 4.0": "CC-BY-SA-4.0",
    "Creative Commons Zero, Public Domain Dedication": "CC0-1.0",
    "CC0": "CC0-1.0",
    "Public domain": "Public domain",
    "PD-old-100": "Public domain",
    "pd": "Public domain",
    "No restrictions": "No known copyright restrictions",
    "GFDL": "GFDL",
    "GFDL 1.2": "GFDL-1.2-only",
    "GNU Free Documentation License 1.2 or later": "GFDL-1.2-or-later",
    "FAL": "LAL",
    "Free Art License 1.3": "LAL-1.3",
    "OGL 3": "OGL-UK-3.0",
    "Copyrighted free use": "Copyrighted free use",
    # Flickr, now and before 2024
    "CC BY-NC-ND 2.0": "CC-BY-NC-ND-2.0",
    "Attribution-NonCommercial-ShareAlike License": "CC-BY-NC-SA",
    "Attribution License": "CC-BY",
    "Public Domain Dedication (CC0)": "CC0-1.0",
    "Public Domain Mark": "CC-PDM-1.0",
    "No known copyright restrictions": "No known copyright restrictions",
    "United States Government Work": "Public domain",
    # iNaturalist, Openverse
    "cc-by-nc": "CC-BY-NC",
    "cc0": "CC0-1.0",
    "by-nc-sa 2.0": "CC-BY-NC-SA-2.0",
    "by": "CC-BY",
    "pdm 1.0": "CC-PDM-1.0",
    # people
    "CC BY 4": "CC-BY-4.0",
    "cc_by_nd_4.0": "CC-BY-ND-4.0",
    "CC-BY-ND-NC 1.0": "CC-BY-NC-ND-1.0",
    "Attribution 4.0 International (CC BY 4.0)": "CC-BY-4.0",
    "Creative Commons \u2014 Attribution 4.0 International \u2014 CC BY 4.0": "CC-BY-4.0",
    "Creative Commons Attribution-NonCommercial-NoDerivatives 4.0 International Public License": "CC-BY-NC-ND-4.0",
    "Attribution-NonCommercial-NoDerivs 2.0 Generic": "CC-BY-NC-ND-2.0",
    "CC0 1.0 Universal (CC0 1.0) Public Domain Dedication": "CC0-1.0",
    "PDM-1.0": "CC-PDM-1.0",
}
ADDRESSES = {
    "https://creativecommons.org/licenses/by-sa/3.0/de/deed.en": "CC-BY-SA-3.0-DE",
    "http://www.creativecommons.org/licenses/BY-NC/2.5/": "CC-BY-NC-2.5",
    "//creativecommons.org/licenses/by/4.0/deed.de": "CC-BY-4.0",
    "creativecommons.org/licenses/by/4.0/legalcode.fr": "CC-BY-4.0",
    "https://creativecommons.org/licenses/by-nd-nc/1.0/": "CC-BY-NC-ND-1.0",
    "https://creativecommons.org/licenses/by/3.0/igo/": "CC-BY-3.0-IGO",
    "https://creativecommons.org/publicdomain/zero/1.0/": "CC0-1.0",
    "https://creativecommons.org/publicdomain/mark/1.0/deed.de": "CC-PDM-1.0",
    "https://creativecommons.org/licenses/publicdomain/": "CC-PDDC",
    "https://www.flickr.com/commons/usage/": "No known copyright restrictions",
    "https://www.gnu.org/copyleft/fdl.html": "GFDL",
    "https://www.nationalarchives.gov.uk/doc/open-government-licence/version/3/": "OGL-UK-3.0",
}
UNKNOWN = [
    "",
    "All rights reserved",
    "\u00a9 2020 A. Mason, all rights reserved",
    "Attribution",  # Commons' own template: no Creative Commons licence
    "creative commons",
    "not public domain",
    "CC BY 5.0",
    "CC BY-SA-ND 4.0",
    "CC BY-NC-NC",
    "sampling+",
    "OGL",
    "x" * 10_000,
    "https://creativecommons.org.evil.example/licenses/by/4.0/",
    "https://evil.example/creativecommons.org/licenses/by/4.0/",
    "https://creativecommons.org/about/",
    "https://[::1",
]


@pytest.mark.parametrize(("text", "name"), NAMES.items())
def test_the_names_that_sources_give_become_one(text, name):
    assert identify(text) == identify(f" {text.upper()}. ") == name


@pytest.mark.parametrize(("url", "name"), ADDRESSES.items())
def test_an_address_names_a_licence_by_itself(url, name):
    assert identify("", url) == identify(url) == name


@pytest.mark.parametrize("text", UNKNOWN)
def test_what_is_not_recognised_is_not_guessed_and_permits_nothing(text):
    assert identify(text) == ""
    assert [wanted for wanted in WANTED if permits(text, "asserted", wanted)] == ["any"]


@pytest.mark.parametrize("name", sorted({*NAMES.values(), *ADDRESSES.values(), "GFDL-1.3-no-invariants-or-later"}))
def test_a_name_is_identified_as_itself(name):
    assert identify(name) == name


@pytest.mark.parametrize(
    ("text", "url", "name"),
    [
        (
            "cc-by-nc",
            "https://creativecommons.org/licenses/by-nc/4.0/",
            "CC-BY-NC-4.0",
        ),  # the address tells the version
        ("CC BY-SA 3.0 de", "https://creativecommons.org/licenses/by-sa/3.0/", "CC-BY-SA-3.0-DE"),  # the text the port
        ("CC BY 4.0", "https://creativecommons.org/licenses/by-nc/4.0/", "CC-BY-NC-4.0"),  # they disagree
        ("CC BY-NC 4.0", "https://creativecommons.org/licenses/by/4.0/", "CC-BY-NC-4.0"),
        ("CC BY 4.0", "https://example.org/terms", "CC-BY-4.0"),
        ("my own terms", "https://creativecommons.org/licenses/by/4.0/", "CC-BY-4.0"),
    ],
)
def test_text_and_address_complete_each_other_and_the_stricter_counts(text, url, name):
    assert identify(text, url) == name


@pytest.mark.parametrize(
    ("license", "uses"),
    [
        ("CC0-1.0", {"cc", "public-domain"} | FREE),
        ("CC-PDM-1.0", {"cc", "public-domain"} | FREE),
        ("Public domain", {"cc", "public-domain"} | FREE),
        ("CC-BY-4.0", {"cc"} | FREE),
        ("CC BY-SA 3.0 de", {"cc"} | FREE),
        ("CC-BY-ND-2.0", {"cc", "commercial"}),
        ("cc-by-nc", {"cc", "modify"}),
        ("CC-BY-NC-SA-2.0", {"cc", "modify"}),
        ("CC-BY-NC-ND-4.0", {"cc"}),
        ("GFDL", FREE),
        ("OGL-UK-3.0", FREE),
        ("No known copyright restrictions", FREE),
        ("All rights reserved", set()),
        ("", set()),
    ],
)
def test_what_a_licence_permits(license, uses):
    assert {wanted for wanted in WANTED if permits(license, "asserted", wanted)} == uses | {"any"}
    assert {wanted for wanted in WANTED if permits(license, "unknown", wanted)} == {"any"}


@pytest.mark.parametrize(
    ("name", "uses"),
    [
        ("cc", {"cc"}),
        ("commercial", {"commercial"}),
        ("modify", {"modify"}),
        ("commercial-modify", FREE),
        ("public-domain", {"cc", "public-domain"} | FREE),
        ("any", set()),
        ("", set()),
        ("CC-BY-4.0", set()),  # a licence is no filter
    ],
)
def test_a_search_filter_permits_what_it_lets_through(name, uses):
    assert {wanted for wanted in WANTED if permits(name, "filter", wanted)} == uses | {"any"}


def test_a_wrong_wish_is_told_all_choices():
    assert [require_wanted(wanted) for wanted in WANTED] == [*WANTED] == [*MEANING]
    with pytest.raises(CurateError, match=r"'comercial'.*commercial: .*public-domain: CC0") as wrong:
        require_wanted("comercial")
    assert all(wanted in str(wrong.value) for wanted in WANTED)
    with pytest.raises(CurateError):
        permits("CC0-1.0", "asserted", "everything")


def test_allowed_takes_names_as_identify_gives_them():
    assert allowed("CC-BY-4.0") == {"any", "cc"} | FREE
    assert allowed("CC BY 4.0") == {"any"}


@pytest.mark.parametrize(
    ("parts", "line"),
    [
        (("Granite", "A. Mason", "CC BY 4.0", "https://a.example/1"),
         '"Granite" by A. Mason, CC BY 4.0, https://a.example/1'),
        (("", "A. Mason", "CC BY 4.0", ""), "by A. Mason, CC BY 4.0"),
        (("Granite", "", "", "https://a.example/1"), '"Granite", https://a.example/1'),
        (("", "", "", ""), ""),
    ],
)  # fmt: skip
def test_a_credit_line_says_what_is_known(parts, line):
    assert credit_line(*parts) == line
