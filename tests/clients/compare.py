"""Counts what a suite said of its tests with urd and with the reference server, and holds the one against the other.

    compare.py CLIENT VERSION FOLDER_OF_URD FOLDER_OF_ETCD

A folder has `results/`: *.cargo (what a test binary of Rust prints), *.xml (JUnit), *.json (`go test -json`), *.exit (the status
of a program that is a test as a whole) and *.said (of our own scripts: a test, its outcome and what it has heard from the server;
with urd a test fails that has heard something else). Fails when urd does not pass what the reference passes and no line of
differences.tsv says why, when such a line no longer holds (unless it begins with "at times"), and when the reference passes fewer
tests than `at_least` in the client's file: a suite that did not run proves nothing.
"""

import json
import pathlib
import re
import sys
import xml.etree.ElementTree

HERE = pathlib.Path(__file__).parent


def of_cargo(path):
    # A test that prints does so between its name and what became of it.
    text = path.read_text(errors="replace")
    for name, outcome in re.findall(r"^test (\S+)(?: - should panic)? \.\.\. (ok|FAILED|ignored)", text, re.M):
        yield name, {"ok": "passed", "FAILED": "failed", "ignored": "skipped"}[outcome]


def of_junit(path):
    for case in xml.etree.ElementTree.parse(path).iter("testcase"):
        outcome = "passed"
        for child in case:
            if child.tag in ("failure", "error"):
                outcome = "failed"
            elif child.tag == "skipped" and outcome == "passed":
                outcome = "skipped"
        yield f"{case.get('classname').split('.')[-1]}.{case.get('name')}", outcome


def of_go(path):
    named = {"pass": "passed", "fail": "failed", "skip": "skipped"}
    begun = set()
    for line in path.read_text(errors="replace").splitlines():
        event = json.loads(line) if line.startswith("{") else {}
        if "Test" not in event:
            continue
        name = f"{event['Package'].rsplit('/', 1)[-1]}.{event['Test']}"
        if event["Action"] == "run":
            begun.add(name)
        elif event["Action"] in named:
            begun.discard(name)
            yield name, named[event["Action"]]
    # A test in which the process ends is told by nothing else.
    for name in begun:
        yield name, "failed"


def of_status(path):
    yield path.stem, "passed" if path.read_text().strip() == "0" else "failed"


def of_script(path):
    for name, outcome, _ in said(path):
        yield name, outcome


def said(path):
    return (line.split("\t") for line in path.read_text().splitlines()) if path.exists() else ()


READERS = {".cargo": of_cargo, ".xml": of_junit, ".json": of_go, ".exit": of_status, ".said": of_script}


def table(name, client):
    rows = (line.rstrip("\n").split("\t") for line in (HERE / name).open() if not line.startswith("#"))
    return {test: why for of, test, why in rows if of == client}


def outcomes(folder, left_out):
    tests = dict.fromkeys(left_out, "skipped")
    paths = sorted((folder / "results").iterdir(), key=lambda path: (path.name.startswith("again-"), path.name))
    for path in paths:
        for name, outcome in READERS[path.suffix](path):
            # A name that comes twice, as of a test with parameters, is as bad as its worst; that of a test asked again as its last.
            if tests.get(name) != "failed" or path.name.startswith("again-"):
                tests[name] = outcome
    return tests


def counted(tests):
    kinds = list(tests.values())
    return " ".join(f"{kinds.count(kind)} {kind}" for kind in ("passed", "failed", "skipped"))


def difference(name, mine, theirs):
    if len(mine) != len(theirs):
        yield f"{name}: urd has said {len(mine)} things, etcd {len(theirs)}"
    for number, (one, other) in enumerate(zip(mine, theirs)):
        if one != other:
            yield f"{name}: its answer {number} is {json.dumps(one)} with urd, {json.dumps(other)} with etcd"


def main(client, version, urd, etcd):
    left_out = table("not-runnable.tsv", client)
    differences = table("differences.tsv", client)
    ours, theirs = (outcomes(pathlib.Path(folder), left_out) for folder in (urd, etcd))
    heard = []
    for path in (pathlib.Path(etcd) / "results").glob("*.said"):
        mine = {name: words for name, _, words in said(pathlib.Path(urd) / "results" / path.name)}
        for name, outcome, words in said(path):
            if outcome == ours.get(name) == "passed" and mine[name] != words:
                ours[name] = "failed"
                heard += difference(name, json.loads(mine[name]), json.loads(words))
    print(f"clients: {client} {version}: urd {counted(ours)}; etcd {counted(theirs)}", flush=True)

    wrong = heard
    for name in sorted(ours.keys() | theirs.keys()):
        mine, reference = ours.get(name, "missing"), theirs.get(name, "missing")
        differs = reference == "passed" and mine != "passed"
        if differs and name not in differences:
            wrong.append(f"{name} is {mine} with urd, see {urd}/log")
        elif name in differences and not differs and not differences[name].startswith("at times"):
            wrong.append(f"{name} is {mine} with urd, {reference} with etcd: no difference, as differences.tsv has it")
        elif reference in ("failed", "missing") and mine != reference:
            print(f"clients: {client}: {name} is {mine} with urd, {reference} with etcd")
        elif reference == "failed":
            print(f"clients: {client}: {name} is failed with both")
    at_least = int(re.search(r"^at_least=(\d+)$", (HERE / client / "client.sh").read_text(), re.M)[1])
    passed = list(theirs.values()).count("passed")
    if passed < at_least:
        wrong.append(f"{passed} tests passed with etcd, {at_least} are expected, see {etcd}/log")
    for line in wrong:
        print(f"clients: {client}: {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
