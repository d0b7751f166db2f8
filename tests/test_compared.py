"""What was compared is known to the next run; two searches at once do not believe to know of each other."""

import json
import logging

from curate.compared import Compared
from curate.copies import Match, swapped

MATCH = Match(40, 60, 0.9, 0.8, 0.75, 16, 0.5, 1.0, 2.0, 30.0, False)


def test_a_pair_turns_out_the_same_in_the_next_run_whichever_comes_first(tmp_path):
    first = Compared(tmp_path)
    first.add("b", "a", MATCH, keep=True)
    first.add("a", "c", None, keep=True)
    first.add("-1", "a", MATCH, keep=False)
    first.flush()
    second = Compared(tmp_path)
    assert ("a", "b") in second
    assert ("c", "a") in second
    assert ("a", "-1") not in second
    said = second.outcome("b", "a")
    assert said == first.outcome("b", "a")
    assert (said.points, said.cover_first, said.cover_second, said.scale) == (40, 0.5, 1.0, 2.0)
    assert second.outcome("a", "b") == swapped(said)
    assert second.outcome("a", "c") is None
    assert list(second.copies({"a", "b", "c"})) == [("a", "b")]
    assert list(second.copies({"a", "c"})) == []


def test_a_swapped_pair_swapped_again_is_the_same():
    for flipped in (False, True):
        match = MATCH._replace(flipped=flipped)
        assert swapped(swapped(match)) == match
        assert (swapped(match).cover_first, swapped(match).scale) == (1.0, 0.5)


def test_searches_one_after_the_other_add_up(tmp_path):
    for fresh in (["a", "b"], ["c"], []):
        compared = Compared(tmp_path)
        compared.finish(fresh, [*compared.searched("abc"), *fresh])
    assert list(Compared(tmp_path).searched("abc")) == ["a", "b", "c"]
    assert list(Compared(tmp_path).searched("cb")) == ["b", "c"]


def test_searches_of_two_manifests_do_not_know_of_each_other(tmp_path):
    for pictures in ("ab", "cde"):
        compared = Compared(tmp_path)
        assert not compared.searched(pictures)
        compared.finish(pictures, pictures)
    both = Compared(tmp_path)
    assert list(both.searched("abcde")) == ["c", "d", "e"]
    both.finish("ab", "abcde")
    assert sorted(Compared(tmp_path).searched("abcde")) == list("abcde")
    part = Compared(tmp_path)
    part.finish("f", "abf")  # c, d and e were not there
    assert sorted(Compared(tmp_path).searched("abcdef")) == list("abcde")


def test_of_two_searches_at_once_one_is_done_again(tmp_path):
    """Neither compared its pictures with those of the other one."""
    Compared(tmp_path).finish("a", "a")
    one, other = Compared(tmp_path), Compared(tmp_path)
    for search, fresh in ((one, "b"), (other, "cd")):
        assert list(search.searched("abcd")) == ["a"]
        search.finish(fresh, "a" + fresh)
    third = Compared(tmp_path)
    assert list(third.searched("abcd")) == ["a", "c", "d"]
    third.finish("b", "abcd")
    assert sorted(Compared(tmp_path).searched("abcd")) == list("abcd")


def test_a_damaged_record_is_as_if_it_were_not_there(tmp_path, caplog):
    compared = Compared(tmp_path)
    compared.finish("a", "a")
    (path,) = (compared.folder).glob("searched-*.json")
    for text in ("{", json.dumps({"pictures": ["a"]}), "[]"):
        path.write_text(text)
        with caplog.at_level(logging.WARNING):
            assert not Compared(tmp_path).searched("a")
    assert "damaged" in caplog.text
