"""What a licence allows: the names that sources give, made one, and what a user may ask for.

`identify` makes one name of the many; `permits` says whether what has that name may be used as wanted. What is not
recognised is not guessed: it permits nothing.
"""

import re
from collections.abc import Set
from urllib.parse import urlsplit

from curate.errors import CurateError

WANTED = ("any", "cc", "commercial", "modify", "commercial-modify", "public-domain")
MEANING = {
    "any": "whatever the licence, also none",
    "cc": "any Creative Commons licence, or the public domain",
    "commercial": "commercial use allowed",
    "modify": "changes allowed",
    "commercial-modify": "commercial use and changes allowed",
    "public-domain": "CC0 or the public domain",
}
EVERYTHING = frozenset(WANTED)
FREE = frozenset({"commercial", "modify", "commercial-modify"})
IMPLIED = {  # a search filter -> what everything that came through it allows
    "cc": frozenset({"cc"}),
    "commercial": frozenset({"commercial"}),
    "modify": frozenset({"modify"}),
    "commercial-modify": FREE,
    "public-domain": EVERYTHING,
}
PUBLIC_DOMAIN = "Public domain"
NO_KNOWN_RESTRICTIONS = "No known copyright restrictions"
FREE_USE = "Copyrighted free use"  # Commons: "the copyright holder allows anyone to use it for any purpose"
FREE_OF_RIGHTS = {"CC0-1.0", "CC-PDM-1.0", "CC-PDDC", PUBLIC_DOMAIN}
CC_VERSIONS = {"1.0", "2.0", "2.1", "2.5", "3.0", "4.0"}
LONGEST = 300  # characters of a licence's name or address

WORDS = (  # in this order, on lower case with single spaces
    (r"creative ?commons", "cc"),
    (r"attribution", "by"),
    (r"non ?commercial", "nc"),
    (r"share ?alike", "sa"),
    (r"no ?deriv(?:ative)?s?(?: works?)?", "nd"),
    (r"licence", "license"),
    (r"public license", "license"),
    (r"\b(?:cc )?zero\b|\bcc 0\b", "cc0"),
    (r"\b(?:international|unported|generic|universal|migrated|deed|version|v(?=\d))(?: |$)?", ""),
)
CC = re.compile(
    r"(?P<cc>cc )?by(?P<terms>(?: (?:nc|nd|sa)){0,2})"
    r"(?: (?P<version>\d(?:\.\d)?)(?: \d\.\d)*)?(?: (?P<port>[a-z]{2}|igo|scotland))?(?P<license> license)?"
)
GFDL = re.compile(
    r"(?:gfdl|gnu free documentation license|gnu fdl)"
    r"(?: (?P<version>1\.[123])(?: (?P<invariants>(?:no )?invariants))?(?P<later> or later|\+)?(?: only)?)?"
)
NAMES = {  # shapes of a name -> what it is called here
    r"(?:cc )?cc0(?: 1\.0)?(?: cc0 1\.0)?(?: public domain(?: dedication)?)?": "CC0-1.0",
    r"public domain dedication cc0(?: 1\.0)?": "CC0-1.0",
    r"(?:cc )?(?:public domain mark|pdm)(?: 1\.0)?": "CC-PDM-1.0",
    r"cc pddc|cc public domain dedication(?: and certification)?": "CC-PDDC",
    r"pd|public domain(?: dedication| work)?|(?:united states|us|u\.s\.) government work": PUBLIC_DOMAIN,
    r"no (?:known )?(?:copyright )?restrictions": NO_KNOWN_RESTRICTIONS,
    r"copyrighted free use": FREE_USE,
    r"(?:fal|lal|free art license|art libre) 1\.2": "LAL-1.2",
    r"(?:fal|lal|free art license|art libre) 1\.3": "LAL-1.3",
    r"fal|lal|free art license|art libre": "LAL",
    r"(?:ogl|open government license)(?: uk)? 1(?:\.0)?": "OGL-UK-1.0",
    r"(?:ogl|open government license)(?: uk)? 2(?:\.0)?": "OGL-UK-2.0",
    r"(?:ogl|open government license)(?: uk)? 3(?:\.0)?": "OGL-UK-3.0",
}
ADDRESSES = {  # beginnings, without scheme and www
    "creativecommons.org/publicdomain/zero/": "CC0-1.0",
    "creativecommons.org/publicdomain/mark/": "CC-PDM-1.0",
    "creativecommons.org/publicdomain/certification/": "CC-PDDC",
    "creativecommons.org/licenses/publicdomain": "CC-PDDC",
    "flickr.com/commons/usage": NO_KNOWN_RESTRICTIONS,
    "usa.gov/government-copyright": PUBLIC_DOMAIN,
    "usa.gov/government-works": PUBLIC_DOMAIN,
    "gnu.org/copyleft/fdl": "GFDL",
    "gnu.org/licenses/fdl": "GFDL",
    "artlibre.org/licence/lal": "LAL",
    "nationalarchives.gov.uk/doc/open-government-licence/version/1": "OGL-UK-1.0",
    "nationalarchives.gov.uk/doc/open-government-licence/version/2": "OGL-UK-2.0",
    "nationalarchives.gov.uk/doc/open-government-licence/version/3": "OGL-UK-3.0",
}
DEED = re.compile(r"creativecommons\.org/licenses/(by[a-z-]*)(?:/(\d\.\d))?(?:/([a-z]{2}|igo|scotland))?(?:/.*)?")


def require_wanted(text: str) -> str:
    """The same text, if it is one of `WANTED`.

    Raises:
        CurateError: it is not; the message lists what there is.
    """
    if text not in WANTED:
        choices = "; ".join(f"{name}: {meaning}" for name, meaning in MEANING.items())
        raise CurateError(f"license {text!r}: there is no such choice. {choices}.")
    return text


def identify(text: str, url: str = "") -> str:
    """One name for a licence, "" where it is not recognised or where the text grants no licence.

    The name is the SPDX id ("CC-BY-SA-4.0", "CC-BY-SA-3.0-DE", "CC0-1.0", "GFDL-1.2-or-later"; spdx.org/licenses, list
    3.27; the Public Domain Mark is CC-PDM-1.0 there since 3.26). Where SPDX has none:
    - Creative Commons' ports that it does not list are formed alike: "CC-BY-SA-2.5-IT";
    - without a version where none is told: "CC-BY-NC", "GFDL", "LAL";
    - "Public domain", works of the United States' government included;
    - "No known copyright restrictions" (Flickr Commons) and "Copyrighted free use" (Wikimedia Commons).
    Each of these names is identified as itself.

    Args:
        text: a name, a short code or an address: "CC BY-SA 3.0 de", "by-nc", "Attribution-ShareAlike 2.0 Generic".
        url: the address of the licence, where there is one: it often knows the version. Where it names another
            licence than the text does, the one that allows less counts.
    """
    named, linked = _identify(text), _identify(url)
    if not (named and linked) or named.startswith(f"{linked}-"):  # the text also tells the port
        return named or linked
    return named if allowed(named) < allowed(linked) else linked


def permits(license: str | None, basis: str | None, wanted: str) -> bool:
    """Whether an image's licence allows what is wanted; one that nobody states allows nothing but "any".

    Args:
        license: a name that `identify` knows; for the basis "filter" the names of the search filters that it came
            through, each one of `WANTED`.
        basis: as `license_basis` in the manifest. What nobody asserted and no filter let through permits only "any".
        wanted: one of `WANTED`.

    Raises:
        CurateError: `wanted` is not one of them.
    """
    if require_wanted(wanted) == "any":
        return True
    if basis == "filter":
        return any(wanted in IMPLIED.get(name, ()) for name in (license or "").split())
    return basis == "asserted" and wanted in allowed(identify(license or ""))


def allowed(name: str) -> Set[str]:
    """What a licence allows, of `WANTED`.

    Commons and Flickr say of what they call free use, or without known restrictions, that anyone may use it for any
    purpose; but it is neither under a Creative Commons licence nor surely in the public domain.

    Args:
        name: as `identify` gives it.
    """
    if name in FREE_OF_RIGHTS:
        return EVERYTHING
    if name in (NO_KNOWN_RESTRICTIONS, FREE_USE) or name.startswith(("GFDL", "LAL", "OGL-UK-")):
        return FREE | {"any"}
    if not name.startswith("CC-BY"):
        return {"any"}
    terms = name.split("-")
    refused = {"commercial": "NC" in terms, "modify": "ND" in terms, "commercial-modify": {"NC", "ND"} & {*terms}}
    return {"any", "cc"} | {wish for wish, is_refused in refused.items() if not is_refused}


def credit_line(title: str, creator: str, license: str, page_url: str) -> str:
    """What to print beside an image: what it is called, whose it is, under which licence, from where."""
    whose = " ".join(filter(None, (f'"{title}"' if title else "", f"by {creator}" if creator else "")))
    return ", ".join(filter(None, (whose, license, page_url)))


def _identify(text: str) -> str:
    if not text or len(text) > LONGEST:
        return ""
    return _by_address(text) or _by_name(text)


def _by_address(text: str) -> str:
    bare = text.strip().lower()
    try:
        parts = urlsplit(bare if "//" in bare else f"//{bare}")
        place = f"{(parts.hostname or '').removeprefix('www.')}{parts.path}"
    except ValueError:  # brackets that are no IPv6 address
        return ""
    if match := DEED.fullmatch(place):
        return _creative_commons(match[1].split("-")[1:], match[2], match[3])
    return next((name for beginning, name in ADDRESSES.items() if place.startswith(beginning)), "")


def _by_name(text: str) -> str:
    lower = text.strip().lower().rstrip(".")
    if re.fullmatch(r"pd(?:-[\w.]+)+", lower):  # names of Commons' templates: PD-old-100, PD-USGov-NASA
        return PUBLIC_DOMAIN
    words = " ".join(re.sub(r"[\s_/,;:()\[\]\u2013\u2014-]+", " ", lower).split())
    for pattern, code in WORDS:
        words = re.sub(pattern, code, words)
    words = re.sub(r"^(?:cc )?(.+) (cc \1)$", r"\2", words.strip())  # "Attribution 4.0 International (CC BY 4.0)"
    if match := CC.fullmatch(words):
        bare = "attribution" in lower and not (match["cc"] or match["version"] or match["license"])
        return "" if bare else _creative_commons(match["terms"].split(), match["version"], match["port"])
    if match := GFDL.fullmatch(words):
        return _gnu(match)
    return next((name for pattern, name in NAMES.items() if re.fullmatch(pattern, words)), "")


def _creative_commons(terms: list[str], version: str | None, port: str | None) -> str:
    """CC-BY with its terms, in the order of SPDX; "" where Creative Commons has no such licence."""
    if len(set(terms)) < len(terms) or not set(terms) <= {"nc", "nd", "sa"} or {"nd", "sa"} <= set(terms):
        return ""
    if version and "." not in version:
        version = f"{version}.0"
    if version and version not in CC_VERSIONS:
        return ""
    return "-".join(["CC", "BY", *sorted(t.upper() for t in terms), *filter(None, (version, port and port.upper()))])


def _gnu(match: re.Match[str]) -> str:
    if not match["version"]:
        return "GFDL"
    invariants = f"-{match['invariants'].replace(' ', '-')}" if match["invariants"] else ""
    return f"GFDL-{match['version']}{invariants}-{'or-later' if match['later'] else 'only'}"
