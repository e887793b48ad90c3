"""Ask the routers a question and read its auction's record; any failure ends with a traceback and a failed test."""

import json
import os
import urllib.request


def call(path: str, body: object = None) -> dict[str, object]:
    """Send a request with the administrator's key; `body` makes it a POST."""
    headers = {"Authorization": f"Bearer {os.environ['LLM_AUCTION_ADMIN_KEY']}", "Content-Type": "application/json"}
    content = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(os.environ["ROUTER"] + path, content, headers)
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.loads(answer.read())


question = {"model": "default", "messages": [{"role": "user", "content": "Which running shoes suit wet paths?"}]}
answer = call("/v1/chat/completions", question)
print(answer["choices"][0]["message"]["content"])
record = call(f"/v1/auctions/{answer['auction']['auction_id']}")
print(f"auction {answer['auction']['auction_id']}: {len(record)} fields")
