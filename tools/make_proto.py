#!/usr/bin/env python3
"""Writes api/proto/ from what a running server's reflection tells, which is made of the tables in api/rpcs.c and model_store/schema.c:
make_proto.py --server HOST:PORT [--out DIR]. The end-to-end tests compare the two, so the files are what the server speaks."""
import argparse, os

import grpc
from google.protobuf import descriptor_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

KINDS = {1: "double", 2: "float", 3: "int64", 4: "uint64", 5: "int32", 8: "bool", 9: "string", 12: "bytes", 13: "uint32"}
FILES = ["model_config.proto", "grpc_service.proto", "grpc/health/v1/health.proto", "grpc/reflection/v1/reflection.proto", "grpc/reflection/v1alpha/reflection.proto"]


def kind(f, package):
    return KINDS.get(f.type) or f.type_name[len(package) + 2:]


def fields(m, package, pad):
    entries = {n.name: n for n in m.nested_type if n.options.map_entry}
    out, open_choice = [], -1
    for f in m.field:
        choice = f.oneof_index if f.HasField("oneof_index") else -1
        if choice != open_choice:
            if open_choice >= 0:
                out.append(pad + "}")
            if choice >= 0:
                out.append("%soneof %s {" % (pad, m.oneof_decl[choice].name))
            open_choice = choice
        entry = entries.get(f.type_name.rsplit(".", 1)[-1]) if f.label == 3 else None
        text = "map<%s, %s>" % (kind(entry.field[0], package), kind(entry.field[1], package)) if entry else ("repeated " if f.label == 3 else "") + kind(f, package)
        out.append("%s%s %s = %d;" % (pad + ("    " if choice >= 0 else ""), text, f.name, f.number))
    return out + ([pad + "}"] if open_choice >= 0 else [])


def enumeration(e, pad):
    return ["%senum %s {" % (pad, e.name)] + ["%s    %s = %d;" % (pad, v.name, v.number) for v in e.value] + [pad + "}"]


def message(m, package, pad=""):
    nested = [n for n in m.nested_type if not n.options.map_entry]
    if not (m.field or nested or m.enum_type):
        return ["%smessage %s {}" % (pad, m.name)]
    out = ["%smessage %s {" % (pad, m.name)]
    for n in nested:
        out += message(n, package, pad + "    ")
    for e in m.enum_type:
        out += enumeration(e, pad + "    ")
    return out + fields(m, package, pad + "    ") + [pad + "}"]


def proto(f):
    out = ["// Written by tools/make_proto.py from the server's tables.", 'syntax = "proto3";', "", "package %s;" % f.package, ""]
    out += ['import "%s";' % d for d in f.dependency] + ([""] if f.dependency else [])
    for s in f.service:
        out.append("service %s {" % s.name)
        for m in s.method:
            out.append("    rpc %s(%s%s) returns (%s%s);" % (m.name, "stream " if m.client_streaming else "", m.input_type[len(f.package) + 2:], "stream " if m.server_streaming else "", m.output_type[len(f.package) + 2:]))
        out += ["}", ""]
    for e in f.enum_type:
        out += enumeration(e, "") + [""]
    for m in f.message_type:
        out += message(m, f.package) + [""]
    return "\n".join(out)


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--server", required=True)
    p.add_argument("--out", default=os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "api/proto"))
    o = p.parse_args()
    stub = reflection_pb2_grpc.ServerReflectionStub(grpc.insecure_channel(o.server))
    for name, answer in zip(FILES, stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(file_by_filename=n) for n in FILES]))):
        f = descriptor_pb2.FileDescriptorProto.FromString(answer.file_descriptor_response.file_descriptor_proto[0])
        path = os.path.join(o.out, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        open(path, "w").write(proto(f))


if __name__ == "__main__":
    main()
