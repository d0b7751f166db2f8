import pandas as pd
import pytest

from curate.balance import balance, observed_yield, shortage
from curate.ledger import Decision, Ledger
from curate.manifest import CurateError


def images(label: str, probabilities: list[float], start: int = 0, status: str = "candidate") -> pd.DataFrame:
    ids = [f"{label}{start + i}" for i in range(len(probabilities))]
    return pd.DataFrame(
        {"image_id": ids, "label": label, "status": status, "suspicion": probabilities, "reason": pd.NA}
    )


class World:
    """A source with a stock of images of known probability, and no copies."""

    def __init__(self, held: pd.DataFrame, stock: dict[str, list[float]]) -> None:
        self.held, self.stock, self.asked = held, stock, []

    def gather(self, wanted):
        self.asked.append(dict(wanted))
        for label, n in wanted.items():
            new, self.stock[label] = self.stock[label][:n], self.stock[label][n:]
            fresh = images(label, new, start=int((self.held["label"] == label).sum()))
            self.held = pd.concat([self.held, fresh], ignore_index=True)
        return self.held


def run(world: World, standing: pd.DataFrame, labels=("oak",), **options):
    settings = {"target": 5, "unattended": True, "gather": world.gather, "enrich": lambda table: table, **options}
    return balance(world.held, standing, list(labels), **settings)


def decided(tmp_path, *decisions: Decision) -> pd.DataFrame:
    with Ledger(tmp_path / "l.db") as ledger:
        ledger.decide(decisions)
        return ledger.standing()


def test_with_enough_supply_every_class_ends_at_exactly_the_target(tmp_path):
    held = pd.concat([images("oak", [0.1] * 3 + [0.9] * 3), images("elm", [0.15] * 9)], ignore_index=True)
    world = World(held, {"oak": [0.9, 0.1] * 20, "elm": []})
    result = run(world, decided(tmp_path, Decision("oak0", "accept")), ("oak", "elm"))
    assert result.accepted == {"oak": 5, "elm": 5}
    assert not result.short
    assert all(set(asked) <= {"oak"} for asked in world.asked)
    taken = result.manifest[result.manifest["status"] == "accepted"]
    assert (taken["suspicion"] < 0.5).all()


def test_what_was_rejected_never_counts_and_nothing_is_dropped(tmp_path):
    world = World(images("oak", [0.1] * 6), {"oak": []})
    result = run(world, decided(tmp_path, Decision("oak0", "reject", "overlay"), Decision("oak1", "accept")))
    table = result.manifest.set_index("image_id")
    assert table.loc["oak0", "status"] == "rejected"
    assert result.accepted == {"oak": 5}
    assert len(table) == 6


def test_a_class_without_supply_is_short_and_ends(tmp_path):
    world = World(images("oak", [0.1] * 2), {"oak": [0.9] * 4})
    result = run(world, decided(tmp_path, Decision("oak0", "accept")))
    assert result.short == {"oak": 3}
    assert result.accepted == {"oak": 2}


def test_with_a_person_new_images_wait(tmp_path):
    world = World(images("oak", [0.1] * 3), {"oak": [0.2] * 30})
    standing = decided(tmp_path, *[Decision(f"oak{i}", "accept") for i in range(3)])
    result = run(world, standing, unattended=False)
    assert result.accepted == {"oak": 3}
    assert result.waiting["oak"] == result.fetched["oak"] > 0


def test_the_most_suspicious_surplus_becomes_spare(tmp_path):
    world = World(images("oak", [0.1, 0.6, 0.3, 0.2, 0.4, 0.5, 0.05]), {"oak": []})
    standing = decided(tmp_path, *[Decision(f"oak{i}", "accept") for i in range(7)])
    table = run(world, standing).manifest.set_index("image_id")
    assert table.index[table["reason"] == "spare"].tolist() == ["oak1", "oak5"]
    assert (table["status"] == "accepted").sum() == 5


def test_nothing_decided_and_nobody_asked_is_an_error(tmp_path):
    with pytest.raises(CurateError, match="curate review"):
        run(World(images("oak", [0.1]), {}), decided(tmp_path), unattended=False)


def test_the_deficit_is_asked_for_by_the_observed_yield():
    """4 of 8 were fit: 3 missing are asked for as 6. A yield is never taken to be above 0.9 or below 0.2."""
    half = pd.concat([images("oak", [0.1] * 4, status="accepted"), images("oak", [1.0] * 4, 4, "rejected")])
    assert observed_yield(half) == 0.5
    assert shortage(half, ["oak"], 7, True) == {"oak": 6}
    assert observed_yield(images("oak", [1.0] * 4, status="rejected")) == 0.2
    assert observed_yield(images("oak", [0.1] * 4, status="accepted")) == 0.9
