//! `cargo xtask demo`.

use std::process::ExitCode;

fn main() -> ExitCode {
    bluegreen_demo::main()
}
