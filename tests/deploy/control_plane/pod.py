"""Pod on the node: container, volumes, variables, and status."""

from __future__ import annotations

import asyncio
import base64
import re
import signal
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp

from tests.deploy.control_plane.container import SERVICE_ACCOUNT, Container, Network
from tests.deploy.control_plane.policies import Party

if TYPE_CHECKING:
    from tests.deploy.control_plane.node import Node

GATEWAY = "10.244.0.1"
"""The node's address on the bridge; only the API server and logs listen on it."""

API_PORT = 6443

IMAGES = {
    # Entrypoint of the image.
    "dask-kubernetes-operator": ["kopf", "run", "-m", "dask_kubernetes.operator.controller"],
}

POLL_S = 0.2
READY_S = 90.0

Object = dict[str, Any]


def now() -> str:
    """Return the time as Kubernetes writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def log(*words: object) -> None:
    """Log an event."""
    print(f"{time.monotonic():9.2f}", *words, flush=True)


class ImageGone(Exception):
    """The image does not exist."""


class Pod:
    """Pod on the node."""

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
        who = Party(
            self.network.address, self.meta.get("labels") or {}, self.meta["namespace"]
        )  # fmt: skip
        self.node.parties[self.meta["uid"]] = (self.network.name, who)
        try:
            self.node.enforce_policies()
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
            reason = (
                "ImagePullBackOff" if isinstance(error, ImageGone) else "CreateContainerConfigError"
            )
            waiting = {"waiting": {"reason": reason, "message": str(error)}}
            await self._status("Pending", False, waiting)
            while not self._deleted:
                await asyncio.sleep(POLL_S)
            await self.node.forget(self.pod)
        finally:
            if running is not None:
                running.send(signal.SIGKILL)
            del self.node.parties[self.meta["uid"]]
            self.network.remove()
            self.node.enforce_policies()

    async def _attend(self, running: Container) -> bool:
        """Supervise one start of the container; return True at the end of the pod."""
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

    # contents of the container

    async def _make(self) -> Container:
        if self.container["image"].endswith(":gone"):
            raise ImageGone(f"{self.container['image']} not found")
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
