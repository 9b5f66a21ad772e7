//! The project's own commands: `cargo xtask demo`, `cargo xtask test`, `cargo xtask cluster`, `cargo xtask bench`, `cargo xtask fuzz`…
#![allow(clippy::print_stdout, clippy::print_stderr)] // a developer's tool: its output is its purpose

mod bench;
mod charts;
mod cluster;
mod compose;
mod containerfile;
mod demo;
mod fuzz;
mod images;
mod parts;
mod reproduce;
mod sh;
mod survey;
mod test;
mod tools;
mod torture;

use std::process::ExitCode;

/// A sentence that says what failed, and what to do.
type Failure = String;

/// What a command ends with.
type Outcome = Result<(), Failure>;

const USAGE: &str = "usage: cargo xtask COMMAND

  demo [--cluster [CONTEXT]]   the main job from nothing: images, lock, build, air gap, verify, serve, push, run;
                               with --cluster also a real install, by kubeconfig's context
  test [--cluster] [ARGS]      set up the real parts and run all tests, with --cluster those on a Kubernetes too; ARGS go to
                               the test binaries
  cluster [down|status]        a Kubernetes of one node in a network namespace of its own: brought up, and kept from run to
                               run; down takes it away
  images [--arm64]             both images from source by the Containerfile, what is in them and how they run, and the
                               compose file with them; with --arm64 the service's also for arm64
  bench service                the service beside Flask, gunicorn and redis-benchmark, as a table
  bench rewrite                CPU time and memory of `airlock rewrite` on 10 and 60 MB of manifests
  bench transfer [--rounds N] [--megabytes N]
                               build, verify, serve and push of 20 images and 3 GB beside skopeo, oras, a registry, openssl and
                               cp, as a table; --megabytes for fewer layers
  bench large                  start and memory of `airlock serve` and `verify` with bundles of 3 and of 30 GB, which are holes
  fuzz [TARGET] [--seconds N | FILE | --keep]
                               the readers of foreign bytes under libFuzzer, from kept seeds, each for N seconds (60); a FILE tries
                               that input only; --keep makes seeds of what was found
  torture [--seed N] [--rounds N | --quick] [--only PART]… [--round N]
                               airlock killed, without room, on a bad line, its bundles damaged, all at random; and what is left
  reproduce [FILE]             airlock built twice from the last commit, in two places: the same bytes; put to FILE
  survey [--charts FILE]       public charts through helm, discover and rewrite, as a table in docs/charts.md; with
                               --charts those of another list, and the table only shown
  chart-docs                   write the tables of values into the chart's README
  env                          set up the real parts, print their environment, and keep them until Enter or end of input";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["demo"] => demo::run(None),
        ["demo", "--cluster"] => demo::run(Some(None)),
        ["demo", "--cluster", context] => demo::run(Some(Some(context))),
        ["test", "--cluster", args @ ..] => test::run(true, args),
        ["test", args @ ..] => test::run(false, args),
        ["cluster"] => cluster::up(),
        ["cluster", "down"] => cluster::down(),
        ["cluster", "status"] => cluster::status(),
        ["images"] => containerfile::run(false),
        ["images", "--arm64"] => containerfile::run(true),
        ["bench", "service"] => bench::service(),
        ["bench", "rewrite"] => bench::rewrite::run(),
        ["bench", "transfer", options @ ..] => bench::transfer::run(options),
        ["bench", "large"] => bench::large::run(),
        ["fuzz", options @ ..] => fuzz::run(options),
        ["torture", options @ ..] => torture::run(options),
        ["reproduce"] => reproduce::run(None),
        ["reproduce", output] => reproduce::run(Some(output)),
        ["survey"] => survey::run(None),
        ["survey", "--charts", list] => survey::run(Some(list)),
        ["chart-docs"] => charts::docs(),
        ["env"] => test::env(),
        _ => Err(USAGE.into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}
