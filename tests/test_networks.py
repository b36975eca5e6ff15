"""ResidualNet is trained, used and recorded as Net is."""

from runs import run_script, train

from records.checkpoints import load_checkpoint


def test_the_second_network_trains_and_is_used(small_npz, tmp_path):
    flags = ("--model", "ResidualNet", "--width", 0.25)
    out, other = tmp_path / "out", tmp_path / "other"
    assert train(small_npz, out, "--epochs", 2, *flags).status == 0
    assert train(small_npz, other, "--epochs", 2, "--seed", 1, *flags).status == 0
    outcome = train(small_npz, out, "--epochs", 2, "--resume")
    outcome.assert_refused("--model (was ResidualNet, now Net)")
    assert load_checkpoint(out / "best.pt").network == "ResidualNet"

    tile = next((out / "plots" / "test_samples").glob("*.png"))
    for script in (
        ("predict", "--checkpoint", out / "best.pt", tile),
        ("evaluate", "--checkpoint", out / "best.pt", "--dataset", small_npz),
        ("experiments.record", out, other, "--results", tmp_path / "evidence"),
    ):
        outcome = run_script(*script)
        assert (outcome.status, outcome.err) == (0, ""), script
    rows = (tmp_path / "evidence" / "runs.csv").read_text().splitlines()[1:]
    assert [row.startswith("train.py,ResidualNet,") for row in rows] == [True, True]
