"""A node that runs pods as processes: as much of a kubelet as these tests need.

It binds every pod to itself; knows ConfigMap, Secret, emptyDir and claim volumes, environment
variables from all of them, service account tokens, probes, preStop, restart policies and logs; and
resolves Service names by a hosts file. It does not enforce resources or network policies.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
import re
import signal
import ssl
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from tests.deploy.control_plane.container import SERVICE_ACCOUNT, Container, Network

NODE = "process-node"
GATEWAY = "10.244.0.1"
"""The node's address on the bridge; API server and logs answer there, and nothing else."""

LOG_PORT = 10250
API_PORT = 6443

IMAGES = {
    # What an image's entrypoint would be.
    "dask-kubernetes-operator": ["kopf", "run", "-m", "dask_kubernetes.operator.controller"],
}

POLL_S = 0.2
READY_S = 90.0

Object = dict[str, Any]


def now() -> str:
    """Return the time as Kubernetes writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def log(*words: object) -> None:
    """Say what happens."""
    print(f"{time.monotonic():9.2f}", *words, flush=True)


class Node:
    """The node.

    Parameters
    ----------
    folder
        Of the control plane: certificates, claims, and a folder for each pod.
    environment, seen
        What an image would bring: variables, and folders beside this repository.
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
        self._addresses = itertools.count(10)

    async def api(
        self, method: str, path: str, body: Object | None = None, *, patch: bool = False
    ) -> tuple[int, Object]:
        """Ask the API server."""
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
        """Run for ever."""
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
            # Where nobody is ready, a connection is refused, as by a Service without endpoints.
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
        """Tell the API server that a pod is gone."""
        meta = pod["metadata"]
        await self.api("DELETE", f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}", {
            "gracePeriodSeconds": 0, "preconditions": {"uid": meta["uid"]},
        })  # fmt: skip

    # logs

    async def _serve_logs(self) -> None:
        app = web.Application()
        app.router.add_get("/containerLogs/{namespace}/{pod}/{container}", self._log)
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

    def next_address(self) -> str:
        """Return an address for a pod."""
        number = next(self._addresses)
        return f"10.244.{number // 250}.{number % 250 + 2}"


class Pod:
    """A pod while it is on the node."""

    def __init__(self, node: Node, pod: Object) -> None:
        self.node = node
        self.pod = pod
        self.meta = pod["metadata"]
        self.spec = pod["spec"]
        [self.container] = self.spec["containers"]
        self.name = f"{self.meta['namespace']}/{self.meta['name']}"
        self.network = Network(f"pod-{self.meta['uid'][:10]}", node.next_address())
        self.folder = node.folder / "pods" / self.meta["name"]
        self.restarts = 0

    @property
    def _deleted(self) -> bool:
        latest = self.node.pods.get(self.meta["uid"])
        return latest is None or bool(latest["metadata"].get("deletionTimestamp"))

    async def run(self) -> None:
        """Run it to its end."""
        running: Container | None = None
        self.network.make()
        try:
            while True:
                running = await self._make()
                await running.start()
                log("start", self.name, " ".join(running.command)[:120])
                if await self._attend(running):
                    return
                self.restarts += 1
                await self._status(
                    "Running", False, {"waiting": {"reason": "CrashLoopBackOff"}}
                )  # fmt: skip
                await asyncio.sleep(min(2**self.restarts, 10))
        except asyncio.CancelledError:
            log("cancelled", self.name)
        except Exception as error:
            log("error", self.name, repr(error))
            waiting = {"waiting": {"reason": "CreateContainerConfigError", "message": str(error)}}
            await self._status("Pending", False, waiting)
            while not self._deleted:
                await asyncio.sleep(POLL_S)
            await self.node.forget(self.pod)
        finally:
            if running is not None:
                running.send(signal.SIGKILL)
            self.network.remove()

    async def _attend(self, running: Container) -> bool:
        """Attend one start of the container; True when the pod is at its end."""
        state: Object = {"running": {"startedAt": now()}}
        ready = asyncio.create_task(self._ready())
        ended = asyncio.create_task(running.wait())
        await self._status("Running", False, state)
        told = False
        while not ended.done():
            if ready.done() and not told:
                told = True
                await self._status("Running", ready.result(), state)
            if self._deleted:
                ready.cancel()
                await self._stop(running, ended)
                await self._end(ended.result())
                await self.node.forget(self.pod)
                return True
            await asyncio.wait([ended], timeout=POLL_S)
        ready.cancel()
        code = ended.result()
        log("exit", self.name, code)
        policy = self.spec.get("restartPolicy", "Always")
        if policy == "Always" or (policy == "OnFailure" and code):
            return False
        await self._end(code)
        while not self._deleted:
            await asyncio.sleep(POLL_S)
        await self.node.forget(self.pod)
        return True

    async def _stop(self, running: Container, ended: asyncio.Task[int]) -> None:
        latest = self.node.pods.get(self.meta["uid"], self.pod)
        grace_s = latest["metadata"].get("deletionGracePeriodSeconds", 30)
        log("stop", self.name, f"within {grace_s} s")
        deadline = time.monotonic() + grace_s
        hook = self.container.get("lifecycle", {}).get("preStop", {}).get("exec")
        if hook and grace_s:
            code = await asyncio.wait_for(running.run_inside(hook["command"]), grace_s)
            log("preStop", self.name, code)
        running.send(signal.SIGTERM)
        done, _ = await asyncio.wait([ended], timeout=max(0.1, deadline - time.monotonic()))
        if not done:
            log("kill", self.name)
            running.send(signal.SIGKILL)
            await ended
        log("stopped", self.name, ended.result())

    async def _end(self, code: int) -> None:
        state = {"terminated": {
            "exitCode": code, "reason": "Completed" if code == 0 else "Error",
            "startedAt": now(), "finishedAt": now(),
        }}  # fmt: skip
        await self._status("Failed" if code else "Succeeded", False, state)

    async def _ready(self) -> bool:
        probe = self.container.get("readinessProbe", {}).get("httpGet")
        if probe is None:
            return True
        ports = {each.get("name"): each["containerPort"] for each in self.container["ports"]}
        port = ports.get(probe["port"], probe["port"])
        url = f"http://{self.network.address}:{port}{probe.get('path', '/')}"
        async with aiohttp.ClientSession() as session:
            deadline = time.monotonic() + READY_S
            while time.monotonic() < deadline:
                try:
                    async with session.get(url) as response:
                        if response.status < 400:
                            log("ready", self.name)
                            return True
                except aiohttp.ClientError:
                    pass
                await asyncio.sleep(POLL_S)
        log("never ready", self.name)
        return False

    async def _status(self, phase: str, ready: bool, state: Object) -> None:
        conditions = [
            {"type": name, "status": str(value), "lastTransitionTime": now()}
            for name, value in (
                ("PodScheduled", True), ("Initialized", True),
                ("ContainersReady", ready), ("Ready", ready),
            )
        ]  # fmt: skip
        container = {
            "name": self.container["name"], "image": self.container["image"], "imageID": "process",
            "ready": ready, "started": ready, "restartCount": self.restarts, "state": state,
        }  # fmt: skip
        status = {
            "phase": phase, "podIP": self.network.address, "hostIP": GATEWAY, "startTime": now(),
            "conditions": conditions, "containerStatuses": [container],
        }  # fmt: skip
        path = f"/api/v1/namespaces/{self.meta['namespace']}/pods/{self.meta['name']}/status"
        await self.node.api("PATCH", path, {"status": status}, patch=True)

    # what a container is made of

    async def _make(self) -> Container:
        volumes = {each["name"]: each for each in self.spec.get("volumes", ())}
        mounts = [(Path(path), path, True) for path in self.node.seen]
        for mount in self.container.get("volumeMounts", ()):
            if mount["mountPath"] == f"/var{SERVICE_ACCOUNT}":
                continue
            source = await self._volume(volumes[mount["name"]])
            mounts.append((source, mount["mountPath"], bool(mount.get("readOnly"))))
        if any(m["mountPath"] == f"/var{SERVICE_ACCOUNT}" for m in
               self.container.get("volumeMounts", ())):  # fmt: skip
            mounts.append((await self._token(), SERVICE_ACCOUNT, True))
        environment = {**self.node.environment, **await self._environment()}
        entrypoint: list[str] = next(
            (words for image, words in IMAGES.items() if image in self.container["image"]), []
        )
        command = [
            re.sub(r"\$\((\w+)\)", lambda found: environment.get(found[1], found[0]), word)
            for word in [*(self.container.get("command") or entrypoint),
                         *self.container.get("args", [])]
        ]  # fmt: skip
        made = Container(
            self.container["name"], command, environment, self.folder, self.node.hosts,
            self.network, mounts,
        )  # fmt: skip
        self.node.containers[self.meta["namespace"], self.meta["name"]] = made
        return made

    async def _volume(self, spec: Object) -> Path:
        if "persistentVolumeClaim" in spec:
            place = self.node.folder / "claims" / spec["persistentVolumeClaim"]["claimName"]
        else:
            place = self.folder / "volumes" / spec["name"]
        place.mkdir(parents=True, exist_ok=True)
        files: dict[str, bytes] = {}
        if "configMap" in spec:
            files = await self._contents("configmaps", spec["configMap"]["name"])
        elif "secret" in spec:
            files = await self._contents("secrets", spec["secret"]["secretName"])
        for name, content in files.items():
            (place / name).write_bytes(content)
        return place

    async def _contents(self, kind: str, name: str, *, optional: bool = False) -> dict[str, bytes]:
        path = f"/api/v1/namespaces/{self.meta['namespace']}/{kind}/{name}"
        status, found = await self.node.api("GET", path)
        if status == 404 and optional:
            return {}
        if status != 200:
            raise RuntimeError(f"{kind} {name} not found")
        data = found.get("data") or {}
        if kind == "secrets":
            return {key: base64.b64decode(value) for key, value in data.items()}
        return {key: value.encode() for key, value in data.items()}

    async def _token(self) -> Path:
        account = self.spec.get("serviceAccountName", "default")
        path = f"/api/v1/namespaces/{self.meta['namespace']}/serviceaccounts/{account}/token"
        status, found = await self.node.api("POST", path, {
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {"expirationSeconds": 7200},
        })  # fmt: skip
        if status not in (200, 201):
            raise RuntimeError(f"no token for {account}")
        place = self.folder / "service-account"
        place.mkdir(parents=True, exist_ok=True)
        (place / "token").write_text(found["status"]["token"])
        (place / "namespace").write_text(self.meta["namespace"])
        (place / "ca.crt").write_bytes((self.node.folder / "ca.crt").read_bytes())
        return place

    async def _environment(self) -> dict[str, str]:
        found = {"KUBERNETES_SERVICE_HOST": GATEWAY, "KUBERNETES_SERVICE_PORT": str(API_PORT)}
        for source in self.container.get("envFrom", ()):
            for reference, kind in (("configMapRef", "configmaps"), ("secretRef", "secrets")):
                if reference in source:
                    contents = await self._contents(
                        kind, source[reference]["name"],
                        optional=bool(source[reference].get("optional")),
                    )  # fmt: skip
                    found |= {key: value.decode() for key, value in contents.items()}
        for each in self.container.get("env", ()):
            value = each.get("value", "")
            for reference, kind in (("configMapKeyRef", "configmaps"), ("secretKeyRef", "secrets")):
                if reference in each.get("valueFrom", {}):
                    asked = each["valueFrom"][reference]
                    value = (await self._contents(kind, asked["name"]))[asked["key"]].decode()
            if "fieldRef" in each.get("valueFrom", {}):
                value = self._field(each["valueFrom"]["fieldRef"]["fieldPath"])
            found[each["name"]] = re.sub(
                r"\$\((\w+)\)", lambda match: found.get(match[1], match[0]), value
            )
        return found

    def _field(self, path: str) -> str:
        label = re.fullmatch(r"metadata\.labels\['(.+)'\]", path)
        if label:
            return str(self.meta["labels"][label[1]])
        return {
            "metadata.name": self.meta["name"],
            "metadata.namespace": self.meta["namespace"],
            "metadata.uid": self.meta["uid"],
            "status.podIP": self.network.address,
        }[path]


def main() -> None:
    """Run the node: node.py FOLDER TOKEN, with its image in NODE_IMAGE."""
    folder, token = Path(sys.argv[1]), sys.argv[2]
    image = json.loads(os.environ["NODE_IMAGE"])
    asyncio.run(Node(folder, token, image["environment"], image["seen"]).run())


if __name__ == "__main__":
    main()
