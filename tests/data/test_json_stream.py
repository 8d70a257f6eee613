"""Proves that reading a json file piece by piece gives what reading it at once gives, wherever the text is cut."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssd_graph.data import json_stream
from ssd_graph.data.json_stream import NotJsonError, read_lists

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def read_entries(path, unread):
    """Key and entry for each entry; None for the empty piece in front."""
    return [(key, entry) for key, entries in read_lists(path, unread) for entry in entries or [None]]


def lists_of(content):
    """What read_entries should give for an object."""
    return [(k, e) for k, v in content.items() if isinstance(v, list) for e in (None, *v)]


@given(content=st.dictionaries(st.text(), VALUES, max_size=5), indent=st.sampled_from([None, 2]), ascii=st.booleans())
@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
def test_any_object_reads_as_it_was_written(tmp_path_factory, chunk, content, indent, ascii):
    path = tmp_path_factory.mktemp("json") / "a.json"
    path.write_text(json.dumps(content, indent=indent, ensure_ascii=ascii), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "_CHUNK", chunk)
        assert read_entries(path, "p") == lists_of(content)


POLYGONS = st.lists(st.lists(st.floats(allow_nan=False) | st.integers(), max_size=3), max_size=3)


@given(before=POLYGONS, polygons=POLYGONS, behind=st.booleans(), indent=st.sampled_from([None, 2]))
@pytest.mark.parametrize("chunk", [1, 13, 1 << 20])
def test_numbers_under_the_unread_key_become_zero(tmp_path_factory, chunk, before, polygons, behind, indent):
    entry = {"q": before, "p": polygons, **({"name": '"p": [[1]], "p": [', "r": [before]} if behind else {})}
    content = {"a": [entry, entry], "b": [{"p": {"counts": [1, 2]}, "size": [3]}]}
    path = tmp_path_factory.mktemp("json") / "a.json"
    path.write_text(json.dumps(content, indent=indent))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "_CHUNK", chunk)
        found = read_entries(path, "p")
    expected = lists_of({**content, "a": [{**entry, "p": 0}] * 2})
    assert found == expected or (chunk == 1 and found == lists_of(content))  # what is held may be too little to see it


@pytest.mark.parametrize("chunk", [1, 1 << 20])
@pytest.mark.parametrize(
    "text",
    ["", "x", '{"a": [', '{"a": [1', '{"a": [1 2]}', '{"a" 1}', '{"a": [1]} 2', '{"a": [1,]}', '{"a": tru}', '{"a": "'],
)
def test_broken_text_is_refused(tmp_path, monkeypatch, chunk, text):
    monkeypatch.setattr(json_stream, "_CHUNK", chunk)
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(NotJsonError):
        read_entries(tmp_path / "a.json", "p")


def test_another_kind_of_value_is_named(tmp_path):
    (tmp_path / "a.json").write_text("[1, 2]")
    with pytest.raises(TypeError, match="it holds a list"):
        read_entries(tmp_path / "a.json", "p")


def test_a_byte_order_mark_is_passed_over(tmp_path):
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf" + b'{"a": [1]}')
    assert read_entries(tmp_path / "a.json", "p") == [("a", None), ("a", 1)]


def test_no_more_text_is_held_than_a_few_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(json_stream, "_CHUNK", 100)
    (tmp_path / "a.json").write_text(json.dumps({"a": list(range(10_000))}))
    held = []
    read_on = json_stream._Text._read_on

    def watched(self):
        more = read_on(self)
        held.append(len(self._held))
        return more

    monkeypatch.setattr(json_stream._Text, "_read_on", watched)
    assert len(read_entries(tmp_path / "a.json", "p")) == 10_001
    assert max(held) <= 200


def test_objects_are_decoded_many_at_a_time(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"a": [{"b": n} for n in range(1000)]}))
    pieces = [len(entries) for key, entries in read_lists(tmp_path / "a.json", "p") if key == "a"]
    assert sum(pieces) == 1000
    assert len(pieces) < 5
