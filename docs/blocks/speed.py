"""Blocks of docs/speed.md: a step of RL, the engines beside the processor's peak, the curves, the full Prophet."""

from docs.blocks.common import load, markdown_table, where
from experiments.reinforce_in_dream import headline
from experiments.reinforce_in_dream.files import read_summary
from experiments.reinforce_in_dream.protocol import DREAM, LIBERO


def step() -> str:
    """Return how long a step takes as RL takes it, beside the same step of an earlier commit."""
    command = "python -m benchmarks.speed.step"
    report = load("speed/step.json")
    if report is None or "peak_gflops" not in report:
        return f"Not measured yet: `{command}`."
    rows = [
        [
            count,
            f"{each['before_ms']:.0f}",
            f"{each['now_ms']:.0f}",
            ", ".join(f"{ratio:.2f}" for ratio in each["ratios"]),
            str(each["largest_difference"]),
        ]
        for count, each in report.items()
        if count.isdigit()
    ]
    header = ["sub-environments", f"ms at {report['base']}", "ms now", "ratios of the rounds", "largest difference"]
    same = all(each["same_rewards"] for count, each in report.items() if count.isdigit())
    told = f"Rewards are {'the same' if same else 'NOT the same'}; differences are those of images after four steps, in"
    return (
        f"{markdown_table(header, rows)}\n\n{told} grey levels. `{report['command']}` at {report['commit'][:7]}, on "
        f"{where(report['machine'])}."
    )


def beside() -> str:
    """Return how much of a step's speed is left beside a busy process."""
    idle, busy = load("speed/step.json"), load("speed/step_beside.json")
    if idle is None or busy is None:
        return "Not measured yet: `python -m benchmarks.speed.step --beside 1`."
    rows = [
        [
            count,
            f"{idle[count]['now_ms']:.0f}",
            f"{busy[count]['now_ms']:.0f}",
            f"{idle[count]['now_ms'] / busy[count]['now_ms']:.2f}",
        ]
        for count in busy
        if count.isdigit() and count in idle
    ]
    header = ["sub-environments", "ms idle", "ms beside", "part of the idle speed"]
    return f"{markdown_table(header, rows)}\n\n`{busy['command']}` on {where(busy['machine'])}."


def learning() -> str:
    """Return what the env costs inside `prophrl train`, in dreams and in the simulator."""
    report = load("speed/learning.json")
    if report is None:
        return "Not measured yet: `python -m benchmarks.speed.learning`."
    rows = [
        [name, *(f"{report[world][f'seconds_{part}']:.2f}" for part in ("env", "rollout", "update"))]
        for name, world in (("dream", "dream"), ("LIBERO, look `light`, once per chunk", "simulator"))
    ]
    header = ["s per 1,000 frames", "env", "rollouts, env included", "update"]
    return (
        f"{markdown_table(header, rows)}\n\nThe env of the dream takes "
        f"{report['env_of_the_dream_by_the_simulators']:.2f} times as long as the simulator's: "
        f"`{report['command']}` on {where(report['machine'])}.{_older()}"
    )


def _older() -> str:
    """Return why the README's results have other figures: they are of whole runs, made before dreams were so fast."""
    summary = read_summary("cpu")
    if summary is None:
        return ""
    dream, libero = (headline.env_seconds(summary, world) for world in (DREAM, LIBERO))
    if dream <= libero:
        return ""  # the runs were made again
    return (
        f" The [README](../README.md#results) has {dream:.1f} s for the dream and {libero:.1f} for LIBERO: those are "
        "whole runs, each on one core beside another run, made before frames were decoded on demand and OpenVINO ran "
        "the transformer. No whole run was made since."
    )


def engines() -> str:
    """Return milliseconds of the transformer by each engine, and what part of the processor's peak they reach."""
    report = load("speed/engines.json")
    if report is None:
        return "Not measured yet: `python -m benchmarks.speed.engines`."
    rows = [
        [
            count,
            f"{each['gflop']:.1f}",
            name,
            f"{run['ms']:.0f}",
            f"{run['of_peak']:.0%}",
            f"{run['largest_difference']:.0e}",
        ]
        for count, each in report.items()
        if count.isdigit()
        for name, run in each.items()
        if name != "gflop"
    ]
    header = ["sub-environments", "GFLOP", "engine", "ms", "of the peak", "largest difference to the first"]
    return (
        f"{markdown_table(header, rows)}\n\n`{report['command']}` on {where(report['machine'])}; the peak is "
        f"{report['peak']:.0f} GFLOP/s, of matrix products in the same run; the part of it is that of the fastest call."
    )


def account() -> str:
    """Return where the time of a forward goes."""
    report = load("speed/account.json")
    if report is None:
        return "Not measured yet: `python -m benchmarks.speed.account`."
    rows = [
        [name, f"{each['ms']:.0f}", f"{each['part']:.1%}", f"{each['of_peak']:.0%}" if "of_peak" in each else ""]
        for name, each in report["parts"].items()
    ]
    header = ["one thread, 16 sub-environments", "ms", "of the time", "of the peak"]
    return (
        f"{markdown_table(header, rows)}\n\nTogether they reach {report['of_peak']:.0%} of {report['peak']:.0f} "
        f"GFLOP/s: `{report['command']}` on {where(report['machine'])}."
    )


def precision() -> str:
    """Return what bfloat16 would gain and cost."""
    report = load("speed/precision.json")
    if report is None:
        return "Not measured yet: `python -m benchmarks.speed.precision`."
    ms = report["ms"]
    return (
        f"A forward for 16 sub-environments takes {ms['bf16']:.0f} ms by OpenVINO in bfloat16, {ms['f32']:.0f} ms in "
        f"float32; its output is {report['relative_error']:.1%} off, and images of the first "
        f"{len(report['largest_difference'])} chunks differ by up to {max(report['largest_difference'])} grey levels, "
        f"{max(report['mean_difference']):.3f} on average: `{report['command']}` on {where(report['machine'])}."
    )


def still() -> str:
    """Return what dreams become without the tokens of cells that stand still."""
    report = load("speed/still.json")
    if report is None:
        return "Not measured yet: `python -m benchmarks.speed.still`."
    whole, part = report["limits"][:2]
    middle = part["median_largest_difference"]
    return (
        f"{part['left_out']:.0%} of the tokens stand still, known from the whole computation. Without them, images "
        f"of a chunk differ by up to {part['largest_difference']} grey levels, by {middle:.0f} "
        f"in the median of {report['chunks']} chunks, and in {part['chunks_within_2']:.0%} of the chunks by 2 at most; "
        f"with all of them, the same code differs by {whole['largest_difference']}: `{report['command']}` on "
        f"{where(report['machine'])}."
    )


def looks() -> str:
    """Return how often the success head on demand differs from the one that sees every frame."""
    report = load("speed/looks.json")
    if report is None:
        return "Not measured yet: `python -m benchmarks.speed.looks`."
    rows = [
        [value, f"{each['decoded_per_chunk']:.2f}", str(each["missed"]), str(each["wrong"])]
        for value, each in report["clearly_not"].items()
    ]
    header = ["`clearly_not`", "decoded for a score", "missed", "wrongly found"]
    most = report["clearly_not"]["0.5"]["missed_at_most"]
    return (
        f"{markdown_table(header, rows)}\n\nOf {report['chunks']:,} chunks of {report['episodes']} dreams, in "
        f"{report['done']} of which the task is done; at 0.5, the default, at most {most:.1%} of those are missed "
        f"(95%). `{report['command']}` on {where(report['machine'])}."
    )


def curves() -> str:
    """Return frames per second by the number of sub-environments, and the cost of a chunk by its age."""
    report = load("speed/curves.json")
    if report is None:
        return "Not measured yet: `python -m benchmarks.speed.curves`."
    rows = [[count, f"{each['ms']:.0f}", f"{each['frames_per_second']:.0f}"] for count, each in report["rows"].items()]
    return (
        f"{markdown_table(['sub-environments', 'ms a step', 'frames/s'], rows)}\n\n"
        f"The last eight of {len(report['horizon_ms'])} chunks take {report['last_by_first']:.2f} times as long as the "
        f"second to ninth. `{report['command']}` on {where(report['machine'])}."
    )


def full_chunk() -> str:
    """Return seconds and peak memory of each stage from a released file to a chunk, and what a sampler step costs."""
    report = load("speed/full_chunk.json")
    if report is None:
        return "Not measured yet: `python -m benchmarks.speed.full_chunk`."
    stages = {name: found for name, found in report["stages"].items() if name not in ("write", "window")}
    rows, told = [], []
    for name, found in stages.items():
        _, *of = name.split(":")
        under = f", {of[0]}, `steps` = {of[1]}" if of else ""
        rows += [
            [
                f"{what}{under}",
                f"{each['seconds']:.0f}",
                f"{each['cpu_seconds']:.0f}" if "cpu_seconds" in each else "-",
                f"{each['peak_gb']:.1f}",
            ]
            for what, each in found.items()
            if "seconds" in each
        ]
        if of:
            encode, decode, calls = (
                found["step"][f"{part}_cpu_seconds"] for part in ("encode", "decode", "transformer")
            )
            call = calls / found["step"]["calls"]
            told.append(
                f"In {of[0]} a chunk encodes for {encode:.0f} CPU s, decodes for {decode:.0f} and calls the "
                f"transformer `steps` + 1 times, {call:.0f} each: about "
                + ", ".join(f"{encode + decode + (1 + steps) * call:.0f} with {steps}" for steps in (1, 2, 5, 10, 35))
                + " steps."
            )
    weights, apart = report["stages"]["write"]["weights"], report["stages"]["window"]["apart"]
    told.append(
        "The latents of the same past frames, encoded for one chunk and for the next, differ by "
        f"{min(apart):.2f} to {max(apart):.2f} of their standard deviation."
    )
    return (
        f"{markdown_table(['stage', 's', 'CPU s', 'peak GB'], rows)}\n\n{' '.join(told)} Random weights, "
        f"{weights['transformer'] / 1e9:.3f} B of the transformer and {weights['autoencoder'] / 1e6:.0f} M of the VAE; "
        f"frames of {report['frame_size']}x{report['frame_size']}, one sub-environment, {report['threads']} thread, "
        f"beside other work: `{report['command']}` at {report['commit'][:7]}, on {where(report['machine'])}."
    )


def training() -> str:
    """Return samples per second of training beside an earlier commit, and what is left below the processor's peak."""
    report = load("speed/training.json")
    if report is None:
        return "Not measured yet: `python -m benchmarks.speed.training`."
    peaks = [max(report[name].values()) for name in ("peak_gflops", "bf16_gflops")]
    rows = [
        [
            name,
            f"{each['before']:.0f}",
            f"{each['now']:.0f}",
            *(", ".join(f"{ratio:.2f}" for ratio in each[kind]) for kind in ("ratios", "cpu_ratios")),
            " / ".join(f"{flops:.0f}" for flops in each["gflops"]),
            f"{each['losses'][0]:.4f} / {each['losses'][1]:.4f} after {each['samples']}",
            f"{each['load']:.1f}",
        ]
        for name, each in report["stages"].items()
    ]
    header = [
        "stage", f"samples/s at {report['base']}", "samples/s now", "ratios by clock", "ratios by CPU time",
        "GFLOP a CPU second", "held-out loss after so many samples", "load before",
    ]  # fmt: skip
    start = report["start"]
    before, now = (f"{start[name][0]:.1f} s ({start[name][1]:.1f} s of CPU time)" for name in ("before", "now"))
    return (
        f"{markdown_table(header, rows)}\n\n`{report['command']}`, other stages by `--stages` into the same file, at "
        f"{report['commit'][:7]}, {report['threads']} thread(s) on {where(report['machine'])}; matrix products reach "
        f"{peaks[0]:.0f} GFLOP/s in float32 and {peaks[1]:.0f} in bf16. From the first import to the first step of the "
        f"env: {now}; {before} at {report['base']}."
    )


def remote() -> str:
    """Return what a step of an env on a server costs over the same step here."""
    command = "python -m benchmarks.remote"
    report = load("speed/remote.json")
    if report is None:
        return f"Not measured yet: `{command}`."
    rows = [
        [
            count,
            f"`{render}`",
            f"{each['local_ms']:.0f}",
            f"{each['remote_ms']:.0f}",
            f"{each['way_ms']:.1f}",
            f"{each['ratio']:.2f} [{each['ratio_quartiles'][0]:.2f}, {each['ratio_quartiles'][1]:.2f}]",
            str(each["largest_difference"]),
        ]
        for render in ("chunk", "step")
        for count, each in report[render].items()
    ]
    header = ["sub-environments", "`render`", "ms here", "ms on a server", "ms of the way", "ratio", "difference"]
    clients = report["clients"]
    rates = {name: f"{clients[f'{name}_chunks_per_s']:.1f}" for name in ("together", "in_turn", "one_client")}
    return (
        f"{markdown_table(header, rows)}\n\nMedians and quartiles of neighbouring steps of one run; the largest "
        f"difference of images, in grey levels. {clients['clients']} clients of one sub-environment make "
        f"{rates['together']} chunks a second at the same time, in batches of {clients['mean_batch']:.1f} on average, "
        f"and {rates['in_turn']} one after the other: a gain of {clients['gain']:.2f}. One of {clients['clients']} "
        f"makes {rates['one_client']}. `{report['command']}` at {report['commit'][:7]}, load before "
        f"{report['load']['before']:.1f}, on {where(report['machine'])}."
    )


def play() -> str:
    """Return the frames per second and delays of `prophet play`."""
    command = "python -m benchmarks.play"
    report = load("speed/play.json")
    if report is None:
        return f"Not measured yet: `{command}`."
    delay, chunk, cores, load_ = (report[name] for name in ("input_to_frame_ms", "chunk_ms", "cores", "load"))
    return (
        f"Measured over {report['seconds']:.0f} s of driving in a headless Chromium: "
        f"{report['frames_per_second']:.1f} frames a second, {report['late']} times was a frame not there in time; "
        f"a chunk took {chunk['median']} ms to come ({chunk['p95']} ms at the 95th percentile), and an input "
        f"{delay['median']} ms until its frame was drawn ({delay['p95']} ms). The server took {cores['server']:.2f} "
        f"cores and the browser, which draws without a GPU here, {cores['browser']:.2f}; other work ran beside them. "
        f"`{report['command']}` at {report['commit'][:7]}, load before {load_['before']:.1f} and after "
        f"{load_['after']:.1f}, on {where(report['machine'])}."
    )
