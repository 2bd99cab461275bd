"Presets and overrides: what is refused, what follows from what, and that words known here are known where they are used."
from dataclasses import asdict

import pytest

from pointwssis import config
from pointwssis.config import CHOICES, override
from pointwssis.core import ConfigError
from pointwssis.detector.cells import LEVEL_STRIDES
from pointwssis.registry import DATASETS, DETECTORS, POINTS, PROMPTS, REFINERS
from pointwssis.runs.presets import lr_notes, preset
from pointwssis.training.optimizer import OPTIMIZERS, SCHEDULES


def test_known_words_are_those_of_the_code():
    levels = range(-1, len(LEVEL_STRIDES))
    users = {"point_strategy": POINTS, "prompt": PROMPTS, "detector": DETECTORS, "kind": REFINERS, "optimizer": OPTIMIZERS,
             "schedule": SCHEDULES, "level": levels}
    assert {key: set(CHOICES[key]) for key in users} == {key: set(names) for key, names in users.items()}


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize("split", ["1p", "12.5p", "50p", "90p"])
def test_every_preset_is_one_that_can_run(dataset, split):
    cfg = preset(dataset, split)
    for net in (cfg.teacher, cfg.student): assert len(net.scale_ranges) == len(net.num_grids) == len(LEVEL_STRIDES)
    for schedule in (cfg.teacher_train, cfg.student_train, cfg.refiner_train):
        assert all(0 < at < schedule.steps for at in schedule.decay_at) and schedule.warmup_steps < schedule.steps
    assert 0 < min(cfg.teacher_train.checkpoint_steps) <= max(cfg.teacher_train.checkpoint_steps) <= cfg.teacher_train.steps


def test_decays_and_checkpoints_move_with_the_length():
    short = preset("coco", "10p", **{"teacher_train.steps": 450, "student_train.steps": 2700})
    assert short.teacher_train.decay_at == (350, 400) and short.teacher_train.checkpoint_steps == (300, 400)
    assert short.student_train.decay_at == (2100, 2500)
    assert short.refiner_train == preset("coco").refiner_train
    chosen = preset("coco", "10p", **{"teacher_train.steps": 450, "teacher_train.checkpoint_steps": [7]})
    assert chosen.teacher_train.checkpoint_steps == (7,) and chosen.teacher_train.decay_at == (350, 400)
    assert preset("shapes", **{"teacher_train.steps": 1}).teacher_train.checkpoint_steps == (1, 1)


def test_the_learning_rate_follows_the_batch_unless_it_is_given():
    larger = {"student_train.batch_size": 64, "refiner_train.batch_size": 4}
    cfg, plain = preset("coco", **larger), preset("coco")
    assert cfg.student_train.lr == pytest.approx(4 * plain.student_train.lr) and cfg.refiner_train.lr == pytest.approx(plain.refiner_train.lr / 4)
    assert cfg.teacher_train == plain.teacher_train and preset("coco", **{"student_train.batch_size": 16}) == plain
    assert preset("coco", **larger, **{"student_train.lr": .01}).student_train.lr == .01
    assert lr_notes(plain, larger) == [
        "student_train.lr is 0.04 instead of 0.01, in proportion to batch_size 64 instead of 16. Set student_train.lr to choose another.",
        lr_notes(plain, {"refiner_train.batch_size": 4})[0]]
    assert lr_notes(plain, {"student_train.batch_size": 64, "student_train.lr": .01}) == []


@pytest.mark.parametrize("kept", [[], [0], [401], [200, 500]])
def test_a_teacher_must_leave_lessons(kept):
    with pytest.raises(ConfigError, match=r"the refiner needs one or more of the teacher's steps 1 to 400"):
        preset("shapes", **{"teacher_train.checkpoint_steps": kept})


@pytest.mark.parametrize("key, value, says", [
    ("prompt", "pint", "unknown prompt 'pint'. Did you mean 'point'?"),
    ("level", 5, "unknown level '5'"),
    ("student_train.schedule", "cos", "unknown student_train.schedule 'cos'. Did you mean 'cosine'?"),
    ("data.short_side", 0, "option 'data.short_side' takes int >= 1, got 0 (int)."),
    ("student.num_grids", [40, 0, 24, 16, 12], "option 'student.num_grids' takes"),
    ("teacher.scale_ranges", [[-1, 72]] * 5, "option 'teacher.scale_ranges' takes"),
    ("teacher_train.steps", True, "takes int, got True (bool)"),
    ("student_train.scale_jitter", [1], "got [1] (list)"),
])
def test_values_that_mean_nothing_are_refused(key, value, says):
    with pytest.raises(ConfigError) as e: preset("shapes", **{key: value})
    assert says in str(e.value) and "\n" not in str(e.value)


@pytest.mark.parametrize("value", [True, False, "bf16"])
def test_an_option_of_earlier_versions_names_the_new_one(value):
    with pytest.raises(ConfigError, match="'student_train.amp'.*'student_train.precision': auto, fp32, bf16 or fp16"):
        preset("shapes", **{"student_train.amp": value})


def test_precisions_are_checked_when_a_configuration_is_made():
    with pytest.raises(ConfigError, match="unknown teacher_train.precision 'fp8'.*auto, fp32, bf16, fp16"):
        preset("shapes", **{"teacher_train.precision": "fp8"})
    assert preset("coco").student_train.precision == "auto"


def test_the_demo_is_shapes_with_shorter_schedules():
    "Networks and data are the same, the recipe is that of one's own data; a student goes on from its teacher, for as many steps."
    demo, shapes = preset("demo"), preset("shapes")
    assert (demo.teacher, demo.student, demo.refiner, demo.data) == (shapes.teacher, shapes.student, shapes.refiner, shapes.data)
    assert (demo.recipe, shapes.recipe) == (preset("custom").recipe, "paper")
    ours = {"copy_paste_prob", "label_weight"}
    assert all(getattr(demo.student_train, key) == getattr(preset("custom").student_train, key) != getattr(shapes.student_train, key) for key in ours)
    for part in ("teacher_train", "refiner_train", "student_train"):
        short, long = (asdict(getattr(cfg, part)) for cfg in (demo, shapes))
        assert {key for key in short if short[key] != long[key]} - ours <= {"steps", "checkpoint_steps"} and short["steps"] < long["steps"]
    assert (demo.student_start, demo.student_train.steps) == ("teacher", demo.teacher_train.steps)
    assert {name for name, found in DATASETS.items() if found.draw} == {"demo", "shapes"}


def test_types_of_options_are_read_once(monkeypatch):
    "A configuration of eighty overrides reads no annotation again: a sweep makes hundreds."
    monkeypatch.setattr(config, "get_type_hints", None)
    assert override(preset("shapes"), "student_train.steps", 7).student_train.steps == 7 and config.neutral_keys()
