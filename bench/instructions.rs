//! Sends COUNT requests through a whole proxy in memory, for `bench/instructions.py` to count what that takes.
//!
//! Time stands still, nothing leaves the thread, and chance has a seed: each run does exactly the same.

use std::process::ExitCode;

use stent::bench::{Pipeline, Work};
use tokio::runtime::Builder;
use tokio::task::LocalSet;

/// The program's own, whose work is part of what is counted.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    if arguments == ["--bench"] {
        println!("bench/instructions.py runs this under valgrind");
        return ExitCode::SUCCESS; // `cargo bench` runs all there is
    }
    let [work, count] = &arguments[..] else { return usage() };
    let work = Work::ALL.into_iter().find(|known| known.label() == work);
    let (Some(work), Ok(count)) = (work, count.parse::<u32>()) else { return usage() };
    let runtime = Builder::new_current_thread().enable_all().start_paused(true).build();
    LocalSet::new().block_on(&runtime.expect("the system gives a runtime"), async {
        let mut pipeline = Pipeline::new(work).await;
        for _ in 0..count {
            pipeline.exchange().await;
        }
    });
    ExitCode::SUCCESS
}

fn usage() -> ExitCode {
    let names = Work::ALL.map(Work::label).join(", ");
    eprintln!("usage: instructions WORK COUNT, where WORK is one of {names}");
    ExitCode::FAILURE
}
