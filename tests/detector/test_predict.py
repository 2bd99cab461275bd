"Images are read and prepared beside the network, in their order."
import threading
from types import SimpleNamespace

from pointwssis.detector.predict import over_images
from pointwssis.journal import Journal


class Asked:
    "A predictor that notes its threads."
    def __init__(self): self.prepared, self.computed = [], []

    def prepare(self, images):
        self.prepared.append(threading.current_thread())
        return tuple(images)

    def __call__(self, images):
        self.computed.append(threading.current_thread())
        assert isinstance(images, tuple)
        return [10 * x for x in images]


def test_images_are_prepared_off_the_thread_of_the_network():
    data, predict = SimpleNamespace(ids=[3, 1, 2], read_image=float), Asked()
    found = [*over_images(predict, data, lambda ids, images: predict(images), Journal(), batch=2)]
    assert found == [30, 10, 20] and len(predict.prepared) == len(predict.computed) == 2
    assert threading.main_thread() not in predict.prepared and set(predict.computed) == {threading.main_thread()}


def test_a_predictor_without_a_preparation_gets_the_images():
    data = SimpleNamespace(ids=[3, 1, 2], read_image=float)
    assert [*over_images(sum, data, lambda ids, images: [sum(images)] * len(ids), Journal(), batch=2)] == [4, 4, 2]
