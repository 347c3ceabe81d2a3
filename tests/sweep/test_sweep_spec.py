from __future__ import annotations

import math
import re
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import pytest

from whale_ray.commands.settings_reference import reference_text
from whale_ray.errors import SettingsError
from whale_ray.learning.losses.registry import ACCEPTS_NEGATIVES, LOSSES
from whale_ray.sweep.config.loss_schema import completed
from whale_ray.sweep.config.sweep_spec import SETTINGS, Axis, Sweep, load_sweep
from whale_ray.sweep.config.trial_identity import trial_identity
from whale_ray.sweep.config.value_kinds import ENCODER_FAMILIES, image_size

PLAIN = """\
name: plain
model: {encoder: tiny}
loss: {name: arcface}
"""
CONDITIONAL = """\
name: conditional
model:
  - encoder: tiny
    embedding_size: [32, 64]
  - encoder: hf:google/vit-base-patch16-224
    pool: [cls, avg, gem]
loss:
  - {name: arcface, scale: [16, 32]}
  - {name: proxy_anchor, margin: {low: 0.1, high: 0.3, step: 0.1}, alpha: 16}
"""


def read(tmp_path: Path, text: str, options: Sequence[str] = (), *, data: Path | None = None) -> Sweep:
    path = tmp_path / "sweep.yaml"
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return load_sweep(path, options, data=data)


def faults(tmp_path: Path, text: str, options: Sequence[str] = ()) -> list[tuple[int | None, str]]:
    with pytest.raises(SettingsError) as caught:
        read(tmp_path, text, options)
    return [(fault.line, fault.message) for fault in caught.value.faults]


# What a sweep file means


def test_a_key_left_out_has_its_default(tmp_path: Path) -> None:
    settings = read(tmp_path, PLAIN).settings({})
    assert settings["model"] == {
        "encoder": "tiny",
        "embedding_size": 512,
        "pool": "auto",
        "neck": "linear",
        "weights": "pretrained",
        "freeze": "none",
        "layers": 1,
    }
    assert settings["loss"] == {"name": "arcface", "margin_degrees": 28.6, "scale": 64.0}
    assert settings["train"]["learning_rate"] == 1e-4
    assert settings["seed"] == 0
    assert set(settings) == {"data", "split", "model", "loss", "train", "resources", "seed"}


def test_a_list_is_an_axis_and_a_mapping_with_low_and_high_a_range(tmp_path: Path) -> None:
    text = PLAIN + "train: {epochs: [5, 10], learning_rate: {low: 1e-5, high: 1.0e-3, log: true}}\n"
    sweep = read(tmp_path, text + "search: {strategy: optuna}\n")
    assert sweep.axes == (
        Axis("train.epochs", values=(5, 10)),
        Axis("train.learning_rate", "float", low=1e-5, high=1e-3, log=True),
    )
    assert not {"train.epochs", "train.learning_rate"} & sweep.fixed.keys()
    assert sweep.settings({"train.epochs": 5, "train.learning_rate": 2e-4})["train"]["epochs"] == 5


def test_axes_of_alternatives_follow_their_parents(tmp_path: Path) -> None:
    sweep = read(tmp_path, CONDITIONAL)
    vit = "hf:google/vit-base-patch16-224"
    assert sweep.axes == (
        Axis("model.encoder", values=("tiny", vit)),
        Axis("model.tiny.embedding_size", values=(32, 64), when=("model.encoder", "tiny")),
        Axis("model.hf-google-vit-base-patch16-224.pool", values=("cls", "avg", "gem"), when=("model.encoder", vit)),
        Axis("loss.name", values=("arcface", "proxy_anchor")),
        Axis("loss.arcface.scale", values=(16.0, 32.0), when=("loss.name", "arcface")),
        Axis("loss.proxy_anchor.margin", "float", low=0.1, high=0.3, step=0.1, when=("loss.name", "proxy_anchor")),
    )
    assert sweep.grid_cells() == (2 + 3) * (2 + 3)


def test_the_settings_of_a_point_hold_the_chosen_alternative_alone(tmp_path: Path) -> None:
    sweep = read(tmp_path, CONDITIONAL)
    point = {"model.encoder": "tiny", "model.tiny.embedding_size": 64, "loss.name": "proxy_anchor"}
    settings = sweep.settings(point | {"loss.proxy_anchor.margin": 0.30000000000000004})
    assert settings["loss"] == {"name": "proxy_anchor", "margin": 0.3, "alpha": 16.0}
    assert (settings["model"]["embedding_size"], settings["model"]["pool"]) == (64, "auto")


def test_losses_in_a_list_share_the_parameters_given_and_have_their_own_defaults(tmp_path: Path) -> None:
    sweep = read(tmp_path, PLAIN + "", ["loss={name: [arcface, cosface], scale: [8, 16]}"])
    assert sweep.grid_cells() == 4
    chosen = sweep.settings({"loss.name": "cosface", "loss.scale": 8})["loss"]
    assert chosen == {"name": "cosface", "scale": 8.0, "margin": 0.35}


def test_a_point_with_a_foreign_or_a_missing_axis_is_refused(tmp_path: Path) -> None:
    sweep = read(tmp_path, PLAIN, ["train.epochs=[1, 2]"])
    with pytest.raises(ValueError, match=r"no value for the axis train\.epochs"):
        sweep.settings({})
    with pytest.raises(ValueError, match=r"has no axis train\.clip"):
        sweep.settings({"train.epochs": 1, "train.clip": 1.0})


def test_retrieval_settings_are_always_lists(tmp_path: Path) -> None:
    sweep = read(tmp_path, PLAIN + "retrieval: {neighbours: {low: 5, high: 15, step: 5}, flip: average}\n")
    assert sweep.retrieval == {
        "neighbours": (5, 10, 15),
        "vote": ("nearest",),
        "temperature": (0.05,),
        "flip": ("average",),
        "whiten": ("none",),
        "whitened_size": (128,),
        "expand_query": (0,),
        "augment_gallery": (0,),
        "rerank": ("none",),
        "rerank_k1": (20,),
        "rerank_k2": (6,),
        "rerank_lambda": (0.3,),
        "classifier_weight": (0.0,),
        "side": ("any",),
        "side_penalty": (0.1,),
        "local": ("none",),
    }
    assert sweep.axes == ()


def test_the_seed_of_split_and_search_follows_the_seed_unless_it_is_given(tmp_path: Path) -> None:
    repeated = read(tmp_path, PLAIN + "seed: [3, 4]\nsearch: {seed: 9}\n")
    assert (repeated.fixed["split.seed"], repeated.fixed["search.seed"]) == (3, 9)
    assert repeated.settings({"seed": 4})["seed"] == 4
    assert repeated.settings({"seed": 4})["split"]["seed"] == 3


def test_halves_is_short_for_the_kind_of_split(tmp_path: Path) -> None:
    assert read(tmp_path, PLAIN + "split: halves\n").fixed["split.kind"] == "halves"
    changed = read(tmp_path, PLAIN + "split: halves\n", ["split.kind=stratified"])
    assert changed.fixed["split.kind"] == "stratified"


@pytest.mark.parametrize(
    ("written", "size"), [("256", (256, 256)), ("'256x512'", (256, 512)), ("128x64", (128, 64)), ("64x64", (64, 64))]
)
def test_an_image_size_is_a_side_or_height_by_width(tmp_path: Path, written: str, size: tuple[int, int]) -> None:
    assert image_size(read(tmp_path, PLAIN, [f"data.image_size={written}"]).fixed["data.image_size"]) == size


def test_off_is_a_string_and_1e_5_is_a_number(tmp_path: Path) -> None:
    sweep = read(tmp_path, PLAIN + "tracking: {wandb: off}\ntrain: {learning_rate: 3e-4, weight_decay: 0}\n")
    assert sweep.fixed["tracking.wandb"] == "off"
    assert sweep.fixed["train.learning_rate"] == 3e-4
    assert isinstance(sweep.fixed["train.weight_decay"], float)


def test_a_section_that_holds_only_comments_has_its_defaults(tmp_path: Path) -> None:
    assert read(tmp_path, PLAIN + "train:\n  # epochs: 3\n").fixed["train.epochs"] == 10


@pytest.mark.parametrize(
    "text",
    [
        PLAIN,
        CONDITIONAL,
        PLAIN.replace("arcface", "[arcface, cosface]"),
        PLAIN.replace("arcface", "proxy_anchor, alpha: {low: 1, high: 9, log: true}") + "search: {strategy: random}\n",
        PLAIN + "split: halves\nseed: [1, 2]\ndata: {root: 'off', label_column: '1e5', image_size: [64, 32x64]}\n",
        PLAIN + "train: {head_learning_rate: [null, 1e-3], affine: {low: 0, high: 0.3, step: 0.1}}\n",
    ],
)
def test_the_resolved_file_loads_to_an_equal_sweep(tmp_path: Path, text: str) -> None:
    sweep = read(tmp_path, text)
    resolved = sweep.to_yaml()
    assert read(tmp_path, resolved) == sweep
    assert read(tmp_path, resolved).to_yaml() == resolved


def test_a_stepped_range_is_listed_exactly_and_allowed_in_a_grid(tmp_path: Path) -> None:
    sweep = read(
        tmp_path, PLAIN, ["train.affine={low: 0.1, high: 0.4, step: 0.1}", "train.epochs={low: 2, high: 6, step: 2}"]
    )
    assert [axis.listed() for axis in sweep.axes] == [(2, 4, 6), (0.1, 0.2, 0.3, 0.4)]
    assert sweep.grid_cells() == 12


# What is refused


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("epoch: 3", r"there is no key `epoch`"),
        ("train: {epoch: 3}", r"there is no key `train.epoch`\. Did you mean `epochs`\?"),
        ("data: {epochs: 3}", r"there is no key `data.epochs`\. Did you mean `train.epochs`\?"),
        ("train.epochs: 3", r"there is no key `train.epochs`\. Write `train: \{epochs: …\}`"),
        ("train: {epochs: -1}", r"`train.epochs` must be a whole number >= 0, but got -1"),
        ("train: {epochs: '3'}", r"must be a whole number >= 0, but got '3'\. Take the quotes away"),
        ("train: {epochs: 2.5}", r"must be a whole number >= 0, but got 2.5"),
        ("train: {epochs: true}", r"must be a whole number >= 0, but got true"),
        ("train: {epochs: null}", r"must be a whole number >= 0, but got nothing"),
        ("train: {learning_rate: 0}", r"must be a number > 0, but got 0"),
        ("train: {learning_rate: .inf}", r"must be a number > 0, but got inf\. It must be finite"),
        ("train: {learning_rate: 1e999}", r"It must be finite"),
        ("train: {erasing: 1.5}", r"must be a number from 0 to 1, but got 1.5"),
        ("train: {sampler: shufle}", r"one of pk, balanced, shuffle, but got 'shufle'\. Did you mean `shuffle`\?"),
        ("train: {warmup_epochs: 11}", r"`train.warmup_epochs` must not be larger than `train.epochs`, but got 11"),
        ("train: {images_per_individual: 65}", r"must not be larger than `train.batch_size`, but got 65"),
        ("search: {scheduler: asha, grace: 11}", r"`search.grace` must not be larger"),
        (
            "train: {precision: [fp32, bf16]}",
            r"`train.precision` takes one value and cannot be an axis, but got a list",
        ),
        ("data: {root: {low: 1, high: 2}}", r"`data.root` takes one value and cannot be an axis, but got a mapping"),
        ("train: {epochs: []}", r"`train.epochs` is an empty list"),
        ("train: {epochs: [3, 5, 3]}", r"`train.epochs` has the value 3 twice"),
        ("train: {learning_rate: [1, 1.0]}", r"`train.learning_rate` has the value 1.0 twice"),
        ("data: {image_size: [64, 64x64]}", r"`data.image_size` has the value 64 twice"),
        ("train: {epochs: [[3]]}", r"must be a whole number >= 0, but got a list"),
        ("train: {affine: {low: 0.5, high: 0.5, step: 0.1}}", r"`low < high` must hold for train.affine, .*low=0.5"),
        (
            "train: {affine: {low: 0.1, high: 0.5}}",
            r"a grid cannot list the values of the range `train.affine`.*Write a list",
        ),
        ("train: {epochs: {low: 1, high: 5}}", r"a grid cannot list the values of the range `train.epochs`"),
        ("train: {affine: {low: 0.1, high: 2, step: 0.1}}", r"`train.affine.high` must be a number from 0 to 1"),
        (
            "train: {affine: {low: 0.1, high: 0.5, step: 0.3}}",
            r"in whole steps, but the last one is at 0.4\. Write high: 0.4",
        ),
        ("train: {affine: {low: 0.1, high: 0.5, step: 0}}", r"`train.affine.step` must be a number > 0, but got 0"),
        ("train: {epochs: {low: 1, high: 99999999, step: 1}}", r"must have at most 10000 steps"),
        ("train: {affine: {low: 0, high: 0.5, log: true}}", r"a range with log, so its low must be > 0"),
        ("train: {affine: {low: 0.1, high: 0.5, log: true, step: 0.1}}", r"has log and step"),
        ("train: {affine: {low: 0.1, high: 0.5, log: 1, step: 0.1}}", r"`train.affine.log` must be true or false"),
        ("train: {affine: {low: 0.1, high: 0.5, setp: 1}}", r"`train.affine` has no key `setp`.*Did you mean `step`\?"),
        ("train: {affine: {low: 0.1}}", r"`train.affine` is a range without `high`"),
        ("train: {flip: {low: 1, high: 2}}", r"must be one of none, augment, new_individual, but got a mapping"),
        ("retrieval: {temperature: {low: 0.1, high: 0.2}}", r"searched exhaustively, so a range needs a step"),
        ("retrieval: {neighbours: [1, 0]}", r"`retrieval.neighbours` must be a whole number from 1 to 1000, but got 0"),
        ("data: {val_fraction: 1}", r"`data.val_fraction` must be a number > 0 and < 1, but got 1"),
        ("data: {image_size: 256x}", r"'HEIGHTxWIDTH', each side from 16 to 4096, but got '256x'"),
        ("data: {label_column: 7}", r"`data.label_column` must be text, but got 7\. Write it in quotes"),
        ("data: {root: ''}", r"`data.root` must be text, but got ''"),
        ("data: cats", r"`data` is a section with keys"),
        (
            "split: half",
            r"`split.kind` must be one of stratified, kfold, .*halves, but got 'half'\. Did you mean `halves`",
        ),
        (
            "search: {objective: recall@3}",
            r"`search.objective` must be one of recall@1, .*map@5, .*_individuals, but got 'recall@3'",
        ),
        ("search: {trials: 5}", r"`search.trials` has no meaning in a grid"),
        ("search: {strategy: random}", r"`strategy: random` needs an axis"),
        ("resources: {cpus: 0}", r"`resources.cpus` must be a number > 0, but got 0"),
        ("search: {storage: study.db}", r"`search.storage` must be a URL such as sqlite:///.* but got 'study.db'"),
        ("tracking: {mlflow: localhost}", r"`tracking.mlflow` must be the URL of a server, .* but got 'localhost'"),
        ("tracking: {mlflow: 'ftp://x/y'}", r"`tracking.mlflow` must be the URL of a server, .* but got 'ftp://x/y'"),
        ("tracking: {wandb: no}", r"`tracking.wandb` must be one of off, offline, online, but got 'no'"),
        ("bundle: {thumbnails: yes}", r"`bundle.thumbnails` must be true or false, but got 'yes'"),
        ("name: again", r"`name` is given twice, first in line 1"),
        ("[1, 2]: 3", r"a key must be a word"),
    ],
)
def test_a_fault_has_its_line_rule_and_remedy(tmp_path: Path, line: str, message: str) -> None:
    found = faults(tmp_path, PLAIN + line + "\n")
    assert len(found) == 1, found
    assert found[0][0] == 4
    assert re.search(message, found[0][1]), found[0][1]


@pytest.mark.parametrize(
    ("encoder", "expected"),
    [
        ("resnet18", r"Did you mean `torchvision:resnet18`\?"),
        ("torchvison:resnet18", r"Did you mean `torchvision`\?"),
        ("tiny:x", r"`tiny` takes no name, every other family needs one"),
        ("'hf:'", r"`tiny` takes no name, every other family needs one"),
    ],
)
def test_an_encoder_of_an_unknown_family_is_refused(tmp_path: Path, encoder: str, expected: str) -> None:
    ((_, message),) = faults(tmp_path, PLAIN, [f"model.encoder={encoder}"])
    assert "`model.encoder` must be tiny, torchvision:NAME, hf:NAME" in message
    assert re.search(expected, message)


@pytest.mark.parametrize("name", ["..", "a/b", "-x", "a b", "été", "x" * 65, ".hidden", "end.", ""])
def test_a_name_that_is_no_safe_folder_name_is_refused(tmp_path: Path, name: str) -> None:
    ((line, message),) = faults(tmp_path, PLAIN.replace("plain", f"'{name}'"))
    assert line == 1
    assert message.startswith("`name` must be 1 to 64 letters")


def test_required_keys_are_asked_for(tmp_path: Path) -> None:
    found = faults(tmp_path, "train: {epochs: 3}\n")
    assert [message.split(":")[0] for _, message in found] == [
        "`name` must be given",
        "`model.encoder` must be given",
        "`loss.name` must be given",
    ]


def test_a_parameter_that_the_loss_does_not_have_is_refused_with_those_it_has(tmp_path: Path) -> None:
    found = faults(tmp_path, PLAIN.replace("arcface", "arcface, margin: 0.5, gamma: [1, 2]"))
    assert found == [
        (3, "arcface has no parameter `margin`; it has margin_degrees, scale. Did you mean `margin_degrees`?"),
        (3, "arcface has no parameter `gamma`; it has margin_degrees, scale."),
    ]


def test_a_parameter_that_one_loss_of_a_list_lacks_is_refused(tmp_path: Path) -> None:
    ((_, message),) = faults(tmp_path, PLAIN.replace("arcface", "[arcface, proxy_anchor], scale: 3"))
    assert message.startswith("proxy_anchor has no parameter `scale`. Give each loss its own parameters")


def test_a_loss_parameter_of_the_wrong_value_is_refused(tmp_path: Path) -> None:
    ((_, message),) = faults(tmp_path, PLAIN.replace("arcface", "triplet, mining: easy"))
    assert "`loss.mining` must be one of semihard, hard, all, batch_hard, but got 'easy'" in message
    ((_, message),) = faults(tmp_path, PLAIN.replace("arcface", "arcface, margin_degrees: 200"))
    assert "`loss.margin_degrees` must be a number from 0 to 180, but got 200" in message


@pytest.mark.parametrize(
    ("alternatives", "message"),
    [
        ("[{scale: 3}]", r"each alternative of `loss` is a mapping with `name`, but this one has none"),
        ("[{name: arcface}, 3]", r"each alternative of `loss` is a mapping with `name`"),
        ("[{name: [arcface]}]", r"but got a list\. An alternative has one"),
        ("[{name: arcface}, {name: arcface}]", r"`loss` has the alternative arcface twice"),
        ("[{name: arcface, beta: 1}]", r"arcface has no parameter `beta`; it has margin_degrees, scale"),
        ("[{name: arcfase}]", r"Did you mean `arcface`\?"),
        ("[arcface, cosface]", r"`loss` is a section with keys\. Write `loss: \{name: …\}`"),
        ("[]", r"`loss` is a section with keys"),
        ("[{name: arcface, scale: {low: 3, high: 4}}]", r"cannot list the values of the range `loss.arcface.scale`"),
    ],
)
def test_a_fault_in_an_alternative_is_reported(tmp_path: Path, alternatives: str, message: str) -> None:
    found = faults(tmp_path, PLAIN.replace("{name: arcface}", alternatives))
    assert len(found) == 1, found
    assert found[0][0] == 3
    assert re.search(message, found[0][1]), found[0][1]


@pytest.mark.parametrize("loss", sorted(set(LOSSES) - ACCEPTS_NEGATIVES))
def test_negatives_with_a_loss_that_cannot_take_them_are_refused(tmp_path: Path, loss: str) -> None:
    text = PLAIN.replace("arcface", f"[{loss}, supcon]") + "train: {new_whale: [ignore, negative]}\n"
    ((line, message),) = faults(tmp_path, text)
    assert line == 4
    assert re.search(rf"needs a loss that can take negatives .*but got {loss}\. Take `new_whale: ignore`", message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "train: {head_epochs: [0, 10]}",
            r"must be smaller than `train.epochs`, but got 10 and 10\. .*`freeze: trunk`",
        ),
        ("train: {head_epochs: 2, epochs: [2, 9]}", r"must be smaller than `train.epochs`, but got 2 and 2"),
        (
            "train: {head_epochs: 1}\nmodel: {encoder: tiny, freeze: [none, trunk]}",
            r"but got `freeze: trunk`\. Leave one",
        ),
        (
            "train: {head_epochs: 1}\nmodel: {encoder: tiny, neck: none, embedding_size: null}\nloss: {name: supcon}",
            r"needs a head or proxies to train, but got `neck: none` and a loss that has no proxies \(supcon\)",
        ),
        (
            "train: {negatives_share: 0.2}",
            r"no meaning with `train.new_whale: ignore`\. Take `train.new_whale: negative`, or leave it out",
        ),
        (
            "train: {negatives_share: 0.2, new_whale: negative, sampler: shuffle}\nloss: {name: supcon}",
            r"no meaning with `train.sampler: shuffle`\. Take `train.sampler: pk`",
        ),
        (
            "train: {negatives_share: [0.2, 0.9], new_whale: negative, batch_size: 32}\nloss: {name: supcon}",
            r"room for the images of an individual, but a batch of 32 less 90% has room for 3 of 4",
        ),
        (
            "train: {pseudo_labels: 0.9, new_whale: [ignore, negative]}\nloss: {name: supcon}",
            r"that `new_whale: negative` trains as negatives\. Take `new_whale: ignore`",
        ),
        ("train: {pseudo_epochs: 3}", r"no meaning without `train.pseudo_labels`\. Give that a probability"),
        (
            "train: {memory: 64}\nloss: {name: [supcon, arcface, proxy_nca]}",
            r"losses that compare images \(contrastive, .*\), but got arcface, proxy_nca, which .* Leave it out",
        ),
        (
            "loss: {name: dynamic_arcface, margin_degrees_low: [3, 30]}",
            r"`loss.margin_degrees_low` must not be larger than `loss.margin_degrees_high`, but got 30 and 28.6",
        ),
        (
            "loss: [{name: triplet}, {name: dynamic_arcface, margin_degrees_low: 9, margin_degrees_high: 8}]",
            r"`loss.dynamic_arcface.margin_degrees_low` must not be larger than .*, but got 9 and 8",
        ),
    ],
)
def test_invalid_stages_margins_and_memory_are_refused(tmp_path: Path, text: str, message: str) -> None:
    given = {line.partition(":")[0] for line in text.splitlines()}
    rest = [line for line in PLAIN.splitlines() if line.partition(":")[0] not in given]
    ((_, found),) = faults(tmp_path, "\n".join([*rest, text, ""]))
    assert re.search(message, found), found


@pytest.mark.parametrize("loss", sorted(ACCEPTS_NEGATIVES))
def test_negatives_are_accepted_by_losses_that_support_them(tmp_path: Path, loss: str) -> None:
    sweep = read(tmp_path, PLAIN.replace("arcface", loss) + "train: {new_whale: negative}\n")
    assert sweep.fixed["train.new_whale"] == "negative"


def test_all_faults_are_reported_at_once_in_the_order_of_their_lines(tmp_path: Path) -> None:
    text = PLAIN + "train:\n  epochs: -1\n  clip: -1\nsearch: {objective: f1}\n"
    found = faults(tmp_path, text, ["train.blur=2"])
    assert [line for line, _ in found] == [5, 6, 7, None]
    with pytest.raises(SettingsError, match=r"sweep\.yaml: 4 faults, nothing was started\n  line 5: `train.epochs`"):
        read(tmp_path, text, ["train.blur=2"])


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("", None, r"a sweep file is a mapping of sections, but it is empty"),
        ("# only a comment\n", None, r"but it is empty"),
        ("- name: x\n", 1, r"a mapping of sections, but it holds something else"),
        ("name: [x\n", 2, r"this is not valid YAML at column 1"),
        ("name: x\n\tseed: 1\n", 2, r"this is not valid YAML at column 1: .*cannot start any token"),
        ("name: x\nloss: *other\n", 2, r"an alias \(\*name\) is not read: write it out"),
        ("a: " + "[" * 3000, None, r"nested too deeply"),
        ("name: a\x01b\n", None, r"this is not valid YAML: unacceptable character"),
        ("a: 1\n---\nb: 2\n", 2, r"this is not valid YAML"),
    ],
)
def test_invalid_yaml_is_refused_with_its_position(tmp_path: Path, text: str, line: int | None, message: str) -> None:
    ((found, found_message),) = faults(tmp_path, text)
    assert found == line
    assert re.search(message, found_message), found_message


def test_an_unreadable_file_is_reported_with_the_nearest_name(tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text(PLAIN)
    with pytest.raises(SettingsError, match=r"No such file.*Did you mean `.*sweep\.yaml`"):
        load_sweep(tmp_path / "swep.yaml")
    with pytest.raises(SettingsError, match="cannot be read"):
        load_sweep(tmp_path)
    (tmp_path / "latin.yaml").write_bytes("name: été".encode("latin-1"))
    with pytest.raises(SettingsError, match="UTF-8 text, but byte 6 is not"):
        load_sweep(tmp_path / "latin.yaml")


# Options


def test_an_option_overrides_the_file(tmp_path: Path) -> None:
    options = ["train.epochs=3", "train.learning_rate={low: 1e-5, high: 1e-3}", "train.learning_rate.high=1e-2"]
    sweep = read(tmp_path, PLAIN + "search: {strategy: random}\n", [*options, "search.trials=2"])
    assert sweep.fixed["train.epochs"] == 3
    assert sweep.axes == (Axis("train.learning_rate", "float", low=1e-5, high=1e-2),)


def test_an_option_reaches_the_alternative_that_it_names(tmp_path: Path) -> None:
    options = ["loss.arcface.scale=8", "model.hf-google-vit-base-patch16-224.weights=random"]
    sweep = read(tmp_path, CONDITIONAL, options)
    assert sweep.fixed["loss.arcface.scale"] == 8.0
    assert sweep.fixed["model.hf-google-vit-base-patch16-224.weights"] == "random"
    assert sweep.fixed["model.tiny.weights"] == "pretrained"


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("train.epochs=-1", r"`train.epochs` must be a whole number >= 0, but got -1"),
        ("train.epoch=3", r"there is no key `train.epoch`\. Did you mean `epochs`\?"),
        ("train.epochs", r"must be KEY=VALUE"),
        ("=3", r"must be KEY=VALUE"),
        ("train..epochs=3", r"must be KEY=VALUE"),
        ("train.epochs=", r"must be a whole number >= 0, but got nothing"),
        ("train.epochs=[3", r"this is not valid YAML"),
        ("name.x=3", r"`name` has no keys"),
        (
            "loss.scale=3",
            r"a list of alternatives\. Name the one that is meant \(loss.arcface.KEY, loss.proxy_anchor.KEY\)",
        ),
    ],
)
def test_a_fault_in_an_option_names_the_option(tmp_path: Path, option: str, message: str) -> None:
    ((line, found_message),) = faults(tmp_path, CONDITIONAL, [option])
    assert line is None
    assert found_message.startswith(f"option --set {option}: ")
    assert re.search(message, found_message), found_message


def test_the_data_option_replaces_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "my: photos 🐋"
    assert read(tmp_path, PLAIN + "data: {root: x}\n", data=folder).fixed["data.root"] == str(folder)


# Identity


def test_the_identity_does_not_depend_on_the_order_of_settings(tmp_path: Path) -> None:
    one = read(tmp_path, CONDITIONAL)
    point = {"model.encoder": "tiny", "model.tiny.embedding_size": 64, "loss.name": "arcface", "loss.arcface.scale": 16}
    two = read(tmp_path, PLAIN, ["model.embedding_size=64", "loss.scale=16", "resources.cpus=2", "name=other"])
    first = trial_identity(one.settings(point), data_fingerprint="f" * 16)
    assert re.fullmatch(r"[0-9a-f]{8}", first)
    assert first == trial_identity(two.settings({}), data_fingerprint="f" * 16)
    assert first != trial_identity(two.settings({}), data_fingerprint="e" * 16)


def test_a_key_that_an_older_run_lacks_counts_as_its_default(tmp_path: Path) -> None:
    settings = read(tmp_path, PLAIN, ["data.group_by=twins"]).settings({})  # as before there was the key
    old = {"model": {"encoder": "tiny"}, "loss": {"name": "arcface"}}
    assert trial_identity(old, data_fingerprint="") == trial_identity(settings, data_fingerprint="")


def test_the_settings_of_an_older_run_are_completed_by_the_defaults(tmp_path: Path) -> None:
    settings = read(tmp_path, PLAIN, ["train.epochs=3", "data.group_by=twins"]).settings({})
    old = {key: dict(part) if isinstance(part, dict) else part for key, part in settings.items()}
    del old["train"]["ema"], old["train"]["layer_decay"], old["loss"]["scale"], old["data"]["group_by"]
    assert completed(old) == settings
    assert "ema" not in old["train"]


@pytest.mark.parametrize(
    ("option", "another"),
    [
        ("train.epochs=11", True),
        ("loss.scale=63", True),
        ("seed=1", True),
        ("train.layer_decay=0.75", True),
        ("train.head_epochs=1", True),
        ("train.ema=0.999", True),
        ("train.ema=0", False),
        ("train.sampler=balanced", True),
        ("split=halves", True),
        ("data.image_size=64", True),
        ("train.evaluate_every=2", True),
        ("data.root=elsewhere", False),
        ("retrieval.neighbours=[1, 2]", False),
        ("search.objective=map@5", False),
        ("tracking.wandb=offline", False),
        ("resources.gpus=1", False),
        ("bundle.examples=1", False),
    ],
)
def test_only_training_settings_are_part_of_the_identity(tmp_path: Path, option: str, another: bool) -> None:
    base = trial_identity(read(tmp_path, PLAIN).settings({}), data_fingerprint="")
    changed = trial_identity(read(tmp_path, PLAIN, [option]).settings({}), data_fingerprint="")
    assert (changed != base) == another


def test_a_weights_file_is_identified_by_its_contents(tmp_path: Path) -> None:
    ids = {}
    for name, content in (("a.pth", b"1"), ("b.pth", b"1"), ("c.pth", b"2")):
        (tmp_path / name).write_bytes(content)
        settings = read(tmp_path, PLAIN, [f"model.weights={tmp_path / name}"]).settings({})
        ids[name] = trial_identity(settings, data_fingerprint="")
    assert ids["a.pth"] == ids["b.pth"] != ids["c.pth"]


# The reference


def test_the_reference_has_every_key_and_every_parameter_in_110_columns() -> None:
    text = reference_text()
    assert max(map(len, text.splitlines())) <= 110
    for setting in SETTINGS:
        assert re.search(rf"^{re.escape(setting.key)} ", text, re.MULTILINE), setting.key
    for name in LOSSES:
        assert re.search(rf"^{name} ", text, re.MULTILINE), name


def test_every_default_is_a_value_that_its_key_takes() -> None:
    for setting in SETTINGS:
        if not hasattr(setting.default, "name"):
            value = setting.check(setting.default)
            assert value == setting.default
            assert type(value) is type(setting.default)


def test_the_choices_of_the_schema_are_those_that_are_implemented() -> None:
    from whale_ray.data.split import SPLITS
    from whale_ray.learning.encoders.backbone_families import ENCODERS
    from whale_ray.learning.encoders.layers import NECKS, POOLS
    from whale_ray.retrieval.search.voting import VOTES

    choices = {setting.key: set(setting.choices) for setting in SETTINGS}
    assert set(ENCODER_FAMILIES) == set(ENCODERS)
    assert choices["retrieval.vote"] == set(VOTES)
    assert choices["split.kind"] == set(SPLITS)
    assert choices["model.neck"] == {*NECKS, "none"}
    assert choices["loss.name"] == {*LOSSES, "none"}
    assert choices["model.pool"] == {"auto", *POOLS}


def test_a_sweep_loads_without_torch_or_ray(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(CONDITIONAL)
    code = f"""
        import sys
        from whale_ray import load_sweep
        load_sweep({str(path)!r})
        print(*({{"torch", "ray", "numpy", "optuna"}} & set(sys.modules)))
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "\n"


BARE = ["loss.name=none", "train.epochs=0", "model.neck=none", "model.embedding_size=null"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["train.epochs=0"], "goes with `loss: {name: none}` alone"),
        (["loss.name=none"], "goes with `loss: {name: none}` alone"),
        (["loss.name=none", "train.epochs=[0, 5]"], "but got epochs 0, 5 and loss none"),
        (
            ["loss.name=none", "train.epochs=0"],
            "leaves a neck at its random initial weights, but got model.neck linear",
        ),
        (["model.neck=none"], "Write `embedding_size: null`"),
    ],
)
def test_settings_that_need_training_are_refused_without_training(
    tmp_path: Path, options: list[str], expected: str
) -> None:
    assert any(expected in message for _, message in faults(tmp_path, PLAIN, options))


def test_model_rules_hold_for_each_of_several_models(tmp_path: Path) -> None:
    text = PLAIN.replace("model: {encoder: tiny}", "model: MODEL")
    assert text != PLAIN
    one, other = "{encoder: tiny, neck: bnneck}", "{encoder: 'torchvision:squeezenet1_1', weights: random, MORE}"
    both = text.replace("MODEL", f"[{one}, {other}]")
    frozen = both.replace("neck: bnneck", "neck: none, embedding_size: null")
    bare = frozen.replace("MORE", "neck: none, embedding_size: null")
    untrained = ["loss.name=none", "train.epochs=0"]
    read(tmp_path, bare, untrained)
    for model, options, expected in (
        (both.replace("MORE", "neck: none, embedding_size: null"), untrained, "but got model.tiny.neck bnneck"),
        (both.replace("MORE", "neck: none, embedding_size: 8"), [], "Write `embedding_size: null`"),
        (both.replace("MORE", "freeze: trunk"), ["train.epochs=5", "train.head_epochs=1"], "but got `freeze: trunk`"),
    ):
        assert any(expected in message for _, message in faults(tmp_path, model, options)), expected


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            ["retrieval.whitened_size=[8, 16]"],
            "`retrieval.whitened_size` has several values, but no effect with `whiten",
        ),
        (["retrieval.rerank_k1=[10, 20]"], "no effect with `rerank: none`"),
        (["retrieval.temperature=[0.05, 0.1]", "retrieval.vote=nearest"], "no effect with `vote: nearest`"),
        (["train.images_per_individual=[2, 4]", "train.sampler=shuffle"], "no effect with `sampler: shuffle`"),
        (["train.layer_decay=[0.7, 0.9]", "model.freeze=trunk"], "no effect with `freeze: trunk`"),
        ([*BARE, "train.learning_rate=[0.1, 0.2]"], "no effect with `epochs: 0`"),
        ([*BARE, "train.pseudo_labels=0.9"], "trains once more, but `epochs: 0` trains nothing"),
        (["train.keep=best", "split.kind=kfold"], "but the bundle of `split: kfold` has none"),
        (["train.keep=best", "bundle.retrain_on_all=true"], "but the bundle of `bundle.retrain_on_all` has none"),
        (["retrieval.new_share=0.1"], "is the share of `decide: cost`, but decide is balanced"),
    ],
)
def test_an_axis_without_effect_is_refused(tmp_path: Path, options: list[str], expected: str) -> None:
    found = [message for _, message in faults(tmp_path, PLAIN, options)]
    assert any(expected in message for message in found), found


@pytest.mark.parametrize("gpus", ["2", "1.5", "8.0"])
def test_a_trial_on_several_gpus_is_refused_but_its_earlier_run_folder_opens(tmp_path: Path, gpus: str) -> None:
    ((_, message),) = faults(tmp_path, PLAIN, [f"resources.gpus={gpus}"])
    assert "`resources.gpus` must be at most 1, but got" in message
    assert f"write `resources: {{workers: {math.ceil(float(gpus))}, gpus: 1}}`" in message
    assert read(tmp_path, PLAIN, ["resources.gpus=1"]).fixed["resources.gpus"] == 1.0
    (tmp_path / "sweep.yaml").write_text(PLAIN + f"resources: {{gpus: {gpus}}}\n")
    assert load_sweep(tmp_path / "sweep.yaml", is_recorded=True).fixed["resources.gpus"] == float(gpus)


def test_workers_on_a_share_of_a_gpu_are_refused(tmp_path: Path) -> None:
    ((_, message),) = faults(tmp_path, PLAIN, ["resources.workers=2", "resources.gpus=0.5"])
    assert "each of 2 workers of a trial needs a whole GPU or none, but `resources.gpus` is 0.5" in message
    assert read(tmp_path, PLAIN, ["resources.workers=2", "resources.gpus=1"]).fixed["resources.workers"] == 2


def test_an_axis_with_an_effect_under_some_values_is_accepted(tmp_path: Path) -> None:
    read(tmp_path, PLAIN, ["retrieval.whitened_size=[8, 16]", "retrieval.whiten=[none, pca]"])
    read(tmp_path, PLAIN, ["retrieval.temperature=[0.05, 0.1]", "retrieval.vote=[nearest, softmax]"])


def test_reranking_for_class_means_alone_is_refused(tmp_path: Path) -> None:
    options = ["retrieval.rerank=[none, k_reciprocal]"]
    found = faults(tmp_path, PLAIN, [*options, "retrieval.vote=centroid"])
    assert any(
        "`rerank: k_reciprocal` scores images, but `vote: centroid` scores none" in found_message
        for _, found_message in found
    )
    read(tmp_path, PLAIN, [*options, "retrieval.vote=[centroid, nearest]"])


def test_a_classifier_needs_a_proxy_loss_and_an_image_vote(tmp_path: Path) -> None:
    options = ["retrieval.classifier_weight=[0, 0.3]"]
    for losses in ("triplet", "[supcon, contrastive]"):
        found = faults(tmp_path, PLAIN, [*options, f"loss.name={losses}"])
        assert any(
            "`classifier_weight` needs a loss with proxies (arcface, " in found_message for _, found_message in found
        )
    found = faults(tmp_path, PLAIN, [*options, "loss.name=arcface", "retrieval.vote=centroid"])
    assert any(
        "`classifier_weight` scores images, but `vote: centroid` scores none" in found_message
        for _, found_message in found
    )
    read(tmp_path, PLAIN, [*options, "loss.name=[triplet, arcface]"])
    read(tmp_path, PLAIN, ["retrieval.classifier_weight=0", "loss.name=triplet"])


def test_a_frozen_encoder_alone_is_a_sweep(tmp_path: Path) -> None:
    options = ["loss.name=none", "train.epochs=0", "model.neck=none", "model.embedding_size=null"]
    settings = read(tmp_path, PLAIN, options).settings({})
    assert (settings["loss"], settings["train"]["epochs"]) == ({"name": "none"}, 0)
    assert settings["model"]["embedding_size"] is None
