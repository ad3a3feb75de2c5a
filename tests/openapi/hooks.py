"""What the description cannot say of a call: a parameter stands in the query or in the body, not in both."""

import schemathesis
from schemathesis import NotSet

# A drain waits for as long as it is told to: not so long in a test.
LONGEST = "20ms"


@schemathesis.hook
def map_case(context, case):
    if case.operation.path.endswith("/drain"):
        for given in (case.query, case.body):
            if isinstance(given, dict) and isinstance(given.get("timeout"), str):
                given["timeout"] = LONGEST
    if isinstance(case.query, dict) and isinstance(case.body, dict):
        for name in set(case.query) & set(case.body):
            del case.body[name]
    return case
