"""Node that runs pods as processes: the parts of a kubelet that these tests need.

It binds every pod to itself; supports ConfigMap, Secret, emptyDir and claim volumes, environment
variables from all of them, service account tokens, probes, preStop, restart policies and logs; and
resolves Service names by a hosts file. It forwards ports, and lacks images with the tag ``gone``.
It enforces network policies with a firewall in each pod's own network, but no resource limits.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import ssl
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from tests.deploy.control_plane.container import Container
from tests.deploy.control_plane.pod import API_PORT, GATEWAY, POLL_S, Pod, log, now
from tests.deploy.control_plane.policies import Party, enforce, firewall

NODE = "process-node"
LOG_PORT = 10250

Object = dict[str, Any]


class Node:
    """Node of the test cluster.

    Parameters
    ----------
    folder
        Folder of the control plane: certificates, claims, and a folder for each pod.
    environment, seen
        Contents of an image: variables, and folders in addition to this repository.
    """

    def __init__(
        self, folder: Path, token: str, environment: dict[str, str], seen: list[str]
    ) -> None:
        self.folder = folder
        self.seen = seen
        self.token = token
        self.environment = environment
        self.hosts = folder / "hosts"
        self.services: dict[tuple[str, str], Object] = {}
        self.pods: dict[str, Object] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.containers: dict[tuple[str, str], Container] = {}
        self.parties: dict[str, tuple[str, Party]] = {}
        """Networks of pods, and their identities, by the pods' uid."""
        self._policies: dict[tuple[str, str], Object] = {}
        self._namespaces: dict[str, dict[str, str]] = {}
        self._addresses = itertools.count(10)

    async def api(
        self, method: str, path: str, body: Object | None = None, *, patch: bool = False
    ) -> tuple[int, Object]:
        """Send a request to the API server."""
        kind = "application/merge-patch+json" if patch else "application/json"
        async with self.session.request(
            method, path, data=None if body is None else json.dumps(body),
            headers={"Content-Type": kind},
        ) as response:  # fmt: skip
            found = await response.json(content_type=None)
            if response.status >= 400 and response.status not in (404, 409):
                log("API", method, path, response.status, str(found)[:300])
            return response.status, found

    async def run(self) -> None:
        """Run forever."""
        context = ssl.create_default_context(cafile=str(self.folder / "ca.crt"))
        self.session = aiohttp.ClientSession(
            f"https://{GATEWAY}:{API_PORT}",
            headers={"Authorization": f"Bearer {self.token}"},
            connector=aiohttp.TCPConnector(ssl=context, limit=100),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=10),
        )
        async with self.session:
            await self._serve_logs()
            await self._join()
            await asyncio.gather(
                self._beat(),
                self._watch("/api/v1/services", self._service_changed),
                self._watch("/api/v1/namespaces", self._namespace_changed),
                self._watch("/apis/networking.k8s.io/v1/networkpolicies", self._policy_changed),
                self._watch("/api/v1/pods", self._pod_changed),
            )

    # the node itself

    async def _join(self) -> None:
        await self.api("POST", "/api/v1/nodes", {
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": NODE, "labels": {"kubernetes.io/hostname": NODE}},
        })  # fmt: skip
        plenty = {"cpu": "64", "memory": "64Gi", "pods": "200", "nvidia.com/gpu": "4"}
        await self.api("PATCH", f"/api/v1/nodes/{NODE}/status", {"status": {
            "capacity": plenty, "allocatable": plenty,
            "addresses": [{"type": "InternalIP", "address": GATEWAY}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": LOG_PORT}},
            "conditions": [self._condition("Ready", True)],
        }}, patch=True)  # fmt: skip

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(10)
            body = {"status": {"conditions": [self._condition("Ready", True)]}}
            await self.api("PATCH", f"/api/v1/nodes/{NODE}/status", body, patch=True)

    def _condition(self, name: str, value: bool) -> Object:
        return {
            "type": name, "status": str(value), "reason": "Process",
            "lastTransitionTime": now(), "lastHeartbeatTime": now(),
        }  # fmt: skip

    async def _watch(self, path: str, changed: Callable[[str, Object], Awaitable[None]]) -> None:
        while True:
            try:
                _, listed = await self.api("GET", path)
                for each in listed["items"]:
                    await changed("ADDED", each)
                version = listed["metadata"]["resourceVersion"]
                async with self.session.get(
                    f"{path}?watch=1&resourceVersion={version}&timeoutSeconds=300",
                ) as response:
                    rest = b""
                    async for chunk in response.content.iter_any():
                        *lines, rest = (rest + chunk).split(b"\n")
                        for line in lines:
                            event = json.loads(line)
                            if event["type"] == "ERROR":
                                raise RuntimeError(event)
                            await changed(event["type"], event["object"])
            except Exception as error:
                log("watch", path, repr(error))
                await asyncio.sleep(1)

    # names

    async def _service_changed(self, event: str, service: Object) -> None:
        key = (service["metadata"]["namespace"], service["metadata"]["name"])
        self.services.pop(key, None)
        if event != "DELETED":
            self.services[key] = service
        self._write_hosts()

    def _write_hosts(self) -> None:
        lines = ["127.0.0.1 localhost"]
        for (namespace, name), service in self.services.items():
            # Without a ready pod, refuse the connection, as a Service without endpoints does.
            address = self._ready_address(namespace, service["spec"].get("selector"))
            lines.append(
                f"{address or GATEWAY} {name}.{namespace} {name}.{namespace}.svc "
                f"{name}.{namespace}.svc.cluster.local"
            )
        self.hosts.write_text("\n".join(lines) + "\n")

    def _ready_address(self, namespace: str, selector: Object | None) -> str | None:
        for pod in self.pods.values():
            labels = pod["metadata"].get("labels", {})
            if (
                selector
                and pod["metadata"]["namespace"] == namespace
                and selector.items() <= labels.items()
                and not pod["metadata"].get("deletionTimestamp")
                and any(
                    c["type"] == "Ready" and c["status"] == "True"
                    for c in pod.get("status", {}).get("conditions", ())
                )
            ):
                return str(pod["status"]["podIP"])
        return None

    # network policies

    async def _namespace_changed(self, event: str, namespace: Object) -> None:
        meta = namespace["metadata"]
        # Later versions of Kubernetes set this label themselves.
        labels = {"kubernetes.io/metadata.name": meta["name"], **meta.get("labels", {})}
        self._namespaces[meta["name"]] = labels

    async def _policy_changed(self, event: str, policy: Object) -> None:
        key = (policy["metadata"]["namespace"], policy["metadata"]["name"])
        self._policies.pop(key, None)
        if event != "DELETED":
            self._policies[key] = policy
        self.enforce_policies()

    def enforce_policies(self) -> None:
        """Rebuild the firewall of each pod after a change of pods or policies."""
        policies = list(self._policies.values())
        parties = [party for _, party in self.parties.values()]
        for network, party in self.parties.values():
            enforce(network, firewall(policies, self._namespaces, party, parties, GATEWAY))

    # pods

    async def _pod_changed(self, event: str, pod: Object) -> None:
        uid, meta = pod["metadata"]["uid"], pod["metadata"]
        if event == "DELETED":
            self.pods.pop(uid, None)
            task = self.tasks.pop(uid, None)
            if task is not None:
                task.cancel()
            self._write_hosts()
            return
        self.pods[uid] = pod
        self._write_hosts()
        path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}"
        if not pod["spec"].get("nodeName"):
            await self.api("POST", f"{path}/binding", {
                "apiVersion": "v1", "kind": "Binding", "metadata": {"name": meta["name"]},
                "target": {"apiVersion": "v1", "kind": "Node", "name": NODE},
            })  # fmt: skip
        elif uid not in self.tasks:
            if pod.get("status", {}).get("phase") == "Pending":
                self.tasks[uid] = asyncio.create_task(Pod(self, pod).run())
            elif meta.get("deletionTimestamp"):
                await self.forget(pod)

    async def forget(self, pod: Object) -> None:
        """Report the removal of a pod to the API server."""
        meta = pod["metadata"]
        await self.api("DELETE", f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}", {
            "gracePeriodSeconds": 0, "preconditions": {"uid": meta["uid"]},
        })  # fmt: skip

    # logs

    async def _serve_logs(self) -> None:
        app = web.Application()
        app.router.add_get("/containerLogs/{namespace}/{pod}/{container}", self._log)
        app.router.add_get("/portForward/{namespace}/{pod}", self._forward)
        runner = web.AppRunner(app)
        await runner.setup()
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.folder / "tls.crt", self.folder / "tls.key")
        await web.TCPSite(runner, GATEWAY, LOG_PORT, ssl_context=context).start()

    async def _log(self, request: web.Request) -> web.StreamResponse:
        asked = request.match_info
        container = self.containers.get((asked["namespace"], asked["pod"]))
        if container is None:
            raise web.HTTPNotFound
        response = web.StreamResponse()
        await response.prepare(request)
        with container.log.open("rb") as file:
            while True:
                process = container.process
                ended = process is None or process.returncode is not None
                await response.write(file.read())
                if ended or request.query.get("follow") != "true":
                    return response
                await asyncio.sleep(POLL_S)

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        """Connect a web socket to a port of a pod: its channel 0 is data, 1 would be errors."""
        asked, port = request.match_info, int(request.query["port"])
        container = self.containers.get((asked["namespace"], asked["pod"]))
        if container is None:
            raise web.HTTPNotFound
        reader, writer = await asyncio.open_connection(container.network.address, port)
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        for channel in (0, 1):  # each starts with its port
            await socket.send_bytes(bytes([channel]) + port.to_bytes(2, "little"))

        async def out() -> None:
            while data := await reader.read(2**15):
                await socket.send_bytes(b"\0" + data)
            await socket.close()

        sending = asyncio.create_task(out())
        async for message in socket:
            writer.write(message.data[1:])
            await writer.drain()
        sending.cancel()
        writer.close()
        return socket

    def next_address(self) -> str:
        """Return an address for a pod."""
        number = next(self._addresses)
        return f"10.244.{number // 250}.{number % 250 + 2}"


def main() -> None:
    """Run the node: node.py FOLDER TOKEN, with its image in NODE_IMAGE."""
    folder, token = Path(sys.argv[1]), sys.argv[2]
    image = json.loads(os.environ["NODE_IMAGE"])
    asyncio.run(Node(folder, token, image["environment"], image["seen"]).run())


if __name__ == "__main__":
    main()
