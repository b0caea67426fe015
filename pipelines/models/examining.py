"""One model directory read: whole, with its manifest, or damaged, with the reason; what is known of it saves reading."""

from __future__ import annotations

import time

import msgspec

from llmos.pipelines.models.cache import DirectoryRecord
from llmos.pipelines.models.contents import Contents
from llmos.pipelines.models.hashing import FileRecord, Knowledge, is_settled
from llmos.pipelines.models.manifest import Manifest, read_manifest
from llmos.pipelines.models.places import Look, Place
from llmos.schemas.errors import ModelDamaged


def examine(place: Place, look: Look, known: Knowledge, was: str = "") -> DirectoryRecord:
    """Reads what is in `place`; `look` was taken right before, `was` is the identity of the model that was there.

    Blocks for as long as reading the unknown files takes.
    """
    began_ns = time.time_ns()
    manifest, problem = None, ""
    read: dict[str, FileRecord] = {}
    try:
        contents = Contents(place.directory, place.root, known)
        read = contents.records
        manifest = read_manifest(contents, place.name)
    except ModelDamaged as damage:
        problem = str(damage.values["problem"])
    else:
        manifest = _with_licence(manifest, place)
    return DirectoryRecord(
        name=place.name,
        look=look,
        boot=known.boot if is_settled(youngest_ns(look), began_ns) else "",
        read_at=min((record.read_at for record in read.values()), default=0.0) if manifest else began_ns / 1e9,
        manifest=manifest,
        problem=problem,
        was=was if problem else "",
        files=_rest(known, look, damaged=bool(problem)) | read,
    )


def youngest_ns(look: Look) -> int:
    """When something in a look last changed, in Unix nanoseconds."""
    return max((stamp.ctime_ns for _, stamp in look if stamp is not None), default=0)


def _rest(known: Knowledge, look: Look, damaged: bool) -> dict[str, FileRecord]:
    """What was known of files that are still there and were not read now.

    In a damaged model those are the ones with wrong bytes, and the ones behind: their old hashes stay, to compare whole
    files with that are put back, but their stamps prove nothing any more.
    """
    paths = {path for path, _ in look}
    rest = {path: record for path, record in known.files.items() if path in paths}
    return {path: msgspec.structs.replace(record, suspect=True) for path, record in rest.items()} if damaged else rest


def _with_licence(manifest: Manifest, place: Place) -> Manifest:
    return msgspec.structs.replace(manifest, licence=place.licence) if place.licence else manifest
