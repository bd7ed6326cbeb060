"""cluster.yaml: Ray's schema accepts it, and nothing in it is open to the world."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

PATH = Path(__file__).parents[2] / "cluster.yaml"
_PUBLIC = re.compile(r"0\.0\.0\.0|(?<![\w:])::(?![\w:])|/0\b")
_PROVIDER = {"type", "region", "availability_zone", "cache_stopped_nodes", "use_internal_ips"}
_NODE = {
    "InstanceType", "ImageId", "KeyName", "SecurityGroupIds", "IamInstanceProfile", "InstanceMarketOptions",
    "MetadataOptions", "BlockDeviceMappings", "SubnetIds",
}  # fmt: skip


def strings(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for item in value.items() for part in item for text in strings(part)]
    if isinstance(value, list):
        return [text for item in value for text in strings(item)]
    return [str(value)]


def exposures(cluster: dict[str, Any]) -> list[str]:
    """What in a cluster file opens it further than it must be."""
    found = [f"public address in {text!r}" for text in strings(cluster) if _PUBLIC.search(text)]
    found += [f"wildcard in {text!r}" for text in strings(cluster) if "*" in text]
    found += [f"broad policy {text!r}" for text in strings(cluster) if "FullAccess" in text]
    for name, node in cluster["available_node_types"].items():
        for key in ("SecurityGroupIds", "IamInstanceProfile", "KeyName"):
            if not node["node_config"].get(key):
                found.append(f"{name} leaves {key} to the launcher's default")
        if node["node_config"].get("MetadataOptions", {}).get("HttpTokens") != "required":
            found.append(f"{name} answers metadata requests without a token")
    starts = {key: " ".join(cluster[key]) for key in ("head_start_ray_commands", "worker_start_ray_commands")}
    found += [f"no token in {key}" for key, text in starts.items() if "RAY_AUTH_MODE=token" not in text]
    if "--dashboard-host=127.0.0.1" not in starts["head_start_ray_commands"]:
        found.append("dashboard not on loopback")
    return found


@pytest.fixture
def cluster() -> dict[str, Any]:
    data: dict[str, Any] = yaml.safe_load(PATH.read_text())
    return data


def test_rays_own_schema_accepts_it(cluster: dict[str, Any]) -> None:
    validate_config(prepare_config(copy.deepcopy(cluster)))


def test_keys_that_the_schema_does_not_check_are_spelled_right(cluster: dict[str, Any]) -> None:
    assert set(cluster["provider"]) <= _PROVIDER
    for node in cluster["available_node_types"].values():
        assert set(node["node_config"]) <= _NODE
        assert set(node["resources"]) <= {"CPU", "GPU", "memory"}
    workers = [n for name, n in cluster["available_node_types"].items() if name != cluster["head_node_type"]]
    assert any(node["resources"].get("GPU") for node in workers)


def test_nothing_is_open_to_the_world(cluster: dict[str, Any]) -> None:
    assert exposures(cluster) == []


def test_every_exposure_would_be_found(cluster: dict[str, Any]) -> None:
    def broken(change: str) -> dict[str, Any]:
        data = copy.deepcopy(cluster)
        head = data["available_node_types"]["head"]["node_config"]
        if change == "bind":
            data["head_start_ray_commands"] = ["RAY_AUTH_MODE=token ray start --head --dashboard-host=0.0.0.0"]
        elif change == "token":
            data["worker_start_ray_commands"] = ["ray start --address=$RAY_HEAD_IP:6379"]
        elif change == "ssh":
            data["provider"]["security_group"] = {"IpPermissions": [{"IpRanges": [{"CidrIp": "0.0.0.0/0"}]}]}
        elif change == "wildcard":
            head["IamInstanceProfile"] = {"Arn": "arn:aws:iam::*:instance-profile/x"}
        elif change == "policy":
            head["IamInstanceProfile"] = {"Arn": "arn:aws:iam::aws:policy/AmazonEC2FullAccess"}
        else:
            del head[change]
        return data

    for change in ("bind", "token", "ssh", "wildcard", "policy", "SecurityGroupIds", "IamInstanceProfile"):
        assert exposures(broken(change)), change


def test_the_secret_is_neither_in_the_file_nor_readable_by_others(cluster: dict[str, Any]) -> None:
    assert not re.search(r"(?i)(api_key|secret|password|aws_access)", PATH.read_text())
    assert any("chmod 600 ~/.ray/auth_token" in command for command in cluster["setup_commands"])


def test_the_image_is_named_because_rays_default_is_older_than_what_is_installed(cluster: dict[str, Any]) -> None:
    images = {node["node_config"]["ImageId"] for node in cluster["available_node_types"].values()}
    assert len(images) == 1 and all(re.fullmatch(r"ami-[0-9a-f]{17}", image) for image in images)
    assert "ubuntu-24.04" in PATH.read_text()
