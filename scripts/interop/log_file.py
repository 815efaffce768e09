"""Events of a log file of event tracing (.etl), as two other readers have them: etl-parser and dissect.etl.

usage: log_file.py FILE

Prints a line of JSON for each event: what it is called and its fields by the one, activity and provider by the other.
"""

import json
import sys

import dissect.etl.etl
import etl.etl


class Events(etl.etl.IEtlFileObserver):
    """Keeps what describes itself; nothing else may be in the file."""

    def __init__(self):
        self.all = []

    def on_event_record(self, event):
        read = event.parse_tracelogging()
        header = event.source.event_header
        self.all.append(
            {
                "name": read.get_name(),
                "fields": dict(read),
                "level": header.event_descriptor.Level,
                "keywords": header.event_descriptor.Keyword,
                "thread": event.get_thread_id(),
            }
        )

    def on_trace_record(self, event):
        raise ValueError(event)

    on_perfinfo_trace = on_system_trace = on_win_trace = on_trace_record


def by_dissect(path):
    """Activity and provider's name of each event, as the file has them one behind the other."""
    with open(path, "rb") as file:
        # The first one is what the file says of all.
        for record in list(dissect.etl.etl.ETL(file))[1:]:
            values = record.event.event_values()
            names = [item["ProviderName"].decode() for item in values["Extensions"] if "ProviderName" in item]
            yield {"activity": values["ActivityId"], "provider": names}


def main(path):
    events = Events()
    with open(path, "rb") as file:
        etl.etl.build_from_stream(file.read()).parse(events)
    for one, other in zip(events.all, by_dissect(path), strict=True):
        print(json.dumps(one | other))


main(sys.argv[1])
