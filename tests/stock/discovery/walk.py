"""Founds clusters by DNS and by the discovery service, of the reference, of the server under test and of both.

    walk.py SERVER REFERENCE FOLDER_WITH_CERTIFICATES

A scenario is a few members with their flags, on addresses of its own, so that scenarios run side by side; each kind of
server runs it once. Of members that start are compared who the members are, with their ids and the cluster's; of one that
does not, the exit code; of both the lines in which they tell of discovery, with all their fields. In a service a scenario
of each kind has a token of its own name, since ids come from tokens.
"""

import base64
import concurrent.futures
import contextlib
import json
import os
import pathlib
import posixpath
import re
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
import urllib.request

WAIT_SECONDS = 40
READY = "ready to serve client requests"
TOLD = {
    "get cluster for etcd-server-ssl SRV",
    "get cluster for etcd-server SRV",
    "failed to resolve during SRV discovery",
    "got bootstrap from DNS for etcd-server",
    "Bootstrapping cluster using v3 discovery.",
    "failed to get cluster size from discovery service",
    "failed to get cluster members from discovery service",
    "found peer from discovery service",
    "found duplicate peer from discovery service",
    "invalid peer info returned from discovery service",
    "waiting for peers from discovery service",
    "found all needed peers from discovery service",
    "register member itself successfully",
    "failed to register members itself to the discovery service",
    "retry connecting to discovery service",
    "discovery joined cluster successfully",
    "discovery failed to join cluster",
    "failed to bootstrap; discovery token was already used",
    "do not reuse discovery token; generate a new one to bootstrap a cluster",
    "discovery token is ignored since cluster already initialized; valid logs are found",
}
SRV, A, NXDOMAIN, SERVFAIL, TRUNCATED = 33, 1, 3, 2, 0x0200


class Dns:
    """Answers for what scenarios have put here; a name that nobody has put here is none."""

    def __init__(self):
        # By name: records of SRV, an address, or what goes wrong.
        self.names = {}
        self.datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.datagrams.bind(("127.0.0.1", 53))
        self.streams = socket.create_server(("127.0.0.1", 53))
        for work in (self.serve_datagrams, self.serve_streams):
            threading.Thread(target=work, daemon=True).start()

    def serve_datagrams(self):
        while True:
            question, whence = self.datagrams.recvfrom(4096)
            for answer in self.answers(question, whole=False):
                self.datagrams.sendto(answer, whence)

    def serve_streams(self):
        while True:
            stream = self.streams.accept()[0]
            with stream, contextlib.suppress(OSError):
                size = struct.unpack(">H", stream.recv(2, socket.MSG_WAITALL))[0]
                for answer in self.answers(stream.recv(size, socket.MSG_WAITALL), whole=True):
                    stream.sendall(struct.pack(">H", len(answer)) + answer)

    def answers(self, question, whole):
        labels, at = [], 12
        while question[at]:
            labels.append(question[at + 1 : at + 1 + question[at]].decode().lower())
            at += 1 + question[at]
        asked, kind = question[12 : at + 5], struct.unpack(">H", question[at + 1 : at + 3])[0]

        def message(flags, records):
            head = question[:2] + struct.pack(">HHHHH", 0x8180 | flags, 1, len(records), 0, 0)
            # Each under the name that was asked for.
            return head + asked + b"".join(
                b"\xc0\x0c" + struct.pack(">HHIH", kind, 1, 60, len(data)) + data for data in records
            )

        known = self.names.get(".".join(labels))
        if known is None:
            return [message(NXDOMAIN, [])]
        if known == "servfail":
            return [message(SERVFAIL, [])]
        if known == "silent":
            return []
        if isinstance(known, str):
            return [message(0, [socket.inet_aton(known)] if kind == A else [])]
        if kind != SRV:
            return [message(0, [])]
        how, records = ("", known) if isinstance(known, list) else known
        data = [struct.pack(">HHH", *record[:3]) + in_dns(record[3]) for record in records]
        if how == "long" and not whole:
            return [message(TRUNCATED, [])]
        if how == "forged":
            # Of another question, of another name, and cut short: nobody is to believe any of them.
            right = message(0, data)
            return [b"\0\0" + right[2:], right[:13] + b"X" + right[14:], right[:20], right]
        return [message(0, data)]


def in_dns(name):
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".") if label) + b"\0"


class Process:
    def __init__(self, binary, folder, words, data=None):
        folder.mkdir(exist_ok=True)
        self.log = folder / "log"
        with open(self.log, "wb") as out:
            self.process = subprocess.Popen(
                [binary, f"--data-dir={data or folder / 'data'}", *words],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env={"PATH": os.environ["PATH"]},
            )

    def lines(self):
        for line in self.log.read_text(errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                fields = json.loads(line)
                if isinstance(fields, dict):
                    yield fields

    def wait(self, message):
        """Until it has logged this; False if it has ended before, or takes too long."""
        limit = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < limit:
            if any(fields["msg"] == message for fields in self.lines()):
                return True
            if self.process.poll() is not None:
                return any(fields["msg"] == message for fields in self.lines())
            time.sleep(0.02)
        return False

    def stop(self):
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()

    def end(self):
        """How it has ended, and why."""
        if self.process.poll() is None:
            return {"waits": True}
        ends = (fields for fields in self.lines() if fields["level"] in ("error", "fatal", "panic"))
        says = next((fields.get("error") for fields in ends), "")
        # Of the server under test another line may say what to do.
        return {"exit": self.process.poll(), "says": re.sub(r"\n(?!error )[^\n]*$", "", says)}

    def told(self):
        lines = []
        for fields in self.lines():
            if fields["msg"] in TOLD:
                for name in ("ts", "caller", "wal-dir", "stacktrace"):
                    fields.pop(name, None)
                lines.append(fields)
        return lines


def ask(url, path, body, token=None):
    headers = {"Authorization": token} if token else {}
    request = urllib.request.Request(f"{url}/v3/{path}", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=10, context=ssl._create_unverified_context()) as answer:
        return json.loads(answer.read())


def in_64(text):
    return base64.b64encode(text.encode()).decode()


class Service:
    """A cluster of one that others are found by. One that is locked speaks TLS, and knows its users."""

    def __init__(self, name, binary, number, folder, locked=False):
        address, words = f"127.0.{number}.1", []
        self.name, self.address, self.token = name, address, None
        self.url = f"{'https' if locked else 'http'}://{address}:2379"
        if locked:
            urls = f"--listen-client-urls={self.url}", f"--advertise-client-urls={self.url}"
            words = [f"--cert-file={folder}/service.test.pem", f"--key-file={folder}/service.test-key.pem", *urls]
        self.process = Process(binary, folder / name, [*Member("service", address).words, *words])

    def lock(self):
        for path, body in [
            ("auth/role/add", {"name": "root"}),
            ("auth/user/add", {"name": "root", "password": "right"}),
            ("auth/user/grant", {"user": "root", "role": "root"}),
            ("auth/user/add", {"name": "nobody", "password": "right"}),
            ("auth/enable", {}),
        ]:
            ask(self.url, path, body)
        self.token = ask(self.url, "auth/authenticate", {"name": "root", "password": "right"})["token"]

    def put(self, key, value):
        ask(self.url, "kv/put", {"key": in_64(key), "value": in_64(value)}, self.token)

    def forget(self, prefix):
        end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
        ask(self.url, "kv/deleterange", {"key": in_64(prefix), "range_end": in_64(end)}, self.token)


class Member:
    """A member to be: where it listens, and what is said of discovery."""

    def __init__(self, name, address, *words, peer_host=None, scheme="http"):
        self.name, self.address = name, address
        self.words = [
            f"--name={name}",
            f"--listen-client-urls=http://{address}:2379",
            f"--advertise-client-urls=http://{address}:2379",
            f"--listen-peer-urls={scheme}://{address}:2380",
            f"--initial-advertise-peer-urls={scheme}://{peer_host or address}:2380",
            *words,
        ]


class Scenario:
    def __init__(self, name, members, starts, again=False, prepare=None, until=READY, panics=False):
        self.name, self.members = name, members
        # Whether members are to start: what both get wrong is seen so, too.
        self.starts = starts
        # The first is started once more when all of them run.
        self.again = again
        # Of one that needs a service; members are started by turns then, when the one before waits for others.
        self.prepare = prepare
        # What they are waited for to say.
        self.until = until
        # The reference panics: that nothing starts is compared, and not how.
        self.panics = panics
        self.lock = threading.Lock()

    def run(self, binaries, folder, service=None):
        """What is seen of it."""
        with self.lock:
            folder.mkdir()
            running = []
            try:
                return self.see(binaries, folder, service, running)
            finally:
                for process in running:
                    process.stop()

    def see(self, binaries, folder, service, running):
        def start(at):
            member = self.members[at]
            words = [word.replace("{service}", service.address if service else "") for word in member.words]
            running.append(Process(binaries[at % len(binaries)], folder / f"{len(running)}", words, folder / member.name))
            return running[-1]

        if self.prepare:
            self.prepare(service)
        for at in range(len(self.members)):
            process = start(at)
            if self.prepare and at + 1 < len(self.members):
                process.wait("waiting for peers from discovery service")
        seen = {}
        for member, process in zip(self.members, list(running)):
            if process.wait(self.until):
                seen[member.name] = self.members_of(member) if self.until == READY else {}
            else:
                seen[member.name] = {} if self.panics else process.end()
        if all("members" in what for what in seen.values()) != self.starts:
            seen["wanted"] = "a cluster" if self.starts else "none"
        if self.again:
            running[0].stop()
            start(0).wait(READY)
        seen["told"] = [process.told() for process in running]
        # The port that a datagram came from is anyone's.
        text = re.sub(r"127\.0\.0\.1:[0-9]+->", "here->", json.dumps(seen))
        return json.loads(text.replace(service.address, "service") if service else text)

    def members_of(self, member):
        limit = time.monotonic() + WAIT_SECONDS
        while True:
            told = ask(f"http://{member.address}:2379", "cluster/member/list", {})
            # Until all have told their names.
            if all("name" in other for other in told["members"]) or time.monotonic() > limit:
                return {"cluster": told["header"]["cluster_id"], "members": told["members"]}
            time.sleep(0.05)


def host_of(number, at):
    return f"127.0.{number}.{at + 1}"


def of_dns(dns, certs):
    """Scenarios that found by DNS."""
    found = []

    def scenario(name, records, words=(), count=1, starts=False, scheme="http", by_name=True, again=False):
        number, domain = len(found) + 1, f"{name}.test"
        hosts = [f"m{at}.{domain}" for at in range(count)]
        for at, host in enumerate(hosts):
            dns.names[host] = host_of(number, at)
        for service, what in records(hosts).items():
            dns.names[f"_{service}._tcp.{domain}"] = what
        words = words or [f"--discovery-srv={domain}"]
        words = [word.replace("{domain}", domain) for word in words]
        members = [
            Member(f"n{at}", host_of(number, at), *words, peer_host=hosts[at] if by_name else None, scheme=scheme)
            for at in range(count)
        ]
        found.append(Scenario(f"dns {name}", members, starts, again))

    def at_port(hosts, port=2380):
        return [(0, 0, port, host) for host in hosts]

    def plain(hosts):
        return {"etcd-server": at_port(hosts)}

    def encrypted(hosts):
        return {"etcd-server-ssl": at_port(hosts)}

    here = "--discovery-srv={domain}"
    dns.names["other.test"] = "127.0.99.99"
    scenario("three", plain, count=3, starts=True, again=True)
    scenario("addresses", plain, count=2, starts=True, by_name=False)
    scenario("suffix", lambda hosts: {"etcd-server-b": at_port(hosts)}, [here, "--discovery-srv-name=b"], 3, True)
    scenario("token", plain, [here, "--initial-cluster-token=other"], starts=True)
    scenario("long", lambda hosts: {"etcd-server": ("long", at_port(hosts))}, starts=True)
    scenario("forged", lambda hosts: {"etcd-server": ("forged", at_port(hosts))}, starts=True)
    by_priority = [(2, 0, 2380, "m0.order.test"), (1, 0, 2380, "m1.order.test")]
    scenario("order", lambda hosts: {"etcd-server": by_priority}, count=2, starts=True)
    scenario("half", lambda hosts: {"etcd-server": at_port([*hosts, "lost.invalid"])}, starts=True)
    scenario("both", lambda hosts: {**plain(hosts), **encrypted(hosts)}, starts=True)
    # By the list of domains to search.
    dns.names["_etcd-server._tcp.short.search.test"] = at_port(["m0.short.test"])
    scenario("short", lambda hosts: {}, ["--discovery-srv=short"], starts=True)
    # Others are known by the domain, not by their hosts.
    pair = [f"--peer-cert-file={certs}/secure.test.pem", f"--peer-key-file={certs}/secure.test-key.pem"]
    scenario("secure", encrypted, [here, *pair], 2, True, scheme="https")
    scenario("insecure", encrypted, [here, *pair, f"--peer-trusted-ca-file={certs}/ca.pem"], 1, True, scheme="https")
    scenario("existing", plain, [here, "--initial-cluster-state=existing"])
    # With a dot at its end there is nothing else that it may stand for.
    scenario("broken", lambda hosts: {"etcd-server": "servfail"}, ["--discovery-srv={domain}."])
    scenario("silent", lambda hosts: {"etcd-server": "silent"}, ["--discovery-srv={domain}."])
    scenario("nowhere", lambda hosts: {})
    scenario("stranger", lambda hosts: {"etcd-server": at_port(["other.test"])})
    scenario("lost", lambda hosts: {"etcd-server": at_port(["lost.invalid"])})
    scenario("port", lambda hosts: {"etcd-server": at_port(hosts, 2381)})
    scenario("scheme", encrypted)
    scenario("bad-name", lambda hosts: {"etcd-server": at_port(["a b.test", *hosts])})
    scenario("domain", lambda hosts: {}, ["--discovery-srv=a b"])
    return found


def of_service(certs):
    """Scenarios that found by a service, in the clear and locked; each has a token of its own."""
    found, locked = [], []

    def scenario(name, size, words=(), count=1, starts=False, others=(), again=False, panics=False, until=READY, endpoints="http://{service}:2379"):
        number, where = len(found) + len(locked) + 101, posixpath.normpath(f"/_etcd/registry/{name}")

        def prepare(service):
            service.forget(where + "/")
            if size is not None:
                service.put(f"{where}/_config/size", size)
            for at, other in enumerate(others):
                service.put(f"{where}/members/{at}", other)

        words = [f"--discovery-endpoints={endpoints}", f"--discovery-token={name}", *words]
        members = [Member(f"n{at}", host_of(number, at), *words) for at in range(count)]
        scenarios = locked if endpoints.startswith("https://") else found
        scenarios.append(Scenario(f"service {name}", members, starts, again, prepare, until, panics))

    scenario("three", "3", count=3, starts=True, again=True)
    scenario("full", "2", others=["x=http://a:1", "y=http://b:1"])
    scenario("no-size", None)
    scenario("bad-size", "many")
    scenario("zero", "0")
    scenario("plus", "+1", starts=True)
    scenario("bad-url", "2", others=["x=foo"])
    scenario("twice", "2", others=[f"x=http://{host_of(108, 0)}:2380"])
    scenario("nobody", "1", others=["nobody"], starts=True)
    scenario("dots/./../dots//", "1", starts=True)
    scenario("existing", "1", ["--initial-cluster-state=existing"])
    scenario("lonely", "1", endpoints="127.0.99.1:1,{service}:2379", starts=True)
    scenario("half-pair", "1", ["--discovery-cert=/c"])
    scenario("no-file", "1", ["--discovery-cacert=/c"])
    scenario("user", "1", ["--discovery-user=u", "--discovery-password=p"], starts=True)
    scenario("named-alike", "2", ["--name=same"], count=2, panics=True)
    # Whoever nobody answers asks again, and again.
    retries = "retry connecting to discovery service"
    scenario("late", "1", ["--discovery-request-timeout=1ns"], until=retries)
    root, by_name = ["--discovery-user=root", "--discovery-password=right"], "https://service.test:2379"
    scenario("locked", "2", [*root, f"--discovery-cacert={certs}/ca.pem"], 2, True, endpoints=by_name)
    scenario("of-system", "1", root, starts=True, endpoints=by_name)
    by_address = "https://{service}:2379"
    scenario("misnamed", "1", ["--discovery-request-timeout=1s"], endpoints=by_address, until=retries)
    skips = "--discovery-insecure-skip-tls-verify"
    scenario("unverified", "1", [*root, skips], starts=True, endpoints=by_address)
    wrong = ["--discovery-user=root", "--discovery-password=wrong"]
    scenario("wrong-password", "1", wrong, endpoints=by_name)
    scenario("no-user", "1", endpoints=by_name, until=retries)
    nobody = ["--discovery-user=nobody", "--discovery-password=right"]
    scenario("no-permission", "1", nobody, endpoints=by_name, until=retries)
    return found, locked


def main():
    server, reference, certs = sys.argv[1:]
    certs = pathlib.Path(certs)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    dns = Dns()
    dns.names["service.test"] = "127.0.202.1"
    services = [Service("reference", reference, 200, certs), Service("tested", server, 201, certs)]
    locked = Service("locked", reference, 202, certs, locked=True)
    for service in [*services, locked]:
        assert service.process.wait(READY), service.name
    locked.lock()
    both = [[reference], [server], [server, reference]]
    # The first of a scenario's runs is what others are compared with.
    runs = [(scenario, binaries, None) for scenario in of_dns(dns, certs) for binaries in both[:2]]
    in_the_clear, behind_locks = of_service(certs)
    runs += [(scenario, binaries, locked) for scenario in behind_locks for binaries in both[:2]]
    for scenario in in_the_clear:
        runs += [(scenario, binaries, services[0]) for binaries in both[:2]]
        if scenario.name == "service three":
            runs += [(scenario, binaries, services[1]) for binaries in both] + [(scenario, both[2], services[0])]

    def see(at):
        scenario, binaries, service = runs[at]
        return scenario.run(binaries, certs / f"run-{at}", service)

    with concurrent.futures.ThreadPoolExecutor(int(os.environ.get("WORKERS", "12"))) as workers:
        seen = list(workers.map(see, range(len(runs))))
    failed, wanted = 0, {}
    for (scenario, binaries, service), what in zip(runs, seen):
        first = wanted.setdefault(scenario.name, what)
        if first == what and "wanted" not in what:
            continue
        failed += 1
        who = "+".join(pathlib.Path(binary).name for binary in binaries)
        print(f"discovery: {scenario.name}: {who}{' in ' + service.name if service else ''}: differs")
        for name in sorted(first.keys() | what.keys()):
            if first.get(name) != what.get(name) or name == "wanted":
                print(f"  {name}\n    {json.dumps(first.get(name))}\n    {json.dumps(what.get(name))}")
    for service in [*services, locked]:
        service.process.stop()
    if failed:
        sys.exit(1)
    print(f"discovery: {len(wanted)} scenarios, {len(runs)} runs: the same clusters, the same refusals, told in the same words")


if __name__ == "__main__":
    main()
