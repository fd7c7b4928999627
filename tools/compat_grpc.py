"""The gRPC half of compat.py: the same calls by the stock service_pb2_grpc stubs to both servers, answers as the named parts that compat.py compares."""
import struct

import grpc
import numpy as np
from google.protobuf import json_format
from tritonclient.grpc import service_pb2 as pb, service_pb2_grpc


class RpcCase:
    def __init__(self, name, method, request, only=None, **options):
        self.name, self.method, self.request, self.only, self.options = "grpc " + name, method, request, only, options


def infer(model, *tensors, outputs=(), **fields):
    """tensors: (name, datatype, shape, raw bytes or None); outputs: (name, classes)."""
    r = pb.ModelInferRequest(model_name=model, **fields)
    for name, datatype, shape, raw in tensors:
        r.inputs.add(name=name, datatype=datatype, shape=shape)
        if raw is not None:
            r.raw_input_contents.append(raw)
    for name, classes in outputs:
        o = r.outputs.add(name=name)
        if classes:
            o.parameters["classification"].int64_param = classes
    return r


def changed(r, f):
    r = type(r).FromString(r.SerializeToString())
    f(r)
    return r


def cases():
    a, b = np.arange(16, dtype=np.int32).tobytes(), np.ones(16, dtype=np.int32).tobytes()
    one, two = ("INPUT0", "INT32", [1, 16], a), ("INPUT1", "INT32", [1, 16], b)
    good = infer("simple", one, two)
    x = ("x", "FP32", [1, 4], np.array([4, 1, 3, 2], np.float32).tobytes())
    yield RpcCase("live", "ServerLive", pb.ServerLiveRequest())
    yield RpcCase("ready", "ServerReady", pb.ServerReadyRequest())
    yield RpcCase("server metadata", "ServerMetadata", pb.ServerMetadataRequest())
    for model, version in (("simple", ""), ("simple", "1"), ("simple", "9"), ("simple", "x"), ("nothing", "")):
        label = " ".join(filter(None, (model, version)))
        yield RpcCase("model ready " + label, "ModelReady", pb.ModelReadyRequest(name=model, version=version))
        yield RpcCase("metadata " + label, "ModelMetadata", pb.ModelMetadataRequest(name=model, version=version))
        if version not in ("", "1") or model == "nothing":      # counters that are 0 are left out of a message: only failures compare
            yield RpcCase("statistics " + label, "ModelStatistics", pb.ModelStatisticsRequest(name=model, version=version), only="keys")
        yield RpcCase("config " + label, "ModelConfig", pb.ModelConfigRequest(name=model, version=version))
        yield RpcCase("infer " + label, "ModelInfer", infer(model, one, two, model_version=version))
    yield RpcCase("infer id", "ModelInfer", infer("simple", one, two, id="abc"))
    yield RpcCase("infer one output", "ModelInfer", infer("simple", one, two, outputs=(("OUTPUT1", 0),)))
    yield RpcCase("infer outputs turned", "ModelInfer", infer("simple", one, two, outputs=(("OUTPUT1", 0), ("OUTPUT0", 0))))
    yield RpcCase("infer parameters", "ModelInfer", changed(good, lambda r: (r.parameters["priority"].__setattr__("uint64_param", 1), r.parameters["mine"].__setattr__("string_param", "x"), r.parameters["half"].__setattr__("double_param", 0.5))))
    typed = infer("simple", one[:3] + (None,), two[:3] + (None,))
    for t in typed.inputs:
        t.contents.int_contents.extend(range(16))
    yield RpcCase("infer typed contents", "ModelInfer", typed)
    yield RpcCase("classification", "ModelInfer", infer("scale", x, outputs=(("y", 2),)))
    yield RpcCase("classification beyond", "ModelInfer", infer("scale", x, outputs=(("y", 9),)))
    for datatype, code in (("BOOL", "?"), ("UINT8", "u1"), ("INT64", "i8"), ("FP16", "f2"), ("FP64", "f8")):
        yield RpcCase("type " + datatype, "ModelInfer", infer("type_" + datatype.lower(), ("x", datatype, [1, 3], np.array([1, 0, 1], code).tobytes())))
    strings = b"".join(struct.pack("<I", len(v)) + v for v in (b"a", b"\xff\x00", b""))
    yield RpcCase("type BYTES", "ModelInfer", infer("type_bytes", ("x", "BYTES", [1, 3], strings)))
    yield RpcCase("bytes cut off", "ModelInfer", infer("type_bytes", ("x", "BYTES", [1, 3], strings[:-2])))
    yield RpcCase("gzip", "ModelInfer", good, compression=grpc.Compression.Gzip)
    yield RpcCase("deflate", "ModelInfer", good, compression=grpc.Compression.Deflate)
    # bad ones
    yield RpcCase("no inputs", "ModelInfer", infer("simple"))
    yield RpcCase("one input missing", "ModelInfer", infer("simple", one))
    yield RpcCase("one input too many", "ModelInfer", infer("simple", one, two, ("INPUT2", "INT32", [1, 16], a)))
    yield RpcCase("input twice", "ModelInfer", infer("simple", one, one))
    yield RpcCase("input unknown", "ModelInfer", infer("simple", one, ("other", "INT32", [1, 16], a)))
    yield RpcCase("datatype wrong", "ModelInfer", infer("simple", ("INPUT0", "FP32", [1, 16], a), two))
    yield RpcCase("datatype unknown", "ModelInfer", infer("simple", ("INPUT0", "INT33", [1, 16], a), two))
    yield RpcCase("shape wrong", "ModelInfer", infer("simple", ("INPUT0", "INT32", [1, 8], a[:32]), two))
    yield RpcCase("shape negative", "ModelInfer", infer("simple", ("INPUT0", "INT32", [-1, 16], a), two))
    yield RpcCase("batch too large", "ModelInfer", infer("simple", ("INPUT0", "INT32", [9, 16], a * 9), ("INPUT1", "INT32", [9, 16], b * 9)))
    yield RpcCase("raw too short", "ModelInfer", infer("simple", ("INPUT0", "INT32", [1, 16], a[:60]), two))
    yield RpcCase("raw too few", "ModelInfer", infer("simple", one, ("INPUT1", "INT32", [1, 16], None)))
    yield RpcCase("raw too many", "ModelInfer", changed(good, lambda r: r.raw_input_contents.append(b"more")))
    yield RpcCase("raw and contents", "ModelInfer", changed(good, lambda r: r.inputs[0].contents.int_contents.extend(range(16))))
    yield RpcCase("contents too short", "ModelInfer", changed(typed, lambda r: r.inputs[0].contents.int_contents.pop()))
    yield RpcCase("output unknown", "ModelInfer", infer("simple", one, two, outputs=(("nothing", 0),)))
    yield RpcCase("shared memory unknown", "ModelInfer", changed(good, lambda r: r.inputs[0].parameters["shared_memory_region"].__setattr__("string_param", "r")))
    # streams
    yield RpcCase("stream", "ModelStreamInfer", [good, good])
    yield RpcCase("stream error", "ModelStreamInfer", [infer("nothing", one, two, id="n")])
    yield RpcCase("stream error as status", "ModelStreamInfer", [infer("nothing", one, two)], metadata=(("triton_grpc_error", "true"),))
    # repository, settings
    yield RpcCase("index ready", "RepositoryIndex", pb.RepositoryIndexRequest(ready=True))
    yield RpcCase("load", "RepositoryModelLoad", pb.RepositoryModelLoadRequest(model_name="simple"))
    yield RpcCase("load unknown model", "RepositoryModelLoad", pb.RepositoryModelLoadRequest(model_name="nothing"))
    yield RpcCase("load of a repository", "RepositoryModelLoad", pb.RepositoryModelLoadRequest(repository_name="r", model_name="simple"))
    yield RpcCase("unload", "RepositoryModelUnload", pb.RepositoryModelUnloadRequest(model_name="plain"))
    yield RpcCase("model ready unloaded", "ModelReady", pb.ModelReadyRequest(name="plain"))
    yield RpcCase("unload unknown model", "RepositoryModelUnload", pb.RepositoryModelUnloadRequest(model_name="nothing"))
    yield RpcCase("load again", "RepositoryModelLoad", pb.RepositoryModelLoadRequest(model_name="plain"))
    yield RpcCase("log settings", "LogSettings", pb.LogSettingsRequest())
    yield RpcCase("log settings wrong type", "LogSettings", changed(pb.LogSettingsRequest(), lambda r: r.settings["log_info"].__setattr__("string_param", "yes")))
    yield RpcCase("trace settings", "TraceSetting", pb.TraceSettingRequest())
    yield RpcCase("shared memory status", "SystemSharedMemoryStatus", pb.SystemSharedMemoryStatusRequest())


def keys_of(j):
    if isinstance(j, dict):
        return {k: keys_of(v) for k, v in j.items()}
    return [keys_of(j[0])] if isinstance(j, list) and j else type(j).__name__


def parts(case, port):
    with grpc.insecure_channel("127.0.0.1:%d" % port) as channel:
        call = getattr(service_pb2_grpc.GRPCInferenceServiceStub(channel), case.method)
        try:
            stream = isinstance(case.request, list)
            answer = list(call(iter(case.request), timeout=30, **case.options)) if stream else call(case.request, timeout=30, **case.options)
        except grpc.RpcError as e:
            return {"status": e.code().name, "error": e.details()}
    trees = [json_format.MessageToDict(m, preserving_proto_field_name=True) for m in (answer if stream else [answer])]
    p = {"status": 200}
    for t in trees:
        if "models" in t:
            t["models"] = sorted(t["models"], key=lambda m: m["name"])
        if "config" in t:      # what names the engine must differ: it is compared apart
            p["engine"] = [t["config"].pop(k, None) for k in ("platform", "backend", "default_model_filename")]
        if "error_message" in t:
            p["error in stream"] = t.pop("error_message")
    return dict(p, keys=keys_of(trees[0])) if case.only == "keys" else dict(p, json=trees)
