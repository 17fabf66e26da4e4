"""Starts the server under test and the reference with each setting, one value at a time, and compares what comes of it.

    walk.py SERVER REFERENCE FOLDER_WITH_CERTIFICATES

A row of cases.tsv is a flag with values that are good, odd and bad. Each value is given by flag, by variable and by key
of a file; and the first one by flag and variable at once. Of a server that starts is compared where it listens, what
the member is called and where, which paths and protocols it speaks, and what it has made in its folder; of one that
does not, the exit code and the message. What may differ is in differences.tsv, with the reason; a line of it that
explains nothing any more is a failure like a difference that has no line. Each server runs in a network of its thread's
own, on etcd's own ports.
"""

import collections
import concurrent.futures
import ctypes
import fcntl
import http.client
import json
import os
import pathlib
import re
import signal
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).parent
NANOSECONDS = {"ns": 1, "us": 1000, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
TLS = (
    "--cert-file={certs}/cert.pem --key-file={certs}/key.pem "
    "--listen-client-urls=https://127.0.0.1:2379 --advertise-client-urls=https://127.0.0.1:2379"
)
PEER_TLS = (
    "--peer-cert-file={certs}/cert.pem --peer-key-file={certs}/key.pem --listen-peer-urls=https://127.0.0.1:2380 "
    "--initial-advertise-peer-urls=https://127.0.0.1:2380 --initial-cluster=default=https://127.0.0.1:2380"
)
READY = b"ready to serve client requests"
# A server that is neither ready nor gone by then waits for something, such as other members.
WAIT_SECONDS = 60
PATHS = ["/health", "/metrics", "/version", "/debug/pprof/", "/debug/vars", "/v3/nothing", "/nothing"]

Setting = collections.namedtuple("Setting", "flag kind key beside values")
Case = collections.namedtuple("Case", "flag way value words variables file")


def rows(name, columns):
    for line in (HERE / name).read_text().splitlines()[1:]:
        fields = line.split("\t")
        assert len(fields) >= columns, f"{name}: {line}"
        yield fields


def settings(certs):
    def fill(text):
        text = text.replace("{tls}", TLS).replace("{peer-tls}", PEER_TLS).replace("{certs}", certs)
        return "" if text in ("-", "''") else text

    return [
        Setting(flag, kind, fill(key), fill(beside).split(), [fill(value) for value in values])
        for flag, kind, key, beside, *values in rows("cases.tsv", 5)
    ]


def in_a_file(kind, value):
    """A value as JSON, the way a file has to have it; one that has no such form stays a text."""
    if kind == "list":
        return value.split(",") if value else []
    if kind == "bool" and value in ("true", "false"):
        return value == "true"
    if kind in ("uint", "uint32", "int") and re.fullmatch(r"-?[0-9.]+", value):
        return json.loads(value)
    if kind == "duration" and (match := re.fullmatch(r"([0-9]+)([a-z]+)", value)) and match[2] in NANOSECONDS:
        return int(match[1]) * NANOSECONDS[match[2]]
    return value


def file_text(pairs):
    tree = {}
    for key, value in pairs:
        *sections, last = key.split("/")
        at = tree
        for section in sections:
            at = at.setdefault(section, {})
        at[last] = value
    return json.dumps(tree)


def cases(known):
    by_flag = {setting.flag: setting for setting in known}
    for setting in known:
        beside = [word for word in setting.beside if word.partition("=")[0] != f"--{setting.flag}"]
        variable = "ETCD_" + setting.flag.upper().replace("-", "_")
        for value in setting.values:
            word = f"--{setting.flag}={value}"
            yield Case(setting.flag, "flag", value, [*beside, word], {}, None)
            if value:
                yield Case(setting.flag, "variable", value, beside, {variable: value}, None)
            if setting.key:
                pairs = []
                for other in beside:
                    name, _, text = other[2:].partition("=")
                    other = by_flag[name]
                    pairs.append((other.key, in_a_file(other.kind, text or "true")))
                pairs.append((setting.key, in_a_file(setting.kind, value)))
                yield Case(setting.flag, "file", value, [], {}, file_text(pairs))
        first = setting.values[0] or "x"
        words = [*beside, f"--{setting.flag}={first}"]
        yield Case(setting.flag, "flag and variable", first, words, {variable: first}, None)


def own_network():
    """Puts this thread, and what it starts from now on, into a network of its own."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(0x40000000) != 0:
        raise OSError(ctypes.get_errno(), "cannot make a network")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sh14x", b"lo", 0x1 | 0x40)
        fcntl.ioctl(control, 0x8914, request)


def listening(pid):
    """Addresses on which somebody listens in the network of that process, as hexadecimal."""
    found = set()
    for table in map(pathlib.Path, (f"/proc/{pid}/net/tcp", f"/proc/{pid}/net/tcp6")):
        for line in table.read_text().splitlines()[1:] if table.exists() else []:
            fields = line.split()
            if fields[3] == "0A":
                found.add(fields[1])
    return sorted(found)


def ask(port, encrypted, path, headers=None, method="GET", body=None):
    if encrypted:
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=5, context=ssl._create_unverified_context())
    else:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read().decode()
    except (OSError, http.client.HTTPException):
        return None, {}, ""
    finally:
        connection.close()


def handshake(port):
    """Version and suite that are agreed on, and whether a certificate is demanded of who has none."""
    context = ssl._create_unverified_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_3
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as plain, context.wrap_socket(plain) as stream:
            version, suite = stream.version(), stream.cipher()[0] if stream.version() == "TLSv1.2" else ""
            # In TLS 1.3 a certificate that is missing is told of after the handshake.
            stream.sendall(b"GET /health HTTP/1.0\r\n\r\n")
            try:
                return [version, suite, "takes us" if stream.recv(1) else "hangs up"]
            except OSError:
                return [version, suite, "hangs up"]
    except OSError:
        return None


def look(process, folder):
    """What somebody sees of a server that runs."""
    try:
        addresses = listening(process.pid)
    except FileNotFoundError:
        # It is gone.
        return {}
    seen = {
        "listens": addresses,
        "files": sorted(path.name.replace(".urd", ".etcd") for path in folder.iterdir()),
    }
    for address in addresses:
        port = int(address.split(":")[1], 16)
        # Go answers plain HTTP on an encrypted port by 400.
        encrypted = ask(port, False, "/version")[0] in (None, 400)
        of_port = {"tls": handshake(port)} if encrypted else {}
        statuses = {path: ask(port, encrypted, path)[0] for path in PATHS}
        of_port["paths"] = statuses
        if statuses["/version"] == 200:
            headers = ask(port, encrypted, "/version", {"Origin": "http://a:1"})[1]
            of_port["cors"] = sorted(name for name in headers if name.lower().startswith("access-"))
            of_port["hosts"] = ask(port, encrypted, "/version", {"Host": "example.com"})[0]
            status, _, body = ask(port, encrypted, "/v3/cluster/member/list", method="POST", body="{}")
            of_port["members"] = json.loads(body) if status == 200 else status
            if status == 200:
                of_port["members"]["header"].pop("raft_term", None)
        seen[port] = of_port
    return seen


def all_speak(seen):
    """Whether there are ports, and each of them answers somehow."""
    ports = [of_port for of_port in seen.values() if isinstance(of_port, dict)]
    return bool(ports) and all(of_port.get("tls", True) is not None for of_port in ports)


def outputs(folder):
    files = (path for path in folder.iterdir() if path.is_file() and path.name != "settings.yml")
    return b"".join(path.read_bytes() for path in files)


def message(code, text):
    """The one sentence in which a server says why it does not start."""
    told = ""
    for line in text.decode(errors="replace").splitlines():
        try:
            fields = json.loads(line)
        except ValueError:
            # The first plain line is the reason, what follows explains it.
            return line if line.startswith("panic: ") or not told else told.partition("\n")[0]
        if not isinstance(fields, dict) or told:
            continue
        ends = fields.get("level") in ("error", "fatal", "panic")
        if ends or fields.get("msg") in ("failed to verify flags", "failed to start"):
            told = str(fields.get("error") or fields["msg"])
            if variable := fields.get("environment-variable"):
                told += f": {variable}"
    return told.partition("\n")[0]


def run(binary, case, certs):
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        words = case.words
        if case.file is not None:
            (folder / "settings.yml").write_text(case.file)
            words = ["--config-file=settings.yml"]
        with open(folder / "out", "wb") as out:
            variables = {"PATH": os.environ["PATH"], **case.variables}
            process = subprocess.Popen(
                [binary, *words], cwd=folder, env=variables, stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )
        try:
            limit = time.monotonic() + WAIT_SECONDS
            while process.poll() is None and READY not in outputs(folder):
                if time.monotonic() > limit:
                    return {"waits": True}
                # Those that are told to be silent are asked.
                if "log-level" in case.flag and ask(2379, False, "/health")[0] == 200:
                    break
                time.sleep(0.02)
            seen = look(process, folder) if process.poll() is None else {}
            # The reference says that it is ready, and finds out then what is wrong with its certificates.
            limit = time.monotonic() + 3
            while process.poll() is None and not all_speak(seen) and time.monotonic() < limit:
                time.sleep(0.02)
            if process.poll() is None:
                return seen
            text = message(process.returncode, outputs(folder))
            # The port that DNS is asked from is anyone's.
            text = re.sub(r":[0-9]+->", ":…->", text)
            plain = [("default.urd", "default.etcd"), ("settings.yml: ", ""), (name, "."), (certs, "{certs}")]
            for ours, theirs in plain:
                text = text.replace(ours, theirs)
            return {"exit": process.returncode, "says": text}
        finally:
            process.kill()
            process.wait()


def differing(reference, tested):
    """What differs, as two short texts."""
    if "says" in reference and "says" in tested:
        return f"exit {reference['exit']}: {reference['says']}", f"exit {tested['exit']}: {tested['says']}"

    def short(found, other):
        if "says" in found:
            return f"exit {found['exit']}: {found['says']}"
        if "waits" in found:
            return "waits"
        if "says" in other or "waits" in other:
            return "starts"
        parts = []
        for name in sorted(found.keys() | other.keys(), key=str):
            if found.get(name) == other.get(name):
                continue
            inside, outside = found.get(name), other.get(name)
            if isinstance(inside, dict) and isinstance(outside, dict):
                unlike = (key for key in sorted(inside) if inside.get(key) != outside.get(key))
                parts += [f"{name} {key}: {inside.get(key)}" for key in unlike]
            else:
                parts.append(f"{name}: {inside}")
        return "starts; " + "; ".join(parts)

    return short(reference, tested), short(tested, reference)


def fits(pattern, text):
    """Whether a text is as the pattern says, in which a star is any text."""
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), text, re.DOTALL)


def main():
    server, reference, certs = sys.argv[1:]
    known = settings(certs)
    all_cases = list(cases(known))
    local = threading.local()

    def both(case):
        if not hasattr(local, "network"):
            own_network()
            local.network = True
        return case, run(reference, case, certs), run(server, case, certs)

    with concurrent.futures.ThreadPoolExecutor(int(os.environ.get("WORKERS", "12"))) as workers:
        results = list(workers.map(both, all_cases))

    explained = [(row, [0]) for row in rows("differences.tsv", 6)]
    failed = differences = 0
    for case, theirs, ours in results:
        if theirs == ours:
            continue
        said, told = differing(theirs, ours)
        place = (case.flag, case.way, case.value.replace(certs, "{certs}") or "''", said, told)
        for row, used in explained:
            if all(fits(pattern, text) for pattern, text in zip(row, place)):
                used[0] += 1
                differences += 1
                break
        else:
            failed += 1
            print("settings: differs: " + "\t".join(place))
    for row, used in explained:
        if not used[0]:
            failed += 1
            print("settings: explains nothing any more: " + "\t".join(row))
    if failed:
        sys.exit(1)
    keys = sum(1 for setting in known if setting.key)
    print(
        f"settings: {len(known)} flags and their variables, {keys} keys, {len(all_cases)} starts of each server, "
        f"{differences} differences that docs/compatibility.md explains, no other"
    )


if __name__ == "__main__":
    # What ends this script ends what it has started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    main()
