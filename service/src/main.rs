//! Entry point: everything else is in the library, where tests can reach it.
use std::process::ExitCode;

fn main() -> ExitCode {
    service::main(std::env::args().skip(1))
}
