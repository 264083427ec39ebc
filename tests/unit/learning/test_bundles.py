"""Model bundles: what goes in comes out, and what is not weights is refused before it is run."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from engine.errors import EngineError, ParameterError
from engine.learning.models.bundle import import_model, open_bundle, write_bundle
from engine.learning.models.card import Card, CardError, read_card
from engine.learning.models.weights import WeightsRefused
from jobs.cli import app

torch = pytest.importorskip("torch", reason="weights need torch: pip install .[segment]")
import safetensors.torch  # noqa: E402

from engine.kernels.networks.factory import create_network  # noqa: E402

COHORT = Path(sys.executable).parent / "cohort"
CARD = Card(name="small", architecture="unet", options={"width": 2}, halo_px=32)


class Payload:
    """Pickled, it makes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.marker),)


@pytest.fixture(scope="module")
def network() -> Any:
    torch.manual_seed(0)
    return create_network("unet", {"width": 2}, 3, 4).eval()


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (2, 3, 40, 24)).astype(np.uint8)


def answer(network: Any, pixels: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        images = (torch.from_numpy(pixels).float() - 127.5) / 127.5
        return network.probabilities(images).numpy()


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
def test_a_state_dict_becomes_a_bundle_that_answers_alike(
    network: Any, pixels: np.ndarray, tmp_path: Path, suffix: str, wrapped: bool
) -> None:
    state = network.state_dict()
    file = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        safetensors.torch.save_file(state, file)
    elif wrapped:
        parallel = {f"module.{name}": tensor for name, tensor in state.items()}
        torch.save({"epoch": 3, "state_dict": parallel}, file)
    else:
        torch.save(state, file)
    made, new = import_model(file, tmp_path / "bundle", CARD)
    assert new == ()
    opened = open_bundle(tmp_path / "bundle")
    assert opened == made
    predictor = opened.load("cpu")
    assert predictor.planes == 4
    np.testing.assert_allclose(predictor(pixels), answer(network, pixels), atol=1e-5)


def test_the_digest_is_of_card_and_weights(network: Any, tmp_path: Path) -> None:
    weights = safetensors.torch.save(network.state_dict())
    first = write_bundle(tmp_path / "a", CARD, weights)
    again = write_bundle(tmp_path / "elsewhere" / "b", CARD, weights)
    assert first.digest == again.digest
    wider = write_bundle(tmp_path / "c", CARD.model_copy(update={"halo_px": 64}), weights)
    other = {name: tensor + 1 for name, tensor in network.state_dict().items()}
    changed = write_bundle(tmp_path / "d", CARD, safetensors.torch.save(other))
    assert len({first.digest, wider.digest, changed.digest}) == 3
    with pytest.raises(ParameterError, match="does not exist yet"):
        write_bundle(tmp_path / "a", CARD, weights)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "c", "d", "elsewhere"]


@pytest.mark.parametrize("kind", ["bare pickle", "zip", "among weights", "old zip"])
def test_a_malicious_pickle_is_refused_and_nothing_of_it_runs(
    network: Any, tmp_path: Path, kind: str
) -> None:
    marker = tmp_path / "marker"
    file = tmp_path / "weights.pt"
    payload = Payload(marker)
    if kind == "bare pickle":
        file.write_bytes(pickle.dumps(payload))
    elif kind == "zip":
        torch.save(payload, file)
    elif kind == "among weights":
        torch.save({**network.state_dict(), "last.bias": payload}, file)
    else:
        torch.save(payload, file, _use_new_zipfile_serialization=False)
    with pytest.raises(WeightsRefused, match="refused") as caught:
        import_model(file, tmp_path / "bundle", CARD)
    assert not marker.exists()
    assert not (tmp_path / "bundle").exists()
    assert "mkdir" not in str(caught.value)
    # And the payload does work where it is let.
    if kind == "bare pickle":
        pickle.loads(file.read_bytes())
        assert marker.exists()


def test_weights_with_the_wrong_digest_are_refused_before_they_are_read(
    network: Any, tmp_path: Path
) -> None:
    marker = tmp_path / "marker"
    file = tmp_path / "weights.pt"
    torch.save(Payload(marker), file)
    with pytest.raises(WeightsRefused, match="SHA-256"):
        import_model(file, tmp_path / "bundle", CARD, sha256="0" * 64)
    bundle = write_bundle(tmp_path / "bundle", CARD, safetensors.torch.save(network.state_dict()))
    weights = bundle.directory / "weights.safetensors"
    flipped = bytearray(weights.read_bytes())
    flipped[len(flipped) // 2] ^= 1
    for wrong in (bytes(flipped), file.read_bytes(), b""):
        weights.write_bytes(wrong)
        with pytest.raises(WeightsRefused, match="SHA-256"):
            open_bundle(bundle.directory).load("cpu")
    weights.unlink()
    with pytest.raises(WeightsRefused, match="can't be read"):
        open_bundle(bundle.directory).load("cpu")
    assert not marker.exists()


@pytest.mark.parametrize(
    ("content", "suffix"),
    [
        (b"", ".pt"),
        (b"not a zip", ".pt"),
        (b"\x80\x02.", ".pt"),
        (pickle.dumps([1, 2]), ".pt"),
        (b"not safetensors", ".safetensors"),
        (b"\xff" * 64, ".safetensors"),
        (b"x", ".h5"),
    ],
)
def test_what_is_no_weights_is_refused(content: bytes, suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"weights{suffix}"
    file.write_bytes(content)
    with pytest.raises(WeightsRefused):
        import_model(file, tmp_path / "bundle", CARD)


def test_weights_of_another_architecture_are_refused_by_name(network: Any, tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(network.state_dict(), file)
    wider = CARD.model_copy(update={"options": {"width": 3}})
    with pytest.raises(WeightsRefused, match=r"first 'bottom.*ONNX"):
        import_model(file, tmp_path / "bundle", wider)
    deeplab = CARD.model_copy(update={"architecture": "deeplabv3", "options": {"blocks": [1] * 4}})
    with pytest.raises(WeightsRefused, match="first 'backbone"):
        import_model(file, tmp_path / "bundle", deeplab)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"mean": [1, 2]}, "one for each"),
        ({"classes": [{"name": "a", "colour": "#ffffff"}] * 2}, "different names"),
        ({"classes": [{"name": "a", "colour": "white"}] * 2}, r"classes\.0\.colour"),
        ({"colour": 1}, "colour: a name that cards know"),
        ({"format": 2}, "format"),
        ({"architecture": "onnx"}, "none for ONNX"),
    ],
)
def test_a_card_that_can_not_be_is_named(change: dict[str, Any], word: str) -> None:
    with pytest.raises(CardError, match=word):
        read_card({**CARD.model_dump(mode="json"), **change}, "card.json")


def test_a_bundle_without_a_usable_card_is_named(tmp_path: Path) -> None:
    with pytest.raises(CardError, match="no model there"):
        open_bundle(tmp_path / "nothing")
    for text in (b"", b"[1]", b"\xff\xfe", b"{" * 100_000, b" " * (1 << 20) + b" "):
        (tmp_path / "card.json").write_bytes(text)
        with pytest.raises(CardError, match="no JSON object"):
            open_bundle(tmp_path)
    (tmp_path / "card.json").write_bytes(CARD.to_json())
    with pytest.raises(CardError, match="names no weights"):
        open_bundle(tmp_path)


def graph_bytes(fixed: bool, channels: int = 3) -> bytes:
    """Return an ONNX graph, made with onnx alone: a 3 x 3 convolution and an addition."""
    onnx = pytest.importorskip("onnx", reason="onnx is not installed: no graph can be made")
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(5)
    kernel = rng.normal(0, 1, (4, channels, 3, 3)).astype(np.float32)
    sides = [64, 64] if fixed else ["y", "x"]
    node = helper.make_node("Conv", ["images", "kernel"], ["scores"], pads=[1, 1, 1, 1])
    graph = helper.make_graph(
        [node],
        "edges",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", channels, *sides])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 4, *sides])],
        [numpy_helper.from_array(kernel, "kernel")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


@pytest.mark.parametrize("fixed", [False, True])
def test_an_onnx_graph_made_elsewhere_answers(
    fixed: bool, pixels: np.ndarray, tmp_path: Path
) -> None:
    data = graph_bytes(fixed)
    (tmp_path / "graph.onnx").write_bytes(data)
    card = Card(name="edges", architecture="onnx", multiple_px=1 if fixed else 16)
    bundle, _ = import_model(tmp_path / "graph.onnx", tmp_path / "bundle", card)
    found = open_bundle(bundle.directory).load("cpu")(pixels)
    assert found.shape == (2, 4, 40, 24)
    from onnx import load_from_string, numpy_helper

    kernel = torch.tensor(numpy_helper.to_array(load_from_string(data).graph.initializer[0]))
    images = (torch.from_numpy(pixels).float() - 127.5) / 127.5
    lower, right = (24, 40) if fixed else (8, 8)
    padded = torch.nn.functional.pad(images, (0, right, 0, lower), mode="replicate")
    expected = torch.nn.functional.conv2d(padded, kernel, padding=1).softmax(1)[..., :40, :24]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    if fixed:
        with pytest.raises(ParameterError, match="at most 64"):
            bundle.load("cpu")(np.zeros((1, 3, 65, 10), np.uint8))


def test_graphs_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "graph.onnx"
    card = Card(name="edges", architecture="onnx")
    file.write_bytes(b"no graph")
    with pytest.raises(ParameterError, match="one ONNX graph"):
        import_model(file, tmp_path / "bundle", card)
    file.write_bytes(graph_bytes(fixed=False, channels=1))
    with pytest.raises(ParameterError, match="the 1 that the graph takes"):
        import_model(file, tmp_path / "bundle", card)
    with pytest.raises(ParameterError, match=r"onnx for \.onnx files"):
        import_model(file, tmp_path / "bundle", CARD)


def run(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, ["model", *map(str, arguments)])


def test_the_command_imports_shows_and_refuses(network: Any, tmp_path: Path) -> None:
    file, bundle, marker = tmp_path / "w.pt", tmp_path / "bundle", tmp_path / "marker"
    torch.save(network.state_dict(), file)
    done = run("import", file, bundle, "--options", '{"width": 2}')
    assert done.exit_code == 0, done.output
    values = json.loads(run("show", bundle, "--json").stdout)
    assert [c["name"] for c in values["classes"]] == ["background", "bone", "fat", "other"]
    assert values["digest"] == open_bundle(bundle).digest
    assert values["digest"] in done.stdout
    torch.save(Payload(marker), file)
    # As a person would: a process of its own, and no traceback.
    command = [COHORT, "model", "import", file, tmp_path / "evil", "--options", '{"width": 2}']
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert "refused" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not marker.exists()
    (bundle / "weights.safetensors").write_bytes(file.read_bytes())
    assert run("show", bundle).exit_code == 1
    assert not marker.exists()


def test_errors_are_the_engines_own() -> None:
    assert issubclass(WeightsRefused, EngineError)
    assert issubclass(CardError, EngineError)


def outside_graphs() -> dict[str, bytes]:
    """Return graphs some of whose values lie outside of them, each in another place."""
    onnx = pytest.importorskip("onnx", reason="onnx is not installed: no graph can be made")
    from onnx import TensorProto, helper, numpy_helper

    def outside(name: str, location: str = "weights.bin") -> Any:
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[4, 3, 3, 3])
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)
        return tensor

    def graph(nodes: list[Any], tensors: list[Any], outputs: list[Any] | None = None) -> Any:
        images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, "y", "x"])
        scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 4, "y", "x"])
        return helper.make_graph(nodes, "g", [images], [scores] if outputs is None else outputs,
                                 tensors)  # fmt: skip

    conv = helper.make_node("Conv", ["images", "kernel"], ["scores"], pads=[1, 1, 1, 1])
    constant = helper.make_node("Constant", [], ["kernel"], value=outside("kernel"))
    branch = helper.make_graph(
        [helper.make_node("Identity", ["inner"], ["kernel_of_branch"])], "branch", [],
        [helper.make_tensor_value_info("kernel_of_branch", TensorProto.FLOAT, None)],
        [outside("inner")],
    )  # fmt: skip
    chosen = helper.make_node("If", ["yes"], ["kernel"], then_branch=branch, else_branch=branch)
    yes = numpy_helper.from_array(np.array(True), "yes")
    place = outside("kernel")
    place.ClearField("external_data")
    unsaid = outside("kernel")
    unsaid.ClearField("data_location")
    made = {
        "initializer": helper.make_model(graph([conv], [outside("kernel")])),
        "absolute": helper.make_model(graph([conv], [outside("kernel", "/etc/hostname")])),
        "memory": helper.make_model(graph([conv], [outside("kernel", "*/_ORT_MEM_ADDR_/*")])),
        "place alone": helper.make_model(graph([conv], [place])),
        "entries alone": helper.make_model(graph([conv], [unsaid])),
        "constant": helper.make_model(graph([constant, conv], [])),
        "branch": helper.make_model(graph([chosen, conv], [yes])),
    }
    function = helper.make_function("own", "Kernel", [], ["kernel"], [constant], [])
    made["function"] = helper.make_model(
        graph([helper.make_node("Kernel", [], ["kernel"], domain="own"), conv], []),
        functions=[function],
    )
    made["training"] = helper.make_model(graph([conv], []))
    made["training"].training_info.add().algorithm.initializer.append(outside("kernel"))
    sparse = onnx.SparseTensorProto(values=outside("kernel"), dims=[4, 3, 3, 3])
    made["sparse"] = helper.make_model(graph([conv], []))
    made["sparse"].graph.sparse_initializer.append(sparse)
    return {name: bytes(model.SerializeToString()) for name, model in made.items()}


def test_graphs_with_weights_outside_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(5)
    (tmp_path / "weights.bin").write_bytes(rng.normal(0, 1, 108).astype(np.float32).tobytes())
    monkeypatch.chdir(tmp_path)  # where onnxruntime would find them
    card = Card(name="edges", architecture="onnx")
    good, _ = _imported(tmp_path, graph_bytes(fixed=False), card)
    for name, data in outside_graphs().items():
        (tmp_path / "graph.onnx").write_bytes(data)
        with pytest.raises(WeightsRefused, match=r"in other files.*save it whole"):
            import_model(tmp_path / "graph.onnx", tmp_path / f"bundle {name}", card)
        assert not (tmp_path / f"bundle {name}").exists()
        # A folder that an earlier version made, or somebody by hand.
        kept = good.card.weights.model_copy(
            update={"sha256": hashlib.sha256(data).hexdigest(), "nbytes": len(data)}
        )
        folder = tmp_path / f"by hand {name}"
        folder.mkdir()
        (folder / "model.onnx").write_bytes(data)
        (folder / "card.json").write_bytes(good.card.model_copy(update={"weights": kept}).to_json())
        with pytest.raises(WeightsRefused, match="in other files"):
            open_bundle(folder).load("cpu")


def _imported(folder: Path, data: bytes, card: Card) -> Any:
    (folder / "whole.onnx").write_bytes(data)
    return import_model(folder / "whole.onnx", folder / "whole", card)


def test_bytes_that_are_no_graph_are_refused_before_they_are_run() -> None:
    from engine.learning.models.onnx_files import require_whole

    whole = graph_bytes(fixed=False)
    require_whole(whole, Path("g.onnx"))
    deep = b""
    for _ in range(40):  # a graph in an attribute of a node of a graph ...
        for field in (6, 5, 1):
            deep = bytes([field << 3 | 2]) + _varint(len(deep)) + deep
    rng = np.random.default_rng(7)
    for data in (
        b"no graph", b"\x08\x00\x00\x00ORTM", b"\x3a" + _varint(len(deep)) + deep, whole[:-3],
        b"\x38\x01", b"\xff" * 12, b"\x3b", *(rng.bytes(n) for n in range(40, 60)),
    ):  # fmt: skip
        with pytest.raises(ParameterError, match="one ONNX graph"):
            require_whole(data, Path("g.onnx"))


def _varint(value: int) -> bytes:
    low, rest = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + _varint(rest) if rest else bytes([low])
