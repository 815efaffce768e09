#!/usr/bin/env python3
"""Writes nt/tests/abi.json: what our declarations are checked against.

usage: scripts/wdk/subset.py ABI_JSON

ABI_JSON holds sizes, offsets, values and signatures that a compiler read out of a whole driver kit
(and compared with other header sets); its own `meta` says how. Taken over is what a word of ours
names, in scripts/wdk/{include,lib} and nt/src/sys, and nothing else. Run it again after a new
declaration; the test of scripts/wdk/check says when that is needed.
"""
import json
import pathlib
import re
import sys


def main(path):
    workspace = pathlib.Path(__file__).resolve().parent.parent.parent
    whole = json.loads(pathlib.Path(path).read_text())

    sources = [
        *workspace.glob("scripts/wdk/include/**/*.h"),
        *workspace.glob("scripts/wdk/lib/*"),
        *workspace.glob("nt/src/sys/*.rs"),
    ]
    words = set()
    for source in sources:
        words.update(re.findall(r"\w+", source.read_text()))
    # A pointer to a callback and the callback itself go by two names.
    words.update(re.sub("^PFN_WDF_", "EVT_WDF_", word) for word in list(words))

    def named(group):
        return {name: whole[group][name] for name in sorted(whole[group]) if name in words}

    # With the structures that are members of those we name.
    structs = {}
    wanted = [name for name in whole["structs"] if name in words]
    while wanted:
        name = wanted.pop()
        struct = whole["structs"][name]
        if name in structs or "size" not in struct:
            continue
        fields = struct.get("fields", [])
        members = [field["type"] for field in fields if field.get("type") in whole["structs"]]
        structs[name] = {
            "size": struct["size"], "source": struct.get("source"),
            "fields": [
                {"name": field["name"], "offset": field["offset"], "size": field["size"],
                 **({"type": field["type"]} if field.get("type") in members else {})}
                for field in fields
            ],
        }
        wanted += members

    tables = whole["function_tables"]
    subset = {
        "source": {
            "what": "the part of a larger extraction that this repository names; see scripts/wdk/subset.py",
            **whole["meta"],
        },
        "structs": structs,
        "enums": {name: members for name, members in whole["enums"].items()
                  if name in words or words & members.keys()},
        "constants": named("constants"),
        "guids": named("guids"),
        "functions": {name: {"ret": f["ret"], "params": f["params"]}
                      for name, f in named("functions").items()},
        "function_pointer_types": named("function_pointer_types"),
        "function_tables": {
            table: {"count": tables[table + "__count"],
                    "index": {name: index for name, index in tables[table].items()
                              if name in words or name + "TableIndex" in words}}
            for table in ("WDF_1_31", "NetAdapterCx_2_1")
        },
        "exports": {dll: sorted(name for name in names if name in words)
                    for dll, names in whole["exports"].items()},
    }
    out = workspace / "nt/tests/abi.json"
    out.write_text(json.dumps(subset, indent=1, sort_keys=True) + "\n")
    print(f"{out.relative_to(workspace)}: {len(structs)} structs, {len(subset['enums'])} enums,"
          f" {len(subset['constants'])} constants, {len(subset['functions'])} functions")


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    main(sys.argv[1])
