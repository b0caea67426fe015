"""Tokens of the shipped models, and text as it streams."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos.pipelines.models.manifest import Manifest, make_manifest
from llmos.pipelines.models.shipped import packaged_models
from llmos.pipelines.models.tokenizer import REPLACEMENT, StreamDecoder, Tokenizer
from llmos.schemas.errors import ModelDamaged

TEXTS = ["", "To be, or not to be", "naïve — 😀 日本語\n\n", "a" * 1000]


@pytest.fixture(scope="module")
def encoder_manifest() -> Manifest:
    """The manifest of the shipped encoder."""
    return make_manifest(next(iter(packaged_models())), "minilm-l6-v2")


def pieces_of(tokenizer: Tokenizer, chunks: list[list[int]]) -> list[str]:
    """What a stream of these chunks gives, the rest last."""
    stream = StreamDecoder(tokenizer)
    return [*(stream.push(chunk) for chunk in chunks), stream.finish()]


def test_any_text_comes_back_from_the_decoder_s_tokens(decoder_tokenizer: Tokenizer) -> None:
    """The byte-level tokenizer loses nothing, adds nothing, and counts what it encodes."""
    encoded = [decoder_tokenizer.encode(text) for text in TEXTS]
    assert [decoder_tokenizer.decode(ids) for ids in encoded] == TEXTS
    assert decoder_tokenizer.encode_many(TEXTS) == encoded
    assert decoder_tokenizer.count(TEXTS) == [len(ids) for ids in encoded]
    assert len(encoded[1]) < len(TEXTS[1]) / 2


def test_the_decoder_s_end_mark_is_known(decoder_tokenizer: Tokenizer) -> None:
    """It begins and ends texts, and has none itself."""
    assert (decoder_tokenizer.bos_id, decoder_tokenizer.eos_ids) == (0, frozenset({0}))
    assert decoder_tokenizer.special_ids == {0}
    assert decoder_tokenizer.decode([0]) == ""


def test_the_encoder_s_texts_are_framed_and_never_padded(encoder_manifest: Manifest) -> None:
    """Its file asks for padding and cutting to 128; counting must do neither, and encoding adds [CLS] and [SEP]."""
    tokenizer = Tokenizer.load(encoder_manifest)
    assert tokenizer.encode("Hello world") == [101, 7592, 2088, 102]
    assert tokenizer.count(["Hello world", "hello " * 300]) == [4, 302]
    assert tokenizer.eos_ids == frozenset()


def test_a_longest_length_cuts_and_keeps_the_frame(encoder_manifest: Manifest) -> None:
    """What is cut are words, not the mark at the end."""
    ids = Tokenizer.load(encoder_manifest, longest=16).encode("hello " * 300)
    assert (len(ids), ids[0], ids[-1]) == (16, 101, 102)


def test_end_tokens_of_the_generation_config_come_first(decoder: Path) -> None:
    """A list is taken whole; without the file the configuration is asked."""
    (decoder / "generation_config.json").write_text(json.dumps({"eos_token_id": [5, 6]}))
    assert Tokenizer.load(make_manifest(decoder, "decoder")).eos_ids == {5, 6}
    (decoder / "generation_config.json").unlink()
    assert Tokenizer.load(make_manifest(decoder, "decoder")).eos_ids == {0}


def test_end_tokens_that_are_no_tokens_are_damage(decoder: Path) -> None:
    """The field is named."""
    (decoder / "generation_config.json").write_text(json.dumps({"eos_token_id": "x"}))
    with pytest.raises(ModelDamaged, match="eos_token_id is 'x'"):
        Tokenizer.load(make_manifest(decoder, "decoder"))


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json"])
def test_a_file_that_changed_after_the_scan_is_not_read(decoder: Path, name: str) -> None:
    """Bytes are used only if they have the hash of the manifest."""
    manifest = make_manifest(decoder, "decoder")
    (decoder / name).write_bytes((decoder / name).read_bytes() + b"\n")
    with pytest.raises(ModelDamaged, match=f"{name} has changed"):
        Tokenizer.load(manifest)


def test_a_file_that_is_no_tokenizer_is_damage(decoder: Path) -> None:
    """JSON alone does not make a tokenizer."""
    (decoder / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelDamaged, match=r"tokenizer\.json is no tokenizer"):
        Tokenizer.load(make_manifest(decoder, "decoder"))


def test_a_character_of_several_tokens_is_held_until_it_is_whole(decoder_tokenizer: Tokenizer) -> None:
    """The stream says nothing for the first bytes of an emoji, then all of it."""
    ids = decoder_tokenizer.encode("😀")
    assert len(ids) == 4
    assert pieces_of(decoder_tokenizer, [[token] for token in ids]) == ["", "", "", "😀", ""]


def test_half_a_character_comes_out_at_the_end(decoder_tokenizer: Tokenizer) -> None:
    """A stream that stops within a character loses nothing that the whole would show."""
    ids = decoder_tokenizer.encode("x😀")[:-1]
    assert pieces_of(decoder_tokenizer, [ids]) == ["x", REPLACEMENT]
    assert decoder_tokenizer.decode(ids) == "x" + REPLACEMENT


@given(text=st.text(max_size=60), sizes=st.lists(st.integers(1, 5), min_size=1, max_size=8))
def test_no_piece_ever_shows_half_a_character(decoder_tokenizer: Tokenizer, text: str, sizes: list[int]) -> None:
    """Any text, in any chunks, streams as itself, without a replacement character of the stream's making."""
    ids, chunks, position = decoder_tokenizer.encode(text), [], 0
    while position < len(ids):
        size = sizes[len(chunks) % len(sizes)]
        chunks.append(ids[position : position + size])
        position += size
    pieces = pieces_of(decoder_tokenizer, chunks)
    assert "".join(pieces) == text
    if REPLACEMENT not in text:
        assert not any(REPLACEMENT in piece for piece in pieces)


@given(chunks=st.lists(st.lists(st.integers(0, 400), max_size=6), max_size=30))
def test_even_broken_bytes_stream_as_the_decoded_whole(decoder_tokenizer: Tokenizer, chunks: list[list[int]]) -> None:
    """Random tokens, most of them stray bytes: the pieces joined are what decoding at once gives."""
    whole = decoder_tokenizer.decode([token for chunk in chunks for token in chunk])
    assert "".join(pieces_of(decoder_tokenizer, chunks)) == whole


def test_a_stream_of_broken_bytes_does_not_hold_back_for_ever(decoder_tokenizer: Tokenizer) -> None:
    """Bytes that can be no character come out as the tokens come, all but the last few."""
    stray = next(token for token in range(1, 257) if decoder_tokenizer.decode([token]) == REPLACEMENT)
    stream = StreamDecoder(decoder_tokenizer)
    shown = sum(len(stream.push([stray])) for _ in range(1000))
    assert 990 <= shown < 1000
    assert shown + len(stream.finish()) == 1000
