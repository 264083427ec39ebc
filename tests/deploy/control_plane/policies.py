"""Network policies: evaluation, and enforcement by a firewall in a pod's own network.

Covers the part of networking.k8s.io/v1 that deploy/kubernetes uses: numbered ports, no ranges.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any

Object = dict[str, Any]

Namespaces = Mapping[str, Mapping[str, str]]
"""Labels of namespaces, by name."""


@dataclass(frozen=True)
class Party:
    """Endpoint of a connection: a pod, or an external party, which has no namespace."""

    address: str
    labels: Mapping[str, str]
    namespace: str | None = "cohort"


def selects(selector: Object, labels: Mapping[str, str]) -> bool:
    """Return whether a label selector matches."""
    for each in selector.get("matchExpressions", ()):
        if each["operator"] != "In":
            raise NotImplementedError(each["operator"])
        if labels.get(each["key"]) not in each["values"]:
            return False
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())


def selecting(policies: Iterable[Object], party: Party, kind: str) -> list[Object]:
    """Return the policies that isolate a pod: ``Ingress`` or ``Egress``."""
    return [
        policy
        for policy in policies
        if policy["metadata"]["namespace"] == party.namespace
        and kind in policy["spec"]["policyTypes"]
        and selects(policy["spec"].get("podSelector", {}), party.labels)
    ]


def rules(policies: Iterable[Object], kind: str) -> Iterator[tuple[str, Object, Object]]:
    """Yield namespace, peer and port of each rule of policies of a kind."""
    side = {"Ingress": "from", "Egress": "to"}[kind]
    for policy in policies:
        for rule in policy["spec"].get(kind.lower(), ()):
            for peer in rule[side]:
                for port in rule["ports"]:
                    yield policy["metadata"]["namespace"], peer, port


def is_peer(peer: Object, party: Party, namespace: str, namespaces: Namespaces) -> bool:
    """Return whether a rule's peer matches a party."""
    if "ipBlock" in peer:
        address = ip_address(party.address)
        return address in ip_network(peer["ipBlock"]["cidr"]) and not any(
            address in ip_network(each) for each in peer["ipBlock"].get("except", ())
        )
    if party.namespace is None:
        return False
    if "namespaceSelector" in peer:
        if not selects(peer["namespaceSelector"], namespaces.get(party.namespace, {})):
            return False
    elif party.namespace != namespace:
        return False
    return selects(peer.get("podSelector", {}), party.labels)


def allowed(
    policies: Sequence[Object],
    namespaces: Namespaces,
    source: Party,
    target: Party,
    port: int,
    protocol: str = "TCP",
) -> bool:
    """Return whether a connection passes both sides."""
    for party, other, kind in ((source, target, "Egress"), (target, source, "Ingress")):
        isolating = selecting(policies, party, kind)
        if isolating and not any(
            is_peer(peer, other, namespace, namespaces)
            and (each["port"], each.get("protocol", "TCP")) == (port, protocol)
            for namespace, peer, each in rules(isolating, kind)
        ):
            return False
    return True


def firewall(
    policies: Sequence[Object],
    namespaces: Namespaces,
    party: Party,
    others: Sequence[Party],
    node: str,
) -> str:
    """Return the rules of a pod's own network, for ``iptables-restore``.

    Kubelet's probes and forwarded ports come from the node, which is always allowed.
    """
    lines = ["*filter"]
    for kind, chain, out in (("Ingress", "INPUT", "-i"), ("Egress", "OUTPUT", "-o")):
        isolating = selecting(policies, party, kind)
        lines.append(f":{chain} {'DROP' if isolating else 'ACCEPT'} [0:0]")
        lines.append(f"-A {chain} {out} lo -j ACCEPT")
        lines.append(f"-A {chain} -m state --state ESTABLISHED,RELATED -j ACCEPT")
        if kind == "Ingress":
            lines.append(f"-A {chain} -s {node} -j ACCEPT")
        address = {"Ingress": "-s", "Egress": "-d"}[kind]
        for namespace, peer, port in rules(isolating, kind):
            to = f"-p {port.get('protocol', 'TCP').lower()} --dport {port['port']}"
            if "ipBlock" in peer:
                for each in peer["ipBlock"].get("except", ()):
                    lines.append(f"-A {chain} {address} {each} {to} -j DROP")
                lines.append(f"-A {chain} {address} {peer['ipBlock']['cidr']} {to} -j ACCEPT")
            for other in others:
                if "ipBlock" not in peer and is_peer(peer, other, namespace, namespaces):
                    lines.append(f"-A {chain} {address} {other.address} {to} -j ACCEPT")
    # The node stands in for a Service without ready pods: refuse, as kube-proxy does before it
    # evaluates policies.
    lines.append(f"-A OUTPUT -d {node} -p tcp -j REJECT --reject-with tcp-reset")
    return "\n".join([*lines, "COMMIT", ""])


def enforce(network: str, text: str) -> None:
    """Replace the rules of a network namespace atomically."""
    subprocess.run(
        ["ip", "netns", "exec", network, "iptables-legacy-restore"],
        input=text, text=True, check=True, capture_output=True,
    )  # fmt: skip
