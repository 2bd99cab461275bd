"Points of a weak file."
from pointwssis.data import coco
from pointwssis.data.points import Point, points_of, xy_by_id


def test_points_of_uses_the_class_index(tmp_path):
    table = coco.CategoryTable((2, 40), ("a", "b"))
    weak = [{"id": 9, "image_id": 1, "category_id": 40, "point": [3, 4.5], "iscrowd": 0}]
    coco.save(tmp_path / "w.json", [{"id": i, "file_name": "x", "width": 9, "height": 9} for i in (1, 2)], weak, table)
    data = coco.load(tmp_path / "w.json", need="points")
    assert points_of(data, 1) == [Point(3.0, 4.5, 1, 9)] and points_of(data, 2) == []
    assert xy_by_id(data) == {9: [3, 4.5]}
