"""Data sets of the Hugging Face hub, and local folders of data sets, as tables.

A data set of the hub is read at one commit, which the table's source names.
"""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from steering.data import user_path
from steering.foreign import LIMITS, size_text, table_of
from steering.targets._rows import Source, TargetError

HUB = "hf:"
HUB_OPTIONS = ("config", "split", "revision")

_HUB_ID = re.compile(r"\w[\w.-]*/[\w.-]+")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_TIMEOUT_S = 10
_TRAIN = "train"


def read_hub(spelled: str, options: Mapping[str, str]) -> Source:
    """The rows of a data set.

    Args:
        spelled: `hf:owner/name`, or `hf:path/to/folder`.
        options: `config`, `split` (default: train, or the only one) and `revision`.

    Raises:
        TargetError: There is no such data set, config or split, or the hub can't be reached.
    """
    location = spelled.removeprefix(HUB)
    folder = user_path(location)
    config, split, revision = (options.get(key) for key in HUB_OPTIONS)
    query = "&".join(f"{key}={options[key]}" for key in ("config", "split") if key in options)
    if location and folder.is_dir():
        if revision is not None:
            raise TargetError(
                f"revision={revision} has no effect on the folder {location}: leave it out"
            )
        columns, rows = _rows(spelled, str(folder), config, split, None)
        name = source = folder.resolve().name
    elif _HUB_ID.fullmatch(location):
        commit = _commit(location, revision)
        columns, rows = _rows(spelled, location, config, split, commit)
        name, source = location.rpartition("/")[2], f"{location}@{commit}"
    else:
        raise TargetError(f"{spelled} is no data set: write hf:owner/name or hf:path/to/folder")
    source = f"{HUB}{source}{'?' if query else ''}{query}"
    return Source(name, source, table_of(spelled, columns, rows))


@lru_cache
def _commit(repository: str, revision: str | None) -> str:
    """The commit of a revision; looked up once, so that all conditions of a process share it."""
    from huggingface_hub import constants, dataset_info, errors

    if constants.HF_HUB_OFFLINE and revision and _COMMIT.fullmatch(revision):
        return revision
    try:
        info = dataset_info(repository, revision=revision, timeout=_TIMEOUT_S)
    except errors.RepositoryNotFoundError:
        raise TargetError(
            f"{HUB}{repository} is not on the Hugging Face hub, or you may not read it: check the "
            "name and, for private and gated data sets, the login (hf auth login)"
        ) from None
    except errors.RevisionNotFoundError:
        raise TargetError(
            f"{HUB}{repository} has no revision {revision}: give a branch, a tag or a commit"
        ) from None
    except Exception as error:
        raise TargetError(
            f"{HUB}{repository} can't be fetched from the Hugging Face hub "
            f"({type(error).__name__}). Check the network, or download it elsewhere "
            f"and give {HUB}path/to/folder"
        ) from None
    assert info.sha is not None
    return info.sha


def _rows(
    spelled: str, location: str, config: str | None, split: str | None, commit: str | None
) -> tuple[list[str], Iterable[dict[str, Any]]]:
    import datasets

    if not hasattr(datasets, "load_dataset_builder"):
        raise TargetError(
            "hf: needs Hugging Face's library datasets, but Python finds another module of that "
            "name first: run from another folder, or rename that module"
        )
    try:
        builder = datasets.load_dataset_builder(location, name=config, revision=commit)
        # Without the hub the library uses the commit that was loaded last, whichever it is.
        if commit is not None and builder.hash != commit:
            raise TargetError(
                f"{spelled}: the hub can't be reached, and the rows in the cache are not those of "
                f"commit {commit}. Load it with a network first, or give {HUB}path/to/folder"
            )
        builder.download_and_prepare()
        splits = list(builder.info.splits or ())
        if split is None and _TRAIN not in splits and len(splits) != 1:
            raise TargetError(
                f"{spelled} has the splits {', '.join(splits)}: choose one with split="
            )
        split = split or (_TRAIN if _TRAIN in splits else splits[0])
        data = builder.as_dataset(split=split)
    except TargetError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:300].rstrip(".")
        raise TargetError(
            f"{spelled} can't be loaded ({type(error).__name__}: {reason}). Check config= and "
            "split=, and that it has tables in files that the library datasets reads without code"
        ) from None
    limits = LIMITS["table"]
    if data.num_rows * len(data.column_names) > limits.items or data.data.nbytes > limits.unpacked:
        raise TargetError(
            f"{spelled} has {data.num_rows} rows and {size_text(data.data.nbytes)}; at most "
            f"{limits.items} cells and {size_text(limits.unpacked)} are read: choose a split, or "
            "save a part of it as a table"
        )
    return data.column_names, data
