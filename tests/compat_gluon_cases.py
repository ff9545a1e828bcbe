"""Programs of Gluon: networks in Python, training with autograd, the model zoo, data and images.

As in compat_cases.py, which runs these as well: only `mx` and numpy, and name -> array or text comes back.
"""

from __future__ import annotations

import hashlib
import os
import random

import numpy as np


def digest(path):
    with open(path, "rb") as file:
        return hashlib.md5(file.read(), usedforsecurity=False).hexdigest()


def gluon_training(mx, folder):
    """A convolutional network, trained by record, backward and step, its parameters written."""
    nn, gluon = mx.gluon.nn, mx.gluon
    mx.random.seed(42)
    images = np.random.RandomState(3).rand(32, 1, 12, 12).astype("float32")
    labels = (images.mean((1, 2, 3)) * 100 % 4).astype(int)
    net = nn.Sequential(prefix="net_")
    with net.name_scope():
        net.add(nn.Conv2D(8, 3, activation="relu"), nn.MaxPool2D(2, 2), nn.BatchNorm(), nn.Dropout(0.3),
                nn.Flatten(), nn.Dense(4))
    net.initialize(mx.init.Xavier(magnitude=2.24), ctx=mx.cpu())
    loss_fn = gluon.loss.SoftmaxCrossEntropyLoss()
    trainer = gluon.Trainer(net.collect_params(), "sgd", {"learning_rate": 0.1, "momentum": 0.9, "wd": 1e-4})
    losses = []
    for _ in range(2):
        for i in range(0, 32, 8):
            data, label = mx.nd.array(images[i:i + 8]), mx.nd.array(labels[i:i + 8])
            with mx.autograd.record():
                loss = loss_fn(net(data), label)
            loss.backward()
            trainer.step(8)
            losses.append(loss.mean().asscalar())
    path = os.path.join(folder, "net.params")
    net.save_parameters(path)
    found = {key: value.asnumpy() for key, value in mx.nd.load(path).items()}
    return {**found, "losses": np.array(losses), "out": net(mx.nd.array(images[:2])).asnumpy(), "repr": repr(net)}


def hybrid_block(mx, folder):
    """A block of one's own, hybridized and exported; the files are compared by their bytes."""
    nn = mx.gluon.nn

    class Residual(nn.HybridBlock):
        def __init__(self, channels, strides=1, **kwargs):
            super().__init__(**kwargs)
            with self.name_scope():
                self.conv1 = nn.Conv2D(channels, 3, strides, 1)
                self.bn1 = nn.BatchNorm()
                self.conv2 = nn.Conv2D(channels, 1, strides) if strides > 1 else None
                self.act = nn.PReLU()
                self.scale = self.params.get("scale", shape=(1, channels, 1, 1), init="ones")

        def hybrid_forward(self, F, x, scale):  # noqa: N803
            y = F.broadcast_mul(self.bn1(self.conv1(x)), scale)
            return self.act(y + (self.conv2(x) if self.conv2 else x))

    net = nn.HybridSequential(prefix="n_")
    with net.name_scope():
        net.add(Residual(4, 2), Residual(4), nn.GlobalAvgPool2D(), nn.Dense(3, activation="tanh"))
    net.initialize(mx.init.One())
    x = mx.nd.arange(2 * 3 * 8 * 8).reshape((2, 3, 8, 8)) / 384
    plain = net(x).asnumpy()
    net.hybridize(static_alloc=True)
    graph = net(x).asnumpy()
    prefix = os.path.join(folder, "net")
    net.export(prefix, epoch=2)
    net.save_parameters(prefix + ".params")
    again = mx.gluon.SymbolBlock.imports(prefix + "-symbol.json", ["data"], prefix + "-0002.params")
    return {"plain": plain, "graph": graph, "imported": again(x).asnumpy(), "names": " ".join(net.collect_params()),
            "symbol": digest(prefix + "-symbol.json"), "params": digest(prefix + "-0002.params"),
            "own": digest(prefix + ".params"), "repr": repr(net)}


def zoo(mx, folder):
    """Names and shapes of all parameters of networks of the zoo, and the result of the smallest."""
    vision = mx.gluon.model_zoo.vision
    found = {}
    for name in ("resnet18_v1", "resnet50_v1", "resnet50_v2", "squeezenet1.0", "squeezenet1.1", "mobilenet0.25",
                 "mobilenetv2_0.25", "densenet121", "vgg11_bn", "alexnet", "inceptionv3"):
        params = vision.get_model(name, prefix="z_").collect_params()
        found[name] = " ".join(f"{key}{tuple(params[key].shape)}" for key in params)
    mx.random.seed(1)
    net = vision.get_model("mobilenet0.25", classes=5)
    net.initialize(mx.init.Xavier())
    found["result"] = net(mx.nd.arange(3 * 64 * 64).reshape((1, 3, 64, 64)) / 12288).asnumpy()
    return found


def gradients(mx, folder):
    nd, autograd = mx.nd, mx.autograd
    w = nd.array([1.0, 2, 3])
    w.attach_grad()
    rows = nd.array([[1, 2], [3, 4]])
    rows.attach_grad(grad_req="add")
    for _ in range(2):
        with autograd.record():
            y = ((rows**2).sum() + rows[0].exp().sum() + nd.concat(rows, rows, dim=0).mean() + (rows.T / 3).sum()
                 + rows.slice_axis(axis=0, begin=0, end=1).sum() + rows.reshape((4,)).max())
        y.backward()
    with autograd.record():
        total = (nd.where(w > 1, w, -w).sum() + nd.clip(w, 0, 2).sum() + nd.maximum(w, 2).sum() + (3 / w).sum()
                 + (2**w).sum() + abs(-w).sum() + nd.softmax(w)[0] * 5 + nd.dot(w, w))
    total.backward()
    first = w.grad.asnumpy()
    with autograd.record():
        output = nd.SoftmaxOutput(w.reshape((1, 3)), nd.array([1]))
    output.backward()
    mx.random.seed(1)
    with autograd.record():
        dropped = nd.Dropout(nd.ones((4, 4)), p=0.5)
    return {"rows": rows.grad.asnumpy(), "total": total.asnumpy(), "first": first, "softmax": w.grad.asnumpy(),
            "dropped": dropped.asnumpy()}


def losses(mx, folder):
    nd, loss = mx.nd, mx.gluon.loss
    pred, label = nd.array([[1.0, 2, 3], [0.5, -1, 2]]), nd.array([[1, 0, 1], [0, 1, 1]])
    signed = 2 * label - 1
    made = {
        "l2": loss.L2Loss()(pred, label), "l1": loss.L1Loss()(pred, label),
        "softmax": loss.SoftmaxCrossEntropyLoss()(pred, nd.array([2, 0])),
        "dense": loss.SoftmaxCELoss(sparse_label=False)(pred, label),
        "sigmoid": loss.SigmoidBCELoss()(pred, label), "kl": loss.KLDivLoss()(nd.log_softmax(pred), nd.softmax(label)),
        "huber": loss.HuberLoss()(pred, label), "hinge": loss.HingeLoss()(pred, signed),
        "squared": loss.SquaredHingeLoss()(pred, signed), "logistic": loss.LogisticLoss()(pred, signed),
        "triplet": loss.TripletLoss()(pred, label, label * 2),
        "cosine": loss.CosineEmbeddingLoss()(pred, label, nd.array([1, -1]))}
    return {name: value.asnumpy() for name, value in made.items()}


def image_pipeline(mx, folder):
    """Folders of images through transforms and a DataLoader, and mx.image's own augmenters."""
    transforms, image = mx.gluon.data.vision.transforms, mx.image
    rows = np.random.RandomState(0).randint(0, 256, (6, 30, 40, 3)).astype("uint8")
    for number, pixels in enumerate(rows):
        os.makedirs(os.path.join(folder, "ab"[number % 2]), exist_ok=True)
        header = mx.recordio.IRHeader(0, 0.0, number, 0)
        encoded = mx.recordio.unpack(mx.recordio.pack_img(header, pixels, quality=3, img_fmt=".png"))[1]
        with open(os.path.join(folder, "ab"[number % 2], f"{number}.png"), "wb") as file:
            file.write(encoded)
    change = transforms.Compose([transforms.Resize(20), transforms.CenterCrop(16), transforms.ToTensor(),
                                 transforms.Normalize([0.5, 0.4, 0.3], [0.2, 0.2, 0.3])])
    dataset = mx.gluon.data.vision.ImageFolderDataset(folder)
    batches = list(mx.gluon.data.DataLoader(dataset.transform_first(change), batch_size=4, num_workers=0))
    source = image.imread(os.path.join(folder, "a", "0.png"))
    random.seed(2)
    window, place = image.random_size_crop(source, (12, 10), (0.1, 1), (0.75, 1.3))
    changed = source
    for augmenter in image.CreateAugmenter((3, 16, 16), resize=20, mean=True, std=True):
        changed = augmenter(changed)
    listed = [[i % 2, f"{'ab'[i % 2]}/{i}.png"] for i in range(6)]
    iterator = image.ImageIter(4, (3, 16, 16), imglist=listed, path_root=folder, resize=20)
    read = list(iterator)
    return {"batch": batches[0][0].asnumpy(), "labels": batches[1][1].asnumpy(), "type": str(batches[0][1].dtype),
            "window": window.asnumpy(), "place": np.array(place), "changed": changed.asnumpy(),
            "iterated": read[1].data[0].asnumpy(),
            "pads": np.array([batch.pad for batch in read]), "synsets": " ".join(dataset.synsets),
            "tensor": mx.nd.image.to_tensor(source).asnumpy()}


def boxes(mx, folder):
    """What stands behind the network of a face detector."""
    nd = mx.nd
    found = nd.array([[0, 0.9, 1, 1, 10, 10], [0, 0.8, 2, 2, 11, 11], [1, 0.7, 2, 2, 11, 11], [0, 0.6, 30, 30, 40, 44],
                      [0, 0.01, 50, 50, 60, 60]])
    settings = {"overlap_thresh": 0.5, "valid_thresh": 0.05, "id_index": 0, "score_index": 1, "coord_start": 2}
    return {"kept": nd.contrib.box_nms(found, **settings).asnumpy(),
            "forced": nd.contrib.box_nms(found, force_suppress=True, topk=3, **settings).asnumpy(),
            "overlap": nd.contrib.box_iou(found[:, 2:], found[:2, 2:]).asnumpy(),
            "mask": nd.contrib.boolean_mask(found, nd.array([1, 0, 0, 1, 0])).asnumpy()}


GLUON_CASES = (gluon_training, hybrid_block, zoo, gradients, losses, image_pipeline, boxes)
