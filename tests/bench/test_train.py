"""The loop's benchmark feeds the compiled step from the loader, and its share follows from its speeds."""

import argparse

from ssd_graph.bench import train


def test_the_loop_and_the_step_are_measured_in_one_run(tiny_coco, tmp_path):
    parser = argparse.ArgumentParser()
    train.add_flags(parser)
    flags = ["--preset", "ssd300-nano", "--batch-size", 2, "--steps", 3, "--workers", 1]
    result = train.run(parser.parse_args([str(f) for f in (*flags, "--data", tiny_coco, "--cache", tmp_path)]))
    assert result["step"] > 0
    assert result["share"] == result["loop"] / result["step"]
    assert f"share {result['share']:.1%}" in train.table(result)
    assert list(tmp_path.glob("*.pixels"))
