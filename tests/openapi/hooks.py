"""What the description cannot say of a call, so that calls which fit it are accepted."""

import schemathesis

# A drain waits for as long as it is told to: not so long in a test.
LONGEST = "20ms"


@schemathesis.hook
def before_call(context, case, kwargs):
    query = case.query if isinstance(case.query, dict) else {}
    body = case.body if isinstance(case.body, dict) else {}
    path = case.operation.path
    # Envoy refuses names with underscores and names that are none by itself.
    for name in [name for name in case.headers or {} if not name.replace("-", "").isalnum()]:
        del case.headers[name]
    if path.endswith("/drain"):
        for given in (query, body):
            if isinstance(given.get("timeout"), str):
                given["timeout"] = LONGEST
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    # Schemathesis takes the quotes of an entity tag for those of a JSON text.
    if (case.headers or {}).get("If-Match", "").isdigit():
        case.headers["If-Match"] = '"{}"'.format(case.headers["If-Match"])
    # Each parameter is given once.
    for name in set(query) & set(body):
        del body[name]
    given = set(query) | set(body)
    if path.endswith("/drain") and "colour" not in given:
        case.query = {**query, "colour": "blue"}
    if case.method == "PATCH" and not given & {"active", "canary_percent", "shadow_percent"}:
        case.query = {**query, "shadow_percent": 1}
