"""python -m benchmarks [name ...] [--small]: run the named benchmarks (all without a name) and append their rows."""

import argparse
import importlib
import pkgutil

import benchmarks


def names() -> list[str]:
    modules = (module.name for module in pkgutil.iter_modules(benchmarks.__path__))
    return sorted(name.removeprefix("bench_") for name in modules if name.startswith("bench_"))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__, add_help=False)
    parser.add_argument("-h", "--help", action="store_true", help="show this or the options of what is named")
    parser.add_argument("names", nargs="*", choices=[*names(), []], metavar="name", help=f"one of {', '.join(names())}")
    parser.add_argument(
        "--small", action="store_true", help="tiny sizes that prove the script; their rows are not kept"
    )
    arguments, rest = parser.parse_known_args()
    if arguments.help and not arguments.names:
        parser.print_help()
        return
    rest += ["--help"] * arguments.help
    for name in arguments.names or names():
        module = importlib.import_module(f"benchmarks.bench_{name}")
        module.run(small=arguments.small, **_options(name, module, rest))


def _options(name: str, module, rest: list[str]) -> dict:
    """What a benchmark of its own options was given; one that it does not know prints those it does."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks {name}", description=module.__doc__)
    getattr(module, "arguments", lambda parser: None)(parser)
    return vars(parser.parse_args(rest))


if __name__ == "__main__":
    main()
