"SOLOv2 as student with a ResNet-50, for tools/lazyconfig_train_net.py."
from pointwssis.bridges.d2_training import lazy_config

_parts = lazy_config("student", 50)
model, dataloader, optimizer = _parts["model"], _parts["dataloader"], _parts["optimizer"]
lr_multiplier, train = _parts["lr_multiplier"], _parts["train"]
