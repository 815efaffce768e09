#!/usr/bin/env python3
"""Compares docs/conformance.md with what the sources say of it.

A rule is cited where it is met (`// spec: WG 5.4-a, WG 5.4-b`) and at a test that fails where it is not
(`// spec-test: WG 5.4-a`). Prints each breach, and scripts/rules.sh fails if there is one; with --open, how many
rules are open and which. Each time it first breaks a small repository in every way there is.

Usage: scripts/conformance.py [--open]
"""

import re
import subprocess
import sys
from pathlib import Path

PAGE = "docs/conformance.md"
ROW = re.compile(r"^\| (?:WG )?(\d[^ |]*) \| ([^|]+) \| ([^|]*)\|$")
CITED = re.compile(r"(?<![-\w])(spec|spec-test): (WG [^\s,;]+(?:, WG [^\s,;]+)*)")
MOST_WORDS = 12


def rows(page):
    """The rules of the page, by identifier: what the rule is, and what its last column says."""
    found, broken = {}, []
    for line in page.splitlines():
        match = ROW.match(line)
        if not match:
            if re.match(r"^\|\s*(WG )?\d", line):
                broken.append(f"not a row of three columns: {line}")
            continue
        name, rule, remark = (part.strip() for part in match.groups())
        if name in found:
            broken.append(f"listed twice: WG {name}")
        if len(rule.split()) > MOST_WORDS:
            broken.append(f"more than {MOST_WORDS} words: WG {name}")
        if re.match(r"(open|not ours):?\s*$", remark):
            broken.append(f"{remark} without a reason: WG {name}")
        found[name] = (rule, remark)
    return found, broken


def citations(sources):
    """Where each rule is met and tested: {kind: {identifier: [place]}}."""
    cited = {"spec": {}, "spec-test": {}}
    for path, text in sources.items():
        for number, line in enumerate(text.splitlines(), 1):
            comment = line.partition("//")[2]
            for kind, names in CITED.findall(comment):
                for name in names.split(", "):
                    name = name.removeprefix("WG ").rstrip(".")
                    cited[kind].setdefault(name, []).append(f"{path}:{number}")
    return cited


def check(page, sources):
    """All breaches, and the identifiers that are open."""
    listed, broken = rows(page)
    cited = citations(sources)
    met, tested = cited["spec"], cited["spec-test"]
    for name in sorted({*met, *tested} - {*listed}):
        places = ", ".join(met.get(name, []) + tested.get(name, []))
        broken.append(f"not in {PAGE}: WG {name} ({places})")
    unfinished = []
    for name, (_, remark) in listed.items():
        if remark.startswith("not ours:"):
            if name in met:
                broken.append(f"not ours, but cited as met: WG {name} ({', '.join(met[name])})")
        elif remark.startswith("open:"):
            unfinished.append(name)
        elif name not in met and name not in tested:
            broken.append(f"neither met nor tested: WG {name}")
        elif name not in tested:
            broken.append(f"met but not tested: WG {name} ({', '.join(met[name])})")
        elif name not in met:
            broken.append(f"tested but not met: WG {name} ({', '.join(tested[name])})")
    if not listed:
        broken.append(f"no rules in {PAGE}")
    return broken, unfinished


def self_test():
    """Breaks a small repository in each way there is, and sees that it is found."""
    page = "| 1-a | One. | |\n| 1-b | Two. | open: nobody did it |\n| 1-c | Three. | not ours: a kernel does |\n"
    code = {"a.rs": "// spec: WG 1-a\nfn a() {}\n", "tests.rs": "    // spec-test: WG 1-a — as it says.\n"}
    assert check(page, code) == ([], ["1-b"]), check(page, code)
    # The breach that is expected, the page, and what the sources say otherwise.
    cases = [
        ("met but not tested: WG 1-a (a.rs:1)", page, {"tests.rs": ""}),
        ("tested but not met: WG 1-a (tests.rs:1)", page, {"a.rs": ""}),
        ("neither met nor tested: WG 1-a", page, {"a.rs": "", "tests.rs": ""}),
        (f"not in {PAGE}: WG 1-z (b.rs:1)", page, {"b.rs": "// E1; spec: WG 1-a, WG 1-z\n"}),
        (f"not in {PAGE}: WG 1-z (b.rs:1)", page, {"b.rs": "// spec-test: WG 1-z.\n"}),
        (f"not in {PAGE}: WG 1-ab (b.rs:1)", page, {"b.rs": "// spec: WG 1-ab — no such.\n"}),
        ("not ours, but cited as met: WG 1-c (b.rs:1)", page, {"b.rs": "// spec: WG 1-c\n"}),
        ("listed twice: WG 1-a", page + "| 1-a | Again. | |\n", {}),
        ("open: without a reason: WG 1-d", page + "| 1-d | Four. | open: |\n", {}),
        ("not a row of three columns: | 1-d | Four. |", page + "| 1-d | Four. |\n", {}),
        (f"more than {MOST_WORDS} words: WG 1-b", page.replace("Two.", "many words " * 7), {}),
    ]
    for expected, page_of_case, others in cases:
        broken, _ = check(page_of_case, {**code, **others})
        assert broken == [expected], f"{expected}: {broken}"
    assert check("", {})[0] == [f"no rules in {PAGE}"]
    # What is not in a comment, or says another word, cites nothing.
    for text in ['let x = "spec: WG 9-z";', "// inspec: WG 9-z", "// see spec WG 9-z"]:
        assert check(page, {**code, "b.rs": text})[0] == [], text


def main():
    self_test()
    listed = subprocess.run(["git", "ls-files", "--", "*.rs"], check=True, capture_output=True, text=True)
    sources = {path: Path(path).read_text() for path in listed.stdout.split()}
    broken, unfinished = check(Path(PAGE).read_text(), sources)
    if sys.argv[1:] == ["--open"]:
        names = "".join(f" {name}" for name in unfinished)
        print(f"{len(unfinished)} rules of the protocol open{names and ':'}{names}")
        return
    for breach in broken:
        print(breach)


if __name__ == "__main__":
    main()
