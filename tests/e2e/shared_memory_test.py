# needs: tritonclient.grpc
"""System shared memory with the stock clients, over HTTP and gRPC: tensors pass through regions that the client made; what a client does to its region hurts nobody."""
import json, os, sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import Server, run

import numpy as np
import tritonclient.grpc as grpc_client
import tritonclient.http as http_client
import tritonclient.utils.shared_memory as shm
from tritonclient.utils import InferenceServerException

server = Server("--allow-shared-memory")
IMAGE = np.random.default_rng(1).random((2, 1, 28, 28), np.float32)


def refused(f, *a, says=None, **kw):
    try:
        f(*a, **kw)
    except InferenceServerException as e:
        assert says is None or says in str(e), e
        return str(e)
    raise AssertionError("it was accepted")


def plain():
    c = http_client.InferenceServerClient("127.0.0.1:%d" % server.port)
    x = http_client.InferInput("image", IMAGE.shape, "FP32")
    x.set_data_from_numpy(IMAGE)
    name = c.get_model_metadata("digits")["outputs"][0]["name"]
    return name, c.infer("digits", [x]).as_numpy(name)


OUTPUT, EXPECTED = plain()


def through_memory(module, address):
    c = module.InferenceServerClient(address)
    names = ["in_" + module.__name__.replace(".", "_"), "out_" + module.__name__.replace(".", "_")]
    sizes = [IMAGE.nbytes, EXPECTED.nbytes]
    handles = [shm.create_shared_memory_region(n, "/inferd_test_" + n, s + 64) for n, s in zip(names, sizes)]
    try:
        shm.set_shared_memory_region(handles[0], [IMAGE], offset=64)
        for n, s in zip(names, sizes):
            c.register_system_shared_memory(n, "/inferd_test_" + n, s + 64)
        refused(c.register_system_shared_memory, names[0], "/inferd_test_" + names[0], 16)
        x = module.InferInput("image", IMAGE.shape, "FP32")
        x.set_shared_memory(names[0], sizes[0], offset=64)
        y = module.InferRequestedOutput(OUTPUT)
        y.set_shared_memory(names[1], sizes[1], offset=32)
        answer = c.infer("digits", [x], outputs=[y])
        about = answer.get_output(OUTPUT)
        region = about.parameters["shared_memory_region"].string_param if module is grpc_client else about["parameters"]["shared_memory_region"]
        assert region == names[1], about
        got = shm.get_contents_as_numpy(handles[1], np.float32, EXPECTED.shape, offset=32)
        assert np.array_equal(got, EXPECTED)
        status = c.get_system_shared_memory_status()
        assert len(status.regions if module is grpc_client else status) == 2, status
        y.set_shared_memory(names[1], sizes[1] - 4, offset=32)
        refused(c.infer, "digits", [x], outputs=[y], says="should be at least %d bytes" % sizes[1])
        x.set_shared_memory(names[0], sizes[0], offset=sizes[0])
        refused(c.infer, "digits", [x], says="Invalid offset")
        x.set_shared_memory("nobody", sizes[0])
        assert "nobody" not in refused(c.infer, "digits", [x], says="Unable to find")
        os.truncate("/dev/shm/inferd_test_" + names[0], 100)      # under the server's hands
        x.set_shared_memory(names[0], sizes[0], offset=64)
        refused(c.infer, "digits", [x], says="shorter than when it was registered")
        c.unregister_system_shared_memory(names[0])
        assert len(c.get_system_shared_memory_status().regions if module is grpc_client else c.get_system_shared_memory_status()) == 1
        c.unregister_system_shared_memory()
        assert not (c.get_system_shared_memory_status().regions if module is grpc_client else c.get_system_shared_memory_status())
    finally:
        for h in handles:
            shm.destroy_shared_memory_region(h)
    c.close()


def test_over_http():
    through_memory(http_client, "127.0.0.1:%d" % server.port)


def test_over_grpc():
    through_memory(grpc_client, server.grpc)


def test_names_that_are_none():
    for name, key in (("a b", "/x"), ("a", "/../x"), ("a", "/a/b"), ("x" * 129, "/x"), ("a", "/" + "k" * 200), ("a", "/inferd_that_is_not_there")):
        status, answer = server.json("POST", "/v2/systemsharedmemory/region/%s/register" % name.replace(" ", "%20"), {"key": key, "offset": 0, "byte_size": 16})
        assert status == 400 and key not in answer["error"], (name, key, status, answer)


def test_off_unless_allowed():
    with Server() as s:
        status, answer = s.json("GET", "/v2/systemsharedmemory/status")
        assert status == 501 and "off" in answer["error"], answer
        body = {"inputs": [{"name": "image", "shape": [1, 1, 28, 28], "datatype": "FP32", "parameters": {"shared_memory_region": "a", "shared_memory_byte_size": 3136}}]}
        status, answer = s.json("POST", "/v2/models/digits/infer", body)
        assert status == 501 and "off" in answer["error"], answer


def test_it_ends_well():
    assert server.stop() == 0


run(globals())
