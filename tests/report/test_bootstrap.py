"Paired resampling: draws that depend on the images alone, intervals that cover what they should, several seeds as one."
import numpy as np
import pytest

from pointwssis.core import DataError, write_json
from pointwssis.report import report
from pointwssis.report.bootstrap import DrawnScore, draws, drawn_score, paired_difference, paired_share
from pointwssis.report.evidence import Evidence
from pointwssis.report.matches import Detections, Matches, Overlaps, Record


def mean_of(values, images=None):
    "A score that is the mean of a number an image."
    values = np.asarray(values, float)
    return DrawnScore(tuple(images or range(len(values))), lambda w: w @ values / w.sum(1))


def test_draws_are_sets_of_the_same_size_and_the_same_again():
    made = draws(tuple(range(40)), 200, 3)
    assert made.shape == (201, 40) and (made[0] == 1).all() and (made.sum(1) == 40).all()
    assert .3 < (made[1:] == 0).mean() < .45
    assert (draws(tuple(range(40)), 200, 3) == made).all() and (draws(tuple(range(40)), 200, 4) != made).any()


def test_the_interval_of_a_mean_is_the_known_one():
    values = np.random.default_rng(0).normal(1, 2, 400)
    found = paired_difference([mean_of(values)], [mean_of(np.zeros(400))], 4000)
    half = 1.96 * values.std() / 20
    assert found.value == pytest.approx(values.mean()) and found.is_real
    assert [found.low, found.high] == pytest.approx([values.mean() - half, values.mean() + half], abs=.02)


def test_what_both_share_is_no_uncertainty():
    common = np.random.default_rng(1).normal(0, 100, 50)
    found = paired_difference([mean_of(common + 1)], [mean_of(common)])
    assert [found.value, found.low, found.high] == pytest.approx([1, 1, 1])


def test_seeds_on_the_same_images_share_their_draws():
    values = np.random.default_rng(2).normal(0, 1, 100)
    one = paired_difference([mean_of(values)], [mean_of(values * 0)])
    same = paired_difference([mean_of(values)] * 3, [mean_of(values * 0)] * 3)
    own = paired_difference(*([mean_of(v, range(i, i + 100)) for i in (0, 100, 200)] for v in (values, values * 0)))
    assert [same.value, same.low, same.high] == pytest.approx([one.value, one.low, one.high])
    assert own.value == pytest.approx(one.value) and own.high - own.low < .75 * (one.high - one.low)


def test_a_share_is_of_the_means():
    found = paired_share([mean_of([1, 1]), mean_of([2, 2])], [mean_of([2, 2]), mean_of([4, 4])])
    assert [found.value, found.low, found.high] == [50, 50, 50]


@pytest.mark.filterwarnings("error")
def test_what_no_draw_defines_has_no_interval():
    assert paired_share([mean_of([1, 1])], [mean_of([0, 0])]) is None
    assert paired_difference([mean_of([np.nan, np.nan])], [mean_of([1, 1])]) is None
    some = paired_share([mean_of([1, 1, 1])], [mean_of([0, 0, 2])])      # draws without the third image have no share
    assert np.isfinite([some.low, some.high]).all()


@pytest.mark.parametrize("a, b, message", [([], [], "no pairs"), ([[1, 2]], [], "no pairs"), ([[1, 2]], [[1, 2, 3]], "different images")])
def test_what_is_no_pair_is_refused(a, b, message):
    with pytest.raises(DataError, match=message): paired_difference([*map(mean_of, a)], [*map(mean_of, b)])


def test_a_record_gives_ap_and_overlap():
    right = np.ones((10, 2), bool)
    found = Detections(np.array([0, 1]), np.zeros(2, int), right, ~right)
    matches = Matches(np.array([4, 6]), ("thing",), np.array([[1, 2]]), {"net": found})
    record = Record(matches, {"sw": Overlaps(np.array([0, 1]), np.array([.2, .4]))})
    assert drawn_score(record, "net").images == (4, 6) and drawn_score(record, "net").drawn(10)[0] == record.matches.ap("net")[0]
    assert drawn_score(record, "sw", "miou").drawn(10)[0] == pytest.approx(30)
    for name, what in (("sw", "ap"), ("net", "miou")):
        with pytest.raises(DataError, match=f"no {what} of '{name}'"): drawn_score(record, name, what)


def test_networks_with_equal_detections_are_drawn_once(tmp_path, monkeypatch):
    right = np.ones((10, 2), bool)
    found = Detections(np.array([0, 1]), np.zeros(2, int), right, ~right)
    other = Detections(np.array([1, 0]), np.zeros(2, int), right, ~right)
    drawn, precision = [], Matches._precision
    monkeypatch.setattr(Matches, "_precision", lambda self, name, weights: drawn.append(name) or precision(self, name, weights))
    for seed, networks in ((0, {"teacher": found, "supervised": found}), (1, {"teacher": found, "supervised": other})):
        matches = Matches(np.array([4, 6]), ("thing",), np.array([[1, 2]]), networks)
        write_json(tmp_path / f"toys/10p/s{seed}/evaluate/matches.json", {"val": Record(matches, {}).packed()})
    evidence = Evidence(tmp_path)
    scores = [evidence.score(f"toys/10p/s{seed}/evaluate/metrics.json#{name}_ap_percent") for seed in (0, 1) for name in ("teacher", "supervised")]
    for score in scores: score.drawn()
    assert drawn == ["teacher", "supervised"] and scores[0].drawn() is scores[2].drawn() is not scores[3].drawn()


def test_draws_of_another_process_are_not_made_again(tmp_path, monkeypatch):
    right = np.ones((10, 2), bool)
    matches = Matches(np.array([4, 6]), ("thing",), np.array([[1, 2]]), {"teacher": Detections(np.array([0, 1]), np.zeros(2, int), right, ~right)})
    write_json(tmp_path / "toys/10p/s0/evaluate/matches.json", {"val": Record(matches, {}).packed()})
    reference = "toys/10p/s0/evaluate/metrics.json#teacher_ap_percent"
    evidence, sent = Evidence(tmp_path), report._drawn_of(tmp_path, [reference])     # as a process sends them
    evidence.take(sent)
    monkeypatch.setattr(Matches, "_precision", lambda *_: pytest.fail("drawn again"))
    assert len(evidence.score(reference).drawn()) == 1 + report.RESAMPLES
