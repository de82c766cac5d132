//! The commands of the binary that end by themselves.

use std::ffi::OsStr;
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use super::{BOUND, ms};

/// Runs `stent` with these arguments in the package's folder and waits for its end. The output must fit into a pipe.
pub(crate) fn stent(arguments: &[impl AsRef<OsStr>]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_stent"))
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let end = Instant::now() + BOUND;
    while child.try_wait().expect("a child of ours").is_none() {
        if Instant::now() > end {
            child.kill().expect("a child of ours");
            panic!("the command runs, and should have ended by itself");
        }
        std::thread::sleep(ms(5));
    }
    child.wait_with_output().expect("a child of ours")
}

/// What a command said, to its standard output and then to its standard error.
pub(crate) fn said(output: &Output) -> [String; 2] {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned())
}
