"""Programs as people wrote them for MXNet: `tests/fixtures/compat/make.py` runs them with the real one and keeps
the numbers, `tests/test_compat_programs.py` runs them with `imgcls.compat.mxnet`.

Each takes the module `mx` and a folder, and returns name -> array or text. Only `mx` and numpy are used.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import struct
import warnings
from collections import namedtuple

import numpy as np
from compat_gluon_cases import GLUON_CASES

Batch = namedtuple("Batch", ["data"])


def pictures(count, shape=(3, 16, 16), seed=0):
    return np.random.RandomState(seed).randint(0, 256, (count, *shape)).astype("float32")


def small_net(mx, num_classes=10):
    """A convolutional network with what the seeds' networks are made of."""
    data = mx.sym.Variable("data")
    conv1 = mx.sym.Convolution(data=data, kernel=(3, 3), pad=(1, 1), num_filter=8, no_bias=True, name="conv1")
    bn1 = mx.sym.BatchNorm(data=conv1, fix_gamma=False, eps=2e-5, momentum=0.9, name="bn1")
    relu1 = mx.sym.Activation(data=bn1, act_type="relu", name="relu1")
    pool1 = mx.sym.Pooling(data=relu1, kernel=(2, 2), stride=(2, 2), pool_type="max", name="pool1")
    left = mx.sym.Convolution(data=pool1, kernel=(1, 1), num_filter=4, name="left")
    right = mx.sym.Convolution(data=pool1, kernel=(3, 3), pad=(1, 1), num_filter=4, name="right")
    joined = mx.sym.Concat(left, right, name="joined")
    total = joined + pool1
    lrn = mx.sym.LRN(data=total, nsize=3, alpha=0.01, name="lrn")
    pool2 = mx.sym.Pooling(data=lrn, global_pool=True, kernel=(7, 7), pool_type="avg", name="pool2")
    flat = mx.sym.Flatten(data=pool2, name="flatten0")
    fc = mx.sym.FullyConnected(data=flat, num_hidden=num_classes, name="fc1")
    return mx.sym.SoftmaxOutput(data=fc, name="softmax")


def trained_net(mx, folder):
    """Save a checkpoint of `small_net` whose statistics are those of some pictures; return its prefix."""
    mx.random.seed(11)
    module = mx.mod.Module(small_net(mx), context=mx.cpu())
    module.bind([("data", (8, 3, 16, 16))], [("softmax_label", (8,))])
    module.init_params(mx.init.Xavier(rnd_type="gaussian", factor_type="in", magnitude=2))
    module.init_optimizer(optimizer_params={"learning_rate": 0.01})
    batch = mx.io.DataBatch([mx.nd.array(pictures(8) / 128 - 1)], [mx.nd.array(np.arange(8))])
    for _ in range(2):
        module.forward_backward(batch)
        module.update()
    mx.nd.waitall()
    prefix = os.path.join(str(folder), "small")
    module.save_checkpoint(prefix, 3)
    return prefix


def predict_tutorial(mx, folder):
    """Load a checkpoint, bind for inference, forward a named tuple, take the five likeliest and a layer."""
    prefix = trained_net(mx, folder)
    sym, arg_params, aux_params = mx.model.load_checkpoint(prefix, 3)
    mod = mx.mod.Module(symbol=sym, context=mx.cpu(), label_names=None)
    mod.bind(for_training=False, data_shapes=[("data", (1, 3, 16, 16))], label_shapes=mod._label_shapes)
    mod.set_params(arg_params, aux_params, allow_missing=True)
    found = {}
    for number in range(2):
        mod.forward(Batch([mx.nd.array(pictures(1, seed=number + 1) / 128 - 1)]))
        prob = np.squeeze(mod.get_outputs()[0].asnumpy())
        found[f"prob{number}"] = prob
        found[f"best{number}"] = np.argsort(prob)[::-1][:5].copy()
    all_layers = sym.get_internals()
    found["layers"] = "\n".join(all_layers.list_outputs())
    fe_sym = all_layers["flatten0_output"]
    fe_mod = mx.mod.Module(symbol=fe_sym, context=mx.cpu(), label_names=None)
    fe_mod.bind(for_training=False, data_shapes=[("data", (1, 3, 16, 16))])
    fe_mod.set_params(arg_params, aux_params)
    fe_mod.forward(Batch([mx.nd.array(pictures(1) / 128 - 1)]))
    found["features"] = fe_mod.get_outputs()[0].asnumpy()
    # another size and another number of images
    fe_mod.forward(mx.io.DataBatch([mx.nd.array(pictures(3, (3, 24, 20)) / 128 - 1)]))
    found["other_size"] = fe_mod.get_outputs()[0].asnumpy()
    several = mx.sym.Group([all_layers["relu1_output"], all_layers["fc1_output"], sym])
    exe = several.simple_bind(mx.cpu(), grad_req="null", data=(2, 3, 16, 16))
    exe.copy_params_from(arg_params, aux_params, allow_extra_params=True)
    outputs = exe.forward(is_train=False, data=mx.nd.array(pictures(2) / 128 - 1))
    for name, output in zip(several.list_outputs(), outputs, strict=True):
        found[f"several_{name}"] = output.asnumpy()
    return found


def fine_tuning(mx, folder):
    """MXNet's fine-tune.py: a new last layer on old ones, some of them fixed."""
    prefix = trained_net(mx, folder)
    symbol, arg_params, aux_params = mx.model.load_checkpoint(prefix, 3)
    all_layers = symbol.get_internals()
    net = all_layers["flatten0_output"]
    net = mx.symbol.FullyConnected(data=net, num_hidden=3, name="fc_new")
    net = mx.symbol.SoftmaxOutput(data=net, name="softmax")
    new_args = {k: arg_params[k] for k in arg_params if "fc1" not in k}
    train = mx.io.NDArrayIter(pictures(20, seed=4) / 128 - 1, np.arange(20) % 3, 5)
    mod = mx.mod.Module(symbol=net, context=mx.cpu(), fixed_param_names=["conv1_weight"])
    mx.random.seed(2)
    mod.fit(train, train, num_epoch=2, arg_params=new_args, aux_params=aux_params, allow_missing=True,
            batch_end_callback=mx.callback.Speedometer(5, 2), kvstore="device", optimizer="sgd",
            optimizer_params={"learning_rate": 0.01},
            initializer=mx.init.Xavier(rnd_type="gaussian", factor_type="in", magnitude=2), eval_metric="acc")
    mx.nd.waitall()
    found = params_of(mod)
    found["score"] = np.array([value for _, value in mod.score(train, ["acc", "ce"])])
    return found


def params_of(module):
    args, aux = module.get_params()
    return {name: array.asnumpy() for name, array in {**args, **aux}.items()}


def embedding(mx, folder):
    """As InsightFace does: the output of an inner layer, normalised, mirrored images added."""
    def unit(data, num_filter, name, stride):
        bn1 = mx.sym.BatchNorm(data=data, fix_gamma=False, eps=2e-5, name=name + "_bn1")
        conv1 = mx.sym.Convolution(data=bn1, num_filter=num_filter, kernel=(3, 3), pad=(1, 1), no_bias=True,
                                   workspace=256, name=name + "_conv1")
        bn2 = mx.sym.BatchNorm(data=conv1, fix_gamma=False, eps=2e-5, name=name + "_bn2")
        act1 = mx.sym.LeakyReLU(data=bn2, act_type="prelu", name=name + "_relu1")
        conv2 = mx.sym.Convolution(data=act1, num_filter=num_filter, kernel=(3, 3), stride=stride, pad=(1, 1),
                                   no_bias=True, workspace=256, name=name + "_conv2")
        shortcut = mx.sym.Convolution(data=data, num_filter=num_filter, kernel=(1, 1), stride=stride,
                                      no_bias=True, workspace=256, name=name + "_conv1sc")
        squeeze = mx.sym.Pooling(data=conv2, global_pool=True, kernel=(7, 7), pool_type="avg",
                                 name=name + "_se_pool1")
        squeeze = mx.sym.Activation(mx.sym.Convolution(squeeze, num_filter=num_filter, kernel=(1, 1),
                                                       name=name + "_se_conv"), act_type="sigmoid")
        return mx.symbol.broadcast_mul(conv2, squeeze) + shortcut

    data = mx.symbol.Variable("data")
    data = mx.sym.identity(data=data, name="id")
    data = data - 127.5
    data = data * 0.0078125
    body = mx.sym.Convolution(data=data, num_filter=8, kernel=(3, 3), pad=(1, 1), no_bias=True, name="conv0")
    body = mx.sym.LeakyReLU(data=body, act_type="prelu", name="relu0")
    for number, stride in enumerate([(2, 2), (1, 1)]):
        body = unit(body, 8, f"stage1_unit{number}", stride)
    body = mx.sym.Dropout(data=body, p=0.4)
    fc1 = mx.sym.FullyConnected(data=body, num_hidden=12, name="pre_fc1")
    fc1 = mx.sym.BatchNorm(data=fc1, fix_gamma=True, eps=2e-5, momentum=0.9, name="fc1")
    label = mx.symbol.Variable("softmax_label")
    weight = mx.symbol.L2Normalization(mx.symbol.Variable("fc7_weight", shape=(6, 12), lr_mult=1.0, wd_mult=1.0),
                                       mode="instance")
    fc7 = mx.sym.FullyConnected(data=mx.symbol.L2Normalization(fc1, mode="instance", name="fc1n") * 16,
                                weight=weight, no_bias=True, num_hidden=6, name="fc7")
    fc7 = fc7 - mx.sym.one_hot(label, depth=6, on_value=0.5, off_value=0.0)
    net = mx.symbol.Group([mx.symbol.BlockGrad(fc1), mx.symbol.SoftmaxOutput(
        data=fc7, label=label, name="softmax", normalization="valid")])
    mx.random.seed(5)
    module = mx.mod.Module(net, context=mx.cpu())
    module.bind([("data", (4, 3, 16, 16))], [("softmax_label", (4,))])
    module.init_params(mx.initializer.Xavier(rnd_type="gaussian", factor_type="out", magnitude=2))
    module.init_optimizer(optimizer="sgd", optimizer_params={"learning_rate": 0.05, "momentum": 0.9, "wd": 5e-4})
    module.forward_backward(mx.io.DataBatch([mx.nd.array(pictures(4))], [mx.nd.array([0, 1, 2, 5])]))
    module.update()
    mx.nd.waitall()
    prefix = os.path.join(str(folder), "face")
    mx.model.save_checkpoint(prefix, 0, net, *module.get_params())

    sym, arg_params, aux_params = mx.model.load_checkpoint(prefix, 0)
    sym = sym.get_internals()["fc1_output"]
    model = mx.mod.Module(symbol=sym, context=mx.cpu(), label_names=None)
    model.bind(data_shapes=[("data", (1, 3, 16, 16))])
    model.set_params(arg_params, aux_params)
    found = {"shapes": str(sym.infer_shape(data=(1, 3, 16, 16))), "json": net.tojson()}
    for number, image in enumerate(pictures(2, seed=9)):
        total = 0
        for flip in (0, 1):
            blob = np.expand_dims(image[:, :, ::-1] if flip else image, axis=0)
            model.forward(mx.io.DataBatch(data=(mx.nd.array(blob),)), is_train=False)
            total = total + model.get_outputs()[0].asnumpy()
        found[f"embedding{number}"] = total / np.linalg.norm(total)
    # gradients of the image
    model = mx.mod.Module(symbol=sym, context=[mx.cpu()], label_names=[])
    model.bind(data_shapes=[("data", (4, 3, 16, 16))], inputs_need_grad=True)
    model.set_params(arg_params, aux_params, allow_extra=True)
    model.forward(mx.io.DataBatch(data=[mx.nd.array(pictures(4))]), is_train=False)
    model.forward(mx.io.DataBatch(data=[mx.nd.array(pictures(4))]), is_train=True)
    model.backward(out_grads=[mx.nd.array(np.random.RandomState(1).randn(4, 12))])
    found["image_gradient"] = model.get_input_grads()[0].asnumpy() * 100
    return found


def mlp(mx, num_classes=4):
    data = mx.symbol.Variable("data")
    fc1 = mx.symbol.FullyConnected(data, name="fc1", num_hidden=16)
    act1 = mx.symbol.Activation(fc1, name="relu1", act_type="relu")
    fc2 = mx.symbol.FullyConnected(act1, name="fc2", num_hidden=num_classes)
    return mx.symbol.SoftmaxOutput(fc2, name="softmax")


def samples(count=100, num_inputs=12, seed=1):
    state = np.random.RandomState(seed)
    values = state.randn(count, num_inputs).astype("float32")
    return values, (values[:, :4].argmax(1)).astype("float32")


def module_fit(mx, folder):
    """Two epochs of a small mlp with fixed weights, momentum, a schedule, callbacks and a checkpoint."""
    values, labels = samples()
    train = mx.io.NDArrayIter(values[:80], labels[:80], batch_size=16, shuffle=False)
    held_out = mx.io.NDArrayIter(values[80:], labels[80:], batch_size=8)
    prefix = os.path.join(str(folder), "mlp")
    state = np.random.RandomState(7)
    weights = {"fc1_weight": state.randn(16, 12), "fc1_bias": state.randn(16), "fc2_weight": state.randn(4, 16),
               "fc2_bias": state.randn(4)}
    mod = mx.mod.Module(mlp(mx), context=mx.cpu())
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = logging.getLogger()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    mod.fit(train, eval_data=held_out, eval_metric=["acc", "ce", mx.metric.TopKAccuracy(top_k=2)],
            optimizer="sgd", num_epoch=2,
            optimizer_params={"learning_rate": 0.1, "momentum": 0.9, "wd": 1e-3,
                              "lr_scheduler": mx.lr_scheduler.MultiFactorScheduler(step=[4, 7], factor=0.5)},
            arg_params={name: mx.nd.array(array * 0.3) for name, array in weights.items()}, aux_params={},
            batch_end_callback=[mx.callback.Speedometer(16, 2), mx.callback.log_train_metric(3)],
            epoch_end_callback=mx.callback.do_checkpoint(prefix))
    logger.removeHandler(handler)
    logger.setLevel(level)
    found = params_of(mod)
    kept = [line.replace(prefix, "PREFIX") for line in lines if "Time cost" not in line]
    found["log"] = "\n".join(line.split("Speed:")[0] + line.partition("samples/sec")[2] if "Speed:" in line
                             else line for line in kept)
    found["predicted"] = mod.predict(held_out).asnumpy()
    found["score"] = np.array([value for _, value in mod.score(held_out, mx.metric.create(["acc", "mse"]))])
    again = mx.mod.Module.load(prefix, 2)
    again.bind(held_out.provide_data, held_out.provide_label, for_training=False)
    found["again"] = again.predict(held_out, num_batch=2).asnumpy()
    return found


def seeded_training(mx, folder):
    """All optimizers from a seed: initial weights, shuffling and dropout are random numbers."""
    found = {}
    values, labels = samples(60, seed=3)
    rules = {
        "sgd": {"learning_rate": 0.1, "momentum": 0.9, "wd": 1e-3, "clip_gradient": 0.02},
        "nag": {"learning_rate": 0.05, "momentum": 0.9, "wd": 1e-3},
        "adam": {"learning_rate": 0.01, "wd": 0.01},
        "rmsprop": {"learning_rate": 0.01, "wd": 0.1},
        "adagrad": {"learning_rate": 0.1, "wd": 1e-3},
        "adadelta": {"wd": 1e-3},
        "adamax": {"learning_rate": 0.01},
    }
    for name, settings in rules.items():
        mx.random.seed(42)
        np.random.seed(42)
        data = mx.sym.Variable("data")
        net = mx.sym.FullyConnected(data, num_hidden=16, name="fc1")
        net = mx.sym.Dropout(mx.sym.Activation(net, act_type="tanh"), p=0.3)
        net = mx.sym.SoftmaxOutput(mx.sym.FullyConnected(net, num_hidden=4, name="fc2", lr_mult=2.0),
                                   name="softmax")
        mod = mx.mod.Module(net)
        mod.fit(mx.io.NDArrayIter(values, labels, 16, shuffle=True), num_epoch=2, optimizer=name,
                optimizer_params=settings, initializer=mx.init.Xavier())
        found |= {f"{name}_{key}": array for key, array in params_of(mod).items()}
    return found


def feed_forward(mx, folder):
    """The model of MXNet's first years: fit on arrays, predict, score, save, load."""
    warnings.simplefilter("ignore")
    values, labels = samples(64, seed=5)
    mx.random.seed(1)
    np.random.seed(1)
    model = mx.model.FeedForward(symbol=mlp(mx), ctx=mx.cpu(), num_epoch=3, learning_rate=0.1, momentum=0.9,
                                 wd=1e-4, initializer=mx.init.Xavier(factor_type="in", magnitude=2.34),
                                 numpy_batch_size=10)
    model.fit(X=values, y=labels, eval_data=(values[:20], labels[:20]))
    found = {name: array.asnumpy() for name, array in model.arg_params.items()}
    iterator = mx.io.NDArrayIter(values, labels, batch_size=10)
    found["predicted"] = model.predict(iterator)
    found["score"] = np.array([model.score(iterator), model.score(iterator, "ce")])
    prefix = os.path.join(str(folder), "old")
    model.save(prefix, 3)
    loaded = mx.model.FeedForward.load(prefix, 3, ctx=mx.cpu(), numpy_batch_size=1)
    found["loaded"] = loaded.predict(values[:3])
    inner = loaded.symbol.get_internals()["fc1_output"]
    extractor = mx.model.FeedForward(ctx=mx.cpu(), symbol=inner, numpy_batch_size=1, arg_params=loaded.arg_params,
                                     aux_params=loaded.aux_params, allow_extra_params=True)
    found["features"] = extractor.predict(values[:2])
    outputs, data, label = model.predict(iterator, return_data=True)
    found["returned"] = np.concatenate([outputs.sum(0), data.sum(0), label])
    return found


def symbol_block(mx, folder):
    """Gluon's way of running an exported network."""
    prefix = trained_net(mx, folder)
    net = mx.gluon.SymbolBlock.imports(prefix + "-symbol.json", ["data", "softmax_label"], prefix + "-0003.params",
                                       ctx=mx.cpu())
    net.hybridize()
    image = mx.nd.array(pictures(2, seed=6)) / 128 - 1
    label = mx.nd.zeros((2,))
    output = net(image, label)
    found = {"prob": output.asnumpy(), "best": mx.nd.topk(output, k=3).asnumpy(),
             "class": output.argmax(axis=1).asnumpy().astype(int)}
    sym = mx.sym.load(prefix + "-symbol.json")
    layers = sym.get_internals()
    inputs = mx.sym.var("data")
    features = mx.gluon.SymbolBlock([layers["pool1_output"], layers["flatten0_output"]], inputs)
    features.collect_params().load(prefix + "-0003.params", ctx=mx.cpu(), ignore_extra=True)
    for number, array in enumerate(features(image)):
        found[f"feature{number}"] = array.asnumpy()
    found["params"] = "\n".join(name for name in sorted(net.collect_params().keys()))
    mean = mx.nd.array([0.485, 0.456, 0.406]).reshape((1, 3, 1, 1))
    std = mx.nd.array([0.229, 0.224, 0.225]).reshape((1, 3, 1, 1))
    normal = (mx.nd.array(pictures(3)) / 255 - mean) / std
    found["normal"] = mx.nd.softmax(features(normal)[1]).asnumpy()
    return found


def iterators(mx, folder):
    """NDArrayIter with each way of ending, MNISTIter, and what they say of themselves."""
    found = {}
    for handling in ("pad", "discard", "roll_over"):
        iterator = mx.io.NDArrayIter({"a": np.arange(20).reshape(10, 2), "b": np.arange(10) * 10}, np.arange(10), 4,
                                     last_batch_handle=handling, label_name="y")
        rows = []
        for _ in range(3):
            for batch in iterator:
                rows.append([*batch.data[0].asnumpy().ravel(), *batch.data[1].asnumpy(),
                             *batch.label[0].asnumpy(), batch.pad])
            rows.append([-1] * len(rows[0]))
            iterator.reset()
        found[handling] = np.array(rows)
        found[handling + "_text"] = f"{iterator.provide_data} {iterator.provide_label}"
    count = 23
    images = np.random.RandomState(0).randint(0, 256, (count, 5, 4)).astype("uint8")
    paths = [os.path.join(str(folder), name) for name in ("images", "labels")]
    with open(paths[0], "wb") as file:
        file.write(struct.pack(">IIII", 2051, count, 5, 4) + images.tobytes())
    with open(paths[1], "wb") as file:
        file.write(struct.pack(">II", 2049, count) + np.arange(count).astype("uint8").tobytes())
    for name, settings in {"plain": {"shuffle": False, "flat": True}, "shuffled": {"seed": 10},
                           "part": {"num_parts": 2, "part_index": 1, "seed": 3}}.items():
        iterator = mx.io.MNISTIter(image=paths[0], label=paths[1], batch_size=5, silent=True, **settings)
        found[f"mnist_{name}"] = np.concatenate(
            [np.append(batch.data[0].asnumpy().ravel()[:9], batch.label[0].asnumpy()) for batch in iterator])
        found[f"mnist_{name}_text"] = f"{iterator.provide_data[0].shape} {iterator.provide_label[0]}"
    return found


def executors(mx, folder):
    """A training loop of one's own, and every loss."""
    found = {}
    values, labels = samples(8)
    net = mlp(mx)
    exe = net.simple_bind(ctx=mx.cpu(), data=(8, 12))
    for name, array in exe.arg_dict.items():
        if name not in ("data", "softmax_label"):
            array[:] = np.random.RandomState(len(name)).randn(*array.shape) * 0.2
    for _ in range(3):
        exe.forward(is_train=True, data=mx.nd.array(values), softmax_label=mx.nd.array(labels))
        exe.backward()
        for name, gradient in exe.grad_dict.items():
            if name not in ("data", "softmax_label"):
                exe.arg_dict[name][:] -= 0.1 / 8 * gradient
    found |= {name: array.asnumpy() for name, array in exe.arg_dict.items()}
    found["outputs"] = exe.outputs[0].asnumpy()
    found["names"] = " ".join([*net.list_arguments(), *exe.output_dict])
    a, b = mx.sym.Variable("a"), mx.sym.Variable("b")
    grad = {"a": mx.nd.zeros((2, 3)), "b": mx.nd.zeros((2, 3))}
    exe = (a * b + mx.sym.sqrt(a) - 2 / b).bind(mx.cpu(), {"a": mx.nd.ones((2, 3)) * 4, "b": mx.nd.arange(
        1, 7).reshape((2, 3))}, args_grad=grad, grad_req="add")
    for _ in range(2):
        exe.forward(is_train=True)
        exe.backward(mx.nd.arange(6).reshape((2, 3)))
    found |= {f"grad_{name}": array.asnumpy() for name, array in grad.items()}
    found["eval"] = (a + b).eval(ctx=mx.cpu(), a=mx.nd.ones((2,)), b=mx.nd.ones((2,)))[0].asnumpy()
    data = mx.sym.Variable("data")
    losses = {
        "batch": mx.sym.SoftmaxOutput(data, name="l", normalization="batch", grad_scale=3),
        "ignore": mx.sym.SoftmaxOutput(data, name="l", use_ignore=True, ignore_label=1, normalization="valid"),
        "smooth": mx.sym.SoftmaxOutput(data, name="l", smooth_alpha=0.1),
        "svm": mx.sym.SVMOutput(data, name="l"), "svm_linear": mx.sym.SVMOutput(data, name="l", use_linear=True),
    }
    scores = np.random.RandomState(0).randn(4, 5)
    for name, loss in losses.items():
        found[f"loss_{name}"] = gradient_of(mx, loss, scores, np.array([0, 1, 4, 2]))
    targets = np.random.RandomState(1).rand(4, 5)
    for name in ("LinearRegressionOutput", "LogisticRegressionOutput", "MAERegressionOutput"):
        found[name] = gradient_of(mx, getattr(mx.sym, name)(data, name="l"), scores, targets)
    pixels = mx.sym.SoftmaxOutput(data, name="l", multi_output=True, use_ignore=True, ignore_label=0,
                                  normalization="batch")
    found["pixels"] = gradient_of(mx, pixels, np.random.RandomState(2).randn(2, 3, 2, 2),
                                  np.array([[0, 1, 2, 1], [2, 2, 0, 1]]))
    found["make_loss"] = gradient_of(mx, mx.sym.MakeLoss(mx.sym.square(data), grad_scale=2), scores, None)
    return found


def gradient_of(mx, loss, scores, label):
    exe = loss.simple_bind(mx.cpu(), data=scores.shape)
    exe.arg_dict["data"][:] = mx.nd.array(scores)
    if label is not None:
        exe.arg_dict["l_label"][:] = mx.nd.array(label)
    exe.forward(is_train=True)
    exe.backward()
    return np.concatenate([exe.outputs[0].asnumpy().ravel(), exe.grad_dict["data"].asnumpy().ravel()])


def symbols(mx, folder):
    """Names, attributes, JSON text, shapes, composition."""
    data = mx.sym.Variable("data", lr_mult=2.0)
    with mx.AttrScope(ctx_group="a", __x__="4"), mx.name.Prefix("net_"):
        conv = mx.sym.Convolution(data, kernel=(3, 3), num_filter=4, attr={"lr_mult": "2"})
        pool = mx.sym.Pooling(mx.sym.BatchNorm(conv, fix_gamma=False), kernel=(2, 2), pool_type="max")
    parts = mx.sym.split(pool, num_outputs=2, axis=1, name="parts")
    total = parts[0] + parts[1] * 2 - 1 / parts[0] + mx.sym.maximum(parts[0], 3) ** 2 + (-parts[1])
    total = mx.sym.Reshape(mx.sym.transpose(total, axes=(0, 2, 3, 1)), shape=(0, -1), name="flat")
    weight = mx.sym.Variable("w", shape=(10, 0), init=mx.init.Normal(0.5), wd_mult=0)
    fc = mx.sym.FullyConnected(total, num_hidden=10, weight=weight, no_bias=True, name="fc")
    fc = mx.sym.LeakyReLU(fc, act_type="prelu", name="prelu")
    out = mx.sym.SoftmaxOutput(fc, name="softmax")
    path = os.path.join(str(folder), "net-symbol.json")
    out.save(path)
    again = mx.sym.load(path)
    found = {
        "json": out.tojson(), "again": again.tojson(), "group": mx.sym.Group([again, again[0]]).tojson(),
        "lists": str([out.list_arguments(), out.list_auxiliary_states(), out.list_outputs(),
                      parts.list_outputs(), out.get_internals().list_outputs()]),
        "shapes": str(out.infer_shape(data=(2, 3, 8, 8))),
        "partial": str(out.infer_shape_partial()), "texts": f"{out!r} {mx.sym.Group([out, fc])!r} {parts.name}",
        "attributes": str(sorted((node, sorted(attrs.items())) for node, attrs in out.attr_dict().items())),
        "attr": f"{conv.attr('kernel')} {conv.attr('lr_mult')} {conv.attr('none')} {data.list_attr()['lr_mult']}",
        "debug": out.debug_str(), "children": str(fc.get_children().list_outputs()),
    }
    base = mx.sym.FullyConnected(mx.sym.Variable("x"), num_hidden=3, name="inner")
    composed = base(x=mx.sym.Activation(mx.sym.Variable("y"), act_type="relu", name="act"), name="outer")
    found["composed"] = composed.tojson()
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        mx.viz.print_summary(small_net(mx), shape={"data": (1, 3, 16, 16)})
        mx.viz.print_summary(mlp(mx), line_length=80)
    found["summary"] = text.getvalue()
    for seed, kind in enumerate([mx.init.Xavier(), mx.init.Uniform(0.1), mx.init.Normal(0.2), mx.init.Orthogonal(),
                                 mx.init.MSRAPrelu(), mx.init.Mixed([".*bias", ".*"], [mx.init.One(),
                                                                                     mx.init.Constant(3)])]):
        mx.random.seed(seed)
        array = mx.nd.zeros((30, 8))
        kind(mx.init.InitDesc("fc_weight"), array)
        # of singular vectors the sign is LAPACK's to choose
        found[f"init{seed}"] = abs(array.asnumpy()) if seed == 3 else array.asnumpy()
    return found


def arrays(mx, folder):
    """What inference code does with arrays."""
    nd = mx.nd
    x = nd.array(np.random.RandomState(0).randn(3, 4, 5))
    y = nd.array(np.random.RandomState(1).rand(4, 5))
    found = {
        "slice": x[1:, :2, 3], "broadcast": x * y, "sum": x.sum(axis=(1, 2)), "mean": nd.mean(x, axis=1),
        "max": x.max(axis=2, keepdims=True), "softmax": nd.softmax(y, axis=1), "logarithm": nd.log(y),
        "argmax": nd.argmax(y, axis=1), "argmax_all": y.argmax(), "topk": nd.topk(y, k=2, axis=1),
        "values": nd.topk(y, k=2, ret_typ="value"), "both": nd.topk(y, k=2, ret_typ="both", is_ascend=True)[1],
        "mask": nd.topk(y, k=2, ret_typ="mask"), "sort": nd.sort(y, is_ascend=False), "argsort": y.argsort(),
        "pick": nd.pick(y, nd.array([0, 1, 2, 4])), "one_hot": nd.one_hot(nd.array([0, 2]), 3),
        "take": nd.take(y, nd.array([2, 0])), "dot": nd.dot(y, y, transpose_b=True), "clip": x.clip(-0.5, 0.5),
        "where": nd.where(y > 0.5, y, -y), "expand": x.expand_dims(0).squeeze(), "tile": y.tile((2, 1)),
        "repeat": y.repeat(2, axis=0), "flatten": x.flatten(), "reshape": x.reshape((0, -1)),
        "reshape2": x.reshape((-3, 0)), "swap": x.swapaxes(0, 2), "norm": nd.norm(x, axis=1), "rint": nd.rint(y * 5),
        "round": nd.round(x), "split": nd.split(y, num_outputs=2, axis=0)[1], "concat": nd.concat(y, y, dim=0),
        "stack": nd.stack(y, y, axis=1), "l2": nd.L2Normalization(y), "relu": nd.relu(x), "sign": x.sign(),
        "pad": nd.pad(x.expand_dims(0), mode="edge", pad_width=(0, 0, 0, 0, 1, 1, 2, 2)), "prod": y.prod(axis=0),
        "maximum": nd.maximum(x, 0.1), "minimum": nd.minimum(0.1, x), "power": y**2 + 2**y, "mod": y % 0.3,
        "compare": (x > 0) + (x <= 0.5) * 2 + nd.equal(x, x), "linspace": nd.linspace(0, 1, 5),
        "arange": nd.arange(2, 9, 2), "full": nd.full((2,), 3.5), "eye": nd.eye(3), "int": nd.array([1.7, -1.7])
        .astype("int32"), "conv": nd.Convolution(nd.ones((1, 2, 4, 4)), nd.ones((3, 2, 3, 3)), nd.ones(3),
                                                 kernel=(3, 3), num_filter=3),
        "fc": nd.FullyConnected(y, nd.ones((2, 5)), nd.zeros(2), num_hidden=2), "smooth": nd.smooth_l1(x),
        "pool": nd.contrib.AdaptiveAvgPooling2D(x.expand_dims(0), output_size=2), "argmin": x.argmin(axis=1),
        "channel": nd.argmax_channel(y), "cos": nd.cos(x) + nd.arctan(x), "gather": nd.gather_nd(
            y, nd.array([[0, 1], [2, 3]])), "crossentropy": nd.softmax_cross_entropy(y, nd.array([0, 1, 2, 3])),
        "slice_axis": nd.slice_axis(x, axis=2, begin=-2, end=None), "crop": nd.slice(x, begin=(0, 1), end=(2, 3)),
        "flip": nd.flip(y, axis=1), "embedding": nd.Embedding(nd.array([1, 0]), y, input_dim=4, output_dim=5),
    }
    path = os.path.join(str(folder), "some.params")
    nd.save(path, {"a": x, "b": y})
    found["loaded"] = nd.load(path)["b"]
    z = nd.zeros((2, 3))
    z[:] = 2
    z[0, 1:] = nd.array([5, 6])
    z += 1
    found["assigned"] = z
    mx.random.seed(123)
    found["uniform"] = nd.random.uniform(-1, 1, shape=(300,))
    found["normal"] = nd.random.normal(0, 2, shape=(3, 50))
    found["randn"] = mx.random.normal(shape=(5,))
    numbers = {name: array.asnumpy() for name, array in found.items()}
    numbers["text"] = f"{z}\n{x.shape} {x.dtype} {x.size} {x.context} {z[0, 0].asscalar()} {mx.gpu(1)} {len(x)}"
    return numbers


def metrics(mx, folder):
    """Values and names of metrics over two batches."""
    state = np.random.RandomState(0)
    batches = [(state.randint(0, 4, 6), state.rand(6, 4)) for _ in range(2)]
    kinds = {
        "acc": "acc", "top": mx.metric.TopKAccuracy(top_k=2), "ce": "ce", "nll": "nll_loss", "mse": "mse",
        "mae": "mae", "rmse": "rmse", "many": ["acc", "ce"], "loss": mx.metric.Loss(),
        "perplexity": mx.metric.Perplexity(ignore_label=0),
        "own": mx.metric.np(lambda label, pred: float(np.abs(label).sum() + pred.sum()), name="mine"),
        "function": mx.metric.create(lambda label, pred: (float(pred.sum()), label.size)),
    }
    found, names = {}, []
    for key, kind in kinds.items():
        metric = mx.metric.create(kind)
        values = []
        for label, prediction in batches:
            if key in ("mse", "mae", "rmse"):
                prediction = prediction[:, 0]
            metric.update([mx.nd.array(label)], [mx.nd.array(prediction)])
            values += [value for _, value in metric.get_name_value()]
            metric.reset_local()
        values += [value for _, value in metric.get_global_name_value()]
        names += [name for name, _ in metric.get_global_name_value()]
        found[key] = np.array(values)
    for average in ("macro", "micro"):
        metric = mx.metric.F1(average=average)
        for label, prediction in batches:
            metric.update([mx.nd.array(label % 2)], [mx.nd.array(prediction[:, :2])])
        found[f"f1_{average}"] = np.array([metric.get()[1]])
    found["names"] = " ".join(names)
    for name, scheduler in {
        "factor": mx.lr_scheduler.FactorScheduler(5, 0.5, stop_factor_lr=0.05, base_lr=0.4, warmup_steps=3),
        "multi": mx.lr_scheduler.MultiFactorScheduler([4, 9], 0.1, base_lr=1, warmup_steps=2, warmup_begin_lr=0.1,
                                                      warmup_mode="constant"),
        "poly": mx.lr_scheduler.PolyScheduler(20, 0.5, 2, 0.01, warmup_steps=4),
        "cosine": mx.lr_scheduler.CosineScheduler(20, 0.5, 0.01, warmup_steps=4, warmup_begin_lr=0.1),
    }.items():
        found[f"lr_{name}"] = np.array([scheduler(update) for update in range(1, 25)])
    return found


def layers(mx, folder):
    """Every layer forward, backward, and what it does to running statistics."""
    S, d = mx.sym, mx.sym.Variable("data")  # noqa: N806
    found = {}
    for name, net in {
        "conv": S.Convolution(d, num_filter=8, kernel=(3, 3), stride=(2, 2), pad=(1, 1), num_group=2, dilate=(2, 2)),
        "dw": S.Convolution(d, num_filter=4, kernel=(3, 3), num_group=4, no_bias=True),
        "deconv": S.Deconvolution(d, num_filter=6, kernel=(4, 4), stride=(2, 2), pad=(1, 1)),
        "deconv2": S.Deconvolution(d, num_filter=6, kernel=(3, 3), stride=(2, 2), adj=(1, 1), no_bias=False),
        "bn_fix": S.BatchNorm(d),
        "bn_glob": S.BatchNorm(d, use_global_stats=True, fix_gamma=False),
        "bn": S.BatchNorm(d, fix_gamma=False, eps=1e-05, momentum=0.7),
        "inorm": S.InstanceNorm(d),
        "lnorm": S.LayerNorm(d),
        "gnorm": S.GroupNorm(d, num_groups=2),
        "lrn": S.LRN(d, nsize=3),
        "l2c": S.L2Normalization(d, mode="channel"),
        "l2s": S.L2Normalization(d, mode="spatial"),
        "maxp": S.Pooling(d, kernel=(3, 3), stride=(2, 2), pad=(1, 1), pool_type="max"),
        "avgp": S.Pooling(d, kernel=(3, 3), stride=(2, 2), pad=(1, 1), pool_type="avg"),
        "avgx": S.Pooling(d, kernel=(3, 3), stride=(2, 2), pad=(1, 1), pool_type="avg", count_include_pad=False),
        "full": S.Pooling(d, kernel=(3, 3), stride=(2, 2), pool_type="max", pooling_convention="full"),
        "fulla": S.Pooling(d, kernel=(2, 2), stride=(2, 2), pool_type="avg", pooling_convention="full"),
        "gp": S.Pooling(d, global_pool=True, kernel=(1, 1), pool_type="avg"),
        "gm": S.Pooling(d, global_pool=True, pool_type="max"),
        "sump": S.Pooling(d, kernel=(2, 2), pool_type="sum"),
        "elu": S.LeakyReLU(d, act_type="elu", slope=0.3),
        "gelu": S.LeakyReLU(d, act_type="gelu"),
        "leaky": S.LeakyReLU(d, slope=0.2),
        "prelu": S.LeakyReLU(d, act_type="prelu"),
        "soft": S.Activation(d, act_type="softrelu"),
        "ss": S.Activation(d, act_type="softsign"),
        "up": S.UpSampling(d, scale=2, sample_type="nearest"),
        "upb": S.UpSampling(d, scale=2, sample_type="bilinear", num_filter=4),
        "crop": S.Crop(d, offset=(1, 2), h_w=(3, 4), num_args=1),
        "cropc": S.Crop(d, S.Pooling(d, kernel=(2, 2), stride=(2, 2)), center_crop=True),
        "softmaxa": S.SoftmaxActivation(d, mode="channel"),
        "softmax": S.softmax(d, axis=1),
        "lsm": S.log_softmax(d, axis=1, temperature=2.0),
        "clip": S.clip(d, -0.3, 0.3),
        "abs": abs(d),
        "pow": (abs(d) + 1) ** 1.5,
        "mean": S.mean(d, axis=(2, 3)),
        "sum": S.sum(d, axis=1, keepdims=True),
        "max": S.max(d, axis=(2,)),
        "pad": S.Pad(d, mode="reflect", pad_width=(0, 0, 0, 0, 1, 1, 2, 2)),
        "resh": S.Reshape(d, shape=(0, -3, -1)),
        "tr": S.transpose(d, axes=(0, 2, 3, 1)),
        "slice": S.slice_axis(d, axis=1, begin=1, end=3) * 2,
        "rs": S.contrib.BilinearResize2D(d, height=9, width=5),
        "aap": S.contrib.AdaptiveAvgPooling2D(d, output_size=(2, 3)),
        "hs": S.hard_sigmoid(d),
        "fcnf": S.FullyConnected(d, num_hidden=3, flatten=False),
        "bsub": S.broadcast_sub(d, S.mean(d, axis=1, keepdims=True)),
        "cat": S.Concat(d, d * 2, dim=1),
        "addn": S.add_n(d, d, d),
        "stk": S.stack(d, d, axis=1),
        "sp": S.Group(list(S.SliceChannel(d, num_outputs=2))),
        "mm": S.batch_dot(S.Reshape(d, shape=(0, 0, -1)), S.Reshape(d, shape=(0, 0, -1)), transpose_b=True),
        "where": S.where(d > 0, d, d * 0.1),
        "sq": S.sqrt(S.square(d) + 1),
        "sl1": S.smooth_l1(d, scalar=2.0),
        "rel": S.relu(d) + S.sigmoid(d) * S.tanh(d),
        "d2s": S.depth_to_space(d, block_size=2),
        "maxs": S.broadcast_maximum(d, d * 0.5),
        "st": S.SpatialTransformer(d, S.FullyConnected(S.Flatten(d), num_hidden=6), target_shape=(5, 5),
            transform_type="affine", sampler_type="bilinear"),
        "norm": S.norm(d, axis=1),
        "div": d / (abs(d) + 1) - 3 / (abs(d) + 2),
        "sw": d * S.sigmoid(d),
        "take": S.take(d, S.Variable("idx", shape=(2,)), axis=1),
        "rep": S.repeat(d, repeats=2, axis=1),
        "exp": S.exp(d) + S.log(abs(d) + 1),
    }.items():
        exe = net.simple_bind(mx.cpu(), data=(2, 4, 6, 7))
        state = np.random.RandomState(0)
        for key, array in exe.arg_dict.items():
            values = state.rand(*array.shape) + 0.5 if key.endswith("gamma") else state.randn(*array.shape) * 0.3
            array[:] = mx.nd.array([0, 3] if key == "idx" else values)
        for array in exe.aux_dict.values():
            array[:] = mx.nd.array(state.rand(*array.shape) + 0.5)
        results = [output.asnumpy() for output in exe.forward(is_train=False)]
        exe.forward(is_train=True)
        exe.backward([mx.nd.array(state.randn(*output.shape)) for output in exe.outputs])
        mx.nd.waitall()
        results += [output.asnumpy() for output in exe.outputs]
        results += [array.asnumpy() for array in exe.grad_dict.values() if array is not None]
        results += [array.asnumpy() for array in exe.aux_dict.values()]
        found[name] = np.concatenate([result.ravel() for result in results])
    return found


def preparation(mx, folder):
    """Gluon's transforms and mx.image on one picture, and a training that goes on from its states."""
    picture = mx.nd.array(np.random.RandomState(0).randint(0, 256, (60, 80, 3)), dtype="uint8")
    transforms = mx.gluon.data.vision.transforms
    prepare = transforms.Compose([transforms.Resize(40, keep_ratio=True), transforms.CenterCrop(28),
                                  transforms.ToTensor(), transforms.Normalize([0.485, 0.456, 0.406],
                                                                              [0.229, 0.224, 0.225])])
    found = {"prepared": prepare(picture).asnumpy(), "resized": transforms.Resize((20, 30))(picture).asnumpy(),
             "tensor": transforms.ToTensor()(picture).asnumpy(), "cast": transforms.Cast()(picture).asnumpy()}
    crop, _ = mx.image.center_crop(picture, (28, 28))
    found["normalized"] = mx.image.color_normalize(crop.astype("float32"), mean=mx.nd.array([1, 2, 3]),
                                                   std=mx.nd.array([2, 3, 4])).transpose((2, 0, 1)).asnumpy()
    values, labels = samples(40, seed=8)
    iterator = mx.io.NDArrayIter(values, labels, 8)
    prefix = os.path.join(str(folder), "resumed")
    mx.random.seed(1)
    settings = {"learning_rate": 0.1, "momentum": 0.9}
    module = mx.mod.Module(mlp(mx))
    module.fit(iterator, num_epoch=1, optimizer_params=settings)
    module.save_checkpoint(prefix, 1, save_optimizer_states=True)
    again = mx.mod.Module.load(prefix, 1, load_optimizer_states=True, context=mx.cpu())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again.fit(iterator, num_epoch=2, begin_epoch=1, optimizer_params=settings)
    return found | params_of(again)



CASES = {case.__name__: case for case in (
    predict_tutorial, fine_tuning, embedding, module_fit, seeded_training, feed_forward, symbol_block, iterators,
    executors, symbols, arrays, metrics, layers, preparation, *GLUON_CASES)}


def recorded(value):
    """Return what is kept of a result: a large array is thinned out, and its sums added."""
    if isinstance(value, str):
        return value
    flat = np.asarray(value, np.float64).ravel()
    if flat.size > 100:
        chosen = np.linspace(0, flat.size - 1, 60).astype(int)
        flat = np.concatenate([flat[chosen], [flat.sum(), np.abs(flat).sum()]])
    return np.concatenate([np.shape(value), flat]).tolist()
