"""A user's own profiles: mistakes are told with file, line and the near word, and nothing is replaced in silence."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kafka_webhook_bridge.errors import ConfigError, Problem
from kafka_webhook_bridge.sources import catalog
from kafka_webhook_bridge.sources.catalog import FILE_BYTES_MAX, Catalog, UnknownProfile, read_file
from kafka_webhook_bridge.sources.toml import find_lines

ACME = inspect.cleandoc("""
    provider = "Acme"

    [profiles.acme]
    evidence = "docs"
    sources = ["acme.example/docs"]

    [profiles.acme.verify]
    scheme = "hmac"
    hash = "sha256"
    signature = { from = "header", name = "X-Acme-Signature", encoding = "hex" }
    signed = "{body}"

    [profiles.acme.event]
    delivery_id = "{header:X-Acme-Id}"

    [[profiles.acme.handshakes]]
    name = "ping"
    match = { method = "GET", query = { ping = true } }

    [[profiles.acme.handshakes]]
    name = "pong"
    match = { method = "GET", query = { pong = true } }
""")


@pytest.fixture
def acme(tmp_path: Path) -> Path:
    path = tmp_path / "acme.toml"
    path.write_text(ACME + "\n", encoding="utf-8")
    return path


def problems(path: Path) -> list[str]:
    """Those of one file, without its folder."""
    return [str(problem).replace(f"{path.parent}/", "") for problem in Catalog([path]).problems]


def test_a_file_of_ones_own(acme: Path) -> None:
    mine = Catalog([acme])
    assert mine.problems == []
    profile = mine.load("acme")
    assert (profile.provider, profile.file, profile.packaged, profile.unsafe) == ("Acme", "acme", False, "")
    assert profile.event.delivery_id == ["{header:X-Acme-Id}"]
    assert set(mine.names()) - set(Catalog().names()) == {"acme"}
    assert profile in mine.load_all()


def test_a_folder_has_its_toml_files(acme: Path) -> None:
    (acme.parent / "readme.md").write_text("not TOML")
    other = acme.parent / "other.toml"
    other.write_text(ACME.replace("acme", "other"), encoding="utf-8")
    mine = Catalog([acme.parent])
    assert mine.problems == []
    assert set(mine.names()) - set(Catalog().names()) == {"acme", "other"}


def test_an_unknown_profile_has_a_near_one(acme: Path) -> None:
    with pytest.raises(UnknownProfile, match=r"no profile 'shopfy'; did you mean shopify\?"):
        Catalog().load("shopfy")
    with pytest.raises(UnknownProfile, match=r"did you mean acme\?"):
        Catalog([acme]).load("acne")
    with pytest.raises(UnknownProfile, match="lists them"):
        Catalog().load("ẞẞẞẞẞẞẞẞẞ")


WRONG = {
    "a word of the row": ('evidence = "docs"', 'evidense = "docs"', [
        "acme.toml:3: profiles.acme.evidence is missing",
        "acme.toml:4: profiles.acme.evidense: unknown key; did you mean `evidence`?",
    ]),
    "a choice": ('evidence = "docs"', 'evidence = "doc"', [
        "acme.toml:4: profiles.acme.evidence: 'doc' is none of vector, sdk, docs, third-party, generic; "
        "did you mean docs?",
    ]),
    "a word inside a value": ('name = "X-Acme-Signature"', 'nam = "X-Acme-Signature"', [
        "acme.toml:10: profiles.acme.verify.signature.nam: unknown key; did you mean `name`?",
    ]),
    "a scheme": ('scheme = "hmac"', 'scheme = "hmca"', [
        "acme.toml:8: profiles.acme.verify.scheme: 'hmca' is none of ", "; did you mean hmac?",
    ]),
    "no scheme": ('scheme = "hmac"\n', "", ["acme.toml:7: profiles.acme.verify: `scheme` is missing"]),
    "a hash": ('hash = "sha256"', 'hash = "sha2"', [
        "acme.toml:9: profiles.acme.verify.hash: 'sha2' is none of md5, sha1, sha256, sha384, sha512, by_field; ",
    ]),
    "a signed text": ('signed = "{body}"', 'signed = "{bdy}"', ["acme.toml:11: profiles.acme.verify.signed.0: "]),
    "a template": ("{header:X-Acme-Id}", "{headr:X-Acme-Id}", [
        "acme.toml:14: profiles.acme.event.delivery_id: {headr:X-Acme-Id} is none of json, header, query, form; "
        "did you mean header?",
    ]),
    "a hash beside an id": ('"{header:X-Acme-Id}"', '["{header:X-Acme-Id}", "hash"]', [
        "acme.toml:14: profiles.acme.event.delivery_id: `hash` stands alone",
    ]),
    "the second of a list": ("query = { pong = true }", "query = { pong = 1.5 }", [
        "acme.toml:22: profiles.acme.handshakes.1.match.query.pong: must be true (it is there), false",
    ]),
    "a pattern": ("query = { pong = true }", 'query = { pong = { pattern = "(" } }', [
        "acme.toml:22: profiles.acme.handshakes.1.match.query.pong: no regular expression: ",
    ]),
    "a table that is none": ('[profiles.acme.event]\ndelivery_id = "{header:X-Acme-Id}"', "event = 5", [
        "acme.toml:13: profiles.acme.verify.event: unknown key; ",
    ]),
    "the name of a profile": ("profiles.acme", "profiles.Acme", ["acme.toml:3: profiles.Acme: 'Acme' does not match "]),
    "no provider": ('provider = "Acme"', "", ["acme.toml:1: provider is missing"]),
    "TOML": ('hash = "sha256"', 'hash = "sha256', ["acme.toml:9: not TOML: "]),
    "a key twice": ('hash = "sha256"', 'hash = "sha256"\nhash = "sha1"', ["acme.toml:10: not TOML: cannot overwrite"]),
    "an open list at the end": ("query = { pong = true }", "query = [", ["acme.toml:22: not TOML: "]),
    "a decode step": ('delivery_id = "{header:X-Acme-Id}"', 'decode = ["gzip"]', [
        "acme.toml:14: profiles.acme.event.decode: 'gzip' is none of json, jwt, ",
    ]),
    "a refusal": ('delivery_id = "{header:X-Acme-Id}"', "[profiles.acme.answer]\nstatus = 410", [
        "acme.toml:15: profiles.acme.answer.status: must be less than or equal to 299",
    ]),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_mistake_is_told_with_its_place(acme: Path, case: str) -> None:
    right, wrong, told = WRONG[case]
    assert right in ACME
    acme.write_text(ACME.replace(right, wrong), encoding="utf-8")
    found = problems(acme)
    for words in told:
        assert any(words in problem for problem in found), found
    assert "acme" not in Catalog([acme]).names()


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file(acme: Path) -> None:
    text = ACME.replace('"docs"', '"doc"').replace("sha256", "sha3").replace("{header:X-Acme-Id}", "id")
    acme.write_text(text, encoding="utf-8")
    assert [problem.split(": ")[0] for problem in problems(acme)] == ["acme.toml:4", "acme.toml:9", "acme.toml:14"]


def test_a_packaged_profile_is_replaced_only_on_purpose(acme: Path) -> None:
    acme.write_text(ACME.replace("profiles.acme", "profiles.github"), encoding="utf-8")
    mine = Catalog([acme])
    what = "profiles.github: the name is that of a packaged profile (github.toml); another name, or `replaces = true`"
    assert mine.problems == [Problem(f"{acme}:3", what)]
    assert mine.load("github").provider == "GitHub"

    acme.write_text(ACME.replace("profiles.acme]", "profiles.github]\nreplaces = true").replace(".acme", ".github"))
    mine = Catalog([acme])
    assert mine.problems == []
    assert mine.load("github").provider == "Acme"
    assert Catalog().load("github").provider == "GitHub"


def test_replacing_nothing_is_a_mistake(acme: Path) -> None:
    text = ACME.replace("profiles.acme]", "profiles.githubb]\nreplaces = true").replace(".acme", ".githubb")
    acme.write_text(text, encoding="utf-8")
    what = "acme.toml:3: profiles.githubb: `replaces` but there is no packaged profile of that name, only github"
    assert problems(acme) == [what]


def test_a_name_stands_in_one_file(acme: Path) -> None:
    other = acme.parent / "other.toml"
    other.write_text(ACME, encoding="utf-8")
    mine = Catalog([acme, other])
    assert [str(problem) for problem in mine.problems] == [f"{other}:3: profiles.acme: the name stands in acme already"]


def test_files_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    absent, binary, large, empty = (tmp_path / name for name in ("absent.toml", "binary.toml", "large.toml", "empty"))
    empty.mkdir()
    binary.write_bytes(b'provider = "\xff"')
    large.write_bytes(b"#" * (FILE_BYTES_MAX + 1))
    assert [str(problem) for problem in Catalog([absent, binary, large, empty]).problems] == [
        f"{absent}: cannot be read: No such file or directory",
        f"{binary}: is not UTF-8 text: invalid start byte at byte 12",
        f"{large}: larger than 1 MiB",
        f"{empty}: a folder without a file *.toml",
    ]


def test_a_packaged_file_that_was_damaged_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "github.toml").write_text("[profiles.github]\n")
    monkeypatch.setattr(catalog, "PACKAGED", tmp_path)
    catalog._index.cache_clear()
    catalog._packaged.cache_clear()
    try:
        with pytest.raises(ConfigError, match=r"github\.toml:1: provider is missing"):
            Catalog().load("github")
    finally:
        catalog._index.cache_clear()
        catalog._packaged.cache_clear()


def test_what_tomllib_itself_fails_at_is_told(acme: Path) -> None:
    acme.write_text("x = " + "[" * 5000, encoding="utf-8")
    assert problems(acme) == ["acme.toml:1: not TOML: nested too deep"]
    acme.write_text("x = " + "9" * 5000, encoding="utf-8")
    (problem,) = problems(acme)
    assert problem.startswith("acme.toml:1: not TOML: ")


@given(st.data())
def test_no_file_makes_the_loader_fail(data: st.DataObject) -> None:
    """Lines of a good file cut, repeated, swapped or with some text put in: profiles or sentences, nothing else."""
    lines = data.draw(st.lists(st.sampled_from(ACME.splitlines()), max_size=30))
    text = "\n".join(lines)
    place = data.draw(st.integers(0, len(text)))
    text = text[:place] + data.draw(st.text("[]{}=\"'.#\\\n a1", max_size=5)) + text[place:]
    document, profiles = read_file("a.toml", text, packaged=False)
    assert bool(profiles) != bool(document.problems)
    assert all(re.match(r"a\.toml:[1-9]\d*: .+", str(problem)) for problem in document.problems)
    find_lines(text)


def test_lines_of_everything_that_toml_can_do() -> None:
    text = inspect.cleandoc('''
        a.b = 1
        "c d" = """
        [not.a.table]
        x = 1
        """
        list = [
            "]",  # ]
            { y = 1 },
        ]
        'e.f' = 2

        [t."u.v"]
        w = \'\'\' """ \'\'\'
        last = "\\"[["

        [[rows]]
        one = 1
        [[rows]]
        two = { three = [ 1 ] }
        [rows.inside]
        four = 4
        [[rows.deep]]
        five = 5
    ''')
    lines = find_lines(text)
    assert {path: line for path, line in lines.items() if path} == {
        ("a", "b"): 1, ("c d",): 2, ("list",): 6, ("e.f",): 10, ("t", "u.v"): 12, ("t", "u.v", "w"): 13,
        ("t", "u.v", "last"): 14, ("rows",): 16, ("rows", 0): 16, ("rows", 0, "one"): 17, ("rows", 1): 18,
        ("rows", 1, "two"): 19, ("rows", 1, "inside"): 20, ("rows", 1, "inside", "four"): 21,
        ("rows", 1, "deep"): 22, ("rows", 1, "deep", 0): 22, ("rows", 1, "deep", 0, "five"): 23,
    }  # fmt: skip
