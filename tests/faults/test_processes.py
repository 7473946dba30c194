"""Workers and the gateway are killed, ended, frozen and woken, under a load of events."""

from __future__ import annotations

import signal
import threading

import httpx
import pytest

from faults.ground import Ground, free_port
from faults.pictures import hash_of, picture
from faults.process import STEPS

long = pytest.mark.faults

LEASED = "SELECT count(*) FROM indexer_v1.job WHERE lease_token IS NOT NULL"
CLIP = '{"clip":{"visual":{"modelName":"cn-clip/stand-in__openai"}}}'


@long
def test_all_is_well(ground: Ground) -> None:
    """Without a fault: what is found then is a fault of the product itself, or of the suite."""
    with ground.load():
        ground.start()
        ground.wait_for("SELECT count(*) > 60 FROM asset")
    ground.verify()


def test_workers_are_killed(ground: Ground) -> None:
    """At the steps that differ most; the long form has them all."""
    with ground.load():
        steps = ("claimed", "writing", "acknowledged")
        dying = [ground.start(fault=f"{step}:kill") for step in steps]
        assert {process.wait(120) for process in dying} == {-signal.SIGKILL}
        ground.start()
    ground.verify()


@long
@pytest.mark.parametrize("step", STEPS)
def test_a_worker_is_killed(ground: Ground, step: str) -> None:
    with ground.load():
        for _ in range(2):
            dying = ground.start(fault=f"{step}:kill")
            assert dying.wait(120) == -signal.SIGKILL
        ground.start()
        ground.wait_for("SELECT count(*) > 10 FROM indexer_v1.clip")
    ground.verify()


@long
@pytest.mark.parametrize("step", STEPS)
def test_a_worker_is_ended(ground: Ground, step: str) -> None:
    """SIGTERM: it finishes what it has begun, and what it gives back is charged to nobody."""
    with ground.load():
        ground.wait_for("SELECT count(*) > 20 FROM asset")
        ending = ground.start(fault=f"{step}:term")
        assert ending.wait(120) == 0
        assert ground.ask(LEASED) == 0
        assert ground.ask("SELECT max(attempts) FROM indexer_v1.job") == 0
        assert ground.ask("SELECT count(*) FROM indexer_v1.worker") == 0
        ground.start()
    ground.verify()


def test_a_late_result_does_not_win(ground: Ground) -> None:
    """A worker is frozen with its results in hand, and woken when its lease has long passed on.

    Its photos have jobs again by then, so that only the lease tells whose they are.
    """
    ground.db.execute(
        """
        CREATE TABLE written (content_hash bytea);
        CREATE FUNCTION written() RETURNS trigger LANGUAGE plpgsql
        AS $$ BEGIN INSERT INTO public.written VALUES (NEW.content_hash); RETURN NULL; END $$;
        CREATE TRIGGER written AFTER INSERT OR UPDATE ON indexer_v1.ocr
            FOR EACH ROW EXECUTE FUNCTION written()
        """
    )
    assets = ground.upload(4)
    late = [hash_of(ground.immich.preview_path(asset).read_bytes()) for asset in assets]
    frozen = ground.start(fault="inferred:stop")
    ground.wait_until_stopped(frozen)
    for asset in assets:
        ground.immich.replace_preview(asset, picture(f"newer {asset}"))
    other = ground.start()
    ground.verify()
    ground.end(other)
    for asset in assets:
        ground.immich.replace_preview(asset, picture(f"newest {asset}"))
    ground.wake(frozen)
    ground.verify()
    assert ground.ask("SELECT count(*) > 0 FROM written")
    assert ground.ask("SELECT count(*) FROM written WHERE content_hash = ANY (%s)", late) == 0


@long
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("workers", [2, 4])
def test_one_of_several_is_frozen(ground: Ground, step: str, workers: int) -> None:
    """Also in the middle of its transaction: neither Immich nor the others wait for it for long."""
    with ground.load(pause=0.05):
        frozen = ground.start(fault=f"{step}:stop", idle_seconds=5)
        for _ in range(workers - 1):
            ground.start()
        ground.wait_until_stopped(frozen)
        ground.wait_for("SELECT count(*) > 30 FROM indexer_v1.clip")
        ground.wait_for("SELECT count(*) = 0 FROM indexer_v1.job WHERE lease_until < now()")
        ground.wake(frozen)
        done = ground.ask("SELECT sum(done) FROM indexer_v1.worker")
        ground.wait_for("SELECT sum(done) > %s FROM indexer_v1.worker", done + 20)
    ground.verify()


@long
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_the_gateway_ends(ground: Ground, how: signal.Signals) -> None:
    """While Immich asks it and workers work: what it answers later is what it said before.

    Of a photo that stays as it is: one whose result has gone is computed again, and what was kept
    of it as halfvec was rounded.
    """
    asset = ground.upload()[0]
    data = ground.immich.preview_path(asset).read_bytes()
    port = free_port()
    answers: list[object] = []
    ended = threading.Event()

    def ask() -> None:
        while not ended.is_set():
            try:
                answer = httpx.post(
                    f"http://127.0.0.1:{port}/predict",
                    data={"entries": CLIP},
                    files={"image": ("blob", data, "application/octet-stream")},
                )
            except httpx.TransportError:
                continue
            answers.append(answer.json() if answer.status_code == 200 else answer.status_code)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        with ground.load(spared=[asset]):
            ground.start()
            for _ in range(3):
                gateway = ground.start("gateway", port=port)
                before = len(answers)
                ground.wait_for(lambda before=before: len(answers) > before + 20)
                gateway.send_signal(how)
                assert gateway.wait(120) in (0, -how)
    finally:
        ended.set()
        asking.join()
    assert len({str(answer) for answer in answers if answer != 503}) == 1
    ground.verify()


@long
def test_everything_at_once(ground: Ground) -> None:
    """Workers come, and go at every step; the server crashes, the network is cut.

    So many die that the same photo may be theirs more often than a photo that kills may.
    """
    with ground.load():
        for round_ in range(4):
            before = ground.processes[-1:]
            dying = [
                ground.start(fault=f"{step}:kill", max_attempts=100)
                for step in STEPS[round_ % 2 :: 2]
            ]
            ground.start(max_attempts=100)
            ground.proxy.cut()
            for process in before:
                ground.kill(process)
            for process in dying:
                process.wait(120)
            if round_ % 2:
                ground.restart_server()
    ground.verify()
