"""The published checkpoint: read, downloaded from a server of our own, looked at with PennyLane and closed forms."""

import io
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pennylane as qml
import pytest
import torch

from qtl_utils.analyses import checkpoint


def head(angles=None, seed=0):
    """The tensors of a head as it was published, with 60 angles."""
    rng = torch.Generator().manual_seed(seed)
    shapes = checkpoint.SHAPES | {"q_params": (60,)}
    state = {name: torch.randn(shape, generator=rng) for name, shape in shapes.items()}
    state["q_params"] *= 0.01
    if angles is not None:
        state["q_params"] = torch.as_tensor(angles, dtype=torch.float32).flatten()
    return state


def saved(state, legacy=True):
    """As bytes; the legacy format is that of 2019."""
    buffer = io.BytesIO()
    torch.save(state, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


@pytest.fixture
def server():
    """Sends `content` of itself, and counts."""

    class Handler(BaseHTTPRequestHandler):
        content, asked = b"", 0

        def do_GET(self):
            Handler.asked += 1
            known = self.path == f"/{checkpoint.FILE}"
            self.send_response(200 if known else 404)
            self.send_header("Content-Length", str(len(self.content) if known else 0))
            self.end_headers()
            self.wfile.write(self.content if known else b"")

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as found:
        threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        Handler.url = f"http://127.0.0.1:{found.server_port}"
        yield Handler
        found.shutdown()


# ---- getting it


def test_it_is_downloaded_once(server, tmp_path):
    server.content = saved(head())
    for _ in range(2):
        state = checkpoint.read_checkpoint("download", tmp_path, server.url)
    assert server.asked == 1
    assert torch.equal(state["q_params"], head()["q_params"])


def test_without_a_network_one_attempt_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="after one attempt.*by hand and give checkpoint: FILE"):
        checkpoint.read_checkpoint("download", tmp_path, "http://127.0.0.1:9")


@pytest.mark.parametrize("content", [b"<html>log in first</html>", saved({"q_params": torch.zeros(60)})])
def test_a_download_of_something_else_is_refused_and_removed(server, tmp_path, content):
    server.content = content
    with pytest.raises(ValueError, match=checkpoint.FILE):
        checkpoint.read_checkpoint("download", tmp_path, server.url)
    assert not (tmp_path / checkpoint.FILE).exists()


def test_a_file_of_the_user_is_read_and_kept(tmp_path):
    path = tmp_path / "mine.pt"
    path.write_bytes(saved(head(seed=3), legacy=False))
    assert torch.equal(checkpoint.read_checkpoint(path, tmp_path)["pre_net.bias"], head(seed=3)["pre_net.bias"])
    with pytest.raises(FileNotFoundError, match="there is no file 'none.pt'"):
        checkpoint.read_checkpoint("none.pt", tmp_path)


def test_tensors_of_another_head_are_named(tmp_path):
    path = tmp_path / "other.pt"
    path.write_bytes(saved(head() | {"q_params": torch.zeros(48)}))
    with pytest.raises(ValueError, match=r"q_params has the shape \(48,\), expected \(60,\)"):
        checkpoint.read_checkpoint(path, tmp_path)
    assert path.exists()


# ---- looking at it


def test_the_circuit_reads_the_second_to_the_seventh_row():
    used, unused = checkpoint.angles(head(np.arange(60)))
    assert used.ravel().tolist() == list(range(4, 28))
    assert unused.ravel().tolist() == [0, 1, 2, 3, *range(28, 60)]


def test_the_scale_is_the_root_mean_square():
    values = np.zeros((15, 4))
    values[1:7], values[9] = 0.02, 0.03
    used, unused = checkpoint.scale_table(head(values))["rms"]
    assert used == pytest.approx(0.02) and unused == pytest.approx(np.sqrt(4 * 0.03**2 / 36))


def test_untrained_draws_lie_in_their_interval_19_times_out_of_20():
    row = checkpoint.scale_table(head()).iloc[0]
    draws = np.sqrt((0.01 * np.random.default_rng(0).normal(size=(20_000, 24))) ** 2 @ np.full(24, 1 / 24))
    inside = (draws >= row["untrained_low"]) & (draws <= row["untrained_high"])
    assert inside.mean() == pytest.approx(0.95, abs=0.006)


def test_zero_angles_change_no_decision():
    assert checkpoint.decisions_changed(head(np.zeros(60)), n=1000) == 0


def test_changed_decisions_are_those_pennylane_and_the_closed_form_give():
    state, n = head(np.random.default_rng(4).normal(0, 0.8, (15, 4))), 400
    rows = state["q_params"].double().numpy().reshape(15, 4)[1:7]
    generator = torch.Generator().manual_seed(0)
    x = (np.pi * (torch.rand(n, 4, generator=generator, dtype=torch.float64) - 0.5)).numpy()

    @qml.qnode(qml.device("default.qubit", wires=4))
    def circuit(x):
        for i in range(4):
            qml.Hadamard(i)
            qml.RY(x[:, i], wires=i)
        for row in rows:
            for pair in ([0, 1], [2, 3], [1, 2]):
                qml.CNOT(pair)
            for i in range(4):
                qml.RY(row[i], wires=i)
        return [qml.expval(qml.Z(i)) for i in range(4)]

    s = np.sin(x).T
    zero = np.stack([-s[0], -s[1], s[0] * s[2], -s[0] * s[1] * s[3]], axis=1)
    weight, bias = (state[f"post_net.{name}"].double().numpy() for name in ("weight", "bias"))
    trained = np.stack(circuit(x), axis=1)
    differ = (trained @ weight.T + bias).argmax(1) != (zero @ weight.T + bias).argmax(1)
    assert differ.any()
    assert checkpoint.decisions_changed(state, n=n) == pytest.approx(differ.mean())


def test_sentences_say_where_the_used_angles_lie():
    assert "are inside of it" in checkpoint.sentences(head(np.full(60, 0.01)))[1]
    assert "are outside of it" in checkpoint.sentences(head(np.full(60, 0.03)))[1]
