"""The champion alias on a real MLflow: never on stale grounds, always on record, one at a time."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from registry_homes import damage, enter_home, saved
from test_registry import files_of, made

from vaesc.errors import RegistryError
from vaesc.registry import connect, list_models, load_model, mutex, promotion, register
from vaesc.registry.history import Move, line_of_champions, write_move
from vaesc.registry.lookup import aliases_of, find_version


@pytest.fixture
def three(tmp_path, monkeypatch):
    """A home with three versions, the first of which is champion."""
    home = enter_home(tmp_path / "home", monkeypatch)
    return home, [made(home, seed)[0] for seed in range(3)]


def promoted(number, expected, **options):
    runs = connect("test")
    version = find_version(runs, number)
    return promotion.promote(runs, version, expected=expected, reason="a test", **options)


def champion():
    return promotion.champion_of(connect("test"), "vaesc")


def history():
    return [(m.kind, m.previous, m.version) for m in promotion.history(connect("test"))]


def test_a_promotion_moves_the_alias_and_is_on_record(three):
    move = promoted(3, 1, by="somebody")
    assert champion() == 3
    assert load_model("champion").origin.version == 3
    assert aliases_of(connect("test"), "vaesc") == {"champion": 3}  # no challenger any more
    assert move.carried_out
    assert move.by == "somebody"
    assert history() == [("first", None, 1), ("promote", 1, 3)]
    assert promotion.history(connect("test"))[-1] == move


def test_a_promotion_on_stale_grounds_is_refused_and_changes_nothing(three):
    promoted(2, 1)
    with pytest.raises(promotion.StaleError, match=r"version 2 .* compare it with version 2"):
        promoted(3, 1)
    assert champion() == 2
    assert history()[-1] == ("promote", 1, 2)


def test_of_promotions_at_once_one_wins_and_the_others_hear_of_it(three):
    def attempt(number):
        try:
            promoted(number, 1)
        except promotion.StaleError:
            return None
        return number

    with ThreadPoolExecutor(4) as pool:
        won = [n for n in pool.map(attempt, [2, 3, 2, 3]) if n]
    assert won == [champion()]
    assert history() == [("first", None, 1), ("promote", 1, won[0])]


def test_what_is_champion_already_is_not_promoted_again(three):
    with pytest.raises(RegistryError, match="is the champion already"):
        promoted(1, 1)


def test_a_damaged_version_does_not_become_champion(three):
    damage(files_of(three[1][1]) / "vae.safetensors")
    with pytest.raises(RegistryError, match=r"is damaged .* cannot become champion"):
        promoted(2, 1)
    assert champion() == 1
    assert history() == [("first", None, 1)]


def test_rollbacks_go_back_through_the_champions(three):
    promoted(2, 1)
    promoted(3, 2)
    runs = connect("test")
    assert promotion.roll_back(runs, reason="it blurs").version == 2
    assert promotion.roll_back(runs).version == 1
    with pytest.raises(RegistryError, match="no earlier champion on record"):
        promotion.roll_back(runs)
    assert champion() == 1
    promoted(3, 1)
    assert promotion.roll_back(runs).version == 1
    kinds = [kind for kind, *_ in history()]
    assert kinds == [
        "first", "promote", "promote", "rollback", "rollback", "promote", "rollback",
    ]  # fmt: skip


def test_a_rollback_passes_over_a_version_that_was_deleted(three):
    promoted(2, 1)
    promoted(3, 2)
    connect("test").client.delete_model_version("vaesc", "2")
    assert promotion.roll_back(connect("test")).version == 1


def test_a_rollback_passes_over_a_repaired_and_over_a_damaged_version(three):
    home, versions = three
    promoted(2, 1)
    damage(files_of(versions[1]) / "vae.safetensors")
    runs = connect("test")
    again = register(saved(home / "again", 1), runs, run_id=runs.start_run("repair"))
    assert champion() == again.version == 4
    promoted(3, 4)
    assert promotion.roll_back(connect("test")).version == 4
    damage(files_of(again) / "vae.safetensors")
    promoted(3, 4)
    assert promotion.roll_back(connect("test")).version == 1


def test_after_a_deletion_a_rollback_finds_the_champion_before(three):
    promoted(2, 1)
    connect("test").client.delete_model_version("vaesc", "2")
    home, _ = three
    assert made(home, 7)[0].version == 4
    assert champion() is None  # whatever is registered next takes nobody's place
    assert promotion.roll_back(connect("test")).version == 1


def test_a_candidate_is_not_named_before_the_gate_has_decided(tmp_path, monkeypatch):
    home = enter_home(tmp_path / "home", monkeypatch)
    record, _ = made(home, 0, candidate=True)
    assert aliases_of(connect("test"), "vaesc") == {"challenger": 1}
    promoted(record.version, None)
    assert champion() == 1


def test_a_champion_named_by_other_means_can_be_rolled_back_from(three):
    promoted(2, 1)
    connect("test").client.set_registered_model_alias("vaesc", "champion", "3")
    assert promotion.roll_back(connect("test")).version == 2


def test_a_move_that_was_cut_off_shows_itself(three):
    """Killed between the record and the alias, then between the alias and the second record."""
    runs = connect("test")
    cut = Move(
        number=2, kind="promote", version=2, previous=1, reason="cut off", by="me", at="now"
    )
    write_move(runs, "vaesc", cut)
    assert not promotion.history(runs)[-1].carried_out
    promoted(3, 1)
    assert [m.carried_out for m in promotion.history(runs)] == [True, False, True]
    assert promotion.roll_back(runs).version == 1
    write_move(runs, "vaesc", replace(cut, number=5))
    runs.client.set_registered_model_alias("vaesc", "champion", "2")
    assert promotion.history(runs)[-1].carried_out


def test_repairing_a_damaged_champion_is_on_record(three):
    home, versions = three
    damage(files_of(versions[0]) / "vae.safetensors")
    runs = connect("test")
    again = register(saved(home / "again", 0), runs, run_id=runs.start_run("repair"))
    assert champion() == again.version == 4
    assert history()[-1] == ("repair", 1, 4)


def test_the_line_of_champions():
    def move(kind, previous, version, done=True):
        return Move(
            number=1, kind=kind, version=version, previous=previous, reason="", by="", at="",
            carried_out=done,
        )  # fmt: skip

    line = [move("first", None, 1), move("promote", 1, 2), move("promote", 2, 5)]
    assert line_of_champions(line, 5) == [1, 2, 5]
    assert line_of_champions(line, 9) == [1, 2, 5, 9]
    assert line_of_champions([*line, move("rollback", 5, 2)], 2) == [1, 2]
    assert line_of_champions([*line, move("promote", 5, 7, done=False)], 5) == [1, 2, 5]
    assert line_of_champions([*line, move("promote", 5, 1), move("rollback", 1, 5)], 5) == [
        1,
        2,
        5,
    ]
    assert line_of_champions([], 3) == [3]
    assert line_of_champions([*line, move("repair", 5, 6)], 6) == [1, 2, 6]
    assert line_of_champions(line, None) == [1, 2, 5]


def test_a_first_champion_whose_naming_was_cut_off_is_named_by_the_next(tmp_path, monkeypatch):
    """Killed after the move was written down, and before the alias was set."""
    bundle = saved(enter_home(tmp_path / "home", monkeypatch) / "bundle")
    runs = connect("test")

    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("mlflow.MlflowClient.set_registered_model_alias", die)
        with pytest.raises(KeyboardInterrupt):
            register(bundle, runs, run_id=runs.start_run("killed"))
    assert [move.carried_out for move in promotion.history(runs)] == [False]
    assert register(bundle, runs, run_id=runs.start_run("next")).version == 1
    assert champion() == 1
    assert [move.carried_out for move in promotion.history(runs)] == [False, True]


# The lock


def take_the_lock_and_die():
    program = (
        "import os, signal\n"
        "from vaesc.registry import connect, mutex\n"
        "with mutex.promoting(connect('test'), 'vaesc'):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False, timeout=600)
    assert done.returncode == -9


def test_a_lock_whose_holder_was_killed_is_taken_over(three):
    take_the_lock_and_die()
    lock = "vaesc" + mutex.SUFFIX
    assert connect("test").client.get_registered_model(lock).name == lock
    promoted(2, 1)
    assert champion() == 2
    assert {model["name"] for model in list_models()} == {"vaesc"}
    names = {m.name for m in connect("test").client.search_registered_models()}
    assert names == {"vaesc"}


def test_the_locks_of_the_dead_are_swept_and_no_others(three):
    """A run that was killed as it took the lock leaves one that nobody may ever ask for again."""
    runs, lock = connect("test"), "vaesc" + mutex.SUFFIX
    take_the_lock_and_die()
    assert mutex._taken(runs, "other" + mutex.SUFFIX, "living")
    runs.client.create_registered_model("foreign" + mutex.SUFFIX)  # not one of ours
    assert mutex.sweep_locks(runs) == [lock]
    left = {model.name for model in runs.client.search_registered_models()}
    assert left == {"vaesc", "other" + mutex.SUFFIX, "foreign" + mutex.SUFFIX}
    assert mutex.sweep_locks(runs) == []


def test_of_two_who_break_one_lock_one_has_it(three):
    """Both have seen the dead holder; the second breaks only after the first has its own lock."""
    runs, lock = connect("test"), "vaesc" + mutex.SUFFIX
    assert mutex._taken(runs, lock, "dead")
    assert mutex._broken(runs, lock, "dead") == [f"{lock}.dead"]
    assert mutex._taken(runs, lock, "first")
    assert mutex._broken(runs, lock, "dead") == []
    assert mutex._holder(runs, lock)[0] == "first"
    assert not mutex._taken(runs, lock, "second")
    assert mutex._taken(runs, lock, "first")  # asked again, since the answer was lost


def test_a_lock_that_was_taken_over_moves_nothing(three):
    runs = connect("test")
    with mutex.promoting(runs, "vaesc") as still_ours:
        still_ours()
        runs.client.delete_registered_model("vaesc" + mutex.SUFFIX)
        assert mutex._taken(runs, "vaesc" + mutex.SUFFIX, "another")
        with pytest.raises(mutex.BusyError, match="taken over"):
            still_ours()
    assert mutex._holder(runs, "vaesc" + mutex.SUFFIX)[0] == "another"  # and nobody else's freed


def test_a_lock_that_a_living_process_holds_is_waited_for(three, monkeypatch):
    monkeypatch.setattr(mutex, "WAIT_SECONDS", 0.5)
    runs = connect("test")
    with mutex.promoting(runs, "vaesc"):
        with pytest.raises(RegistryError, match="another promotion holds"):
            promoted(2, 1)
        monkeypatch.setattr(mutex, "STALE_SECONDS", 0.0)  # as seen from another machine, later
        promoted(2, 1)
    assert champion() == 2


# The command line


def vaesc(*arguments):
    done = subprocess.run(
        [sys.executable, "-m", "vaesc", "models", *arguments],
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def test_rollback_and_history_from_the_command_line(three):
    promoted(2, 1)
    code, out, _ = vaesc("rollback", "--reason", "too slow", "--json")
    assert code == 0
    assert json.loads(out)["version"] == champion() == 1
    code, out, _ = vaesc("history")
    assert code == 0
    assert "rollback version 2 -> version 1" in out
    assert "too slow" in out
    code, _, err = vaesc("rollback")
    assert code == 1
    assert err.count("\n") == 1
    assert "no earlier champion on record" in err


def test_models_that_no_pipeline_made_cannot_be_compared(three):
    code, _, err = vaesc("compare", "2")
    assert code == 1
    assert "does not say which data it was trained on" in err
    assert err.count("\n") == 1
