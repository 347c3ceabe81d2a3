"""Schema of the sections `data` and `split`."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Final

from whale_ray.data.decoding.file_limit import MAX_BYTES
from whale_ray.data.formats.format_names import AUTO, FORMAT_NAMES
from whale_ray.sweep.config.fields import Setting, brief

# Parameter of a kind of split, for the short form `split: {kfold: 5}`.
SPLIT_VALUES: Final = {"kfold": "folds", "open_set": "share"}

_part = partial(brief, identity=True)
_axis = partial(brief, identity=True, axis=True)

DATA_SETTINGS: tuple[Setting, ...] = (
    brief(
        "data.root", "text", "data", "folder or URL (s3://…, gs://…) of the table and the photographs (option --data)"
    ),
    brief(
        "data.format",
        " ".join(("choice", AUTO, *FORMAT_NAMES)),
        AUTO,
        "format of the data set; auto: the first of these that is recognised. `whale-ray audit` says which and why",
    ),
    brief("data.table", "text", "train.csv", "the table or JSON file inside it (kaggle, wildlife, coco)"),
    brief("data.image_folder", "text", "train", "the folder of photographs inside it"),
    brief("data.image_column", "text", "Image", "column of file names"),
    brief("data.label_column", "text", "Id", "column of individuals"),
    brief("data.group_column", "text or null", None, "column of encounters or days, kept together by the split"),
    replace(
        _part(
            "data.group_by",
            "choice auto twins",
            "auto",
            "encounters where no column names them; auto: photographs of an individual with alike pixels or near times;"
            " twins: copies of one picture only",
        ),
        earlier="twins",
    ),
    replace(
        brief(
            "data.group_linkage",
            "choice average single",
            "average",
            "alike pixels (group_by: auto) join photographs that correlate on average, or with a single one of a group",
        ),
        earlier="single",
    ),
    brief("data.date_column", "text or null", None, "column of dates; null: the EXIF date of each photograph"),
    brief("data.view_column", "text or null", None, "column of viewpoints, such as left or dorsal; see retrieval.side"),
    brief("data.species_column", "text or null", None, "column of species; another species is never a candidate"),
    brief(
        "data.place_column", "text or null", None, "column of places; photographs of one day and place are an encounter"
    ),
    brief(
        "data.boxes",
        "text or null",
        None,
        "file of boxes to crop to: Image,x0,y0,x1,y1, COCO, MegaDetector",
    ),
    _part("data.unknown_label", "text", "new_whale", "label of unknown individuals"),
    _axis("data.image_size", "size", 224, "256, or '256x512' as height x width, in pixels"),
    _axis("data.resize", "choice pad stretch", "pad", "pad keeps the aspect, stretch does not"),
    brief(
        "data.on_bad_image",
        "choice set_aside error",
        "set_aside",
        "set_aside: list unreadable photographs; error: end the sweep",
    ),
    brief(
        "data.image_bytes",
        "int >= 1",
        MAX_BYTES,
        "most bytes of a photograph; larger files are unreadable (a service has its own image_bytes, 32 MiB)",
    ),
    _part("data.val_fraction", "float > 0 < 1", 0.2, "share of each individual's photographs that validates"),
)

SPLIT_SETTINGS: tuple[Setting, ...] = (
    _part(
        "split.kind",
        "choice stratified kfold open_set by_group by_time halves",
        "stratified",
        "`split: by_group`, `split: by_time`, `split: {kfold: 5}` and `split: {open_set: 0.2}` are short forms",
    ),
    _part("split.folds", "int >= 2 <= 20", 5, "kfold: number of folds; each trial trains once per fold"),
    _part(
        "split.share",
        "float > 0 < 1",
        0.1,
        "share of individuals held out as new, by open_set or if no photograph has the unknown label",
    ),
    _part("split.seed", "int >= 0 <= 4294967295", 0, "seed of the split; left out: as `seed` (its first value)"),
)
