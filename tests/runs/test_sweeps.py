"Lists of runs: what is in them, that a stage is run once, that one failure does not end them, and the command line."
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pointwssis.config import to_dict
from pointwssis.core import ConfigError, StageError, file_hash
from pointwssis.method.ablations import ABLATIONS, VARIANTS, choose_tables, settings_of
from pointwssis.report.report import write_report
from pointwssis.report.results import collect
from pointwssis.report.verify_tables import BARE
from pointwssis.runs.cli import main
from pointwssis.runs.fingerprints import decisive
from pointwssis.runs.runner import reproduce, run_stage
from pointwssis.runs.stage_graph import STAGES, config_of
from pointwssis.runs.sweeps import LABELS, VARIANT, experiments, reproduce_all
from fake_stages import run

pytestmark = pytest.mark.usefixtures("warm")


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_changes_what_it_says_and_no_stage_before(name):
    "The stages that it shares with the method have the same configuration, as far as they look at it."
    reference = {"ours_inside_points": "ours_points_random", "ours_copy_paste_second_round": "ours_copy_paste",
                 "ours_any_size_second_round": "ours_any_size"}.get(name, "recipe_competition" if name.startswith("ours_") else "")
    plain, varied = (to_dict(config_of(overrides=settings_of(v)), whole=True) for v in (reference, name))
    changed = {key for key in plain if plain[key] != varied[key]} - {"variant"}
    assert changed == {"recipe", "student_train"} if name == "ours" else len(changed) == 1
    affected = {stage.name for stage in STAGES.values() if changed - set(stage.ignores)}
    assert "evaluate" in affected and ("teacher" in affected) == (changed == {"teacher_train"})
    assert ("supervised" in affected) == ("student_train" in changed)     # it has the student's schedule


def test_tables_are_chosen_by_name():
    assert choose_tables("") == {} and choose_tables("all") == ABLATIONS
    assert all(table.reference in table.rows.values() for table in ABLATIONS.values())
    with pytest.raises(ConfigError, match="unknown table 'point'. Did you mean 'points'?"): choose_tables("levels,point")
    with pytest.raises(ConfigError, match="unknown variant 'level_7'"): settings_of("level_7")


def test_a_plug_in_may_use_the_tables_of_ablations(tmp_path):
    "A kernel loads plug-ins at its first question about kinds, which must not come while the ablations are imported."
    (tmp_path / "mine.py").write_text("from pointwssis.report.comparisons_ablations import ablation\nfrom pointwssis.registry import POINTS\n"
                                      "@POINTS.register('mine')\ndef mine(mask, rng): return .5, .5\n")
    environ = os.environ | {"POINTWSSIS_PLUGINS": str(tmp_path / "mine.py")}
    code = "import pointwssis.method.ablations; from pointwssis.registry import POINTS; assert 'mine' in POINTS"
    assert subprocess.run([sys.executable, "-c", code], env=environ).returncode == 0


def test_no_row_of_an_ablation_reads_like_a_number():
    "`report --verify` would ask for its evidence."
    assert not [name for table in ABLATIONS.values() for name in table.rows if BARE.match(name)]


def test_the_list_has_main_runs_and_each_variant_once():
    found = experiments(splits=["10p", "1p", "10%"], seeds=[0, 2], tables="all")
    names = [str(e) for e in found]
    assert len(set(names)) == len(names) == 2 * (2 + len(VARIANTS))
    assert names[:2] == ["shapes/10p/s0", "shapes/1p/s0"] and "shapes/10p-prompt_point_with_size/s2" in names
    assert not any("/1p-" in name for name in names)
    assert found[0].stages == tuple(STAGES) and found[2].stages == VARIANT
    few = {str(e): e.stages for e in experiments(tables="all", labels_only=True)}
    assert few["shapes/10p-level_3/s0"] == LABELS and few["shapes/10p-unanswered_background/s0"] == VARIANT
    assert few["shapes/10p-ours/s0"] == LABELS and few["shapes/10p-paper_labels/s0"] == VARIANT     # new labels; a student of known ones


def test_a_second_round_reads_the_student_of_the_first(stages):
    "Without one it says which run is missing; after another first student it is out of date."
    first, second = (e for e in experiments(tables="additions") if e.config.variant in ("recipe_competition", "ours_second_round"))
    def go(one): return {o.stage: o for o in reproduce(one.params, notebooks=stages, stages=one.stages)}
    with pytest.raises(StageError, match="'pseudo' needs 'student_refined', which has not finished in .*10p-recipe_competition.s0. .* of the variant recipe_competition"):
        go(second)
    student, found = go(first)["student_refined"].folder, go(second)
    assert found["pseudo"].metrics["inputs"] == ["first_student_refined", "refiner", "split", "teacher"]
    manifest = json.loads((found["pseudo"].folder / "params.json").read_text())
    assert manifest["inputs"]["first_student_refined/last.safetensors"] == file_hash(student / "artifacts/last.safetensors")
    assert {o.how for o in go(second).values()} == {"kept"}
    assert "first_student_refined" not in found["teacher"].metrics["inputs"] and "first_round" not in first.params["overrides"]
    changed = json.loads((student / "params.json").read_text())
    changed["fingerprint"] = "0" * 64
    (student / "params.json").write_text(json.dumps(changed))
    with pytest.raises(StageError, match="10p-recipe_competition.s0.student_refined was made"): go(second)


@pytest.mark.parametrize("error, settings", [
    (ConfigError, {"first_round": "main"}), (StageError, {"first_round": "main", "variant": "second"}), (StageError, {"first_round": "none_such"})])
def test_a_second_round_without_a_first_is_refused_before_anything_runs(stages, error, settings):
    says = "first_round 'main' is this run itself. Give the second round a name" if error is ConfigError else "'pseudo' needs 'student_refined', which has not"
    with pytest.raises(error, match=says): reproduce({"overrides": settings}, notebooks=stages)
    assert not Path("outputs").exists()
    alone = reproduce({"overrides": settings}, notebooks=stages, stages=("split", "teacher", "refiner"))
    with pytest.raises(error, match=says): run_stage("pseudo", {"overrides": settings}, notebooks=stages)
    assert len(alone) == 3


def test_only_the_masks_of_the_points_are_made_anew_for_a_second_round():
    read = {name for name, stage in STAGES.items() if "first_round" in decisive(stage, to_dict(config_of(overrides={"first_round": "main"})))}
    assert read - {"evaluate", "report"} == {"pseudo"}


def test_variants_share_what_they_do_not_change(stages):
    for experiment in experiments(tables="unmatched_points"):
        how = {o.stage: o.how for o in reproduce(experiment.params, notebooks=stages, stages=experiment.stages)}
    assert {name for name, what in how.items() if what == "ran"} == {"student_refined", "evaluate"}
    assert {name for name, what in how.items() if what == "shared"} == {"split", "teacher", "refiner", "pseudo"}
    assert Path("outputs/runs/shapes/10p-unanswered_background/s0/evaluate/metrics.json").is_file()


def test_an_evaluation_judges_what_is_there_and_again_when_there_is_more(stages):
    first = reproduce({}, notebooks=stages, stages=LABELS)[-1]
    assert first.metrics["inputs"] == ["pseudo", "split", "teacher"]
    assert run_stage("evaluate", {}, notebooks=stages).how == "kept"
    run(stages, "student")
    again = run_stage("evaluate", {}, notebooks=stages)
    assert again.how == "ran" and again.metrics["inputs"] == ["pseudo", "split", "student", "teacher"]
    changed = {"overrides": {"student_train.steps": 7}}                # that student is of another configuration now
    assert run_stage("evaluate", changed, notebooks=stages, force=True).metrics["inputs"] == ["pseudo", "split", "teacher"]


def test_one_failure_does_not_end_the_others(stages, monkeypatch):
    seen = []

    def fails(params, *args, **options):
        seen.append(params["split"])
        if params["split"] != "5p": raise StageError(f"broken at {params['split']}.")
    with pytest.raises(StageError, match="shapes/1p/s0: broken at 1p."): reproduce_all(experiments(splits=["1p", "5p", "9p"]), run=fails)
    assert seen == ["1p", "5p", "9p"]


def test_runs_of_variants_stay_out_of_the_tables_by_split(tmp_path):
    for folder, value in (("10p", 30.0), ("10p-level_0", 11.0)):
        place = tmp_path / "runs/toys" / folder / "s0/evaluate"
        place.mkdir(parents=True)
        (place / "metrics.json").write_text(json.dumps({"student_sw_refined_ap_percent": value}))
    assert [(r["split"], r["variant"]) for r in collect(tmp_path / "runs")] == [("10p", ""), ("10p", "level_0")]
    write_report(tmp_path / "runs", tmp_path / "figures")
    table = (tmp_path / "figures/results_toys.md").read_text()
    assert "30.0" in table and "11.0" not in table


def test_the_command_runs_all_of_them_and_makes_the_tables(tmp_path, monkeypatch, capsys, half_a_second):
    def pretend(wanted, runs, force, begin, tell, jobs, same_code):
        for n, experiment in enumerate(wanted):
            begin(experiment)
            (place := Path(runs) / str(experiment) / "evaluate").mkdir(parents=True)
            (place / "metrics.json").write_text(json.dumps({"student_sw_refined_ap_percent": 20.0 + n}))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pointwssis.runs.sweeps.reproduce_all", pretend)
    assert main(["reproduce", "--splits", "10p,5p", "--seeds", "0,1", "--ablations", "levels"]) == 0
    said = capsys.readouterr().out
    assert "[1/16] shapes/10p/s0" in said and "[16/16] shapes/10p-prompt_point_with_size/s1" in said
    assert Path("outputs/figures/results_shapes.md").is_file()


@pytest.mark.parametrize("words, cure", [
    (["--seeds", "0,x"], "'0,x' is not a list of whole numbers. Write it like 0,1,2."),
    (["--splits", "10p,ten"], "split 'ten' is not a percentage."),
    (["--ablations", "colours"], "unknown table 'colours'."),
])
def test_bad_lists_are_refused_in_one_line(words, cure, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try: code = main(["reproduce", *words])
    except SystemExit as e: code = e.code
    error = capsys.readouterr().err
    assert code == 2 and cure in error and error.count("\n") == 1 and not list(tmp_path.iterdir())
