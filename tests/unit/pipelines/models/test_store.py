"""Scanning, finding, watching and verifying the models of some directories."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from io import FileIO
from pathlib import Path

import pytest

from llmos.pipelines.models import hashing, tensors
from llmos.pipelines.models.contents import SINGLE
from llmos.pipelines.models.hashing import ReadingStopped
from llmos.pipelines.models.manifest import Manifest
from llmos.pipelines.models.store import ModelStore, Scan, shipped_models
from llmos.schemas.errors import BadSetting, ModelDamaged, ModelUnavailable


class Reads:
    """Counts how often weights were read, and knows nothing of the rest."""

    def __init__(self) -> None:
        self.weights = 0

    def take(self) -> int:
        """How many were read since the last question."""
        count, self.weights = self.weights, 0
        return count


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    """What a store reads from now on."""
    counted, original = Reads(), tensors._hash_all

    def hash_all(file: FileIO, start: bytes, known: hashing.Knowledge) -> tuple[str, list[str]]:
        counted.weights += 1
        return original(file, start, known)

    monkeypatch.setattr(tensors, "_hash_all", hash_all)
    return counted


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are old enough as soon as they are there."""
    monkeypatch.setattr(hashing, "RACY_NANOSECONDS", 0)


def flip(path: Path, keep_time: bool = False) -> None:
    """Another last bit, in place."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))
    if keep_time:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def problems(scan: Scan) -> list[str]:
    """What is wrong, directory by directory."""
    return [f"{damage.name}: {damage.problem.values['problem']}" for damage in scan.damaged]


def test_an_installation_has_a_decoder_and_an_encoder() -> None:
    """The shipped models are whole, have names and licences, and can do both kinds that need a model."""
    scan = ModelStore(shipped_models()).scan()
    assert scan.damaged == []
    found = {manifest.name: manifest for manifest in scan.models.values()}
    assert found["shakespeare-decoder"].kinds == ["generate"]
    encoder = found["minilm-l6-v2"]
    assert (encoder.kinds, encoder.licence) == (["embed"], "apache-2.0")
    assert (encoder.parameters, encoder.context_tokens, encoder.hidden_size) == (22_713_216, 256, 384)
    assert "1_Pooling/config.json" in [file.path for file in encoder.files]


def test_a_scan_reports_the_damaged_and_keeps_the_whole(decoder: Path, decoder_manifest: Manifest) -> None:
    """One bad directory hides no good one; folders that are no models are nobody's business."""
    root = decoder.parent
    bad = Path(shutil.copytree(decoder, root / "bad"))
    (bad / SINGLE).write_bytes(b"short")
    (root / "notes").mkdir()
    shutil.copytree(decoder, root / ".draft")
    scan = ModelStore([root]).scan()
    assert list(scan.models) == [decoder_manifest.identity]
    assert [(damage.name, damage.directory, damage.problem.code) for damage in scan.damaged] == [
        ("bad", bad, "model_damaged")
    ]


def test_a_directory_may_be_a_model_itself(decoder: Path, decoder_manifest: Manifest) -> None:
    """It is named after its folder, and found by its identity."""
    store = ModelStore([decoder])
    store.scan()
    manifest = store.by_identity(decoder_manifest.identity)
    assert (manifest.name, manifest.directory) == ("decoder", decoder.resolve())


def test_of_two_copies_the_first_is_kept(decoder: Path, decoder_manifest: Manifest) -> None:
    """The order of the directories decides, so a scan always gives the same answer."""
    copy = Path(shutil.copytree(decoder, decoder.parent.parent / "another"))
    assert ModelStore([copy, decoder]).scan().models[decoder_manifest.identity].name == "another"
    assert ModelStore([decoder, copy]).scan().models[decoder_manifest.identity].name == "decoder"


def test_what_no_scan_found_is_unavailable(decoder: Path) -> None:
    """Before the first scan, and for an identity that is not there, the error says where it was looked for."""
    store = ModelStore([decoder])
    with pytest.raises(ModelUnavailable, match="in none of its model directories"):
        store.by_identity("0" * 64)


def test_a_directory_that_is_not_there_is_a_bad_setting(tmp_path: Path) -> None:
    """A misspelt directory stops the start; it does not silently hold no models."""
    with pytest.raises(BadSetting, match=r"node\.models_directories"):
        ModelStore([tmp_path / "nowhere"]).scan()


def test_a_directory_that_goes_away_later_has_no_models_any_more(decoder: Path) -> None:
    """A disk that was taken out must not end a worker that has other models."""
    store = ModelStore([decoder])
    assert store.scan().models
    shutil.rmtree(decoder)
    assert store.changed()
    assert store.scan() == Scan({}, [])


def test_a_second_start_reads_nothing_again(decoder: Path, tmp_path: Path, reads: Reads, settled: None) -> None:
    """What provably did not change is known from the file, with everything that was found out about it."""
    first = ModelStore([decoder], tmp_path / "models.json").scan()
    assert reads.take() == 1
    assert ModelStore([decoder], tmp_path / "models.json").scan() == first
    assert reads.take() == 0


def test_another_boot_reads_everything_again(
    decoder: Path, tmp_path: Path, reads: Reads, settled: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a machine is off, a disk can be written without a trace."""
    ModelStore([decoder], tmp_path / "models.json").scan()
    reads.take()
    (tmp_path / "boot_id").write_text("another")
    monkeypatch.setattr(hashing, "_BOOT_ID", tmp_path / "boot_id")
    ModelStore([decoder], tmp_path / "models.json").scan()
    assert reads.take() == 1
    # where the system names no boot, a process trusts itself alone
    monkeypatch.setattr(hashing, "_BOOT_ID", tmp_path / "nothing")
    store = ModelStore([decoder], tmp_path / "models.json")
    store.scan()
    store.scan()
    assert reads.take() == 1
    monkeypatch.setattr(hashing, "_THIS_PROCESS", "another process")
    ModelStore([decoder], tmp_path / "models.json").scan()
    assert reads.take() == 1


def test_a_file_that_changed_just_before_is_not_trusted(decoder: Path, tmp_path: Path, reads: Reads) -> None:
    """It could change again within the same time stamp."""
    for _ in range(2):
        ModelStore([decoder], tmp_path / "models.json").scan()
        assert reads.take() == 1


def test_only_the_file_that_changed_is_read_again(
    decoder: Path, tmp_path: Path, reads: Reads, settled: None, decoder_manifest: Manifest
) -> None:
    """A touched card or an edited configuration does not cost reading the weights; a touched weight file does."""
    path = tmp_path / "models.json"
    ModelStore([decoder], path).scan()
    reads.take()
    (decoder / "README.md").write_text("new")
    assert list(ModelStore([decoder], path).scan().models) == [decoder_manifest.identity]
    (decoder / "config.json").write_text((decoder / "config.json").read_text() + "\n")
    assert list(ModelStore([decoder], path).scan().models) != [decoder_manifest.identity]
    assert reads.take() == 0
    os.utime(decoder / SINGLE)
    ModelStore([decoder], path).scan()
    assert reads.take() == 1


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b'{"version": 1, "directories": {"a": 1}}', b'{"version": 0}']
)
def test_a_torn_cache_costs_reading_only(
    decoder: Path, tmp_path: Path, reads: Reads, settled: None, content: bytes
) -> None:
    """Whatever is in the file, the models are found, and the file is right again."""
    path = tmp_path / "models.json"
    path.write_bytes(content)
    first = ModelStore([decoder], path).scan()
    assert ModelStore([decoder], path).scan() == first
    assert (reads.take(), len(first.models), first.damaged) == (1, 1, [])


def test_a_cache_that_cannot_be_written_is_done_without(decoder: Path, tmp_path: Path) -> None:
    """Its directory is a file here; elsewhere the disk may be full, or not ours."""
    (tmp_path / "file").write_text("")
    assert len(ModelStore([decoder], tmp_path / "file" / "models.json").scan().models) == 1


def test_stores_with_other_directories_leave_each_others_knowledge(
    decoder: Path, tmp_path: Path, reads: Reads, settled: None
) -> None:
    """A command that looks at some directories must not make the workers read the others again."""
    path, other = tmp_path / "models.json", Path(shutil.copytree(decoder, tmp_path / "elsewhere" / "other"))
    ModelStore([decoder], path).scan()
    ModelStore([other], path).scan()
    assert reads.take() == 2
    ModelStore([decoder, other], path).scan()
    assert reads.take() == 0


def test_of_processes_that_start_together_one_reads(
    decoder: Path, tmp_path: Path, reads: Reads, settled: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others wait for what it finds; one that is told to stop meanwhile stops."""
    original, reading, go_on = tensors._hash_all, threading.Event(), threading.Event()

    def hash_all(file: FileIO, start: bytes, known: hashing.Knowledge) -> tuple[str, list[str]]:
        reading.set()
        assert go_on.wait(30)
        return original(file, start, known)

    monkeypatch.setattr(tensors, "_hash_all", hash_all)
    stores = [ModelStore([decoder], tmp_path / "models.json") for _ in range(3)]
    found: list[Scan] = []
    threads = [threading.Thread(target=lambda store=store: found.append(store.scan())) for store in stores]
    for thread in threads:
        thread.start()
    assert reading.wait(30)
    told_to_stop = ModelStore([decoder], tmp_path / "models.json")
    told_to_stop.stop()
    with pytest.raises(ReadingStopped):
        told_to_stop.scan()
    go_on.set()
    for thread in threads:
        thread.join(30)
    assert (reads.take(), len(found)) == (1, 3)
    assert found[0] == found[1] == found[2]


def test_reading_ends_when_told_to_stop(decoder: Path) -> None:
    """A large model takes minutes, and a process that ends waits for its threads."""
    store = ModelStore([decoder])
    store.stop()
    with pytest.raises(ReadingStopped):
        store.scan()


def test_a_new_model_is_seen_once_it_is_quiet(decoder: Path, tmp_path: Path, settled: None) -> None:
    """A copy in progress is no damage: nothing is found before two looks agree."""
    root = tmp_path / "watched"
    root.mkdir()
    store = ModelStore([root])
    assert store.scan(1e9).models == {}
    copy = root / "copy"
    copy.mkdir()
    seen = []
    for file in sorted(decoder.iterdir()):
        shutil.copy(file, copy)
        seen.append(store.changed())
        scan = store.scan(1e9)
        assert (scan.models, scan.damaged) == ({}, [])
    assert not any(seen)
    assert store.changed()
    assert [manifest.name for manifest in store.scan(1e9).models.values()] == ["copy"]
    assert not store.changed()


def test_a_model_that_is_not_finished_at_the_first_scan_is_no_damage_yet(decoder: Path, settled: None) -> None:
    """It may be a copy in progress; when nothing happens, it is damage."""
    data = (decoder / SINGLE).read_bytes()
    (decoder / SINGLE).write_bytes(data[:1000])
    store = ModelStore([decoder])
    assert store.scan(settle_seconds=1e9) == Scan({}, [])
    assert not store.changed()
    assert store.changed()
    assert "model.safetensors" in problems(store.scan(1e9))[0]
    (decoder / SINGLE).write_bytes(data)
    assert not store.changed()
    assert store.changed()
    scan = store.scan(1e9)
    assert (len(scan.models), scan.damaged) == (1, [])


def test_a_model_that_is_being_replaced_stays_until_it_is_quiet(
    decoder: Path, decoder_manifest: Manifest, settled: None
) -> None:
    """While files are written, the model is as it was last read; each load verifies its bytes in any case."""
    store = ModelStore([decoder])
    store.scan(1e9)
    store.changed()
    (decoder / SINGLE).write_bytes(b"half")
    assert not store.changed()
    (decoder / SINGLE).write_bytes(b"more")
    assert not store.changed()
    assert list(store.scan(1e9).models) == [decoder_manifest.identity]


def test_a_model_that_is_removed_is_gone_at_once(decoder: Path, decoder_manifest: Manifest, settled: None) -> None:
    """Nothing can become of it any more."""
    store = ModelStore([decoder.parent])
    store.scan()
    shutil.rmtree(decoder)
    assert store.changed()
    assert store.scan(1e9) == Scan({}, [])


def test_a_model_that_was_read_too_early_is_read_again(
    decoder: Path, reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once its time stamps prove something, and then no more."""
    store = ModelStore([decoder])
    store.scan()
    store.changed()
    monkeypatch.setattr(hashing, "RACY_NANOSECONDS", 0)
    assert store.changed()
    store.scan()
    assert (reads.take(), store.changed()) == (2, False)


def _truncate(directory: Path) -> None:
    os.truncate(directory / SINGLE, (directory / SINGLE).stat().st_size - 1)


DAMAGE: list[tuple[str, Callable[[Path], object], str]] = [
    ("a flipped bit", lambda d: flip(d / SINGLE), "does not have the bytes any more that it had on"),
    ("a flipped bit, the time kept", lambda d: flip(d / SINGLE, keep_time=True), "does not have the bytes any more"),
    (
        "a flipped bit of another file",
        lambda d: flip(d / "tokenizer_config.json", keep_time=True),
        "tokenizer_config.json does not have the bytes any more",
    ),
    ("a truncated file", _truncate, "its tensors need"),
    ("a missing file", lambda d: (d / SINGLE).unlink(), "it has no weights"),
    ("a pickle", lambda d: (d / "x.bin").write_bytes(b""), "x.bin may be a pickle"),
    ("a link out of the root", lambda d: (d / "x").symlink_to("/etc"), "x leads out of"),
]


@pytest.mark.parametrize(("damage", "says"), [case[1:] for case in DAMAGE], ids=[case[0] for case in DAMAGE])
def test_damage_puts_in_quarantine_and_whole_files_take_out_again(
    decoder: Path, tmp_path: Path, settled: None, damage: Callable[[Path], object], says: str
) -> None:
    """Now, at the next start, and for as long as it lasts; the model beside it is not touched by it."""
    other = Path(shutil.copytree(decoder, decoder.parent / "other"))
    (other / "config.json").write_text((other / "config.json").read_text() + " ")
    whole = Path(shutil.copytree(decoder, tmp_path / "whole"))
    store = ModelStore([decoder.parent], tmp_path / "models.json")
    first = store.scan()
    damage(decoder)
    again = ModelStore([decoder.parent], tmp_path / "models.json")
    for scan in (store.scan(), again.scan(), store.scan()):
        assert [manifest.name for manifest in scan.models.values()] == ["other"]
        assert len(scan.damaged) == 1
        assert says in problems(scan)[0]
    for path in decoder.iterdir():
        path.unlink()
    for path in whole.iterdir():
        shutil.copy(path, decoder)
    assert store.scan().models.keys() == first.models.keys()


def test_another_version_is_another_model(decoder: Path, tmp_path: Path, settled: None) -> None:
    """New weights that were put in place of the old ones as a new file are meant."""
    store = ModelStore([decoder], tmp_path / "models.json")
    (before,) = store.scan().models
    flip(Path(shutil.copy(decoder / SINGLE, decoder / "new")))
    (decoder / "new").rename(decoder / SINGLE)
    (after,) = store.scan().models
    assert before != after
    with pytest.raises(ModelUnavailable):
        store.by_identity(before)


def test_a_renamed_directory_is_taken_as_it_is(decoder: Path, tmp_path: Path, settled: None) -> None:
    """So says the reason of the quarantine."""
    store = ModelStore([decoder.parent], tmp_path / "models.json")
    store.scan()
    flip(decoder / SINGLE)
    assert "rename the directory" in problems(store.scan())[0]
    decoder.rename(decoder.parent / "new")
    assert [manifest.name for manifest in store.scan().models.values()] == ["new"]


def test_verify_names_the_file_that_changed(decoder: Path) -> None:
    """A whole model passes; a flipped bit is found however young the file is."""
    store = ModelStore([decoder])
    (identity,) = store.scan().models
    assert list(store.verify(identity).models) == [identity]
    flip(decoder / SINGLE)
    for _ in range(2):
        with pytest.raises(ModelDamaged, match=r"model\.safetensors does not have the bytes any more"):
            store.verify(identity)
    flip(decoder / SINGLE)
    assert list(store.verify(identity).models) == [identity]
    with pytest.raises(ModelUnavailable):
        store.verify("0" * 64)


def test_verify_takes_a_whole_model_out_of_quarantine(decoder: Path, decoder_manifest: Manifest) -> None:
    """A load may have failed for a reason that passes; what has become another model stays one."""
    store = ModelStore([decoder])
    store.scan()
    store.quarantine(decoder_manifest.identity, "a hole")
    assert list(store.verify(decoder_manifest.identity).models) == [decoder_manifest.identity]
    store.quarantine(decoder_manifest.identity, "a hole")
    (decoder / "config.json").write_text((decoder / "config.json").read_text() + " ")
    with pytest.raises(ModelDamaged, match="it is another model now"):
        store.verify(decoder_manifest.identity)


def test_verify_names_what_makes_another_model(decoder: Path) -> None:
    """A new file that counts, an edited one, and a directory that is gone."""
    store = ModelStore([decoder])
    for change in ("special_tokens_map.json is new", "special_tokens_map.json has changed", "is gone"):
        (identity,) = store.scan().models
        if change.endswith("is gone"):
            (decoder / "special_tokens_map.json").unlink()
        else:
            (decoder / "special_tokens_map.json").write_text("{ }" if "new" in change else "{}")
        with pytest.raises(ModelDamaged, match=change):
            store.verify(identity)
    (identity,) = store.scan().models
    shutil.rmtree(decoder)
    with pytest.raises(ModelDamaged, match="it is gone"):
        store.verify(identity)


def test_bits_that_changed_without_a_trace_are_found_by_reading_all(
    decoder: Path, tmp_path: Path, settled: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No stamp tells of a disk that forgets. Only reading does, and then nothing but whole bytes helps."""
    store = ModelStore([decoder.parent], tmp_path / "models.json")
    (identity,) = store.scan().models
    stamps = {path.name: hashing.Stamp.of(path.stat()) for path in decoder.iterdir()}
    by_inode = {stamp.inode: stamp for stamp in stamps.values()}
    flip(decoder / SINGLE)
    original = hashing.Stamp.of
    monkeypatch.setattr(hashing.Stamp, "of", staticmethod(lambda found: by_inode.get(found.st_ino) or original(found)))
    assert list(store.scan().models) == [identity]
    assert problems(store.verify_all())[0].startswith("decoder: model.safetensors does not have the bytes any more")
    (decoder / "README.md").unlink()
    assert store.scan().models == {}
    flip(decoder / SINGLE)
    assert list(store.verify_all().models) == [identity]


def test_what_another_process_verified_is_not_read_again(
    decoder: Path, tmp_path: Path, reads: Reads, settled: None
) -> None:
    """Every worker of a node is told to verify."""
    stores = [ModelStore([decoder], tmp_path / "models.json") for _ in range(2)]
    began = stores[0].scan().read_at
    stores[1].scan()
    reads.take()
    first = stores[0].verify_all()
    assert first.read_at > began
    assert stores[1].verify_all(since=first.read_at) == first
    assert reads.take() == 1


def test_quarantine_is_known_to_all_processes_until_the_model_is_verified(
    decoder: Path, tmp_path: Path, settled: None
) -> None:
    """What a load finds out in one worker, the others need not find out by a load."""
    stores = [ModelStore([decoder], tmp_path / "models.json") for _ in range(2)]
    (identity,) = stores[0].scan().models
    stores[1].scan()
    assert problems(stores[0].quarantine(identity, "a hole")) == ["decoder: a hole"]
    for store in (stores[1], ModelStore([decoder], tmp_path / "models.json")):
        assert store.changed() or store is not stores[1]
        assert problems(store.scan()) == ["decoder: a hole"]
    assert list(stores[1].verify_all().models) == [identity]
    assert stores[0].changed()
    assert list(stores[0].scan().models) == [identity]


def test_a_whole_copy_takes_the_place_of_a_damaged_one(decoder: Path, decoder_manifest: Manifest) -> None:
    """The identity is the same, so is the model."""
    copy = Path(shutil.copytree(decoder, decoder.parent / "zcopy"))
    store = ModelStore([decoder.parent])
    store.scan()
    scan = store.quarantine(decoder_manifest.identity, "a hole")
    assert scan.models[decoder_manifest.identity].directory == copy.resolve()
    assert store.quarantine("0" * 64, "never heard of it").models == scan.models
