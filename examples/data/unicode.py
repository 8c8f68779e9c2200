#!/usr/bin/env python3
"""Converts UnicodeData.txt to the lines that `quorate import` reads.

    python3 unicode.py /usr/share/unicode/UnicodeData.txt > unicode.ndjson

One line for each record: org `unicode`, namespace = general category, key = code point as it stands in the
file, text = the remaining fields as they stand in the file. The lines come in the order of the file and are
canonical: `LC_ALL=C sort unicode.ndjson` is what `quorate export` prints after importing them.
"""

import json
import sys


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(f"usage: {sys.argv[0]} UnicodeData.txt > unicode.ndjson")
    with open(sys.argv[1], encoding="utf-8") as records:
        for number, record in enumerate(records, start=1):
            fields = record.rstrip("\n").split(";")
            if len(fields) != 15:
                sys.exit(f"{sys.argv[1]}:{number}: {len(fields)} fields, expected 15")
            code_point, name, category, *rest = fields
            frame = {
                "org": "unicode",
                "ns": category,
                "op": "put",
                "key": code_point,
                "text": ";".join([name, *rest]),
            }
            print(json.dumps(frame, ensure_ascii=False, separators=(",", ":")))


main()
