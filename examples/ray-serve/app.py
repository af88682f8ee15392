"""Replicas of a model's server as a deployment of Ray Serve.

Run RSR_MODEL=/path/model.rsr RSR_API_KEY=... serve run app:app; clients' base URL is then
http://127.0.0.1:8000/v1.
"""

import os

from ray import serve
from starlette.types import ASGIApp

from rsr_runtime import llm
from rsr_runtime.serve import Engine
from rsr_runtime.serve.app import create_app
from rsr_runtime.serve.guard import Access
from rsr_runtime.serve.server import Server


def server() -> ASGIApp:
    """Return the application of one replica, which has a process of its own."""
    model = llm.load(os.environ["RSR_MODEL"])
    engine = Engine(model, parallel=4)
    return create_app(Server(model, engine, "rsr"), Access("0.0.0.0", [os.environ["RSR_API_KEY"]]))


@serve.deployment(num_replicas=2, max_ongoing_requests=64, ray_actor_options={"num_cpus": 1})
@serve.ingress(server)
class Replica:
    """A process that has the model's weights in common with the others: they map the same file."""


app = Replica.bind()  # type: ignore[attr-defined]
