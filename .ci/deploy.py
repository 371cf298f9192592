"""Holds the Kubernetes manifests and the dashboard against models of their kinds.

A model that drops what it does not know finds a misspelt key by what is missing
once the document has gone through it.
"""
import json

import kubernetes_validate
import yaml
from cloudcoil.models.keda.v1alpha1 import ScaledObject
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard


def read(name):
    with open(f"deploy/{name}") as f:
        return f.read()


def lost(given, kept, path=""):
    """Lists what of a document is not in what a model made of it."""
    if isinstance(given, dict):
        for key, value in given.items():
            if not isinstance(kept, dict) or key not in kept:
                if value not in (None, [], {}, ""):
                    yield f"{path}.{key}"
            else:
                yield from lost(value, kept[key], f"{path}.{key}")
    elif isinstance(given, list):
        if not isinstance(kept, list) or len(kept) != len(given):
            yield path
        else:
            for i, value in enumerate(given):
                yield from lost(value, kept[i], f"{path}[{i}]")
    elif given != kept:
        yield f"{path}: {given!r} became {kept!r}"


def keda(document):
    return ScaledObject.model_validate(document).model_dump(by_alias=True, mode="json")


def grafana(document):
    return json.loads(JSONEncoder().encode(Dashboard.from_json(document)))


def check(name, model, document, wrong):
    """Requires that a document is right, and that a wrong one is found."""
    missing = list(lost(document, model(document)))
    assert not missing, f"{name}: not known: {missing}"
    wrong(document)
    try:
        found = list(lost(document, model(document)))
    except Exception as error:  # a model that says so itself does as well
        found = [error]
    assert found, f"{name}: the check finds nothing wrong in a wrong document"
    print(f"{name}: ok")


register_default_plugins()
check("keda.yaml", keda, yaml.safe_load(read("kubernetes/keda.yaml")), lambda d: d["spec"].update(maxReplicasCount=3))
check("processor.json", grafana, json.loads(read("grafana/dashboards/processor.json")), lambda d: d["panels"][1].update(gridPosition={"h": 1}))

hpa = yaml.safe_load(read("kubernetes/hpa.yaml"))
kubernetes_validate.validate(hpa, "1.33", strict=True)
print("hpa.yaml: ok")

for name in ("grafana/provisioning/datasources/prometheus.yml", "grafana/provisioning/dashboards/processor.yml", "kubernetes/prometheus-adapter.yaml"):
    assert isinstance(yaml.safe_load(read(name)), dict), name
