"""The server of the page: what it answers, and what it refuses."""

import errno
import json
import os
import socket

import pytest
import torch
from experiments.common.browser import TOKEN, serving
from pages import PREPARATION, client_of
from starlette.testclient import TestClient

from abn import Preprocessing, abn_cifar_resnet, wrap_backbone
from abn.editor.background import Predictions
from abn.editor.server import create_app
from abn.editor.session import Session
from abn.edits import Edits, save_edit
from abn.images import read_image


def prepared(photos, name="cat/0.png"):
    return PREPARATION(read_image(photos / name))[None]


def own_maps(client, index=0):
    return torch.tensor(client.get(f"/api/images/{index}").json()["own"])


def right_half(client, index=0):
    maps = own_maps(client, index)
    maps[..., : maps.shape[-1] // 2] = 0
    return maps.tolist()


def save(client, maps, revision=0, index=0):
    return client.put(f"/api/images/{index}/edit", json={"maps": maps, "revision": revision})


def test_folder_lists_the_images_with_their_classes(client, photos):
    folder = client.get("/api/folder").json()
    assert [image["name"] for image in folder["images"]] == [
        "cat/0.png",
        "cat/1.png",
        "dog/0.png",
        "unknown/0.png",
        "z.png",
    ]
    assert [image["label"] for image in folder["images"]] == ["cat", "cat", "dog", None, None]
    assert folder["shape"] == [1, 16, 16]
    assert folder["outputNames"] == ["ant", "bee", "cat", "dog", "elk", "fox"]


@torch.no_grad()
def test_image_comes_with_the_networks_own_map(client, model, photos):
    assert torch.allclose(own_maps(client), model(prepared(photos)).attention_map[0], atol=1e-6)


@torch.no_grad()
def test_answer_is_that_of_the_network_with_the_edited_map(client, model, photos):
    maps = right_half(client)
    rows = client.post("/api/images/0/answer", json={"maps": maps}).json()
    images = prepared(photos)
    before = model(images).perception_logits.softmax(dim=1)[0]
    after = model(images, torch.tensor(maps)[None]).perception_logits.softmax(dim=1)[0]
    assert [row["name"] for row in rows[:5]] == [model.classes[i] for i in before.topk(5).indices]
    for row in rows:
        assert row["before"]["value"] == pytest.approx(before[row["number"]].item(), abs=1e-6)
        assert row["after"]["value"] == pytest.approx(after[row["number"]].item(), abs=1e-6)
    assert rows[0]["before"]["value"] != pytest.approx(rows[0]["after"]["value"], abs=1e-3)


@torch.no_grad()
def test_map_of_any_class_is_shown(client, model, photos):
    given = client.get("/api/images/0/classes/4").json()
    assert torch.allclose(torch.tensor(given), model.class_map(prepared(photos), 4)[0], atol=1e-6)


def test_pictures_show_what_the_network_sees(client, photos):
    for kind, size in (("picture", (1024, 768)), ("thumbnail", (96, 72))):
        answer = client.get(f"/api/images/0/{kind}?token={TOKEN}")
        (photos.parent / "seen.jpg").write_bytes(answer.content)
        assert read_image(photos.parent / "seen.jpg").size == size


def test_edit_is_saved_with_what_is_known_and_comes_back(client, session, edits, model, photos):
    maps = right_half(client)
    assert save(client, maps).json() == {"revision": 1}
    saved = Edits(edits)
    assert torch.allclose(saved["cat/0.png"], torch.tensor(maps))
    assert torch.allclose(saved.original("cat/0.png"), own_maps(client), atol=1e-6)
    details = saved.details["cat/0.png"]
    assert (details["model"], details["label"]) == ("small", "cat")
    assert len(details["before"]) == len(details["after"]) == 5
    assert details["before"] != details["after"]
    later = client_of(Session(model, photos, edits, name="small"))
    opened = later.get("/api/images/0").json()
    assert opened["revision"] == 1
    assert torch.allclose(torch.tensor(opened["edit"]), torch.tensor(maps), atol=1e-6)
    assert later.get("/api/folder").json()["images"][0]["edited"]


def test_edit_of_someone_else_is_not_overwritten(client, session, edits):
    other = client_of(session)
    theirs = right_half(client)
    assert save(other, theirs).status_code == 200
    answer = save(client, own_maps(client).tolist())
    assert answer.status_code == 409
    assert "changed by someone else" in answer.json()["error"]
    assert torch.allclose(Edits(edits)["cat/0.png"], torch.tensor(theirs))
    assert save(client, own_maps(client).tolist(), revision=1).json() == {"revision": 2}


def test_edit_is_removed(client, edits):
    save(client, right_half(client))
    assert client.request("DELETE", "/api/images/0/edit", json={"revision": 9}).status_code == 409
    assert client.request("DELETE", "/api/images/0/edit", json={"revision": 1}).json() == {"revision": 0}
    assert list(Edits(edits)) == []
    assert client.get("/api/images/0").json()["edit"] is None
    assert client.request("DELETE", "/api/images/0/edit", json={"revision": 0}).status_code == 404


def test_full_disk_is_told_and_loses_nothing(client, edits, monkeypatch):
    save(client, first := right_half(client))

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("abn.edits.save_file", full)
    answer = save(client, own_maps(client).tolist(), revision=1)
    assert answer.status_code == 507
    assert "No space left" in answer.json()["error"]
    assert torch.allclose(Edits(edits)["cat/0.png"], torch.tensor(first))


def test_full_disk_while_the_manifest_is_written_loses_nothing(client, edits, monkeypatch):
    save(client, first := right_half(client))

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("abn.edits._write_manifest", full)
    assert save(client, own_maps(client).tolist(), revision=1).status_code == 507
    assert torch.allclose(Edits(edits)["cat/0.png"], torch.tensor(first))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "not JSON"),
        (b"[" * 5000, "not JSON"),
        (b"[]", "no JSON object"),
        (b"{}", "no maps"),
        (b'{"maps": "all"}', "no maps"),
        (b'{"maps": [[[1, 2], [3]]]}', "no maps"),
        (b'{"maps": [[[0.5]]]}', "shape (1, 1, 1), expected (1, 16, 16)"),
        (json.dumps({"maps": [[[float("nan")] * 16] * 16]}).encode(), "nan"),
        (b'{"maps": [[[' + b"9" * 400 + b"]]]}", "no maps"),
        (json.dumps({"maps": [[[2.0] * 16] * 16]}).encode(), "from 2 to 2"),
    ],
)
@pytest.mark.parametrize(("method", "address"), [("POST", "answer"), ("PUT", "edit")])
def test_bad_maps_are_refused(client, edits, method, address, body, message):
    if method == "PUT" and body.startswith(b'{"maps"'):
        body = body[:-1] + b', "revision": 0}'
    answer = client.request(method, f"/api/images/0/{address}", content=body)
    assert answer.status_code == 422
    assert message in answer.json()["error"]
    assert not edits.exists()


@pytest.mark.parametrize("revision", [None, -1, "1", 0.5])
def test_bad_revision_is_refused(client, revision):
    answer = save(client, right_half(client), revision)
    assert (answer.status_code, "revision is" in answer.json()["error"]) == (422, True)


def test_huge_body_is_refused(client):
    answer = client.post("/api/images/0/answer", content=b" " * 100_000)
    assert answer.status_code == 413


@pytest.mark.parametrize("index", ["5", "-1", "99999999999999999999", "..%2F..%2Fsecret", "cat"])
@pytest.mark.parametrize("kind", ["", "/picture", "/thumbnail", "/mask", "/classes/0"])
def test_image_that_is_none_is_not_found(client, index, kind):
    assert client.get(f"/api/images/{index}{kind}").status_code == 404


def test_class_that_is_none_is_refused(client):
    answer = client.get("/api/images/0/classes/6")
    assert (answer.status_code, "from 0 to 5" in answer.json()["error"]) == (422, True)


@pytest.mark.parametrize("kind", ["", "/picture", "/thumbnail", "/classes/0"])
def test_broken_image_is_told(client, kind):
    answer = client.get(f"/api/images/4{kind}")
    assert answer.status_code == 422
    assert "z.png cannot be read as an image" in answer.json()["error"]


def test_image_that_was_replaced_is_seen_anew(client, photos):
    before = own_maps(client)
    (photos / "cat/0.png").write_bytes((photos / "dog/0.png").read_bytes())
    os.utime(photos / "cat/0.png", (0, 0))
    assert torch.equal(own_maps(client), own_maps(client, 2))
    assert not torch.equal(own_maps(client), before)


def test_names_that_cannot_be_kept_are_told(model, photos, edits, caplog):
    (photos / "cat/0.png").rename(photos / "cat/10:30.png")
    (photos / "dog/0.png").rename(photos / "dog" / os.fsdecode(b"caf\xe9.png"))
    client = client_of(Session(model, photos, edits, name="small"))
    assert "1 images are left out, whose names are no text" in caplog.text
    names = [image["name"] for image in client.get("/api/folder").json()["images"]]
    assert names == ["cat/1.png", "cat/10:30.png", "unknown/0.png", "z.png"]
    index = names.index("cat/10:30.png")
    assert "cannot be saved" in client.get(f"/api/images/{index}").json()["problem"]


def test_edits_that_come_to_lie_elsewhere_are_not_shown(client, edits):
    save_edit(edits, "cat/0.png", torch.ones(1, 7, 7), preprocessing=Preprocessing())
    answer = client.get("/api/images/0")
    assert (answer.status_code, "another part of each image" in answer.json()["error"]) == (422, True)


def test_file_in_place_of_the_folder_of_edits_is_told(model, photos, edits):
    edits.write_text("")
    with pytest.raises(NotADirectoryError, match="is a file, expected a folder for the edits"):
        Session(model, photos, edits, name="small")


def test_vanished_image_is_told(client, photos):
    (photos / "dog/0.png").unlink()
    answer = client.get("/api/images/2")
    assert (answer.status_code, "cannot be read" in answer.json()["error"]) == (422, True)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"X-Token": ""}, 403),
        ({"X-Token": TOKEN[:-1] + "x"}, 403),
        ({"X-Token": "tökén".encode("latin-1")}, 403),
        ({"Host": "evil.example"}, 400),
        ({"Host": "127.0.0.1.evil.example"}, 400),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:9999"}, 403),
        ({"Origin": "http://127.0.0.1"}, 200),
        ({}, 200),
    ],
)
def test_only_the_page_itself_may_ask(client, headers, status):
    assert client.get("/api/folder", headers=headers).status_code == status


def test_host_that_holds_a_path_does_not_pass_for_the_page(session):
    with serving(session) as address:
        port = int(address.split(":")[2].split("/")[0])
        for host in (f"127.0.0.1:{port}/x?", f"127.0.0.1:{port}#", "127.0.0.1/static/"):
            with socket.create_connection(("127.0.0.1", port)) as connection:
                connection.sendall(
                    f"GET /api/folder HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
                )
                assert b"cat/0.png" not in connection.makefile("rb").read()


def test_page_needs_no_token_and_holds_no_secret(session):
    client = TestClient(create_app(session, TOKEN, ["127.0.0.1"]), base_url="http://127.0.0.1")
    answer = client.get("/")
    assert answer.status_code == 200
    assert TOKEN not in answer.text
    assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
    assert client.get("/static/page.js").status_code == 200
    assert client.get("/static/../session.py").status_code == 404
    assert client.get("/static/%2e%2e/session.py").status_code == 404


def test_open_host_lets_any_name_ask(session):
    client = TestClient(create_app(session, TOKEN, ["*"]), base_url="http://a.lab.example")
    assert client.get("/api/folder").status_code == 403
    assert client.get("/api/folder", headers={"X-Token": TOKEN}).status_code == 200


def test_reading_alone_saves_nothing(model, photos, edits):
    client = client_of(Session(model, photos, edits, name="small", read_only=True))
    assert client.get("/api/folder").json()["readOnly"]
    assert save(client, right_half(client)).status_code == 403
    assert client.request("DELETE", "/api/images/0/edit", json={"revision": 0}).status_code == 403
    assert not edits.exists()


def test_damaged_edit_is_told_and_the_image_opens(client, edits):
    save(client, right_half(client))
    (edits / "maps/cat/0.png.safetensors").write_bytes(b"damaged")
    opened = client.get("/api/images/0").json()
    assert opened["edit"] is None
    assert opened["revision"] == 1
    assert "The saved edit cannot be shown" in opened["problem"]


def test_edit_of_another_resolution_opens(client, edits):
    save_edit(edits, "cat/0.png", torch.ones(1, 7, 9), preprocessing=PREPARATION)
    assert client.get("/api/images/0").json()["edit"] == [[[1.0] * 16] * 16]


def test_edit_for_several_tasks_does_not_open_for_one(client, edits):
    save_edit(edits, "cat/0.png", torch.ones(2, 7, 9), preprocessing=PREPARATION)
    assert "it has 2 maps, expected 1" in client.get("/api/images/0").json()["problem"]


def test_edits_over_another_part_of_the_images_are_refused(model, photos, edits):
    save_edit(edits, "cat/0.png", torch.ones(1, 7, 7), preprocessing=Preprocessing())
    with pytest.raises(ValueError, match="keeps another part of each image"):
        Session(model, photos, edits, name="small")


def test_maps_without_bounds_cannot_be_painted(photos, edits):
    model = abn_cifar_resnet(20, num_classes=6, in_channels=3, map="log_sum").eval()
    with pytest.raises(ValueError, match=r"'log_sum'\) have no bounds"):
        Session(model, photos, edits, name="small")


@pytest.mark.parametrize("classes", [None, 3])
@torch.no_grad()
def test_each_task_has_its_map_and_its_answer(classes, photos, edits):
    model = wrap_backbone("timm/test_resnet", tasks=2, num_classes=classes).eval()
    model.preprocessing, model.classes = PREPARATION, ("smiles", "glasses")
    client = client_of(Session(model, photos, edits, name="tasks"))
    folder = client.get("/api/folder").json()
    assert (folder["outputNames"], folder["ofClasses"], folder["classMaps"]) == (
        ["smiles", "glasses"],
        False,
        False,
    )
    maps = torch.zeros(folder["shape"])
    assert maps.shape[0] == 2
    rows = client.post("/api/images/0/answer", json={"maps": maps.tolist()}).json()
    for number, row in enumerate(rows):
        for when, output in (
            ("before", model(prepared(photos))),
            ("after", model(prepared(photos), maps[None])),
        ):
            scores = output.perception_logits[0, ..., number]
            expected = scores.softmax(dim=0).max() if classes else scores
            assert row[when]["value"] == pytest.approx(expected.item(), abs=1e-5)
            assert row[when]["class"] == (int(scores.argmax()) if classes else None)
    assert save(client, maps.tolist()).status_code == 200
    assert Edits(edits)["cat/0.png"].shape == maps.shape


def predicted(session):
    """Predicts all images, and returns what is known then."""
    predictions = Predictions(session)
    predictions.start()
    predictions._thread.join(60)
    return predictions.known


def test_image_without_an_answer_stops_no_other(session, monkeypatch):
    predict = session.predict
    factors = {1: float("nan")}
    monkeypatch.setattr(session, "predict", lambda index: predict(index) * factors.get(index, 1))
    known = predicted(session)
    assert "not a number" in known[1]["error"]
    assert "prediction" in known[2]


def test_all_images_are_predicted(session):
    known = predicted(session)
    assert "cannot be read" in known[4]["error"]
    for index in range(4):
        shares = session.predict(index).softmax(dim=0)
        prediction = session.output_names[int(shares.argmax())]
        label = session.label(index)
        assert known[index] == {
            "prediction": prediction,
            "confidence": pytest.approx(shares.max().item(), abs=1e-6),
            "correct": None if label is None else prediction == label,
        }


def test_nothing_is_predicted_while_somebody_paints(session, monkeypatch):
    predictions = Predictions(session)
    monkeypatch.setattr(session, "idle", lambda: 0.0)
    predictions._stopped.set()  # ends the wait
    predictions._run()
    assert predictions.known == []


def test_predictions_are_given_from_a_number_on(session, monkeypatch):
    monkeypatch.setattr(Predictions, "start", Predictions._run)
    monkeypatch.setattr(Predictions, "stop", lambda self: None)
    with client_of(session) as client:
        known = client.get("/api/predictions?start=0").json()["predictions"]
        assert len(known) == 5
        assert client.get("/api/predictions?start=3").json()["predictions"] == known[3:]
        assert client.get("/api/predictions?start=x").status_code == 422
