"""Keeps the manifest of a large data set, so that a later start on the same files does not divide and search them again."""

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from catdog.data import duplicates, groups, images, splits
from catdog.data.digests import hash_files
from catdog.data.groups import NamedGroups, find_group_file
from catdog.data.splits import SPLITS, Manifest, build_manifest, list_files
from catdog.system.files import replacing

log = logging.getLogger(__name__)

# Below this, nothing is gained.
LEAST_IMAGES = 20_000
# So many manifests of a folder are kept, for as many different divisions of it.
MOST_KEPT = 4
SEPARATOR = b"\0"


def load_manifest(
    root: Path,
    *,
    cache: Path,
    verify: str,
    shown: str | None,
    max_images_per_class: int | None,
    searches_duplicates: bool,
    **options: Any,
) -> Manifest:
    """Returns the manifest of a folder, as `build_manifest` does; one that is kept if files, options and code are the same.

    Args:
        root: folder of the data set.
        cache: folder of the cache; manifests are kept in its `manifests/`.
        verify: which files are read, as `dataset.verify`.
        shown: the name of the data set in messages.
        max_images_per_class: as in `build_manifest`; nothing is kept of such a quick look.
        searches_duplicates: whether near-duplicates are searched.
        options: others of `build_manifest`.

    Raises:
        UserError: as `build_manifest`.
    """

    def build(verify: str) -> Manifest:
        return build_manifest(
            root, shown=shown, max_images_per_class=max_images_per_class, digests_cache=cache, verify=verify,
            duplicates_cache=cache if searches_duplicates else None, **options,
        )  # fmt: skip

    files, hidden = list_files(root)
    if max_images_per_class is not None or len(files) < LEAST_IMAGES:
        return build(verify)
    digests = hash_files(root, files, cache=cache, verify=verify)
    folder = cache / "manifests" / hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:32]
    path = folder / f"{_hash_all(root, files, digests, options, searches_duplicates)}.npz"
    manifest = _load(path, root, files, digests)
    if manifest is None:
        manifest = build("changed")
        findings = duplicates.locate_findings(sorted(set(digests)), cache) if searches_duplicates else None
        _save(path, manifest, files, digests, findings)
    return dataclasses.replace(manifest, hidden=hidden)


def _hash_all(
    root: Path, files: Sequence[str], digests: Sequence[str], options: dict[str, Any], searches_duplicates: bool
) -> str:
    """Returns a digest of everything that a manifest depends on."""
    # The code that divides is part of the key: other code may divide differently.
    code = [Path(str(module.__file__)).read_text("utf-8") for module in (splits, groups, images)]
    table = find_group_file(options["groups"], root) if options["groups"] else None
    named = "" if table is None else hashlib.sha256(table.read_bytes()).hexdigest()
    hashed = hashlib.sha256(
        json.dumps([options, searches_duplicates and duplicates.VERSION, code, named], sort_keys=True).encode()
    )
    for names in (files, digests):
        hashed.update(os.fsencode(SEPARATOR.decode().join(names)))
    return hashed.hexdigest()[:32]


def _save(path: Path, manifest: Manifest, files: Sequence[str], digests: Sequence[str], findings: Path | None) -> None:
    """Keeps a manifest, unless the files have changed since they were listed.

    Args:
        path: the file to write.
        manifest: the manifest.
        files: names of the files below the root.
        digests: of these files.
        findings: the folder of the cache with their near-duplicates, which are used as long as the manifest is; None: none.
    """
    rows = manifest.images
    place_of = {file: place for place, file in enumerate(files)}
    places = np.array([place_of.get(file, -1) for file in rows["file"]])
    if (places < 0).any() or any(digests[place] != found for place, found in zip(places, rows["sha256"], strict=True)):
        return
    others = {
        "classes": manifest.classes, "digest": manifest.digest, "left_out": manifest.left_out,
        "conflicts": manifest.conflicts, "nested": manifest.nested, "unreadable": manifest.unreadable,
        "apart": manifest.apart, "groups": manifest.groups and dataclasses.asdict(manifest.groups),
        "findings": findings and str(findings),
    }  # fmt: skip
    columns = {
        "places": places,
        "labels": pd.Categorical(rows["label"], categories=manifest.classes).codes.astype(np.int32),
        "splits": pd.Categorical(rows["split"], categories=SPLITS).codes.astype(np.int8),
        "others": np.frombuffer(json.dumps(others).encode(), np.uint8),
    }
    if "group" in rows:
        numbers, names = pd.factorize(rows["group"])
        columns |= {"group_names": np.frombuffer(SEPARATOR.join(map(os.fsencode, names)), np.uint8), "groups": numbers}
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            np.savez(file, allow_pickle=False, **columns)
        former = sorted(path.parent.glob("*.npz"), key=lambda each: each.stat().st_mtime)
        for each in former[:-MOST_KEPT]:
            each.unlink()


def _load(path: Path, root: Path, files: Sequence[str], digests: Sequence[str]) -> Manifest | None:
    """Returns a manifest without its hidden files; None if it is not kept, or its file is damaged."""
    # What is read of the zip file is checked by its CRC-32.
    with (
        contextlib.suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile),
        path.open("rb") as file,
        np.load(file) as stored,
    ):
        others = json.loads(stored["others"].tobytes())
        if findings := others.get("findings"):
            # Otherwise `catdog.clean` would take them for unused, and the next file that is added would cost a whole search.
            with contextlib.suppress(OSError):
                os.utime(Path(findings) / duplicates.FOUND)
        places, classes = stored["places"], tuple(others["classes"])
        table = pd.DataFrame({
            "file": np.array(files, dtype=object)[places],
            "label": np.array(classes, dtype=object)[stored["labels"]],
            "split": np.array(SPLITS, dtype=object)[stored["splits"]],
            "sha256": np.array(digests, dtype=object)[places],
        })  # fmt: skip
        if "groups" in stored:
            names = [os.fsdecode(name) for name in stored["group_names"].tobytes().split(SEPARATOR)]
            table["group"] = np.array(names, dtype=object)[stored["groups"]]
        named = others["groups"] and NamedGroups(
            others["groups"]["by"], others["groups"]["of"], tuple(others["groups"]["without"])
        )
        return Manifest(
            root, classes, table, others["left_out"], others["digest"],
            tuple((first, second) for first, second in others["conflicts"]), others["nested"], others["unreadable"],
            groups=named or None, apart=others["apart"],
        )  # fmt: skip
    return None
