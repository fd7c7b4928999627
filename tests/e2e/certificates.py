"""Authorities, certificates and keys for tests, made by openssl in a folder of their own."""
import os, subprocess, tempfile

CONFIG = """[ca]
default_ca = ours
[ours]
dir = {0}
database = {0}/index
new_certs_dir = {0}
serial = {0}/serial
default_md = sha256
policy = any
unique_subject = no
[any]
commonName = supplied
"""


def openssl(*arguments):
    subprocess.run(["openssl"] + list(arguments), check=True, capture_output=True)


def key_flags(kind):
    return ["rsa:2048"] if kind == "rsa" else ["ec", "-pkeyopt", "ec_paramgen_curve:P-256"]


class Authority:
    """A certificate authority: .pem is its own certificate."""

    def __init__(self, name):
        self.folder = tempfile.mkdtemp(prefix="inferd-ca-")
        self.pem, self.key = self.path("ca.pem"), self.path("ca.key")
        open(self.path("index"), "w").close()
        open(self.path("serial"), "w").write("1000\n")
        open(self.path("config"), "w").write(CONFIG.format(self.folder))
        openssl("req", "-x509", "-newkey", *key_flags("ec"), "-nodes", "-keyout", self.key, "-out", self.pem, "-subj", "/CN=" + name, "-days", "30")

    def path(self, name):
        return os.path.join(self.folder, name)

    def issue(self, name, usage="serverAuth", kind="ec", expired=False):
        """-> (certificate, key): paths of PEM files."""
        cert, key, request, extensions = (self.path(name + end) for end in (".pem", ".key", ".csr", ".ext"))
        openssl("req", "-newkey", *key_flags(kind), "-nodes", "-keyout", key, "-out", request, "-subj", "/CN=" + name)
        open(extensions, "w").write("subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=%s\n" % usage)
        dates = ["-startdate", "20200101000000Z", "-enddate", "20200201000000Z"] if expired else ["-days", "10"]
        openssl("ca", "-config", self.path("config"), "-batch", "-notext", "-cert", self.pem, "-keyfile", self.key, "-in", request, "-out", cert, "-extfile", extensions, *dates)
        os.chmod(key, 0o600)
        return cert, key


def put(folder, cert, key):
    """Puts a certificate and a key where a server looks for them, each in one step. -> their paths there"""
    for source, name in ((cert, "tls.pem"), (key, "tls.key")):
        made = os.path.join(folder, name + ".new")
        with open(made, "wb") as f:
            os.fchmod(f.fileno(), 0o600)
            f.write(open(source, "rb").read())
        os.replace(made, os.path.join(folder, name))
    return os.path.join(folder, "tls.pem"), os.path.join(folder, "tls.key")
